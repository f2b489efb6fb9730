"""How often what stands in a body runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from graphopt.cost import trips
from graphopt.ir import Graph, Op
from graphopt.ops import If, Loop, Scan

UNKNOWN: Final = 16
"""A loop whose turns depend on data counts as so many."""

Weigh = Callable[[Op], float]


def turns(op: Op) -> int:
    """How often an op runs its body, or what it counts for: at most a stated number."""
    found = trips(op)
    if isinstance(found, int):
        return found
    limit = op.operand(0) if isinstance(op, Loop) else None
    if limit is not None and limit.ints is not None:
        return max(limit.ints[0], 0)
    return UNKNOWN if isinstance(op, Loop | Scan) else 1


def runs(graph: Graph, weigh: Weigh) -> Iterator[tuple[Op, int]]:
    """Each op of a graph and of its bodies with how often it runs; not those bodies'.

    Of the branches of an If the one that weighs most is run. Ops with bodies of their
    own kind (tiles) are ops like others.
    """
    yield from of_ops(graph.ops, weigh)


def of_ops(ops: Iterable[Op], weigh: Weigh) -> Iterator[tuple[Op, int]]:
    """`runs` of some ops."""
    for op in ops:
        if not is_region(op):
            yield op, 1
            continue
        rows = [list(runs(body, weigh)) for body in op.bodies]
        row = rows[0] if len(rows) == 1 else max(rows, key=lambda r: _sum(r, weigh))
        times = turns(op)
        yield from ((inner, times * count) for inner, count in row)


def _sum(row: Iterable[tuple[Op, int]], weigh: Weigh) -> float:
    return math.fsum(count * weigh(op) for op, count in row)


def is_region(op: Op) -> bool:
    """True for control flow, which runs its bodies on a device's parts."""
    return isinstance(op, If | Loop | Scan)
