"""How many bytes are alive while each op of a graph runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from graphopt import dims
from graphopt.cost import op_cost, value_bytes
from graphopt.ir import Graph, Op, Value, postorder
from graphopt.ops import Attention, Constant, Tiled
from graphopt.types import DType

from ..memory.kernel import Blocks, blocks


@dataclass
class Meter:
    """Reads sizes of values with symbols bound; what it has read it keeps."""

    binding: Mapping[str, int]
    kernels: bool = False
    """True where TPUs run it, which have a kernel for some attention."""
    _sizes: dict[Value, int] = field(default_factory=dict)
    _flops: dict[Op, int] = field(default_factory=dict)
    _bodies: dict[Graph, Needs] = field(default_factory=dict)

    def bytes(self, value: Value) -> int:
        """Bytes of a value; 0 for a constant, and where they are not known."""
        size = self._sizes.get(value)
        if size is None:
            known = None
            if not isinstance(value, Constant):
                known = value_bytes(value, self.binding)
            size = self._sizes[value] = known or 0
        return size

    def flops(self, graph: Graph) -> int:
        """Floating-point operations of a run; those that are not known count 0."""
        return sum(map(self._work, graph.ops))

    def _work(self, op: Op) -> int:
        found = self._flops.get(op)
        if found is None:
            if isinstance(op, Tiled):
                found = int(op.count) * self.flops(op.bodies[0])
            else:
                each = dims.substitute(op_cost(op).flops, self.binding)
                found = each if isinstance(each, int) else 0
            self._flops[op] = found
        return found

    def inside(self, op: Op) -> int:
        """Bytes that an op needs while it runs, besides operands and results."""
        if isinstance(op, Attention):
            return self._scores(op)
        most = 0
        for body in op.bodies:
            needs = self._bodies.get(body)
            if needs is None:
                parts = op.tiles if isinstance(op, Tiled) else ()
                needs = self._bodies[body] = self.needs(body, parts)
            most = max(most, needs.peak)
        return most

    def _scores(self, op: Attention) -> int:
        """The scores, which all runtimes hold at once but where a TPU has a kernel."""
        if self.kernels and isinstance(blocks(op), Blocks):
            return 0
        sizes = op.sizes()
        if sizes is None or op.dtype is None:
            return 0
        q, _, _, keys = sizes
        count = dims.substitute(dims.product([*q[:3], keys]), self.binding)
        return count * DType.F32.bits // 8 if isinstance(count, int) else 0

    def needs(self, graph: Graph, given: Iterable[Value] | None = None) -> Needs:
        """What each op of a graph needs; ``given`` are the inputs that count."""
        return Needs(graph, self, tuple(graph.inputs if given is None else given))


@dataclass(frozen=True)
class Needs:
    """Bytes alive at each op of a graph, ops in its order, values freed at last use."""

    graph: Graph
    meter: Meter
    given: tuple[Value, ...]

    @cached_property
    def last(self) -> dict[Value, int]:
        """The step after which a value is freed."""
        last: dict[Value, int] = {}
        for i, op in enumerate(self.graph.ops):
            for value in op.operands:
                if value is not None:
                    last[value] = i
        return last | dict.fromkeys(self.graph.outputs, len(self.graph.ops))

    @cached_property
    def steps(self) -> Sequence[int]:
        """The bytes, by op."""
        size, last = self.meter.bytes, self.last
        freed: defaultdict[int, int] = defaultdict(int)
        for value, i in last.items():
            if value.op is not None or value in self.given:
                freed[i] += size(value)
        alive = sum(size(p) for p in self.given if p in last)
        found: list[int] = []
        for i, op in enumerate(self.graph.ops):
            alive += sum(map(size, op.results))
            found.append(alive + self.meter.inside(op))
            alive -= freed[i] + sum(size(r) for r in op.results if r not in last)
        return found

    @property
    def peak(self) -> int:
        """The most."""
        return max(self.steps, default=0)

    def excess(self, budget: int) -> float:
        """How much is over the budget: mostly at the peak, but at other ops too.

        The fourth powers of what is over it at each op, in units of it.
        """
        over = (step / budget - 1 for step in self.steps if step > budget)
        return sum(x**4 for x in over)

    def beside(self, before: Needs, made: Iterable[Value]) -> int:
        """The most at ops that ``made`` needs and an earlier graph does not have."""
        fresh = set(postorder(made)).difference(before.graph.ops)
        rows = zip(self.graph.ops, self.steps, strict=True)
        return max((step for op, step in rows if op in fresh), default=0)

    def at(self, step: int) -> list[Value]:
        """Values alive at a step, the largest first."""
        ops = self.graph.ops
        born: dict[Value, int] = dict.fromkeys(self.given, 0)
        born |= {r: i for i, op in enumerate(ops) for r in op.results}
        alive = [v for v, i in born.items() if i <= step <= self.last.get(v, i)]
        return sorted(alive, key=self.meter.bytes, reverse=True)
