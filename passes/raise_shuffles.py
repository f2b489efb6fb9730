"""Raise: pixels moved between space and channels, from reshapes or strided slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.dims import Dim, Shape, equal, mul
from graphopt.ir import Value
from graphopt.ops import (
    Concat,
    Constant,
    DepthToSpace,
    Gather,
    Reshape,
    Slice,
    SpaceToDepth,
    Transpose,
)
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .match import axis_of, perm_of

SPREAD: dict[tuple[int, ...], str] = {
    (0, 3, 4, 1, 5, 2): "DCR",
    (0, 1, 4, 2, 5, 3): "CRD",
}
"""Orders of ``[n, channels…, h, w]``, block sizes first or last, as they are spread."""

GATHERED: dict[tuple[int, ...], str] = {
    (0, 3, 5, 1, 2, 4): "DCR",
    (0, 1, 3, 5, 2, 4): "CRD",
}
"""Orders of ``[n, c, h, block, w, block]`` as they are gathered."""

_KERNELS = (DType.F32, DType.F64)
"""What runtimes move so; reshapes and transpositions they have of every type."""


def _steps(op: Reshape, scene: Scene) -> tuple[Value, Shape, tuple[int, ...]] | None:
    """x of four dims, its six dims, and their order before they are merged again."""
    turned = op.operands[0]
    if not isinstance(turned, Transpose) or op.rank != 4 or turned.rank != 6:
        return None
    split = turned.operands[0]
    if not isinstance(split, Reshape) or split.shape is None:
        return None
    x = split.operands[0]
    if x is None or x.rank != 4 or not scene.single(turned) or not scene.single(split):
        return None
    return x, split.shape, perm_of(6, turned.perm)


def _is(shape: Shape | None, *dims: Dim) -> bool:
    return shape is not None and all(map(equal, shape, dims))


@rule
def depth_to_space(op: Reshape, scene: Scene) -> Outcome:
    """merge(transpose(split(x))) = depthtospace(x)

    From channels to blocks of pixels.
    """
    found = _steps(op, scene)
    mode = None if found is None else SPREAD.get(found[2])
    if found is None or mode is None:
        return None
    x, dims, _ = found
    batch, *inner, height, width = dims
    depth, *sizes = inner if mode == "CRD" else (inner[2], inner[0], inner[1])
    size = sizes[0]
    if not isinstance(size, int) or sizes[1] != size:
        return miss("the blocks are not known, or not square", op)
    before = batch, mul(depth, size * size), height, width
    after = batch, depth, mul(height, size), mul(width, size)
    if not _is(x.shape, *before) or not _is(op.shape, *after):
        return miss("channels and pixels are split or merged otherwise", op)
    if op.dtype not in _KERNELS:
        return miss("runtimes have it of float and double alone", op)
    made = DepthToSpace(x, blocksize=size, mode=mode)
    return made if scene.says(made) else miss("the opset has no such mode", op)


@rule
def space_to_depth(op: Reshape, scene: Scene) -> Outcome:
    """merge(transpose(split(x))) = spacetodepth(x)

    From blocks of pixels to channels.
    """
    found = _steps(op, scene)
    mode = None if found is None else GATHERED.get(found[2])
    if found is None or mode is None:
        return None
    x, dims, _ = found
    batch, depth, height, size, width, other = dims
    if not isinstance(size, int) or other != size:
        return miss("the blocks are not known, or not square", op)
    before = batch, depth, mul(height, size), mul(width, size)
    after = batch, mul(depth, size * size), height, width
    if not _is(x.shape, *before) or not _is(op.shape, *after):
        return miss("channels and pixels are split or merged otherwise", op)
    return _gathered(x, size, mode, scene)


def _gathered(x: Value, size: int, mode: str, scene: Scene) -> Outcome:
    if x.dtype not in _KERNELS:
        return miss("runtimes have it of float and double alone", x)
    made = SpaceToDepth(x, blocksize=size, mode=mode)
    return made if scene.says(made) else miss("the opset has no such mode", x)


@dataclass(frozen=True)
class Strided:
    """``x[:, :, row::size, column::size]``."""

    x: Value
    row: int
    column: int


def strided(value: Value | None, size: int) -> Strided | None:
    """Every ``size``-th row and column, whichever is taken first."""
    starts: dict[int, int] = {}
    while isinstance(value, Slice):
        cuts = value.cuts()
        if cuts is None or value.rank != 4:
            return None
        for axis, (start, step, _) in cuts.items():
            if axis in starts or axis < 2 or step != size or not isinstance(start, int):
                return None
            starts[axis] = start
        value = value.operands[0]
    if value is None or set(starts) != {2, 3}:
        return None
    return Strided(value, starts[2], starts[3])


@rule
def slices_to_depth(op: Concat, scene: Scene) -> Outcome:
    """concat(x[::2, ::2], x[::2, 1::2], x[1::2, ::2], x[1::2, 1::2]) = spacetodepth(x)

    In another order its channels are put in that.
    """
    size = round(len(op.operands) ** 0.5)
    if op.rank != 4 or axis_of(op.axis, 4) != 1 or size < 2:
        return None
    if size * size != len(op.operands):
        return None
    parts = [strided(value, size) for value in op.operands]
    found = [part for part in parts if part is not None]
    if len(found) != len(parts) or any(part.x is not found[0].x for part in found):
        return None
    x = found[0].x
    places = [part.row * size + part.column for part in found]
    if sorted(places) != [*range(size * size)] or x.shape is None or op.shape is None:
        return None
    batch, _, height, width = op.shape
    if not isinstance(x.shape[1], int):
        return miss("the number of channels is not known", x)
    if not _is(x.shape, batch, x.shape[1], mul(height, size), mul(width, size)):
        return miss("the blocks do not fill the rows and columns", x)
    made = _gathered(x, size, "DCR", scene)
    if not isinstance(made, Value) or places == [*range(size * size)]:
        return made
    channels = np.arange(x.shape[1] * size * size, dtype=np.int64)
    order = channels.reshape(size * size, -1)[places].reshape(-1)
    return Gather(made, Constant(order), axis=1)


RULES: tuple[Rule, ...] = (depth_to_space, space_to_depth, slices_to_depth)


@dataclass(frozen=True)
class RaiseShuffles(RulePass):
    """Recognise DepthToSpace and SpaceToDepth.

    reshape(transpose(reshape(x)))   -->   depthtospace(x)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
