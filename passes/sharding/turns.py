"""How often what stands in a body runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from graphopt.cost import trips
from graphopt.ir import Graph, Op
from graphopt.ops import If, Loop, Scan

UNKNOWN: Final = 16
"""A loop whose turns depend on data counts as so many."""

ENDLESS: Final = 1 << 31
"""So many turns are no limit: such a loop ends by its condition."""

Weigh: TypeAlias = Callable[[Op], float]


def turns(op: Op) -> int:
    """How often an op runs its body, or counts for: a stated limit, or `UNKNOWN`."""
    found = trips(op)
    if found is None and isinstance(op, Loop):
        limit = op.operand(0)
        found = None if limit is None or limit.ints is None else limit.ints[0]
    if isinstance(found, int) and found < ENDLESS:
        return max(found, 0)
    return UNKNOWN if isinstance(op, Loop | Scan) else 1


def runs(graph: Graph, weigh: Weigh) -> Iterator[tuple[Op, int]]:
    """Each op of a graph and of its control flow with how often it runs.

    Of the branches of an If the one that weighs most is run.
    """
    for op in graph.ops:
        if not is_region(op):
            yield op, 1
            continue
        rows = [list(runs(body, weigh)) for body in op.bodies]
        row = max(rows, key=lambda each: _sum(each, weigh))
        yield from ((inner, turns(op) * count) for inner, count in row)


def _sum(row: Iterable[tuple[Op, int]], weigh: Weigh) -> float:
    return math.fsum(count * weigh(op) for op, count in row)


def is_region(op: Op) -> bool:
    """True for control flow, which runs its bodies on a device's parts."""
    return isinstance(op, If | Loop | Scan)
