"""Regions to cut into tiles, by name, and the check of what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from equations import const, graph_of, ints, param, random

from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Op, Value
from graphopt.ops import (
    Add,
    Attention,
    AveragePool,
    Cast,
    Constant,
    Conv,
    DepthToSpace,
    Exp,
    Expand,
    LayerNormalization,
    LessOrEqual,
    MatMul,
    MaxPool,
    Mul,
    Pad,
    Range,
    ReduceMax,
    ReduceSum,
    Relu,
    Reshape,
    Slice,
    Softmax,
    Tiled,
    Transpose,
    Trilu,
    Where,
)
from graphopt.passes.tiling.tiles import tile
from graphopt.reference import evaluate
from graphopt.text import parse, weights_of
from graphopt.types import DType
from graphopt.verify import verify

F32, I64 = DType.F32, DType.I64
Case = tuple[Graph, Value, int, int]


def everything(graph: Graph) -> list[Op]:
    return [op for op in graph.ops if not isinstance(op, Constant)]


def checked(before: Graph, after: Graph, *, exact: bool = False) -> None:
    """``after`` is legal, prints, and gives the same in float64."""
    verify(after)
    assert parse(str(after), weights_of(after)).key == after.key
    fed = random_inputs(before, seed=1)
    truth = evaluate(before, fed, precision="float64", seed=0)
    found = evaluate(after, fed, precision="float64", seed=0)
    for a, b in zip(truth, found, strict=True):
        if exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def tiled(case: Case) -> Graph:
    graph, value, dim, size = case
    made = tile(graph, everything(graph), value, dim, size)
    assert isinstance(made, Graph), made
    return made


def counts(graph: Graph) -> list[int]:
    return [int(op.count) for op in graph.ops if isinstance(op, Tiled)]


def mlp(size: int = 3, dtype: DType = F32) -> Case:
    x = param("x", 2, 10, 6, dtype=dtype)
    hidden = Relu(MatMul(x, random(6, 24, dtype=dtype)))
    y = Add(MatMul(hidden, random(24, 6, dtype=dtype)), x)
    scale = random(6, dtype=dtype)
    return graph_of(LayerNormalization(y, scale, scale)), hidden, 1, size


def hidden_units() -> Case:
    x = param("x", 2, 10, 6)
    hidden = Relu(MatMul(x, random(6, 24)))
    return graph_of(MatMul(hidden, random(24, 6))), hidden, 2, 5


def attention(dim: int, size: int) -> Case:
    q, k, v = (param(name, 2, 3, 12, 4) for name in "qkv")
    scores = Softmax(MatMul(q, Transpose(k, perm=(0, 1, 3, 2))))
    return graph_of(MatMul(scores, v)), scores, dim, size


def fused(size: int = 5, mask: Value | None = None, **attrs: Any) -> Case:
    q, k, v = (param(name, 2, 4, 12, 4) for name in "qkv")
    y = Attention(q, k, v, mask, **attrs)
    inputs = [q, k, v, *([mask] if mask is not None else [])]
    return graph_of(y, inputs=inputs), y, 2, size  # type: ignore[arg-type]


def heads_in_rows(shared: int = 1, *, bias: bool = False) -> Case:
    """Operands of rank 3, whose heads the op is told the number of."""
    q, k, v = (
        param(n, 2, 12, w) for n, w in [("q", 24), *((n, 24 // shared) for n in "kv")]
    )
    mask = param("bias", 6, 12, 12) if bias else None
    y = Attention(q, k, v, mask, q_num_heads=6, kv_num_heads=6 // shared)
    return graph_of(y), y, 2, 8


def convolutions(dim: int = 2, size: int = 2) -> Case:
    image = param("image", 1, 3, 20, 17)
    first = Relu(
        Conv(image, random(8, 3, 3, 3), random(8), pads=(1,) * 4, strides=(2, 2))
    )
    second = Conv(first, random(8, 1, 3, 3), pads=(2,) * 4, group=8, dilations=(2, 2))
    joined = Add(Conv(second, random(8, 8, 1, 1)), first)
    pooled = MaxPool(joined, kernel_shape=(3, 3), pads=(1,) * 4, strides=(2, 2))
    return graph_of(pooled), pooled, dim, size


def averages() -> Case:
    x = param("x", 1, 2, 9)
    y = AveragePool(x, kernel_shape=(3,), pads=(1, 1), count_include_pad=1)
    y = AveragePool(y, kernel_shape=(3,), pads=(1, 1))
    return graph_of(y), y, 2, 2


def lengthened() -> Case:
    x = param("x", 2, 12)
    y = Conv(
        Reshape(Pad(x, ints(0, 3, 0, 2), const(1.5)), ints(2, 1, 17)), random(1, 1, 4)
    )
    return graph_of(y), y, 2, 4


def stepping() -> Case:
    x = param("x", 3, 20)
    y = Exp(Slice(x, ints(1, 1), ints(3, 19), ints(0, 1), ints(1, 3)))
    return graph_of(y), y, 1, 2


def heads() -> Case:
    x = param("x", 2, 10, 6)
    parts = Transpose(Reshape(x, ints(2, 10, 2, 3)), perm=(0, 2, 1, 3))
    total = ReduceSum(parts, ints(2), keepdims=0)
    rows = Reshape(Transpose(Softmax(parts), perm=(0, 2, 1, 3)), ints(0, 0, 6))
    return graph_of(rows, total, ReduceMax(parts, ints(2))), parts, 2, 3


def blocks() -> Case:
    x = param("x", 1, 8, 5, 3)
    y = DepthToSpace(Relu(x), blocksize=2)
    return graph_of(y), y, 2, 4


def spread() -> Case:
    x = param("x", 1, 4)
    y = Mul(Expand(x, ints(9, 4)), param("z", 9, 1))
    return graph_of(y), y, 0, 2


def triangle(dim: int, upper: int, k: int) -> Case:
    x = param("x", 3, 9, 7)
    y = Trilu(x, const(k, I64), upper=upper)
    return graph_of(y), y, dim, 2


def counting() -> Case:
    numbers = Range(const(3, I64), const(30, I64), const(2, I64))
    y = Mul(param("x", 14), Cast(numbers, to=F32))
    return graph_of(y), y, 0, 3


def causal_by_hand() -> Case:
    """column <= row: rows are counted by a Range, which is told where they begin."""
    row = Reshape(Range(const(0, I64), const(11, I64), const(1, I64)), ints(11, 1))
    column = const(range(11), I64)
    q, k = param("q", 11, 4), param("k", 11, 4)
    scores = MatMul(q, Transpose(k, perm=(1, 0)))
    seen = Where(LessOrEqual(column, row), scores, const(-np.inf))
    y = Softmax(seen)
    return graph_of(y), y, 0, 4


BOOL = param("mask", 2, 1, 12, 12, dtype=DType.BOOL)
CASES: dict[str, Callable[[], Case]] = {
    "tokens of an MLP": mlp,
    "tokens, dividing evenly": lambda: mlp(5),
    "queries": lambda: attention(2, 5),
    "heads": lambda: attention(1, 1),
    "batch": lambda: attention(0, 1),
    "fused attention": fused,
    "causal": lambda: fused(is_causal=1),
    "causal with a mask": lambda: fused(mask=BOOL, is_causal=1),
    "causal with a bias": lambda: fused(mask=param("bias", 12, 12), is_causal=1),
    "heads in rows": heads_in_rows,
    "heads in rows with a bias": lambda: heads_in_rows(bias=True),
    "heads in rows, shared": lambda: heads_in_rows(2),
    "a window": lambda: fused(left_window_size=2, right_window_size=1),
    "a chain of convolutions": convolutions,
    "by single rows": lambda: convolutions(2, 1),
    "by columns": lambda: convolutions(3, 2),
    "means with pads": averages,
    "pads before a convolution": lengthened,
    "every third": stepping,
    "blocks of pixels": blocks,
    "expanded": spread,
    "lower triangle, rows": lambda: triangle(1, 0, 0),
    "lower triangle, columns": lambda: triangle(2, 0, -1),
    "upper triangle, rows": lambda: triangle(1, 1, 1),
    "upper triangle, columns": lambda: triangle(2, 1, 0),
    "positions": counting,
    "a mask of positions": causal_by_hand,
}
MERGED: dict[str, Callable[[], Case]] = {
    "hidden units of an MLP": hidden_units,
    "heads, and sums over positions": heads,
}
