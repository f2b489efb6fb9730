"""Pixels between space and channels, recognised in every spelling, and nothing else."""

from __future__ import annotations

from itertools import permutations

import pytest
from equations import N, const, fires, ints, misses, param

from graphopt.dims import symbol
from graphopt.ir import Value
from graphopt.ops import (
    Concat,
    DepthToSpace,
    Gather,
    Reshape,
    Slice,
    SpaceToDepth,
    Transpose,
)
from graphopt.passes import raise_shuffles as r
from graphopt.passes.raise_shuffles import GATHERED, SPREAD
from graphopt.types import DType

H = symbol("m")
DEEP = param("deep", N, 12, H, 3)
WIDE = param("wide", N, 3, 4, 6)


def spread(
    order: tuple[int, ...], blocks: tuple[int, int] = (2, 2), dtype: DType = DType.F32
) -> Value:
    x = DEEP if dtype is DType.F32 else param("deep", N, 12, H, 3, dtype=dtype)
    depth = 12 // (blocks[0] * blocks[1])
    first = SPREAD.get(order) != "CRD"
    inner = (*blocks, depth) if first else (depth, *blocks)
    turned = Transpose(Reshape(x, ints(0, *inner, -1, 3)), perm=order)
    return Reshape(turned, ints(0, depth, -1, 3 * blocks[1]))


def gathered(order: tuple[int, ...], block: int = 2) -> Value:
    split = Reshape(WIDE, ints(0, 3, 4 // block, block, 6 // block, block))
    merged = ints(0, 3 * block * block, 4 // block, 6 // block)
    return Reshape(Transpose(split, perm=order), merged)


@pytest.mark.parametrize(("order", "mode"), list(SPREAD.items()))
def test_depth_to_space(order: tuple[int, ...], mode: str) -> None:
    after = DepthToSpace(DEEP, blocksize=2, mode=mode)
    fires(r.depth_to_space, spread(order), after)


@pytest.mark.parametrize("order", list(GATHERED))
def test_space_to_depth(order: tuple[int, ...]) -> None:
    if GATHERED[order] == "DCR":
        fires(r.space_to_depth, gathered(order), SpaceToDepth(WIDE, blocksize=2))
    else:
        misses(r.space_to_depth, gathered(order), "no such mode")


def test_other_orders_are_other_shuffles() -> None:
    for order in permutations(range(1, 6)):
        whole = (0, *order)
        if whole in SPREAD or whole in GATHERED:
            continue
        sizes = [(0, 2, 2, 3, 2, 2)[i] for i in order]
        fixed = param("fixed", N, 12, 2, 2)
        turned = Transpose(Reshape(fixed, ints(0, 2, 2, 3, 2, 2)), perm=whole)
        merged = ints(0, sizes[0], sizes[1] * sizes[2], sizes[3] * sizes[4])
        misses(r.depth_to_space, Reshape(turned, merged))
        misses(r.space_to_depth, Reshape(turned, merged))


def test_what_is_no_depth_to_space() -> None:
    order = (0, 3, 4, 1, 5, 2)
    misses(r.depth_to_space, spread(order, (1, 3)), "not square")
    misses(r.depth_to_space, spread(order, dtype=DType.F16), "float and double")
    fixed = param("fixed", N, 12, 2, 3)
    turned = Transpose(Reshape(fixed, ints(0, 2, 2, 3, 2, 3)), perm=order)
    misses(r.depth_to_space, Reshape(turned, ints(0, 6, 4, 3)), "otherwise")
    misses(r.depth_to_space, (spread(order), spread(order).op.operands[0]))
    misses(r.depth_to_space, spread((0, 1, 4, 2, 5, 3)), "no such mode", opset=10)


# --- strided slices -----------------------------------------------------------------


def part(row: int, column: int, way: int = 0, x: Value = WIDE, step: int = 2) -> Value:
    end, steps = 1 << 40, ints(step, step)
    if way == 0:
        return Slice(x, ints(row, column), ints(end, end), ints(2, 3), steps)
    axes = ((2, row), (3, column)) if way == 1 else ((-1, column), (-2, row))
    for axis, start in axes:
        x = Slice(x, ints(start), ints(end), ints(axis), ints(step))
    return x


@pytest.mark.parametrize("way", range(3))
def test_slices_to_depth(way: int) -> None:
    parts = [part(row, column, way) for row in (0, 1) for column in (0, 1)]
    fires(r.slices_to_depth, Concat(*parts, axis=1), SpaceToDepth(WIDE, blocksize=2))


def test_columns_first() -> None:
    """As detectors have it: the other rows come before the other columns."""
    parts = [part(row, column) for column in (0, 1) for row in (0, 1)]
    order = const([0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11], DType.I64)
    after = Gather(SpaceToDepth(WIDE, blocksize=2), order, axis=1)
    fires(r.slices_to_depth, Concat(*parts, axis=1), after)


def test_what_is_no_block() -> None:
    parts = [part(row, column) for row in (0, 1) for column in (0, 1)]
    misses(r.slices_to_depth, Concat(*parts, axis=0))
    misses(r.slices_to_depth, Concat(*parts[:3], axis=1))
    misses(r.slices_to_depth, Concat(*parts[:3], parts[0], axis=1))
    other = part(1, 1, x=param("other", N, 3, 4, 6))
    misses(r.slices_to_depth, Concat(*parts[:3], other, axis=1))
    odd = param("odd", N, 3, 5, 6)
    rows = Slice(odd, ints(0), ints(4), ints(2))
    cut = [part(a, b, x=rows) for a in (0, 1) for b in (0, 1)]
    misses(r.slices_to_depth, Concat(*cut, axis=1))
    unknown = param("open", N, H, 4, 6)
    parts = [part(row, column, x=unknown) for row in (0, 1) for column in (0, 1)]
    misses(r.slices_to_depth, Concat(*parts, axis=1), "number of channels")


def test_blocks_of_nine() -> None:
    x = param("nine", N, 2, 6, 3)
    parts = [part(row, column, x=x, step=3) for row in range(3) for column in range(3)]
    after = SpaceToDepth(x, blocksize=3)
    fires(r.slices_to_depth, Concat(*parts, axis=1), after)
