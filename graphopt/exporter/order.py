"""The order in which ops are written: one that was planned, or that of the source.

Runtimes run nodes in the order of the file, and whoever wrote the source may have had
reasons for it: how much is alive at a time, what is still in the cache.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

from ..errors import UsageError
from ..ir import Graph, Op
from ..ops.constant import Constant

T = TypeVar("T", bound=Hashable)


def in_order(ops: Sequence[Op], ranks: Mapping[Op, int]) -> list[Op]:
    """``ops``, operands first, by rank.

    An op that has none comes just before the first that reads it.
    """
    inside = set(ops)
    return by_rank(ops, ranks, lambda op: _operands(op, inside))


def by_rank(
    items: Sequence[T],
    ranks: Mapping[T, int],
    needs: Callable[[T], Iterable[T]],
) -> list[T]:
    """Items after those that they need, which stand before them, too; by rank."""
    users: dict[T, list[T]] = defaultdict(list)
    waiting: dict[T, int] = {}
    for item in items:
        needed = list(needs(item))
        waiting[item] = len(needed)
        for other in needed:
            users[other].append(item)
    last = max(ranks.values(), default=0) + 1
    rank: dict[T, int] = {}
    for item in reversed(items):
        own = ranks.get(item)
        if own is None:
            own = min([rank[user] for user in users[item]], default=last)
        rank[item] = own
    index = {item: i for i, item in enumerate(items)}
    ready = [(rank[item], index[item]) for item in items if not waiting[item]]
    heapq.heapify(ready)
    done: list[T] = []
    while ready:
        item = items[heapq.heappop(ready)[1]]
        done.append(item)
        for user in users[item]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, (rank[user], index[user]))
    return done


def ranks_of_source(graph: Graph) -> dict[Op, int]:
    """For each op that stands for nodes of the source, the place of the first."""
    places: dict[str, int] = {}
    for names in graph.sources.values():
        for name in names:
            places.setdefault(name, len(places))
    return {
        op: min(places[name] for name in names)
        for op, names in graph.sources.items()
        if names
    }


def source_order(graph: Graph) -> list[Op]:
    """The ops of a graph as they are written, where nothing was planned."""
    found = _written.get(graph)
    if found is None:
        found = in_order(graph.ops, ranks_of_source(graph))
        _written[graph] = found
    return [*found]


_written: WeakKeyDictionary[Graph, list[Op]] = WeakKeyDictionary()


def ranks_of(order: Sequence[Op], graph: Graph) -> dict[Op, int]:
    """The place of each op of ``graph`` in an order. Constants may be left out.

    Raises UsageError where the order lacks an op, has one twice or one that is not of
    the graph, or puts an op before what it reads.
    """
    ranks = {op: i for i, op in enumerate(order)}
    if len(ranks) != len(order):
        twice = next(op for i, op in enumerate(order) if ranks[op] != i)
        raise UsageError(f"the order has {_said(graph, twice)} twice")
    inside = set(graph.ops)
    for op in order:
        if op not in inside:
            raise UsageError(f"the order has {op.label}, which the graph has not")
    for op in graph.ops:
        if isinstance(op, Constant):
            continue
        if op not in ranks:
            raise UsageError(f"the order lacks {_said(graph, op)}")
        for operand in _operands(op, inside):
            if not isinstance(operand, Constant) and ranks[operand] > ranks[op]:
                raise UsageError(
                    f"the order has {_said(graph, op)} before {_said(graph, operand)},"
                    " which it reads"
                )
    return ranks


def _operands(op: Op, inside: set[Op]) -> Iterator[Op]:
    """The ops that make what an op reads, each once."""
    yield from {v.op: None for v in op.operands if v is not None and v.op in inside}


def _said(graph: Graph, op: Op) -> str:
    sources = graph.sources.get(op)
    return f"{op.label} node {sources[0]!r}" if sources else op.label
