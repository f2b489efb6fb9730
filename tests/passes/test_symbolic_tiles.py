"""Regions in strips of a symbolic dim: the same results at every size, or a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from equations import const, graph_of, ints, param, random

from graphopt.dims import Dim, symbol
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Op, Value
from graphopt.lowering import find
from graphopt.ops import (
    Add,
    Attention,
    Concat,
    Constant,
    ConstantOfShape,
    Conv,
    CumSum,
    Expand,
    Gather,
    LayerNormalization,
    LessOrEqual,
    MatMul,
    Mul,
    Range,
    ReduceSum,
    Relu,
    Reshape,
    Shape,
    Slice,
    Softmax,
    Strips,
    Transpose,
    Trilu,
    Unsqueeze,
    Where,
)
from graphopt.passes.tiling.tiles import tile
from graphopt.plan import Plan
from graphopt.reference import evaluate
from graphopt.rewrite import Miss
from graphopt.text import parse, weights_of
from graphopt.types import DType
from graphopt.verify import verify
from graphopt.weights import Tensor

I64 = DType.I64
B, N = symbol("b"), symbol("n")
SIZE = 4
LENGTHS = (1, 3, 4, 5, 8, 11, 17)
"""Below, at, and above one strip; of several, with a remainder and without."""

Case = tuple[Graph, Value, int]


def length(x: Value, axis: int) -> Value:
    return Gather(Shape(x), ints(axis))


def scalar_length(x: Value, axis: int) -> Value:
    return Gather(Shape(x), const(axis, dtype=I64))


def everything(graph: Graph) -> list[Op]:
    """All that may be in a region: what tells lengths is beside it."""
    return [op for op in graph.ops if not isinstance(op, Constant | Shape)]


# --- regions ------------------------------------------------------------------------


def mlp() -> Case:
    x = param("x", B, N, 6)
    hidden = Relu(MatMul(x, random(6, 24)))
    y = Add(MatMul(hidden, random(24, 6)), x)
    return graph_of(LayerNormalization(y, random(6), random(6))), hidden, 1


def by_batch() -> Case:
    x = param("x", N, 5, 6)
    hidden = Relu(MatMul(x, random(6, 24)))
    y = MatMul(hidden, random(24, 6))
    return graph_of(LayerNormalization(y, random(6), random(6))), hidden, 0


def rows_of_a_softmax() -> Case:
    x = param("x", 3, N, N)
    y = Softmax(Mul(x, const(0.5)))
    return graph_of(y), y, 1


def attention() -> Case:
    """By queries, with heads made by reshapes, and a mask of the keys."""
    q, k, v = (param(name, B, N, 12) for name in "qkv")
    mask = param("mask", B, 1, 1, N)
    heads = [
        Transpose(Reshape(x, ints(0, 0, 3, 4)), perm=(0, 2, 1, 3)) for x in (q, k, v)
    ]
    scores = MatMul(heads[0], Transpose(heads[1], perm=(0, 1, 3, 2)))
    weights = Softmax(Add(scores, mask))
    mixed = Transpose(MatMul(weights, heads[2]), perm=(0, 2, 1, 3))
    made = Reshape(mixed, ints(0, 0, 12))
    region = graph_of(made, inputs=[q, k, v, mask])
    return region, weights, 2


def causal_by_ranges() -> Case:
    """Masks that are made of positions, as exporters write them."""
    q, k = param("q", 2, N, 4), param("k", 2, N, 4)
    keys = param("keys", 1, N, dtype=I64)
    places = Range(const(0, dtype=I64), scalar_length(q, 1), const(1, dtype=I64))
    seen = LessOrEqual(keys, Unsqueeze(places, ints(1)))
    scores = MatMul(q, Transpose(k, perm=(0, 2, 1)))
    weights = Softmax(Where(seen, scores, const(-1e9)))
    made = MatMul(weights, k)
    return graph_of(made, inputs=[q, k, keys]), weights, 1


def causal_by_a_triangle() -> Case:
    q, k = param("q", 2, N, 4), param("k", 2, N, 4)
    square = Concat(length(q, 1), length(q, 1), axis=0)
    ones = ConstantOfShape(square, value=Tensor.of(np.ones(1, np.float32)))
    lower = Trilu(ones, upper=0)
    scores = Mul(MatMul(q, Transpose(k, perm=(0, 2, 1))), lower)
    return graph_of(MatMul(scores, k)), scores, 1


def fused(heads: int = 0, **attrs: Any) -> Case:
    shape: tuple[Dim, ...] = (2, N, 8) if heads else (2, 2, N, 4)
    q, k, v = (param(name, *shape) for name in "qkv")
    mask = param("mask", 2, 1, N, N)
    if heads:
        attrs |= {"q_num_heads": heads, "kv_num_heads": heads}
    y = Attention(q, k, v, mask, **attrs)
    return graph_of(y, inputs=[q, k, v, mask]), y, 1 if heads else 2


def two_rows_each() -> Case:
    x = param("x", N, 6)
    pairs = Reshape(Relu(x), ints(-1, 3))
    return graph_of(Mul(pairs, pairs), inputs=[x]), x, 0


def told_the_length() -> Case:
    x = param("x", B, N, 1)
    wanted = Concat(length(x, 0), length(x, 1), ints(5), axis=0)
    y = Relu(Expand(x, wanted))
    flat = Concat(length(x, 0), length(x, 1), ints(5, 1), axis=0)
    return graph_of(Reshape(y, flat)), y, 1


def with_a_mask_by_all() -> Case:
    """A value that all strips share goes in whole; parts along other dims too."""
    x, y = param("x", 2, N, 6), param("y", 6)
    part = Slice(Mul(x, y), ints(1), ints(4), ints(2))
    return graph_of(Add(part, const(1.0)), inputs=[x, y]), part, 1


CASES: dict[str, Callable[[], Case]] = {
    "mlp": mlp,
    "batch": by_batch,
    "softmax": rows_of_a_softmax,
    "attention": attention,
    "ranges": causal_by_ranges,
    "triangle": causal_by_a_triangle,
    "fused": fused,
    "fused in rows": lambda: fused(2),
    "fused causal": lambda: fused(is_causal=1),
    "fused causal in rows": lambda: fused(2, is_causal=1),
    "window": lambda: fused(left_window_size=2, right_window_size=1),
    "two rows each": two_rows_each,
    "told the length": told_the_length,
    "shared": with_a_mask_by_all,
}


def made_of(case: Case, size: int = SIZE) -> Graph:
    graph, value, dim = case
    made = tile(graph, everything(graph), value, dim, size)
    assert isinstance(made, Graph), made
    return made


@pytest.mark.parametrize("name", CASES)
def test_a_region_gives_the_same_at_every_length(name: str) -> None:
    graph, value, dim = CASES[name]()
    made = made_of((graph, value, dim))
    verify(made)
    assert parse(str(made), weights_of(made)).key == made.key
    (op,) = (op for op in made.ops if isinstance(op, Strips))
    assert [v.type for v in made.outputs] == [v.type for v in graph.outputs]
    spelled = Graph(made.inputs, op.body()) if len(made.outputs) == 1 else made
    for n in LENGTHS:
        fed = random_inputs(graph, seed=n, sizes={"n": n, "b": 2})
        truth = evaluate(graph, fed, precision="float64", seed=0)
        for each in (made, spelled):
            found = evaluate(each, fed, precision="float64", seed=0)
            for a, b in zip(truth, found, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [n for n in CASES if n != "window"])
def test_onnxruntime_gives_the_same_with_one_file(name: str) -> None:
    pytest.importorskip("onnxruntime")
    graph, value, dim = CASES[name]()
    made = find("ort-cpu").compile(made_of((graph, value, dim)), Plan())
    for n in LENGTHS:
        fed = random_inputs(graph, seed=n, sizes={"n": n, "b": 2})
        truth = evaluate(graph, fed, precision="float64", seed=0)
        for a, b in zip(truth, made(fed).values(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "fused causal"])
def test_xla_runs_strips_of_lengths_that_it_traces(name: str) -> None:
    pytest.importorskip("jax")
    graph, value, dim = CASES[name]()
    made = find("xla-cpu").compile(made_of((graph, value, dim)), Plan())
    for n in (3, 11):
        fed = random_inputs(graph, seed=n, sizes={"n": n, "b": 2})
        truth = evaluate(graph, fed, precision="float64", seed=0)
        for a, b in zip(truth, made(fed).values(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# --- reasons ------------------------------------------------------------------------


def reason(graph: Graph, value: Value, dim: int) -> str:
    made = tile(graph, everything(graph), value, dim, SIZE)
    assert isinstance(made, Miss), made
    return made.reason


def summed() -> Case:
    x = param("x", N, 4)
    y = Relu(x)
    return graph_of(ReduceSum(y, ints(0))), y, 0


def equal_at_some_sizes() -> Case:
    """A table of so many rows, sliced as positions are looked up."""
    x, places = param("x", N, 4), param("places", 16, dtype=I64)
    part = Gather(random(9, 4), Slice(places, ints(0), length(x, 0), ints(0)))
    y = Add(x, part)
    return graph_of(y), y, 0


def of_two_names() -> Case:
    x, y = param("x", N, 4), param("y", symbol("m"), 4)
    z = Relu(Add(x, y))
    return graph_of(z, inputs=[x, y]), x, 0


def shifted() -> Case:
    x = param("x", N, 4)
    y = Relu(Slice(x, ints(1), ints(1 << 40), ints(0)))
    return graph_of(y), y, 0


def convolution() -> Case:
    x = param("x", 1, 2, N)
    y = Conv(x, random(2, 2, 3), pads=(1, 1))
    return graph_of(y), y, 2


def running() -> Case:
    x = param("x", N, 4)
    y = CumSum(Relu(x), const(0, dtype=I64))
    return graph_of(y), y, 0


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (summed, "would count twice"),
        (equal_at_some_sizes, "does not move along one axis"),
        (of_two_names, "does not move along one axis"),
        (shifted, "read or written in windows"),
        (convolution, "of an extent that a run tells"),
        (running, "from the one before"),
    ],
)
def test_what_is_no_strip_says_why(case: Callable[[], Case], why: str) -> None:
    assert why in reason(*case())
