"""Tiles, derived from index maps: which axes may be cut, and what a tile needs."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from .. import dims
from ..dims import Dim, Shape
from .domain import Domain
from .maps import Affine, Combiner, Compound, Map, Maps, Term


class Kind(enum.Enum):
    """What tiling along one axis asks for."""

    PARALLEL = "parallel"
    """Nothing: tiles are computed one by one, results put side by side."""
    REDUCED = "reduced"
    """Results without the axis are accumulated with the combiner."""
    WINDOWED = "windowed"
    """Operands are read in overlapping or clipped windows: mind the borders."""
    POSITIONAL = "positional"
    """The op must be told the offset or the extent of the tile."""
    CARRIED = "carried"
    """Tiles are computed in order, each from the state after the one before.

    Results without the axis are those of the last tile.
    """
    WHOLE = "whole"
    """The axis cannot be tiled."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How one axis may be tiled, and why so.

    ``stride`` and ``halo`` tell the windows of the first operand that is read in any: a
    tile [lo, hi) of the axis needs ``[stride*lo - halo[0], stride*(hi - 1) + 1 +
    halo[1])`` of it. Of a reduced axis, ``added`` are operands that only one tile may
    be given (a bias); the others take zeros.
    """

    kind: Kind
    reason: str
    combiner: Combiner | None = None
    stride: Dim = 1
    halo: tuple[Dim, Dim] = (0, 0)
    added: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Window:
    """Positions [start, stop) of a dim; ``before`` and ``after`` more lie outside."""

    start: Dim
    stop: Dim
    before: Dim = 0
    after: Dim = 0


Region: TypeAlias = tuple[Window | None, ...]
"""A part of a tensor: a window of each dim, None for the whole dim."""


@dataclass(frozen=True, slots=True)
class TileSlice:
    """What the tile [lo, hi) of an axis reads and writes.

    An operand that is not indexed has no region. Results without the axis have one that
    is all of them: their tiles are partial results.
    """

    axis: str
    lo: Dim
    hi: Dim
    operands: tuple[Region | None, ...]
    results: tuple[Region, ...]


def tiling(domain: Domain, axis: str) -> Tiling:
    """How an axis of the domain may be tiled. Raises KeyError for an unknown axis."""
    if axis not in domain.tilings:
        domain.tilings[axis] = _tiling(domain, axis)
    return domain.tilings[axis]


def _tiling(domain: Domain, axis: str) -> Tiling:
    maps = domain.maps
    if axis not in maps.axes:
        raise KeyError(axis)
    obstacle = _obstacle(maps, axis)
    if obstacle:
        return Tiling(Kind.WHOLE, obstacle)
    combiner = maps.combiner(axis)
    if axis in maps.carried:
        return Tiling(Kind.CARRIED, "each position is computed from the one before")
    if axis in maps.positional:
        return Tiling(Kind.POSITIONAL, "the op looks at the position itself", combiner)
    if axis not in maps.operand_axes:
        return Tiling(Kind.POSITIONAL, "no operand has it: tell the op its extent")
    windows = [t for t in _terms(maps.operands) if _is_window(t, axis)]
    stride, halo = _reach(domain, windows[0], axis) if windows else (1, (0, 0))
    if axis in maps.reduced:
        reason = "results are without it: what tiles give is combined"
        return Tiling(Kind.REDUCED, reason, combiner, stride, halo, maps.added(axis))
    if windows or any(_is_window(t, axis) for t in _terms(maps.results)):
        return Tiling(Kind.WINDOWED, "read or written in windows", None, stride, halo)
    return Tiling(Kind.PARALLEL, "each result has it, and reads its own part")


def _obstacle(maps: Maps, axis: str) -> str:
    """Why an axis must stay whole; empty where it need not."""
    if axis in maps.whole:
        return "any position of it may be read"
    for term in _terms((*maps.operands, *maps.results)):
        if isinstance(term, Compound) and axis in term.axes[1:]:
            return f"not the major axis of {term}: its parts are not contiguous"
    for term in _terms(maps.results):
        if not isinstance(term, Affine) or axis not in term.axes:
            continue
        if len(term.axes) > 1:
            return f"windows {term} overlap in the result"
        if term.coefficients[0][1] not in (1, -1):
            return f"no tile writes what lies between the positions {term}"
    combined = maps.combiner(axis) is not None or axis in maps.carried
    if axis in maps.reduced and not combined:
        return "reduced, and partial results cannot be combined"
    return ""


def tile_slice(domain: Domain, axis: str, lo: Dim, hi: Dim) -> TileSlice:
    """The parts of operands and results that belong to the tile [lo, hi) of an axis.

    Raises ValueError where the axis must stay whole.
    """
    plan = tiling(domain, axis)
    if plan.kind is Kind.WHOLE:
        raise ValueError(f"axis {axis} cannot be tiled: {plan.reason}")
    tile = axis, lo, hi
    shapes = [*domain.operand_shapes, *[None] * len(domain.maps.operands)]
    return TileSlice(
        *tile,
        tuple(
            None if map_ is None else _region(domain, map_, shape, *tile)
            for map_, shape in zip(domain.maps.operands, shapes, strict=False)
        ),
        tuple(_region(domain, map_, None, *tile) for map_ in domain.maps.results),
    )


def _region(
    domain: Domain, map_: Map, shape: Shape | None, axis: str, lo: Dim, hi: Dim
) -> Region:
    limits = (None,) * len(map_) if shape is None else shape
    return tuple(
        _window(domain, term, limit, axis, lo, hi)
        for term, limit in zip(map_, limits, strict=True)
    )


def _window(
    domain: Domain, term: Term, limit: Dim, axis: str, lo: Dim, hi: Dim
) -> Window | None:
    if axis not in term.axes:
        return None
    if isinstance(term, Compound):
        inner = dims.product(domain.extents[a] for a in term.axes[1:])
        return Window(dims.mul(lo, inner), dims.mul(hi, inner))
    if not isinstance(term, Affine) or term.plain:
        return Window(lo, hi)
    start = stop = term.offset
    for name, step in term.coefficients:
        first: Dim = lo if name == axis else 0
        last = dims.sub(hi if name == axis else domain.extents[name], 1)
        if dims.nonnegative(dims.mul(-1, step)):
            first, last = last, first
        elif not dims.nonnegative(step):
            return Window(None, None)
        start = dims.add(start, dims.mul(step, first))
        stop = dims.add(stop, dims.mul(step, last))
    return _clipped(
        start, dims.add(stop, 1), limit if term.extent is None else term.extent
    )


def _clipped(start: Dim, stop: Dim, limit: Dim) -> Window:
    """The part of [start, stop) that is in [0, limit), where a limit is known."""
    if limit is None:
        return Window(start, stop)
    return Window(
        dims.minimum(dims.maximum(start, 0), limit),
        dims.minimum(dims.maximum(stop, 0), limit),
        dims.maximum(dims.sub(dims.minimum(stop, 0), start), 0),
        dims.maximum(dims.sub(stop, dims.maximum(start, limit)), 0),
    )


def _is_window(term: Term, axis: str) -> bool:
    return isinstance(term, Affine) and axis in term.axes and term.plain is None


def _reach(domain: Domain, term: Term, axis: str) -> tuple[Dim, tuple[Dim, Dim]]:
    """(stride, halo) of a window."""
    assert isinstance(term, Affine)
    first = _window(domain, Affine(term.coefficients, term.offset), None, axis, 0, 1)
    assert first is not None
    stride = dict(term.coefficients)[axis]
    return stride, (dims.mul(-1, first.start), dims.sub(first.stop, 1))


def _terms(maps: tuple[Map | None, ...]) -> list[Term]:
    return [term for map_ in maps for term in map_ or ()]
