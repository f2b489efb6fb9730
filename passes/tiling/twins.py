"""Regions that do the same elsewhere in a graph: those of equal layers.

What is best for one is best for all, so that a step of the search takes a region of
every layer. They are told by what ops do and how they hang together; that a region may
be cut is found out for each by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator
from functools import cached_property

from graphopt.ir import Graph, Op, Value
from graphopt.ops import Constant

from .follow import Followed


def twins(
    graph: Graph, region: Followed, value: Value
) -> Iterator[tuple[list[Op], Value]]:
    """Regions like this one, apart from it and one another, with what is ``value``."""
    yield from _Twins(graph).of(region, value)


class _Twins:
    """What lies where in a graph, and what is like it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._keys: dict[Op, Hashable] = {}

    def of(self, region: Followed, value: Value) -> Iterator[tuple[list[Op], Value]]:
        """Those like a region."""
        maker = value.op
        if maker is None:
            return
        taken = set(region.axes)
        index = maker.results.index(value)
        for op in self._like[self.key(maker)]:
            if op is maker:
                continue
            other = op.results[index]
            found = self._mapped(region, value, other)
            if found is not None and taken.isdisjoint(found):
                taken.update(found)
                yield found, other

    def key(self, op: Op) -> Hashable:
        """Equal for ops that do the same to operands of the same types.

        Less than a `signature` of sharding says: which values an op reads is compared
        on the way, and steering operands may differ, as each region is looked at anew.
        """
        found = self._keys.get(op)
        if found is None:
            types = tuple([None if v is None else v.type for v in op.operands])
            found = self._keys[op] = (op.meaning, types, op.types)
        return found

    @cached_property
    def _like(self) -> dict[Hashable, list[Op]]:
        found: dict[Hashable, list[Op]] = defaultdict(list)
        for op in self.graph.ops:
            if not isinstance(op, Constant):
                found[self.key(op)].append(op)
        return found

    def _mapped(self, region: Followed, value: Value, other: Value) -> list[Op] | None:
        """The op for each one of a region, where ``other`` is what ``value`` is."""
        ops: dict[Op, Op] = {}
        values: dict[Value, Value] = {}
        pending = [(value, other)]
        while pending:
            here, there = pending.pop()
            if here in values:
                if values[here] is not there:
                    return None
                continue
            values[here] = there
            known = here.op in region.axes
            if here.type != there.type or (known and there.op is None):
                return None
            pairs = [(here.op, there.op)] if known else []
            if here in region.marks:
                pairs += self._readers(here, there, region.axes)
            for a, b in pairs:
                if a is None or b is None or ops.setdefault(a, b) is not b:
                    return None
                if self.key(a) != self.key(b):
                    return None
                sides = [*zip(a.operands, b.operands, strict=True)]
                sides += zip(a.results, b.results, strict=True)
                for x, y in sides:
                    if (x is None) != (y is None):
                        return None
                    if x is not None and y is not None and x in region.marks:
                        pending.append((x, y))
        if len(ops) < len(region.axes) or len(set(ops.values())) < len(ops):
            return None
        return list(ops.values())

    def _readers(
        self, here: Value, there: Value, inside: Collection[Op]
    ) -> list[tuple[Op | None, Op | None]]:
        """Ops of the region that read a value, and those that read the other one so."""
        mine, others = self._reads(here), self._reads(there)
        found: list[tuple[Op | None, Op | None]] = []
        for key, readers in mine.items():
            twins = others.get(key, [])
            for i, op in enumerate(readers):
                if op in inside:
                    fits = len(twins) == len(readers)
                    found.append((op, twins[i] if fits else None))
        return found

    def _reads(self, value: Value) -> dict[Hashable, list[Op]]:
        found: dict[Hashable, list[Op]] = defaultdict(list)
        for op, place in self.graph.users.get(value, ()):
            found[self.key(op), place].append(op)
        return found
