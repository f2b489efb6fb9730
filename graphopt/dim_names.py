"""Dims of inputs by the names that users read and write.

One that the file leaves without a name goes by its place: ``x:1`` is axis 1 of the
input ``x``, and ``?x:1`` inside (`graphopt.unnamed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .dims import Expr, symbols
from .errors import UsageError, nearest
from .ir import Graph
from .specialize import specialize, symbols_of
from .types import TensorType
from .unnamed import by_place, shown as shown

_NO_WORDS: Final = frozenset({"none", "null", "nan", "unknown", "?", "-1", ""})
"""What some exporters write for the lack of a name; it is one all the same."""


def said(sizes: Mapping[str, object]) -> str:
    """``batch = 1, x:1 = 512``; a name that reads like the lack of one is quoted."""
    return ", ".join(
        f"the dim {name!r} = {size}"
        if name.lower() in _NO_WORDS
        else f"{shown(name)} = {size}"
        for name, size in sizes.items()
    )


def places(graph: Graph) -> dict[str, str]:
    """The names that may be written, and which dim each is, by its name inside.

    Those of symbols, and the place of each dim that is one, or has no name.
    """
    known = {name: name for name in symbols_of(graph)}
    for p in graph.inputs:
        shape = p.type.shape if isinstance(p.type, TensorType) else None
        for axis, dim in enumerate(shape or ()):
            place = f"{p.name}:{axis}"
            if dim is None:
                known.setdefault(place, by_place(p.name, axis))
            elif isinstance(dim, Expr) and symbols(dim) == {str(dim)}:
                known.setdefault(place, str(dim))
    return known


def inside(sizes: Mapping[str, int], graph: Graph) -> dict[str, int]:
    """Sizes by the names inside. Raises UsageError for what is no dim of an input."""
    known, found = places(graph), dict[str, int]()
    for name, size in sizes.items():
        dim = known.get(shown(name))
        if dim is None:
            near = nearest(name, known) or "; all dims are fixed"
            raise UsageError(f"no dim of an input is called {name!r}{near}")
        if found.setdefault(dim, size) != size:
            raise UsageError(
                f"the dim {shown(dim)!r} cannot be both {found[dim]} and {size}"
            )
    return found


def named(graph: Graph) -> Graph:
    """The graph with a symbol for each dim of its inputs that has no name.

    So sizes of values are known where sizes of these dims are. What it declares of its
    outputs stays, and so does what is written of it: see `graphopt.unnamed`.
    """
    known = symbols_of(graph)
    new = {at: name for at, name in places(graph).items() if name not in known}
    if not new:
        return graph
    made = specialize(graph, new).graph
    return made.replace(output_types=graph.output_types)
