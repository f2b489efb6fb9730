"""Sums of partial products in the place of what is joined, where that takes less.

A product over what is joined needs all of it at once, and all that it joins. A sum of
products of the parts takes one part after the other, each of which can die then.
`PartialSums` has the equations, `Sums` the order of what is added. What does not lower
the peak stays joined.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from graphopt.exporter import source_order
from graphopt.ir import Graph, Op

from ..partial_sums import PartialSums
from ..sum_order import Sums
from .order import least_order
from .ranges import Size
from .sizes import Sizes
from .space import Space
from .workspace import workspace

TRIES: Final = 24
"""Ops that are tried one by one, whether they can stay."""

STEPS: Final = 50_000
"""What the search for an order may cost, while graphs are compared."""


@dataclass(frozen=True)
class Summed:
    """A graph, an order of its ops and the bytes that are live then at once.

    ``avoided`` are the ops of the graph before that it does without.
    """

    graph: Graph
    order: tuple[Op, ...]
    peak: int
    avoided: frozenset[Op] = frozenset()


def summed(
    graph: Graph,
    binding: Mapping[str, Size] | None = None,
    budget: int = 0,
    *,
    space: Space | None = None,
    onto: bool = False,
    seconds: float = 30.0,
) -> Summed:
    """The graph with sums of partial products, until ``budget`` live bytes are enough.

    Convolutions are added ``onto`` what is there where the target has a kernel for it.
    Where nothing takes less, it is the graph as it is. After ``seconds`` nothing more
    is tried.
    """
    search = _Search(graph, Sizes(binding or {}, space or Space()), onto, seconds)
    return search.least(budget)


class _Search:
    """Graphs without some joins and products, each in the best order that is found."""

    def __init__(self, graph: Graph, sizes: Sizes, onto: bool, seconds: float) -> None:
        self.given, self.sizes, self.onto = graph, sizes, onto
        self.until = time.monotonic() + seconds
        self.partial = PartialSums(graph)

    def least(self, budget: int) -> Summed:
        """Without the fewest ops by which it fits, or that have the lowest peak."""
        best = self._ordered(self.given)
        best = min(best, self._apart(()), key=_peak)
        joins = self.partial.joins
        for avoided in (joins, (*joins, *self.partial.products)):
            if best.peak > budget and avoided:
                best = min(best, self._apart(avoided), key=_peak)
        return self._pruned(best, max(best.peak, budget))

    def _pruned(self, best: Summed, enough: int) -> Summed:
        """With as few ops apart as are needed: small ones stay whole first."""
        ops = sorted(best.avoided, key=lambda op: self.sizes.of(op) or 0)
        low, high = 0, len(ops)  # so many of the smallest stay
        while low < high and self._has_time():
            middle = (low + high + 1) // 2
            other = self._apart(ops[middle:])
            if other.peak <= enough:
                low, best = middle, other
            else:
                high = middle - 1
        for op in ops[low + 1 :][:TRIES]:
            if not self._has_time():
                break
            other = self._apart(best.avoided - {op})
            if other.peak <= enough:
                best = other
        return best

    def _apart(self, avoided: Collection[Op]) -> Summed:
        """Without these ops, sums in the best order that is found."""
        graph = self.partial.without(avoided) if avoided else self.given
        best = self._resummed(graph, source_order(graph))
        while self._has_time():
            other = self._resummed(best.graph, best.order)
            if other.peak >= best.peak:
                break
            best = other
        return Summed(best.graph, best.order, best.peak, frozenset(avoided))

    def _resummed(self, graph: Graph, order: Sequence[Op]) -> Summed:
        """With the terms of sums as they come in an order, the better of two ways."""
        ranks = {op: i for i, op in enumerate(order)}
        made = [
            Sums(graph, ranks, self.onto, deep).in_order() for deep in (False, True)
        ]
        return min(map(self._ordered, dict.fromkeys(made)), key=_peak)

    def _ordered(self, graph: Graph) -> Summed:
        need = {op: self._need(op) for op in graph.ops}
        left = max(0.0, self.until - time.monotonic())
        order, found = least_order(graph, self.sizes, need, seconds=left, steps=STEPS)
        return Summed(graph, order, found.peak)

    def _need(self, op: Op) -> int:
        """What an op takes for itself; of bodies that is the same in all graphs."""
        return 0 if op.bodies else workspace(op, self.sizes, ())

    def _has_time(self) -> bool:
        return time.monotonic() < self.until


def _peak(each: Summed) -> int:
    return each.peak
