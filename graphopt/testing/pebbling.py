"""The exact optimum of recomputation on small graphs, as a shortest path.

A pebble game (Sethi, "Complete register allocation problems", 1975): a state is the set
of results that are there. One more may be made from what is there, or one forgotten;
results that nothing reads stay. No order is given, so that no schedule is cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Final

from .checkmate import Node

STATES: Final = 2_000_000
"""Sets of results that are looked at, unless it is told."""


class TooLarge(Exception):
    """More states than may be looked at."""


def cheapest(
    nodes: Sequence[Node], budget: int, *, states: int = STATES
) -> float | None:
    """The fewest FLOPs at which all nodes are computed within ``budget`` bytes.

    None where there is no way at all. Raises TooLarge past so many states.
    """
    places = range(len(nodes))
    reads = [sum([1 << read for read in {*node.reads}]) for node in nodes]
    read = {place for node in nodes for place in node.reads}
    ends = sum([1 << place for place in places if place not in read])
    best = {0: 0.0}
    waiting = [(0.0, 0, 0)]
    closed: set[int] = set()
    while waiting:
        flops, there, size = heappop(waiting)
        if there in closed:
            continue
        if there & ends == ends:
            return flops
        closed.add(there)
        if len(closed) > states:
            raise TooLarge(f"more than {states} sets of results: take a smaller graph")
        for place in places:
            one, node = 1 << place, nodes[place]
            spent, left = flops, size - node.bytes
            if not there & one:
                spent, left = flops + node.flops, size + node.bytes
                if reads[place] & ~there or left > budget:
                    continue
            elif one & ends:
                continue
            if spent < best.get(there ^ one, float("inf")):
                best[there ^ one] = spent
                heappush(waiting, (spent, there ^ one, left))
    return None
