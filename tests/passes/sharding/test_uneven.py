"""Heads and hidden dims padded with zeros between two products: the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphopt import ops
from graphopt.index import Split
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import Constant
from graphopt.ops.bodies import scalar, vector
from graphopt.passes.sharding.choices import choices
from graphopt.passes.sharding.mesh import Mesh
from graphopt.passes.sharding.taking import blocks, take, taken
from graphopt.passes.sharding.uneven import rounded
from graphopt.reference import run
from graphopt.types import DType, tensor
from graphopt.weights import Tensor

RNG = np.random.default_rng(0)
WIDTH, LENGTH, SIZE = 8, 5, 4
X = Parameter(tensor(DType.F32, 2, LENGTH, WIDTH), "x")
ROWS = Parameter(tensor(DType.F32, 6, WIDTH), "x")


def weight(*shape: int) -> Constant:
    array = RNG.normal(size=shape) / np.sqrt(shape[0])
    return Constant(Tensor.of(array.astype(np.float32)))


def number(value: float) -> Constant:
    return scalar(value, DType.F32)


def gelu(x: Value) -> Value:
    tail = ops.Add(ops.Erf(ops.Div(x, number(2**0.5))), number(1))
    return ops.Mul(ops.Mul(x, tail), number(0.5))


def mlp(
    act: Callable[[Value], Value], hidden: int = 12
) -> Callable[[], tuple[Parameter, Value]]:
    def made() -> tuple[Parameter, Value]:
        x = ops.Add(ops.MatMul(X, weight(WIDTH, hidden)), weight(hidden))
        return X, ops.Add(ops.MatMul(act(x), weight(hidden, WIDTH)), weight(WIDTH))

    return made


def gated() -> tuple[Parameter, Value]:
    gate, up = (ops.MatMul(X, weight(WIDTH, 12)) for _ in range(2))
    swish = ops.Mul(ops.Mul(gate, ops.Sigmoid(gate)), up)
    return X, ops.MatMul(swish, weight(12, WIDTH))


def gemms() -> tuple[Parameter, Value]:
    hidden = ops.Relu(ops.Gemm(ROWS, weight(12, WIDTH), weight(12), transB=1))
    return ROWS, ops.Gemm(hidden, weight(WIDTH, 12), weight(WIDTH), transB=1)


def heads(count: int = 3) -> tuple[Parameter, Value]:
    def projected() -> Value:
        y = ops.Add(ops.MatMul(X, weight(WIDTH, count * SIZE)), weight(count * SIZE))
        rows = ops.Reshape(y, vector(2, LENGTH, count, SIZE))
        return ops.Transpose(rows, perm=(0, 2, 1, 3))

    q, k, v = projected(), projected(), projected()
    scores = ops.MatMul(q, ops.Transpose(k, perm=(0, 1, 3, 2)))
    weights = ops.Softmax(ops.Div(scores, number(SIZE**0.5)), axis=-1)
    mixed = ops.Transpose(ops.MatMul(weights, v), perm=(0, 2, 1, 3))
    flat = ops.Reshape(mixed, vector(2, LENGTH, count * SIZE))
    return X, ops.MatMul(flat, weight(count * SIZE, WIDTH))


def composite() -> tuple[Parameter, Value]:
    q, k, v = (ops.MatMul(X, weight(WIDTH, 3 * SIZE)) for _ in range(3))
    mixed = ops.Attention(q, k, v, q_num_heads=3, kv_num_heads=3)
    return X, ops.MatMul(mixed, weight(3 * SIZE, WIDTH))


def extents(graph: Graph) -> set[int]:
    """The dims of weights of products."""
    found = (
        op.operands[1].shape
        for op in graph.ops
        if isinstance(op, ops.MatMul | ops.Gemm)
        and isinstance(op.operands[1], Constant)
    )
    return {n for shape in found for n in shape or () if isinstance(n, int)}


@pytest.mark.parametrize(
    ("made", "wide"),
    [
        (mlp(ops.Relu), 16),
        (mlp(ops.Sigmoid), 16),
        (mlp(gelu), 16),
        (mlp(lambda x: ops.Pow(x, number(3))), 16),
        (gated, 16),
        (gemms, 16),
        (heads, 8 * SIZE),
        (composite, 8 * SIZE),
    ],
)
def test_results_are_the_same_on_more_positions(made: Any, wide: int) -> None:
    x, y = made()
    graph = Graph([x], [y], output_names=["y"])
    result = rounded(graph, 8 if wide == 16 else 4)
    wanted = {16} if wide == 16 else {4 * SIZE}
    assert extents(result) == {WIDTH, *wanted}
    fed = {"x": RNG.normal(size=x.shape).astype(np.float32)}  # type: ignore[arg-type]
    found, whole = run(result, fed)["y"], run(graph, fed)["y"]
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "act",
    [
        ops.Log,  # minus infinity of zeros
        ops.Reciprocal,
        lambda x: ops.Div(x, ops.Add(x, number(0))),
        lambda x: ops.Pow(x, number(-1)),
        lambda x: ops.Softmax(x, axis=-1),  # over all positions
        lambda x: ops.CumSum(x, scalar(2, DType.I64)),
    ],
)
def test_what_is_not_finite_of_zeros_or_looks_at_others_stays(act: Any) -> None:
    x, y = mlp(act)()
    graph = Graph([x], [y])
    assert rounded(graph, 8) is graph


def test_what_others_read_stays() -> None:
    hidden = ops.Relu(ops.MatMul(X, weight(WIDTH, 12)))
    y = ops.MatMul(hidden, weight(12, WIDTH))
    graph = Graph([X], [y, hidden])
    assert rounded(graph, 8) is graph
    read = Graph([X], [y, ops.ReduceSum(hidden, vector(2))])
    assert rounded(read, 8) is read


def test_no_dim_becomes_more_than_twice_as_long() -> None:
    x, y = heads()
    graph = Graph([x], [y])
    assert rounded(graph, 8) is graph


def test_devices_have_heads_of_their_own() -> None:
    x, y = heads(6)
    for graph, own in ((Graph([x], [y]), False), (rounded(Graph([x], [y]), 8), True)):
        (softmax,) = (op for op in graph.ops if isinstance(op, ops.Softmax))
        found = choices(softmax, Mesh.parse("8"))
        assert any(c.operands[0] == (Split(1),) for c in found) is own


def test_positions_come_in_blocks() -> None:
    assert blocks((1, -1, 0), 2) == (2, 3, -1, -1, 0, 1)
    rows = Tensor.of(np.arange(6, dtype=np.float32).reshape(3, 2))
    assert taken(rows, 0, (2, -1)).array().tolist() == [[4, 5], [0, 0]]


def test_weights_are_read_only_where_something_comes_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = mlp(ops.Log)()
    read: list[Tensor] = []
    monkeypatch.setattr(Tensor, "array", lambda tensor: read.append(tensor))
    graph = Graph([x], [y])
    assert rounded(graph, 8) is graph
    assert not read


def test_a_dim_of_several_factors_is_taken_by_blocks() -> None:
    x, y = heads(3)
    flat = y.op.operands[0]  # type: ignore[union-attr]
    graph = Graph([x], [y])
    assert flat is not None
    assert y.op is not None
    for positions, fits in ((blocks((2, 0), SIZE), True), ((0, 1, 2, 4), False)):
        assert (take(graph, y.op, [(flat, 2, positions)]) is not None) is fits
