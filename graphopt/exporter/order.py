"""The order in which ops are written: that of the source, as far as they allow it.

Runtimes run nodes in the order of the file, and whoever wrote the source may have had
reasons for it: how much is alive at a time, what is still in the cache.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence

from ..ir import Graph, Op


def in_source_order(ops: Sequence[Op], graph: Graph) -> list[Op]:
    """``ops``, operands first, by the place of the node that each stands for.

    An op that stands for none comes just before the first that reads it.
    """
    places: dict[str, int] = {}
    for names in graph.sources.values():
        for name in names:
            places.setdefault(name, len(places))
    users: dict[Op, list[Op]] = defaultdict(list)
    waiting: dict[Op, int] = {}
    inside = set(ops)
    for op in ops:
        operands = {v.op for v in op.operands if v is not None and v.op in inside}
        waiting[op] = len(operands)
        for operand in operands:
            if operand is not None:
                users[operand].append(op)
    rank: dict[Op, int] = {}
    for op in reversed(ops):
        own = [places[name] for name in graph.sources.get(op, ())]
        rank[op] = min(own or [rank[user] for user in users[op]], default=len(places))
    index = {op: i for i, op in enumerate(ops)}
    ready = [(rank[op], index[op]) for op in ops if not waiting[op]]
    heapq.heapify(ready)
    done: list[Op] = []
    while ready:
        op = ops[heapq.heappop(ready)[1]]
        done.append(op)
        for user in users[op]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, (rank[user], index[user]))
    return done
