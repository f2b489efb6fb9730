"""What is alive on a device while ops run in graph order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator

from graphopt.cost import value_bytes
from graphopt.ir import Graph, Op, Value
from graphopt.ops import Constant

from .program import held
from .turns import is_region


def peak(
    graph: Graph,
    size: Callable[[Value], int],
    inside: Callable[[Op], int] = lambda op: 0,
) -> tuple[int, Collection[Value]]:
    """The most bytes of results alive at once, and which these are.

    Inputs, constants and outputs are left out: they are there all the time. ``inside``
    is what an op needs besides, while it runs.
    """
    found = peaks(graph, size, inside)
    return max(found, key=lambda each: each[0], default=(0, []))


def local_peak(graph: Graph) -> int:
    """The most bytes alive at once on a device that runs a local graph.

    Copies in other layouts count, also of weights that are gathered for a product, and
    what bodies make. Not what is stored.
    """

    weights = held(graph.ops)

    def size(value: Value) -> int:
        return 0 if value.op in weights else value_bytes(value, {}) or 0

    def inside(op: Op) -> int:
        if not is_region(op):
            return 0
        ends = [{v for v in body.outputs if v.op is not None} for body in op.bodies]
        needs = zip(op.bodies, ends, strict=True)
        return max(local_peak(body) + sum(map(size, made)) for body, made in needs)

    return peak(graph, size, inside)[0]


def peaks(
    graph: Graph,
    size: Callable[[Value], int],
    inside: Callable[[Op], int] = lambda op: 0,
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
        here = total + inside(op)
        if here < most and found:
            yield most, found
            found = []
        elif here > most:
            found = list(alive)
        most = here
        for value in dying.pop(i, ()):
            total -= alive.pop(value)
    if found:
        yield most, found
