"""Sizes of symbolic dims that a model takes: the usual ones, or the largest below."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType

from .check.running import running_sizes
from .dim_names import places, said, shown
from .inputs import TRIED, Sizes, likely
from .ir import Graph
from .specialize import Impossible, specialize


def fitting(
    graph: Graph, fixed: Mapping[str, int] = MappingProxyType({})
) -> tuple[Sizes, Graph]:
    """Sizes for all dims of the inputs, and the graph with them; see `likely`.

    They are the first that no op forbids, nor a branch, where there are such; but of a
    dim that usual sizes do not fit, and the model is seen to run at one larger size
    only, that one. A dim that cannot be fixed, of an unknown rank or in a sequence,
    stays as it is. Raises UsageError for ``fixed`` that are not there, and Impossible
    where none fit.
    """
    sizes, made, usual = _first(graph, fixed)
    if usual:
        return sizes, made
    ran, bound = running_sizes(graph)
    only = {n: ran[n] for n in bound if n not in fixed and ran[n] > sizes.get(n, 0)}
    if not only:
        return sizes, made
    try:
        return _first(graph, {**fixed, **only})[:2]
    except Impossible:
        return sizes, made


def _first(graph: Graph, fixed: Mapping[str, int]) -> tuple[Sizes, Graph, bool]:
    """The first sizes that fit, the graph with them, and whether they are usual."""
    known = {*places(graph).values()}
    reason: Impossible | None = None
    whole: tuple[Sizes, Graph, bool] | None = None
    for count, sizes in enumerate(islice(likely(graph, fixed), TRIED)):
        chosen = {n: s for n, s in sizes.items() if n in known} | dict(fixed)
        try:
            made = specialize(graph, {shown(n): s for n, s in chosen.items()})
        except Impossible as error:
            at = said(chosen)
            reason = reason or Impossible(error.reason, where=error.where, at=at)
            continue
        if not made.forbidden:
            return sizes, made.graph, not count
        whole = whole or (sizes, made.graph, not count)
    if whole is None:
        assert reason is not None
        raise reason
    return whole
