"""A graph with numbers for its symbolic dims, which tell more than symbols do.

What is broadcast of ``n`` and ``m`` has no extent that is known: either may be 1. Of 8
and 8 it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.errors import UsageError
from graphopt.ir import Graph, Op, Value
from graphopt.specialize import specialize, symbols_of

from .ranges import Size
from .sizes import Sizes


@dataclass(frozen=True)
class Twin:
    """A graph of known sizes; ``ops`` and ``values`` are those of the one with symbols,
    by those of this one, in bodies too.
    """

    graph: Graph
    ops: Mapping[Op, Op]
    values: Mapping[Value, Value]


def twin_of(graph: Graph, sizes: Sizes) -> Twin | None:
    """The twin of a graph, None where it would tell no more."""
    unsized = _unsized(graph, sizes)
    known = _numbers(graph, sizes.binding)
    if not unsized or not known:
        return None
    try:
        twin = specialize(graph, known).graph
    except UsageError:  # these sizes are impossible, or leave nothing
        return None
    theirs, ours = ([op for _, op in each.walk()] for each in (twin, graph))
    same = [op.kind for op in theirs] == [op.kind for op in ours]
    if not same or len({*theirs}) < len({*ours}):  # a branch became the other
        return None
    if _unsized(twin, Sizes({}, sizes.space)) >= unsized:
        return None
    values: dict[Value, Value] = {}
    values |= zip(twin.inputs, graph.inputs, strict=True)
    for a, b in zip(theirs, ours, strict=True):
        values |= zip(a.results, b.results, strict=True)
        for inner, outer in zip(a.bodies, b.bodies, strict=True):
            values |= zip(inner.inputs, outer.inputs, strict=True)
    return Twin(twin, dict(zip(theirs, ours, strict=True)), values)


def _unsized(graph: Graph, sizes: Sizes) -> int:
    """How many results have no size."""
    return sum(sizes.of(r) is None for _, op in graph.walk() for r in op.results)


def _numbers(graph: Graph, binding: Mapping[str, Size]) -> dict[str, int]:
    """The sizes of a graph's symbols; none where one is a range."""
    known = symbols_of(graph)
    found = {name: size for name, size in binding.items() if name in known}
    numbers = {name: size for name, size in found.items() if isinstance(size, int)}
    return numbers if len(numbers) == len(found) else {}
