"""A memory plan, doubted: does each op find what it reads, where the plan has it?

This shares no code with the planner. It follows the order, and notes for each byte
range of the arena whose value is in it: a write takes the range from whoever had it,
and a read must find the value whole. An op writes over what it reads only where each
element needs no other one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Op, Value
from graphopt.ops import Constant
from graphopt.types import TensorType

from .overwriting import may_overwrite
from .plan import MemoryPlan
from .ranges import largest


class PlanIsWrong(GraphoptError):
    """A plan by which a run would read what is not there; names step and value."""


def validate(plan: MemoryPlan, graph: Graph) -> None:
    """Raises PlanIsWrong where a run by this plan would not compute the graph.

    Also checked: alignment, sizes, the stated peak and lower bound, that all values
    have a place, and nested plans.
    """
    _numbers(plan)
    arena = _Arena()
    done: set[Op] = set()
    for step, op in enumerate(plan.order):
        _Step(plan, graph, arena, step, op).run(done)
        done.add(op)
    missing = {op for op in graph.ops if not isinstance(op, Constant)} - done
    if missing:
        raise PlanIsWrong(f"{len(missing)} ops of the graph are not in the order")
    for op, bodies in plan.nested.items():
        for inner, body in zip(bodies, op.bodies, strict=True):
            validate(inner, body)


def _numbers(plan: MemoryPlan) -> None:
    """Offsets, peak and bound, from the placements alone."""
    unit = plan.space.alignment
    for place in plan.placements:
        if place.offset < 0 or place.offset % unit or place.buffer.size % unit:
            raise PlanIsWrong(f"{place.buffer} at {place.offset} is not aligned")
    peak = max((place.end for place in plan.placements), default=0)
    if peak != plan.peak:
        raise PlanIsWrong(f"the peak is {peak}, not {plan.peak}")
    changes: dict[int, int] = {}
    for place in plan.placements:
        size = place.buffer.size
        for step, change in ((place.buffer.lower, size), (place.buffer.upper, -size)):
            changes[step] = changes.get(step, 0) + change
    most = max(accumulate(changes[step] for step in sorted(changes)), default=0)
    if not most <= plan.lower_bound <= plan.peak:
        raise PlanIsWrong(
            f"{most} bytes are live at once and {plan.peak} are taken: the bound cannot"
            f" be {plan.lower_bound}"
        )


class _Step:
    """One op: it finds its operands, and its results take their place."""

    def __init__(
        self, plan: MemoryPlan, graph: Graph, arena: _Arena, step: int, op: Op
    ) -> None:
        self.plan, self.graph, self.arena = plan, graph, arena
        self.step, self.op = step, op

    def run(self, done: set[Op]) -> None:
        for value in self.op.operands:
            source = None if value is None else value.op
            if source and not isinstance(source, Constant) and source not in done:
                raise self._wrong("comes before its operand", value)
        self._read()
        work = self.plan.workspace_of.get(self.op)
        if work is not None:
            self.arena.take(work.offset, work.end, self.op)
            self._read()
        for result in self.op.results:
            self._write(result, shared=len(self.op.results) == 1)

    def _read(self) -> None:
        for value in self.op.operands:
            place = None if value is None else self.plan.place_of.get(value)
            if value is None or place is None:
                continue
            end = place.offset + self._size(value)
            if not self.arena.holds(place.offset, end, value):
                raise self._wrong("reads what is not there any more", value)

    def _write(self, result: Value, *, shared: bool) -> None:
        place = self.plan.place_of.get(result)
        if place is None:
            outside = result in self.plan.unknown or result in self._outside()
            if not outside and self._size(result):
                raise self._wrong("has a result without a place", result)
            return
        size = self._size(result)
        if size > place.buffer.size:
            raise self._wrong(f"has {size} bytes in {place.buffer.size}", result)
        if not place.buffer.lower <= self.step < place.buffer.upper:
            raise self._wrong("has a result outside of its life", result)
        end = place.offset + size
        for i, value in enumerate(self.op.operands):
            other = None if value is None else self.plan.place_of.get(value)
            if value is None or other is None:
                continue
            apart = end <= other.offset or other.offset + self._size(value) <= (
                place.offset
            )
            if not apart and not (shared and other.offset == place.offset):
                raise self._wrong("writes into what it reads", value)
            if not apart and self._is_view():
                self.arena.alias(place.offset, end, result)
                return
            if not apart and not may_overwrite(self.op, i, self.plan.space):
                raise self._wrong("may not write over what it reads", value)
        self.arena.take(place.offset, end, result)

    def _is_view(self) -> bool:
        kinds = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
        return self.op.kind in kinds

    def _outside(self) -> set[Value]:
        """Values that are somebody else's: outputs, and views of what is given."""
        found = set(self.graph.outputs) | set(self.graph.inputs)
        if self._is_view():
            source = self.op.operands[0]
            if source is not None and source not in self.plan.place_of:
                found.update(self.op.results)
        return found

    def _size(self, value: Value | None) -> int:
        type_ = None if value is None else self.plan.types.get(value, value.type)
        assert isinstance(type_, TensorType)
        assert type_.dtype is not None
        extents = [largest(dim, self.plan.binding) for dim in type_.shape or ()]
        if None in extents:
            raise self._wrong("has a place for what has no size", value)
        count = math.prod(max(0, extent) for extent in extents if extent is not None)
        return -(-count * type_.dtype.bits // 8)

    def _wrong(self, what: str, value: Value | None) -> PlanIsWrong:
        type_ = "" if value is None else f" ({value.type})"
        return PlanIsWrong(f"step {self.step}: {self.op.label} {what}{type_}")


class _Arena:
    """Which values lie in which byte ranges; ranges are apart, in order."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ranges: list[tuple[int, int, set[Value]]] = []

    def take(self, start: int, end: int, value: Value) -> None:
        """The value is written: what was there is lost, the rest of a range too."""
        if start >= end:
            return
        for index in reversed(list(self._over(start, end))):
            del self.starts[index], self.ranges[index]
        at = bisect_left(self.starts, start)
        self.starts.insert(at, start)
        self.ranges.insert(at, (start, end, {value}))

    def alias(self, start: int, end: int, value: Value) -> None:
        """The value is what lies there already."""
        for index in self._over(start, end):
            self.ranges[index][2].add(value)

    def holds(self, start: int, end: int, value: Value) -> bool:
        """True where all of the range has this value."""
        if start >= end:
            return True
        return any(
            low <= start and end <= high and value in values
            for low, high, values in (self.ranges[i] for i in self._over(start, end))
        )

    def _over(self, start: int, end: int) -> Iterator[int]:
        index = max(0, bisect_left(self.starts, start) - 1)
        while index < len(self.ranges) and self.starts[index] < end:
            if self.ranges[index][1] > start:
                yield index
            index += 1
