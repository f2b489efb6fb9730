"""Regions that are not cut, and why."""

from __future__ import annotations

import numpy as np
import pytest
from equations import const, graph_of, ints, param, random
from tiled_regions import I64, attention, blocks, checked, everything, tiled

from graphopt.ir import Graph, Value
from graphopt.ops import (
    Add,
    Constant,
    Conv,
    CumSum,
    Div,
    Exp,
    Gemm,
    MaxPool,
    Mul,
    Neg,
    Not,
    Range,
    ReduceMax,
    ReduceSum,
    Relu,
    Shape,
    Slice,
    Sub,
    Transpose,
)
from graphopt.passes.tiling.tiles import tile
from graphopt.rewrite import Miss
from graphopt.types import DType


def reason(graph: Graph, value: Value, dim: int, size: int) -> str:
    made = tile(graph, everything(graph), value, dim, size)
    assert isinstance(made, Miss), made
    return made.reason


def test_a_softmax_is_not_cut_along_its_axis() -> None:
    graph, value, _, _ = attention(3, 4)
    assert "Softmax: the dim _i3 does not move" in reason(graph, value, 3, 4)


def test_sums_of_sums_end_the_region() -> None:
    x = param("x", 6, 4)
    y = Div(x, ReduceSum(x, ints(0)))
    assert "is reduced, and the region goes on" in reason(graph_of(y), x, 0, 2)


def test_what_is_carried_is_not_cut() -> None:
    x = param("x", 6, 4)
    y = CumSum(Relu(x), const(0, I64))
    assert "CumSum" in reason(graph_of(y), y, 0, 2)


def test_two_dims_of_a_value_are_not_cut_at_once() -> None:
    x = param("x", 6, 6)
    y = Add(x, Transpose(x, perm=(1, 0)))
    assert "two" in reason(graph_of(y), y, 0, 2)


def test_a_bias_is_not_added_by_each_tile() -> None:
    y = Gemm(param("x", 4, 6), random(6, 3), random(3))
    assert "Gemm" in reason(graph_of(y), y.operands[0], 1, 2)  # type: ignore[arg-type]


def test_a_region_around_another_op_has_a_hole() -> None:
    x = param("x", 6, 4)
    first = Relu(x)
    second = ReduceMax(first, ints(0))
    y = Add(first, second)
    graph = graph_of(y)
    made = tile(graph, [first, y], y, 0, 2)
    assert isinstance(made, Miss)
    assert "needs what is made from the region" in made.reason


@pytest.mark.parametrize("reduced", [False, True])
def test_results_of_other_positions_are_not_cut(reduced: bool) -> None:
    """What a slice, or windows without a border, give beside what they read."""
    x = param("x", 1, 2, 16)
    h = Relu(x)
    for less in (
        Slice(h, ints(0), ints(8), ints(2)),
        Conv(h, random(2, 2, 3)),
        MaxPool(h, kernel_shape=(3,), strides=(1,)),
    ):
        both = [ReduceSum(y, ints(2)) if reduced else Neg(y) for y in (h, less)]
        for value in (h, less):
            said = reason(graph_of(*both), value, 2, 2)
            assert "more or fewer positions" in said
    even = [Neg(h), Conv(h, random(2, 2, 3), pads=(1, 1))]
    checked(graph_of(*even), tiled((graph_of(*even), h, 2, 4)))


def test_an_unknown_or_whole_dim_is_no_tile() -> None:
    x = param("x", None, 4)
    assert "is not known" in reason(graph_of(Relu(x)), x, 0, 2)
    assert "are no tile" in reason(graph_of(Relu(x)), x, 1, 4)


def test_tiles_end_at_positions_of_all_results() -> None:
    graph, value, dim, _ = blocks()
    assert "ends between two positions" in reason(graph, value, dim, 3)


def test_ops_that_look_at_the_shape_end_the_region() -> None:
    x = param("x", 6, 4)
    hidden = Relu(x)
    graph = graph_of(Exp(hidden), Shape(hidden))
    assert "Shape" in reason(graph, hidden, 0, 2)
    some = [op for op in everything(graph) if op.kind != "Shape"]
    made = tile(graph, some, hidden, 0, 2)
    assert isinstance(made, Graph)
    checked(graph, made)


def test_a_range_of_computed_bounds_reads_them_from_outside_of_its_tiles() -> None:
    x = param("x", 8, 4)
    size = ReduceSum(Slice(Shape(x), ints(0), ints(1)), ints(0), keepdims=0)
    stop = Mul(size, Constant(np.array(2)))
    numbers = Range(Constant(np.array(0)), stop, Sub(size, Constant(np.array(7))))
    graph = graph_of(Neg(numbers))
    (out,) = graph.outputs
    made = tile(graph, [numbers, out.op], out, 0, 4)  # type: ignore[list-item]
    assert isinstance(made, Graph)
    checked(graph, made)


def test_truth_values_are_not_combined_by_max() -> None:
    no = Not(param("x", 5, dtype=DType.BOOL))
    most = ReduceMax(no, ints(0), keepdims=0)
    made = tile(graph_of(most), [no, most], no, 0, 3)
    assert isinstance(made, Miss)
    assert "cannot be combined" in made.reason
