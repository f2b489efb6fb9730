"""Dims of inputs by the names that users read and write.

One that the file leaves without a name goes by its place: ``x:1`` is axis 1 of the
input ``x``, and ``?x:1`` inside (`graphopt.unnamed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .errors import UsageError
from .ir import Graph
from .specialize import no_dim, places_of, specialize, symbols_of
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
    for place, symbol in places_of(graph).items():
        name, _, axis = place.rpartition(":")
        known.setdefault(place, symbol or by_place(name, int(axis)))
    return known


def inside(
    sizes: Mapping[str, int], graph: Graph, given: Graph | None = None
) -> dict[str, int]:
    """Sizes by the names inside. Raises UsageError for what is no dim of an input.

    ``given`` is the graph before dims of it were fixed, or had other names.
    """
    known, found = places(graph), dict[str, int]()
    for name, size in sizes.items():
        dim = known.get(shown(name))
        if dim is None:
            before = {} if given is None else places(given)
            if old := before.get(shown(name)):
                raise UsageError(
                    f"the dim {shown(old)!r} was fixed or renamed (--dim,"
                    " --input-shape): sizes are only of dims that stay"
                )
            raise no_dim(name, graph)
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
