"""What a graph would need with other values in the place of some, before it is built.

To build it all ops that come after would be built, too: of a deep model nearly all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from graphopt.exporter import by_rank
from graphopt.ir import Op, Value
from graphopt.ops import Constant

from ..memory.lives import Operands, lives_in
from .needs import Needs, Profile


@dataclass(frozen=True)
class Spliced(Profile):
    """Bytes alive at each op of a graph that reads ``new[v]`` wherever it reads v."""

    before: Needs
    new: Mapping[Value, Value]

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """The steps, as `source_order` has them in the graph that is meant."""
        steps = [op for op in self._alive if not isinstance(op, Constant)]
        inside = set(steps)
        return tuple(
            by_rank(steps, self.before.ranks, lambda op: self._makers(op, inside))
        )

    @cached_property
    def steps(self) -> list[int]:
        """The bytes, by op."""
        meter = self.before.meter
        work = {op: meter.inside(op) for op in self.ops}
        return lives_in(
            *(self.before.graph, self.ops, meter.sizes, meter.space, work),
            reads=self.reads,
            outputs=self._outputs,
        ).live

    @cached_property
    def fresh(self) -> frozenset[Op]:
        """Ops that the graph has not now."""
        return frozenset(self._alive).difference(self.before.graph.ops)

    @cached_property
    def gone(self) -> frozenset[Op]:
        """Ops that nobody needs any more."""
        return frozenset(self.before.graph.ops).difference(self._alive)

    @property
    def flops(self) -> int:
        """Operations more than before."""
        work = self.before.meter.work
        return sum(map(work, self.fresh)) - sum(map(work, self.gone))

    @property
    def beside(self) -> int:
        """The most at an op that the graph has not now."""
        rows = zip(self.ops, self.steps, strict=True)
        return max((step for op, step in rows if op in self.fresh), default=0)

    @cached_property
    def reads(self) -> dict[Op, Operands]:
        """What ops read in the stead of their operands."""
        found: dict[Op, Operands] = {}
        for op in self._alive:
            if any(v in self.new for v in op.operands if v is not None):
                found[op] = tuple([v and self._read(v) for v in op.operands])
        return found

    @cached_property
    def _outputs(self) -> list[Value]:
        return [self._read(v) for v in self.before.graph.outputs]

    def _read(self, value: Value) -> Value:
        while (other := self.new.get(value)) is not None and other is not value:
            value = other
        return value

    def _makers(self, op: Op, inside: set[Op]) -> Iterator[Op]:
        operands = self.reads.get(op, op.operands)
        yield from {v.op: None for v in operands if v is not None and v.op in inside}

    @cached_property
    def _alive(self) -> list[Op]:
        """The ops that are needed, operands first."""
        order: list[Op] = []
        done: set[Op] = set()
        pending = [(v.op, False) for v in reversed(self._outputs)]
        while pending:
            op, ready = pending.pop()
            if op is None or (op in done and not ready):
                continue
            if ready:
                order.append(op)
                continue
            done.add(op)
            pending.append((op, True))
            for v in reversed(op.operands):
                if v is not None:
                    pending.append((self._read(v).op, False))
        return order
