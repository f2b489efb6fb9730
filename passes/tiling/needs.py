"""How many bytes are alive while each op of a graph runs, counted as plans do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from graphopt import dims
from graphopt.cost import op_flops, trips
from graphopt.dims import Dim
from graphopt.exporter import ranks_of_source
from graphopt.ir import Graph, Op, Value
from graphopt.ops import Constant, Strips, Tiled

from ..memory.lives import Lives, lives_in, steps_of
from ..memory.sizes import Sizes
from ..memory.space import SPACES, Space
from ..memory.workspace import workspace


@dataclass
class Meter:
    """Reads sizes of values with symbols bound; what it has read it keeps.

    ``space`` is where the graph runs. What a graph is given and gives out is the
    caller's, as in a plan. ``strips`` is false where symbolic dims stay whole.
    """

    binding: Mapping[str, int]
    space: Space = SPACES["onnx"]
    strips: bool = True
    _flops: dict[Op, int] = field(default_factory=dict)
    _inside: dict[Op, int] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> Sizes:
        """Those of values."""
        return Sizes(self.binding, self.space)

    def bytes(self, value: Value) -> int:
        """Bytes of a value; 0 for a constant, and where they are not known."""
        return 0 if isinstance(value, Constant) else self.sizes.of(value) or 0

    def extent(self, dim: Dim) -> int | None:
        """A dim with the sizes of symbols put in; None where it is not known."""
        found = dims.substitute(dim, self.binding)
        return found if isinstance(found, int) else None

    def flops(self, graph: Graph) -> int:
        """Floating-point operations of a run; those that are not known count 0."""
        return sum(map(self.work, graph.ops))

    def work(self, op: Op) -> int:
        """Those of one op."""
        found = self._flops.get(op)
        if found is None:
            if isinstance(op, Tiled | Strips):
                found = self.turns(op) * self.flops(op.bodies[0])
            else:
                each = dims.substitute(op_flops(op), self.binding)
                found = each if isinstance(each, int) else 0
            self._flops[op] = found
        return found

    def turns(self, op: Tiled | Strips) -> int:
        """How often the body of tiles runs; once where that is not known."""
        count = dims.substitute(trips(op), self.binding)
        return count if isinstance(count, int) else 1

    def inside(self, op: Op) -> int:
        """Bytes that an op needs while it runs, besides operands and results."""
        found = self._inside.get(op)
        if found is None:
            inner = Meter(self.binding, replace(self.space, outputs=True))
            bodies = [inner.needs(body).peak for body in op.bodies]
            found = self._inside[op] = workspace(op, self.sizes, bodies)
        return found

    def needs(self, graph: Graph) -> Needs:
        """What each op of a graph needs."""
        return Needs(graph, self)


class Profile(ABC):
    """Bytes alive at each of some ops, in the order in which they run."""

    @property
    @abstractmethod
    def steps(self) -> Sequence[int]:
        """The bytes, by op."""

    @cached_property
    def peak(self) -> int:
        """The most."""
        return max(self.steps, default=0)

    def excess(self, budget: int) -> float:
        """How much is over the budget: mostly at the peak, but at other ops too.

        The fourth powers of what is over it at each op, in units of it.
        """
        over = (step / budget - 1 for step in self.steps if step > budget)
        return sum(x**4 for x in over)


@dataclass(frozen=True)
class Needs(Profile):
    """Bytes alive at each op of a graph, ops in the order of its file."""

    graph: Graph
    meter: Meter

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """The steps."""
        return steps_of(self.graph)

    @cached_property
    def lives(self) -> Lives:
        """From when to when each value is there."""
        meter = self.meter
        work = {op: meter.inside(op) for op in self.ops}
        return lives_in(self.graph, self.ops, meter.sizes, meter.space, work)

    @cached_property
    def steps(self) -> Sequence[int]:
        """The bytes, by op."""
        return self.lives.live

    @cached_property
    def ranks(self) -> Mapping[Op, int]:
        """Where ops stand in the source."""
        return ranks_of_source(self.graph)

    def at(self, step: int) -> list[Value]:
        """Values of the arena that are alive at a step, the largest first."""
        blocks = [b for b in self.lives.planned if b.first <= step <= b.last]
        alive = [value for block in blocks for value in block.values]
        return sorted(alive, key=self.meter.bytes, reverse=True)
