"""Brute force against derived rules: are they sound, and do they miss anything?

Both checks run an op on parts of real arrays and compare with the op on the whole. They
know nothing of how `strategies` and `tiling` came to their answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..dims import Dim, Shape
from .domain import Domain, domain
from .maps import Combiner, Maps
from .sharding import Partial, Replicated, Split, State, Strategy, strategies
from .tiling import Kind, Region, TileSlice, Tiling, tile_slice, tiling

Array: TypeAlias = npt.NDArray[Any]
Operands: TypeAlias = Sequence[Array | None]
"""None for an absent one."""
Compute: TypeAlias = Callable[[list[Array | None]], list[Array]]
ComputeTile: TypeAlias = Callable[[list[Array | None], TileSlice], list[Array]]

MERGES: Mapping[Combiner, Callable[[Array, Array], Array]] = {
    Combiner.SUM: np.add,
    Combiner.MAX: np.maximum,
    Combiner.MIN: np.minimum,
    Combiner.PROD: np.multiply,
    Combiner.LOGSUMEXP: np.logaddexp,
}


@dataclass
class Verdict:
    """What brute force found: rules that do not hold, and truths without a rule."""

    unsound: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """True where the rules are sound and miss nothing."""
        return not self.unsound and not self.missed


# --- placements ---------------------------------------------------------------------


def validate_strategies(
    compute: Compute,
    maps: Maps,
    operands: Operands,
    ways: int = 2,
    declared: Mapping[str, Dim] | None = None,
    tolerance: float = 1e-6,
    most_partial: int = 3,
) -> Verdict:
    """Run every placement of the operands on `ways` devices and judge the strategies.

    Indexed operands are tried replicated, split along each dim that `ways` divides, and
    partial where they are numbers, but more than ``most_partial`` of them at once only
    where a strategy has that; others replicated. ``compute`` takes the operands of one
    device, of whatever shape; where it raises, the placement does not work.
    ``tolerance`` is relative to the largest magnitude of a result.
    """
    whole = domain(maps, _shapes(operands), declared)
    derived = {s.operands: s for s in strategies(whole) if _divides(s, whole, ways)}
    truth = compute(list(operands))
    choices = [
        [
            (state, _parts(i, x, state, ways))
            for state in ([Replicated()] if map_ is None else _placements(x, ways))
        ]
        for i, (x, map_) in enumerate(zip(operands, maps.operands, strict=True))
    ]
    verdict = Verdict()
    for chosen in product(*choices):
        states = tuple([state for state, _ in chosen])
        strategy = derived.pop(states, None)
        partial = sum(isinstance(state, Partial) for state in states)
        if strategy is None and partial > most_partial:
            continue
        devices = [[parts[i] for _, parts in chosen] for i in range(ways)]
        found = _run(compute, devices, truth, tolerance)
        placement = ", ".join(map(str, states))
        if strategy is None:
            if found and all(found):
                results = ", ".join(str(f[0]) for f in found)
                verdict.missed.append(f"{placement} -> {results}")
        elif not found or any(
            state not in seen
            for state, seen in zip(strategy.results, found, strict=True)
        ):
            verdict.unsound.append(str(strategy))
    verdict.unsound += [f"{s} was not tried" for s in derived.values()]
    return verdict


def _shapes(operands: Operands) -> list[Shape | None]:
    return [None if x is None else x.shape for x in operands]


def _divides(strategy: Strategy, domain: Domain, ways: int) -> bool:
    extent = 0 if strategy.axis is None else domain.extents[strategy.axis]
    return isinstance(extent, int) and extent % ways == 0


def _placements(x: Array | None, ways: int) -> Iterator[State]:
    yield Replicated()
    if x is None:
        return
    for dim, extent in enumerate(x.shape):
        if extent and extent % ways == 0:
            yield Split(dim)
    if x.dtype.kind in "iufc":
        yield Partial()


def _run(
    compute: Compute,
    operands: Sequence[Operands],
    truth: list[Array],
    tolerance: float,
) -> list[list[State]]:
    """The states that each result turns out to be in; nothing where an op fails.

    ``operands`` are those of each device.
    """
    try:
        with np.errstate(all="ignore"):
            devices = [compute(list(held)) for held in operands]
    except Exception:  # whatever an op raises on operands that do not fit
        return []
    return [
        _states([results[i] for results in devices], expected, tolerance)
        for i, expected in enumerate(truth)
    ]


def _parts(
    index: int, x: Array | None, state: State, ways: int
) -> Sequence[Array | None]:
    """What each device holds of an operand."""
    if x is None or isinstance(state, Replicated):
        return [x] * ways
    if isinstance(state, Split):
        return np.split(x, ways, state.dim)
    random = np.random.default_rng((x.size, index))
    parts = [
        random.integers(0, 3, x.shape).astype(x.dtype)
        if x.dtype.kind in "iu"
        else random.normal(size=x.shape).astype(x.dtype)
        for _ in range(ways - 1)
    ]
    return [*parts, x - sum(parts, start=np.zeros_like(x))]


def _states(parts: list[Array], truth: Array, tolerance: float) -> list[State]:
    found: list[State] = []
    if all(_close(part, truth, tolerance) for part in parts):
        found.append(Replicated())
    if all(part.ndim == truth.ndim for part in parts):
        for dim in range(truth.ndim):
            try:
                joined = np.concatenate(parts, dim)
            except ValueError:
                continue
            if _close(joined, truth, tolerance):
                found.append(Split(dim))
    if all(part.shape == truth.shape for part in parts) and truth.dtype.kind in "iuf":
        for combiner, merge in MERGES.items():
            with np.errstate(all="ignore"):
                merged = parts[0]
                for part in parts[1:]:
                    merged = merge(merged, part)
            if _close(merged, truth, tolerance):
                found.append(Partial(combiner))
    return found


def _close(a: Array, b: Array, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    if b.dtype.kind not in "fc":
        return bool(np.array_equal(a, b))
    scale = float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b)))
    limit = tolerance * max(scale, 1e-30)
    return bool(np.allclose(a, b, rtol=0, atol=limit, equal_nan=True))


# --- tiles --------------------------------------------------------------------------


def validate_tiling(
    compute: Compute,
    maps: Maps,
    operands: Operands,
    tiles: int = 2,
    declared: Mapping[str, Dim] | None = None,
    tolerance: float = 1e-6,
    compute_tile: ComputeTile | None = None,
    axes: Iterable[str] | None = None,
) -> Verdict:
    """Compute tile by tile along each axis and judge what `tiling` says about it.

    ``compute_tile`` is for axes where a tile asks for more than its operands: windows
    that reach over a border, offsets, a state carried from tile to tile (tiles come in
    order). Without it positional and carried axes are left out. ``axes`` are those to
    try, by default all.
    """
    whole = domain(maps, _shapes(operands), declared)
    truth = compute(list(operands))
    verdict = Verdict()
    for axis in whole.maps.axes if axes is None else axes:
        extent = whole.extents[axis]
        if not isinstance(extent, int) or extent < 2:
            continue
        plan = tiling(whole, axis)
        if plan.kind in (Kind.POSITIONAL, Kind.CARRIED) and compute_tile is None:
            continue
        count = min(tiles, extent)
        cuts = [extent * i // count for i in range(count + 1)]
        if plan.kind is Kind.WHOLE:
            if _whole_axis_works(
                compute, whole, operands, axis, cuts, truth, tolerance
            ):
                verdict.missed.append(f"{axis}: {plan.reason}")
            continue
        run = compute_tile if plan.kind is not Kind.PARALLEL else None
        try:
            results = _tile_by_tile(
                compute, run, whole, operands, plan, axis, cuts, truth
            )
        except Exception as error:
            verdict.unsound.append(f"{axis}: {plan.kind.value}, {error}")
            continue
        if not all(map(_close, results, truth, [tolerance] * len(truth))):
            verdict.unsound.append(f"{axis}: {plan.kind.value}")
    return verdict


def _tile_by_tile(
    compute: Compute,
    compute_tile: ComputeTile | None,
    domain: Domain,
    operands: Operands,
    plan: Tiling,
    axis: str,
    cuts: list[int],
    truth: list[Array],
) -> list[Array]:
    """The results, put together from what each tile gives."""
    results: list[Array | None] = [None] * len(truth)
    for lo, hi in pairwise(cuts):
        part = tile_slice(domain, axis, lo, hi)
        inputs = [
            None if x is None else _read(x, region, empty=lo > 0 and i in plan.added)
            for i, (x, region) in enumerate(zip(operands, part.operands, strict=True))
        ]
        tile = compute_tile(inputs, part) if compute_tile else compute(inputs)
        for i, (old, new) in enumerate(zip(results, tile, strict=True)):
            results[i] = _placed(old, new, part.results[i], truth[i], plan.combiner)
    return [x for x in results if x is not None]


def _read(x: Array, region: Region | None, *, empty: bool) -> Array:
    part = x if region is None else x[_slices(region)]
    return np.zeros_like(part) if empty else part


def _slices(region: Region) -> tuple[slice, ...]:
    return tuple(
        slice(None) if w is None else slice(_known(w.start), _known(w.stop))
        for w in region
    )


def _known(dim: Dim) -> int:
    assert isinstance(dim, int), "the dims of arrays are known"
    return dim


def _placed(
    result: Array | None,
    tile: Array,
    region: Region,
    truth: Array,
    combiner: Combiner | None,
) -> Array:
    """A result with one more tile written into it, or combined with it."""
    if all(window is None for window in region):
        if result is None or combiner is None:
            return tile
        merged: Array = MERGES[combiner](result, tile)
        return merged
    if result is None:
        result = np.zeros_like(truth)
    result[_slices(region)] = tile
    return result


def _whole_axis_works(
    compute: Compute,
    domain: Domain,
    operands: Operands,
    axis: str,
    cuts: list[int],
    truth: list[Array],
    tolerance: float,
) -> bool:
    """Whether tiles of an axis that is said to be whole would do after all."""
    extent = cuts[-1]
    parts: list[list[Array]] = []
    for lo, hi in pairwise(cuts):
        inputs: list[Array | None] = []
        for x, map_ in zip(operands, domain.maps.operands, strict=True):
            if x is None:
                inputs.append(None)
                continue
            index = [slice(None)] * x.ndim
            for dim, term in enumerate(map_ or ()):
                if axis in term.axes and x.shape[dim] == extent:
                    index[dim] = slice(lo, hi)
            inputs.append(x[tuple(index)])
        try:
            with np.errstate(all="ignore"):
                parts.append(compute(inputs))
        except Exception:  # whatever an op raises on operands that do not fit
            return False
    for tiles, expected in zip(zip(*parts, strict=True), truth, strict=True):
        states = _states(list(tiles), expected, tolerance)
        if not states or Replicated() in states:  # replicated: the tiles were the whole
            return False
    return True
