"""What is alive on a device while ops run in graph order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator

from graphopt.ir import Graph, Value
from graphopt.ops import Constant


def peak(graph: Graph, size: Callable[[Value], int]) -> tuple[int, Collection[Value]]:
    """The most bytes of results alive at once, and which these are.

    Inputs, constants and outputs are left out: they are there all the time.
    """
    return max(peaks(graph, size), key=lambda each: each[0], default=(0, []))


def peaks(
    graph: Graph, size: Callable[[Value], int]
) -> Iterator[tuple[int, Collection[Value]]]:
    """What is alive wherever no more is right before and less right after."""
    apart = set(graph.outputs)
    last: dict[Value, int] = {}
    for i, op in enumerate(graph.ops):
        for operand in op.operands:
            if operand is not None:
                last[operand] = i
    dying: dict[int, list[Value]] = defaultdict(list)
    alive: dict[Value, int] = {}
    total, most, found = 0, 0, list[Value]()
    for i, op in enumerate(graph.ops):
        if isinstance(op, Constant):
            continue
        for value in op.results:
            if value not in apart:
                alive[value] = size(value)
                total += alive[value]
                dying[last.get(value, i)].append(value)
        if total < most and found:
            yield most, found
            found = []
        elif total > most:
            found = list(alive)
        most = total
        for value in dying.pop(i, ()):
            total -= alive.pop(value)
    if found:
        yield most, found
