"""Heads of keys and values repeated in the weights: the same results, shared out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt import ops
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops.bodies import vector
from graphopt.passes.sharding.kv_heads import repeated_heads
from graphopt.passes.sharding.machine import Machine
from graphopt.passes.sharding.mesh import Mesh
from graphopt.passes.sharding.planner import Planner
from graphopt.reference import run
from graphopt.types import DType, tensor
from graphopt.weights import Tensor

RNG = np.random.default_rng(0)
BATCH, LENGTH, WIDTH, SIZE = 1, 6, 32, 4
X = Parameter(tensor(DType.F32, BATCH, LENGTH, WIDTH), "x")
COS = Parameter(tensor(DType.F32, LENGTH, SIZE), "cos")


def weight(*shape: int) -> ops.Constant:
    array = RNG.normal(size=shape) / np.sqrt(shape[0])
    return ops.Constant(Tensor.of(array.astype(np.float32)))


def projected(heads: int, bias: bool = True) -> Value:
    """[batch, head, position, size]"""
    y: Value = ops.MatMul(X, weight(WIDTH, heads * SIZE))
    y = ops.Add(y, weight(heads * SIZE)) if bias else y
    rows = ops.Reshape(y, vector(BATCH, LENGTH, heads, SIZE))
    return ops.Transpose(rows, perm=(0, 2, 1, 3))


def turned(x: Value) -> Value:
    """Rotary embedding, nearly: halves, and a factor of position and size."""
    start, stop = (
        ops.Slice(x, vector(a), vector(a + SIZE // 2), vector(3))
        for a in (0, SIZE // 2)
    )
    swapped = ops.Concat(ops.Neg(stop), start, axis=3)
    return ops.Add(ops.Mul(x, COS), swapped)


def spread(x: Value, times: int) -> Value:
    assert x.shape is not None
    batch, heads, length, size = x.shape
    copies = ops.Expand(
        ops.Unsqueeze(x, vector(2)), vector(batch, heads, times, length, size)
    )
    return ops.Reshape(copies, vector(batch, heads * times, length, size))


def spelled(heads: int, shared: int) -> Value:
    q = projected(heads * shared)
    k, v = spread(turned(projected(heads)), shared), spread(projected(heads), shared)
    scores = ops.MatMul(q, ops.Transpose(k, perm=(0, 1, 3, 2)))
    mixed = ops.MatMul(ops.Softmax(scores, axis=-1), v)
    rows = ops.Transpose(mixed, perm=(0, 2, 1, 3))
    flat = ops.Reshape(rows, vector(BATCH, LENGTH, heads * shared * SIZE))
    return ops.MatMul(flat, weight(heads * shared * SIZE, WIDTH))


def composite(heads: int, shared: int) -> Value:
    q, k, v = projected(heads * shared), turned(projected(heads)), projected(heads)
    return ops.Attention(q, k, v)


def flat(heads: int, shared: int) -> Value:
    q, k, v = (
        ops.MatMul(X, weight(WIDTH, n * SIZE)) for n in (heads * shared, heads, heads)
    )
    return ops.Attention(q, k, v, q_num_heads=heads * shared, kv_num_heads=heads)


def same(before: Graph, after: Graph) -> None:
    inputs: dict[str, Any] = {
        p.name: RNG.normal(size=p.shape).astype(np.float32)  # type: ignore[arg-type]
        for p in before.inputs
    }
    whole, found = run(before, inputs), run(after, inputs)
    for name, array in whole.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [spelled, composite, flat])
@pytest.mark.parametrize(
    ("heads", "shared", "count"), [(2, 4, 4), (2, 4, 8), (3, 4, 6)]
)
def test_each_head_is_there_as_often_as_devices_need_it(
    form: Any, heads: int, shared: int, count: int
) -> None:
    inputs = [X] if form is flat else [X, COS]
    graph = Graph(inputs, [form(heads, shared)])
    made = repeated_heads(graph, count)
    products = [op for op in made.ops if isinstance(op, ops.MatMul)]
    weights = [v for op in products if isinstance(v := op.operands[1], ops.Constant)]
    columns = {v.tensor.shape[1] for v in weights}
    assert count * SIZE in columns
    assert heads * SIZE not in columns
    same(graph, made)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16])
def test_counts_that_do_not_share_out_the_queries_are_refused(count: int) -> None:
    graph = Graph([X, COS], [spelled(2, 4)])
    assert repeated_heads(graph, count) is graph


def test_what_something_else_reads_stays() -> None:
    q, k, v = projected(8), projected(2), projected(2)
    y = ops.Attention(q, k, v)
    assert repeated_heads(Graph([X], [y, k]), 8).outputs[0] is y


def test_keys_of_an_input_stay() -> None:
    past = Parameter(tensor(DType.F32, BATCH, 2, LENGTH, SIZE), "past")
    graph = Graph([X, past], [ops.Attention(projected(8), past, projected(2))])
    assert repeated_heads(graph, 8) is graph


def test_one_head_is_what_every_device_reads_anyway() -> None:
    graph = Graph([X, COS], [spelled(1, 8)])
    assert repeated_heads(graph, 8) is graph


def test_devices_have_heads_of_their_own() -> None:
    graph = Graph([X, COS], [spelled(2, 4)])
    machine = Machine.of("xla-cuda:h100", Mesh.parse("model=8"))
    limit = sum(t.nbytes for t in graph.tensors()) // 3
    plans = [Planner(g, machine).plan(limit) for g in (graph, repeated_heads(graph, 8))]
    assert plans[1].seconds < plans[0].seconds
