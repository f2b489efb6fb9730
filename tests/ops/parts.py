"""The op that a part of a domain takes: that of a tile, or of one device of several.

Where attributes or steering operands hold extents, borders or positions, they are those
of the part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt import index, ops
from graphopt.dims import Dim
from graphopt.index import Affine, Compound, Domain, Term, TileSlice
from graphopt.index.check import Array
from graphopt.ir import Op, Parameter, Value
from graphopt.ops.segments import NO_END
from graphopt.ops.structured import Structured
from graphopt.reference import Evaluator
from graphopt.types import DType, TensorType


@dataclass(frozen=True)
class Told:
    """What the op of a part is told anew: attributes, and constant operands."""

    attrs: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, Sequence[int]] = field(default_factory=dict)


def computed(
    op: Structured,
    operands: Sequence[Array | None],
    extents: Mapping[str, Dim],
    tile: TileSlice | None = None,
) -> list[Array]:
    """The results of a part: operands, extents and tile are those of it."""
    told = REWRITTEN.get(op.kind, _nothing)(op, extents, tile)
    values, arrays = list(op.operands), list(operands)
    for i, (value, array) in enumerate(zip(op.operands, operands, strict=True)):
        if value is None or array is None:
            continue
        if i in told.constants:
            array = np.array(told.constants[i], array.dtype)
        arrays[i] = array
        values[i] = _known(value, array)
    return results(op.copy(operands=values, **told.attrs), arrays)


def results(op: Op, operands: Sequence[Array | None]) -> list[Array]:
    """What the reference computes."""
    evaluator = Evaluator()
    with evaluator.xp.scope():
        return list(evaluator.apply(op, operands))


def _known(value: Value, array: Array) -> Value:
    """A value like another one, for an array of other dims."""
    if isinstance(value, ops.Constant):
        return ops.Constant(array)
    return Parameter(TensorType(DType.of(array.dtype), array.shape))


def extents_of(domain: Domain, operands: Sequence[Array | None]) -> dict[str, Dim]:
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
                extents[axis] = extents[axis] * dim // whole  # type: ignore[operator]
    return extents


def _major(term: Term) -> str | None:
    """The axis along which a dim is cut into contiguous parts."""
    if isinstance(term, Compound):
        return term.axes[0]
    return term.plain if isinstance(term, Affine) else None


# --- what ops are told --------------------------------------------------------------

Extents = Mapping[str, Dim]


def _nothing(op: Structured, extents: Extents, tile: TileSlice | None) -> Told:
    return Told()


def _target(operand: int) -> Callable[..., Told]:
    """The dims of the result, as an operand holds them."""

    def told(op: Structured, extents: Extents, tile: TileSlice | None) -> Told:
        maps = op.index_maps()
        assert maps is not None
        return Told(constants={operand: index.result_shapes(maps, extents)[0]})

    return told


def _convolution(op: Structured, extents: Extents, tile: TileSlice | None) -> Told:
    attrs: dict[str, Any] = {"group": extents.get("g", 1), "kernel_shape": None}
    if tile is None or op.kind == "ConvTranspose":
        return Told(attrs)
    return Told({**attrs, **_borders(op, op.known_windows().pads, tile)})


def _pooling(op: Structured, extents: Extents, tile: TileSlice | None) -> Told:
    if tile is None:
        return Told()
    windows = op.windows(op.operands[0].shape[2:])
    kernel = [extents.get(f"r{i}", size) for i, size in enumerate(windows.kernel)]
    pads = windows.covering(op.operands[0].shape[2:])
    return Told({"kernel_shape": kernel, "ceil_mode": 0, **_borders(op, pads, tile)})


def _borders(
    op: Structured, pads: Sequence[tuple[int, int]], tile: TileSlice
) -> dict[str, Any]:
    """The pads where windows of the tile reach over the borders of operand 0."""
    region = tile.operands[0]
    assert region is not None
    pairs = [
        pad if window is None else (window.before, window.after)
        for pad, window in zip(pads, region[2:], strict=True)
    ]
    befores, afters = zip(*pairs, strict=True)
    return {"pads": (*befores, *afters), "auto_pad": "NOTSET"}


def _heads(op: Structured, extents: Extents, tile: TileSlice | None) -> Told:
    if op.operands[0].rank == 4:
        return Told()
    keys = extents["g"]
    return Told({"kv_num_heads": keys, "q_num_heads": keys * (extents.get("r") or 1)})


def _slice(op: Structured, extents: Extents, tile: TileSlice | None) -> Told:
    if tile is None:
        return Told()
    axes = op.operands[3].ints
    ints = {i: list(op.operands[i].ints) for i in (1, 2, 4)}
    for at, window in enumerate(tile.operands[0] or ()):
        if window is not None and at in axes:
            way = axes.index(at)
            back = ints[4][way] < 0
            ints[1][way], ints[2][way] = (-1, -NO_END) if back else (0, NO_END)
    return Told(constants=ints)


def _split(op: Structured, extents: Extents, tile: TileSlice | None) -> Told:
    if tile is None:
        return Told()
    sizes = [
        window.stop - window.start
        for region in tile.results
        for window in [region[op.axis]]
        if window is not None
    ]
    return Told(constants={1: sizes}) if sizes else Told()


def _pads(op: Structured, extents: Extents, tile: TileSlice | None) -> Told:
    if tile is None:
        return Told()
    pairs = [
        pad if window is None else (window.before, window.after)
        for pad, window in zip(op.pads(), tile.operands[0] or (), strict=True)
    ]
    befores, afters = zip(*pairs, strict=True)
    return Told(constants={1: (*befores, *afters), 3: range(len(pairs))})


def _repeats(op: Structured, extents: Extents, tile: TileSlice | None) -> Told:
    return Told(constants={1: [extents[f"t{i}"] for i in range(op.rank)]})


def _diagonal(op: Structured, extents: Extents, tile: TileSlice | None) -> Told:
    if tile is None or tile.axis not in ("r", "c"):
        return Told()
    (diagonal,) = op.operands[1].ints
    return Told(constants={1: diagonal + (tile.lo if tile.axis == "r" else -tile.lo)})


REWRITTEN: dict[str, Callable[..., Told]] = {
    "Reshape": _target(1),
    "Expand": _target(1),
    "Resize": _target(3),
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "MaxPool": _pooling,
    "AveragePool": _pooling,
    "LpPool": _pooling,
    "Attention": _heads,
    "Slice": _slice,
    "Split": _split,
    "Pad": _pads,
    "Tile": _repeats,
    "Trilu": _diagonal,
}

# --- tiles that go on from the one before -------------------------------------------


class RunningTiles:
    """Running sums or products, each tile from what the one before leaves."""

    def __init__(self) -> None:
        self.state: Array = np.zeros(())

    def __call__(
        self, op: Structured, operands: Sequence[Array | None], tile: TileSlice
    ) -> list[Array]:
        x, axis = operands[0], op.operands[1].ints[0]
        assert x is not None
        total, join = (
            (np.sum, np.add) if op.kind == "CumSum" else (np.prod, np.multiply)
        )
        if tile.lo == 0:
            self.state = total(x[:0], axis=0, keepdims=True).take([0])
        (own,) = computed(op, operands, {})
        found = join(own, self.state)
        self.state = join(self.state, total(x, axis=axis, keepdims=True))
        return [found]


FOLLOWING: dict[str, Callable[[], Callable[..., list[Array]]]] = {
    "CumSum": RunningTiles,
    "CumProd": RunningTiles,
}
