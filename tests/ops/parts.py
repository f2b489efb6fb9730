"""The op that a part of a domain takes: that of a tile, or of one device of several.

Where attributes or steering operands hold extents, borders or positions, they are those
of the part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from graphopt import index, ops
from graphopt.dims import Dim
from graphopt.index import Affine, Compound, Domain, Term, TileSlice
from graphopt.index.check import Array, Operands
from graphopt.ir import Op, Parameter, Value
from graphopt.ops.segments import NO_END
from graphopt.ops.structured import Structured
from graphopt.reference import Evaluator
from graphopt.types import DType, TensorType

Extents: TypeAlias = Mapping[str, Dim]
Tile: TypeAlias = TileSlice


@dataclass(frozen=True)
class Told:
    """What the op of a part is told: attributes, and constant operands."""

    attrs: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, Sequence[int] | int] = field(default_factory=dict)


def computed(
    op: Structured, operands: Operands, extents: Extents, tile: Tile | None = None
) -> list[Array]:
    """The results of a part: operands, extents and tile are those of it."""
    told = TOLD.get(op.kind, _nothing)(op, extents, tile)
    return results(_with(op, operands, told), operands)


def results(op: Op, operands: Operands) -> list[Array]:
    """What the reference computes."""
    evaluator = Evaluator()
    arrays = [
        value.tensor.array() if isinstance(value, ops.Constant) else array
        for value, array in zip(op.operands, (*operands, *[None] * 9), strict=False)
    ]
    with evaluator.xp.scope():
        return list(evaluator.apply(op, arrays))


def _with(op: Structured, operands: Operands, told: Told) -> Structured:
    """The op on operands of these dims."""
    values: list[Value | None] = [
        None if old is None or array is None else _like(old, array)
        for old, array in zip(op.operands, operands, strict=True)
    ]
    for i, ints in sorted(told.constants.items()):
        values += [None] * (i + 1 - len(values))
        old = op.operand(i)
        dtype = np.dtype(np.int64) if old is None else old.dtype.numpy
        values[i] = ops.Constant(np.array(ints, dtype))
    return op.copy(operands=values, **told.attrs)


def _like(value: Value, array: Array) -> Value:
    if isinstance(value, ops.Constant):
        return ops.Constant(array)
    return Parameter(TensorType(DType.of(array.dtype), array.shape))


def extents_of(domain: Domain, operands: Operands) -> dict[str, Dim]:
    """The extents of the axes where operands are parts of those of the domain."""
    extents = dict(domain.extents)
    for map_, shape, part in zip(
        domain.maps.operands, domain.operand_shapes, operands, strict=True
    ):
        for term, whole, dim in zip(
            map_ or (), shape or (), () if part is None else part.shape, strict=False
        ):
            axis = _major(term)
            if axis is not None and dim != whole:
                extents[axis] = domain.extents[axis] * dim // whole
    return extents


def _major(term: Term) -> str | None:
    """The axis along which a dim is cut into contiguous parts."""
    if isinstance(term, Compound):
        return term.axes[0]
    return term.plain if isinstance(term, Affine) else None


# --- what ops are told --------------------------------------------------------------


def _nothing(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    return Told()


def result_dims(op: Structured, extents: Extents) -> tuple[Any, ...]:
    """The dims of the first result of a part."""
    maps = op.index_maps()
    assert maps is not None
    return index.result_shapes(maps, extents)[0]


def _target(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    return Told(constants={1: result_dims(op, extents)})


def _columns(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    return Told(constants={1: result_dims(op, extents)[2:]})


def _sizes(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    if op.operand(3) is None:
        return Told()
    shape = result_dims(op, extents)
    return Told(constants={3: [shape[i] for i in op.resized_axes(len(shape))]})


def _group(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    attrs: dict[str, Any] = {"group": extents.get("g", 1), "kernel_shape": None}
    if tile is not None:
        attrs |= _borders(tile, op.known_windows().pads)
    return Told(attrs)


def _spread(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    return Told({"group": extents.get("g", 1), "kernel_shape": None})


def _pool(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    if tile is None:
        return Told()
    spatial = op.operands[0].shape[2:]
    windows = op.windows(spatial)
    kernel = [extents.get(f"r{i}", size) for i, size in enumerate(windows.kernel)]
    borders = _borders(tile, windows.covering(spatial))
    return Told({"kernel_shape": kernel, "ceil_mode": 0, **borders})


def _borders(tile: Tile, pads: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The pads where windows reach over the borders of what the tile reads."""
    pairs = pads_of(tile, [(0, 0), (0, 0), *pads])[2:]
    befores, afters = zip(*pairs, strict=True)
    return {"pads": (*befores, *afters), "auto_pad": "NOTSET"}


def pads_of(tile: Tile, pads: Sequence[tuple[int, int]]) -> list[tuple[Any, Any]]:
    """The pads of a tile: given ones, where it does not cut the dim."""
    return [
        pad if window is None else (window.before, window.after)
        for pad, window in zip(pads, tile.operands[0] or (), strict=True)
    ]


def _heads(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    if op.operands[0].rank == 4:
        return Told()
    keys, shared = extents["g"], extents.get("r") or 1
    return Told({"kv_num_heads": keys, "q_num_heads": keys * shared})


def _slice(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    if tile is None:
        return Told()
    region = tile.operands[0] or ()
    axes = [axis % len(region) for axis in op.operands[3].ints]
    ints = {i: list(op.operands[i].ints) for i in (1, 2, 4)}
    for i, axis in enumerate(axes):
        if region[axis] is not None:
            back = ints[4][i] < 0
            ints[1][i], ints[2][i] = (-1, -NO_END) if back else (0, NO_END)
    return Told(constants=ints)


def _split(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    windows = [] if tile is None else [region[op.axis] for region in tile.results]
    sizes = [w.stop - w.start for w in windows if w is not None]
    return Told({"num_outputs": None}, {1: sizes}) if sizes else Told()


def _pads(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    if tile is None:
        return Told()
    pairs = pads_of(tile, op.pads())
    befores, afters = zip(*pairs, strict=True)
    return Told(constants={1: (*befores, *afters), 3: range(len(pairs))})


def _centered(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    shape = result_dims(op, extents)
    axes = range(len(shape)) if op.axes is None else op.axes
    return Told(constants={1: [shape[i] for i in axes]})


def _repeats(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    counts = [extents.get(f"t{i}", n) for i, n in enumerate(op.counts())]
    return Told(constants={1: counts})


def _diagonal(op: Structured, extents: Extents, tile: Tile | None) -> Told:
    if tile is None or tile.axis not in ("r", "c"):
        return Told()
    (diagonal,) = op.operands[1].ints
    return Told(constants={1: diagonal + (tile.lo if tile.axis == "r" else -tile.lo)})


TOLD: dict[str, Callable[[Any, Extents, Tile | None], Told]] = {
    "Attention": _heads,
    "AveragePool": _pool,
    "CenterCropPad": _centered,
    "Col2Im": _columns,
    "Conv": _group,
    "ConvTranspose": _spread,
    "ConvInteger": _group,
    "DeformConv": _spread,
    "Expand": _target,
    "LinearAttention": _heads,
    "LpPool": _pool,
    "MaxPool": _pool,
    "Pad": _pads,
    "QLinearConv": _group,
    "Reshape": _target,
    "Resize": _sizes,
    "Slice": _slice,
    "Split": _split,
    "Tile": _repeats,
    "Trilu": _diagonal,
}

# --- tiles that take more than one op of the same kind ------------------------------

Run: TypeAlias = Callable[[Any, Operands, Extents, Tile], list[Array]]


class Running:
    """Running sums or products, each tile from what the one before leaves."""

    state: Array

    def __call__(
        self, op: Any, operands: Operands, extents: Extents, tile: Tile
    ) -> list[Array]:
        x, (axis,) = operands[0], op.operands[1].ints
        assert x is not None
        join, total = (
            (np.add, np.sum) if op.kind == "CumSum" else (np.multiply, np.prod)
        )
        (own,) = computed(op, operands, extents)
        if tile.axis != f"i{axis % x.ndim}":
            return [own]
        if tile.lo == 0:
            self.state = total(x, axis, keepdims=True) * 0 + join.identity
        found = join(own, self.state)
        self.state = join(self.state, total(x, axis, keepdims=True))
        return [found]


class Stepping:
    """Steps of a recurrence, each tile from the states after the one before."""

    states: Sequence[Array]

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count
        """Where the operands are that hold the states, and how many they are."""

    def __call__(
        self, op: Any, operands: Operands, extents: Extents, tile: Tile
    ) -> list[Array]:
        if tile.axis != "t":
            return computed(op, operands, extents)
        given = [*operands, *[None] * (8 - len(operands))]
        if tile.lo:
            given[self.first : self.first + self.count] = self.states
        values = [None if array is None else _parameter(array) for array in given]
        found = results(op.copy(operands=values, outs=1 + self.count), given)
        self.states = found[1:]
        return found[: op.outs]


def _cropped(op: Any, operands: Operands, extents: Extents, tile: Tile) -> list[Array]:
    """CenterCropPad, by Pad."""
    befores, afters = zip(*pads_of(tile, op.pads()), strict=True)
    pads = ops.Constant(np.array((*befores, *afters)))
    return results(ops.Pad(_parameter(operands[0]), pads), operands)


def _positions(
    op: Any, operands: Operands, extents: Extents, tile: Tile
) -> list[Array]:
    """MaxPool, with positions in the operand as a whole."""
    found = computed(op, operands, extents, tile)
    whole = op.operands[0].shape
    for at in found[1:]:
        places = list(np.unravel_index(at, operands[0].shape))
        for i, window in enumerate(tile.operands[0] or ()):
            if window is not None:
                places[i] = places[i] + window.start
        at[...] = np.ravel_multi_index(places, whole)
    return found


def _of_depth(op: Any, operands: Operands, extents: Extents, tile: Tile) -> list[Array]:
    """OneHot, of the indices that are in the tile; others are beyond its depth."""
    indices, _, values = operands
    if tile.axis != "d":
        return computed(op, operands, extents, tile)
    own, depth = indices - tile.lo, tile.hi - tile.lo
    own = np.where((own >= 0) & (own < depth), own, depth)
    told = Told(constants={1: depth})
    return results(_with(op, (own, operands[1], values), told), (own, None, values))


def _masked(op: Any, operands: Operands, extents: Extents, tile: Tile) -> list[Array]:
    """Attention, with a mask of the keys that come later."""
    if tile.axis != "s":
        return computed(op, operands, extents, tile)
    q, k, v = operands[:3]
    rows = np.arange(tile.lo, tile.hi)
    mask = rows[:, None] >= np.arange(k.shape[2])
    return results(ops.Attention(*map(_parameter, (q, k, v, mask))), (q, k, v, mask))


def _parameter(array: Array) -> Parameter:
    return Parameter(TensorType(DType.of(array.dtype), array.shape))


TILES: dict[str, Callable[[], Run]] = {
    "Attention": lambda: _masked,
    "CenterCropPad": lambda: _cropped,
    "CumProd": Running,
    "CumSum": Running,
    "GRU": lambda: Stepping(5, 1),
    "LSTM": lambda: Stepping(5, 2),
    "LinearAttention": lambda: Stepping(3, 1),
    "MaxPool": lambda: _positions,
    "OneHot": lambda: _of_depth,
    "RNN": lambda: Stepping(5, 1),
}


def run_tile(op: Structured) -> Run:
    """What computes the tiles of an op, one after the other."""
    return TILES.get(op.kind, lambda: computed)()
