"""Packed weights taken apart, and vocabularies padded: equal results, views alone."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import ops
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import Constant
from graphopt.ops.bodies import scalar, vector
from graphopt.passes.sharding.packing import padded, unpacked
from graphopt.reference import run
from graphopt.types import DType, tensor
from graphopt.weights import Tensor

RNG = np.random.default_rng(0)
X = Parameter(tensor(DType.F32, 2, 3, 8), "x")


def weight(*shape: int) -> Constant:
    return Constant(Tensor.of(RNG.normal(size=shape).astype(np.float32)))


def kinds(graph: Graph) -> set[str]:
    return {op.kind for op in graph.ops}


def same(before: Graph, after: Graph) -> None:
    inputs = {
        p.name: RNG.integers(-5, 5, p.shape).astype(p.dtype.numpy)  # type: ignore[arg-type, union-attr]
        for p in before.inputs
    }
    whole, found = run(before, inputs), run(after, inputs)
    assert whole.keys() == found.keys()
    for name, array in whole.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)


def packed(width: int = 24) -> Value:
    return ops.Add(ops.MatMul(X, weight(8, width)), weight(width))


def test_a_split_projection_becomes_products_of_its_own() -> None:
    parts = ops.Split(packed(), vector(8, 4, 12), axis=-1, outs=3)
    graph = Graph([X], parts.results)
    made = unpacked(graph)
    assert "Split" not in kinds(made)
    shapes = sorted(op.operands[1].shape for op in made.ops if op.kind == "MatMul")  # type: ignore[union-attr, type-var]
    assert shapes == [(8, 4), (8, 8), (8, 12)]
    same(graph, made)


def test_slices_and_gathers_are_parts_too() -> None:
    y = packed()
    halves = [
        ops.Slice(y, vector(start), vector(start + 12), vector(2)) for start in (0, 12)
    ]
    rows = ops.Transpose(
        ops.Reshape(packed(), vector(2, 3, 3, 2, 4)), perm=(2, 0, 3, 1, 4)
    )
    heads = [ops.Gather(rows, scalar(i, DType.I64), axis=0) for i in range(3)]
    graph = Graph([X], [*halves, *heads])
    made = unpacked(graph)
    assert not kinds(made) & {"Slice", "Gather"}
    same(graph, made)


def test_what_is_read_whole_too_stays() -> None:
    y = packed()
    parts = ops.Split(y, vector(12, 12), axis=2, outs=2)
    graph = Graph([X], [*parts.results, ops.Neg(y)])
    assert unpacked(graph) is graph


def test_overlapping_slices_are_not_computed_twice() -> None:
    y = packed()
    ends = [(0, 16), (8, 24)]
    graph = Graph([X], [ops.Slice(y, vector(a), vector(b), vector(2)) for a, b in ends])
    assert unpacked(graph) is graph


def test_the_parts_of_a_weight_are_views() -> None:
    array = RNG.normal(size=(8, 24)).astype(np.float32)
    whole = Constant(Tensor.of(array))
    parts = ops.Split(ops.MatMul(X, whole), vector(12, 12), axis=2, outs=2)
    made = unpacked(Graph([X], parts.results))
    held = [op.tensor.array() for op in made.ops if isinstance(op, Constant)]
    wide = [x for x in held if x.shape == (8, 12)]
    assert len(wide) == 2
    assert all(np.shares_memory(x, whole.tensor.array()) for x in wide)


@pytest.mark.parametrize("ways", [2, 8])
def test_tables_and_heads_get_rows_for_all_devices(ways: int) -> None:
    ids = Parameter(tensor(DType.I64, 4), "ids")
    looked = ops.Gather(weight(1025, 8), ids, axis=0)
    head = ops.MatMul(looked, weight(8, 2049))
    graph = Graph([ids], [looked, head])
    made = padded(graph, ways)
    sizes = {op.shape for op in made.ops if isinstance(op, Constant)}
    assert (1025 + -1025 % ways, 8) in sizes
    assert (8, 2049 + -2049 % ways) in sizes
    same(graph, made)


def test_what_is_small_or_divided_is_not_padded() -> None:
    ids = Parameter(tensor(DType.I64, 4), "ids")
    graph = Graph([ids], [ops.Gather(weight(n, 8), ids, axis=0) for n in (10, 1024)])
    assert padded(graph, 8) is graph


def test_a_vector_is_no_projection() -> None:
    parts = ops.Split(ops.MatMul(X, weight(8)), vector(1, 2), axis=1, outs=2)
    graph = Graph([X], parts.results)
    assert unpacked(graph) is graph


def test_ops_that_read_one_table_read_one_padded_table() -> None:
    ids, more = (Parameter(tensor(DType.I64, 4), name) for name in ("ids", "more"))
    table = weight(1025, 8)
    graph = Graph([ids, more], [ops.Gather(table, i, axis=0) for i in (ids, more)])
    made = padded(graph, 2)
    assert [op.shape for op in made.ops if isinstance(op, Constant)].count(
        (1026, 8)
    ) == 1
    same(graph, made)


def test_a_table_of_words_is_not_padded() -> None:
    ids = Parameter(tensor(DType.I64, 4), "ids")
    words = Constant(Tensor.of(np.array(["a", "b"] * 64 + ["c"], object)))
    graph = Graph([ids], [ops.Gather(words, ids, axis=0)])
    assert padded(graph, 2) is graph


def test_a_tied_table_is_not_there_twice() -> None:
    ids = Parameter(tensor(DType.I64, 4), "ids")
    table = weight(1025, 8)
    looked = ops.Gather(table, ids, axis=0)
    head = ops.MatMul(looked, ops.Transpose(table, perm=(1, 0)))
    graph = Graph([ids], [head])
    assert padded(graph, 8) is graph
