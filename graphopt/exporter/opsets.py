"""The opset in which a graph is to be written, and what it has."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ..errors import UsageError
from ..ir import Graph
from ..ops.schema import LATEST
from .spelled import choose_opset

Wanted: TypeAlias = Literal["keep", "latest"] | int | None
"""What may be asked for; None is the source's, where that can say the result."""


def with_opset(graph: Graph, opset: Wanted) -> Graph:
    """The graph as one that is written in ``opset``; rules may use what that offers.

    Raises UsageError for a version below the model's own, or that does not exist, and
    UnsupportedModel where an op that is kept verbatim ties the model to its version.
    """
    if opset is None or opset == "keep":
        return graph
    have = opset_of(graph)
    wanted = LATEST if opset == "latest" else opset
    if not isinstance(wanted, int) or not 1 <= wanted <= LATEST:
        raise UsageError(f"no opset {opset!r}; write keep, latest, or 1 to {LATEST}")
    if wanted < have:
        raise UsageError(
            f"the model is written in opset {have} and cannot go back to {wanted}"
        )
    chosen = choose_opset(graph, wanted)
    return graph.with_header(opsets={**graph.header.opsets, "": chosen.version})


def opset_of(graph: Graph) -> int:
    """The version of the default domain; 0 where the model states none."""
    return graph.header.opsets.get("", 0)
