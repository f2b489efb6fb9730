"""Limits on layers that share masks, and whose activations add biases."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.exporter import source_order
from graphopt.fitted import Limits
from graphopt.ir import Graph, Parameter, Value
from graphopt.limits import fitted_to
from graphopt.ops import Cast, Constant, Exp, MatMul, Mul, Softmax, Tiled
from graphopt.ops.contrib import BiasGelu, FastGelu
from graphopt.passes.memory import SPACES, plan_memory, validate
from graphopt.passes.memory.biases import biases_apart, is_biased
from graphopt.passes.tiling import Tile
from graphopt.passes.tiling.written import written_out
from graphopt.testing import assert_equivalent
from graphopt.types import DType, tensor
from graphopt.verify import verify

COUNT, ROWS = 4, 64


def region(x: Value, mask: Value) -> Value:
    """softmax(x * mask), by rows."""
    size = ROWS // COUNT
    formals = [
        Parameter(tensor(DType.I64), "number"),
        Parameter(tensor(DType.F32, size, ROWS), "x"),
        Parameter(tensor(DType.I8, size, ROWS), "mask"),
    ]
    made = Softmax(Mul(formals[1], Cast(formals[2], to=DType.F32)))
    return Tiled(
        *(x, mask),
        bodies=(Graph(formals, [made]),),
        count=COUNT,
        axes=(0, 0),
        starts=(0, 0),
        steps=(size, size),
        result_axes=(0,),
    )


def layers(depth: int) -> Graph:
    x = Parameter(tensor(DType.F32, ROWS, ROWS), "x")
    mask = Parameter(tensor(DType.I8, ROWS, ROWS), "mask")
    h: Value = x
    for _ in range(depth):
        h = MatMul(region(h, mask), x)
    return Graph([x, mask], [h])


def test_regions_keep_no_parts_of_a_mask_for_one_another() -> None:
    graph = layers(3)
    made, order = written_out(graph)
    verify(made)
    assert sum(op.kind == "Cast" for op in made.ops) == 3 * COUNT
    mask = made.inputs[1]
    parts = [op for op in made.ops if op.kind == "Slice" and op.operands[0] is mask]
    assert len({op.instance for op in parts}) == 3
    space = SPACES["ort-cpu"]
    one, _ = written_out(layers(1))
    alone = plan_memory(one, space=space, order=source_order(one))
    deep = plan_memory(made, space=space, order=order)
    whole = 4 * ROWS * ROWS
    assert deep.peak <= alone.peak + whole  # the operand of a layer, and no mask
    assert_equivalent(graph, made)


@pytest.mark.parametrize("kind", [FastGelu, BiasGelu])
def test_a_bias_is_added_before_where_it_is_over_the_limit(kind: type) -> None:
    x = Parameter(tensor(DType.F32, 1, 64, 256), "x")
    rng = np.random.default_rng(0)
    bias = Constant(rng.normal(size=256).astype(np.float32))
    graph = Graph([x], [Exp(kind(Exp(x), bias))])
    size, space = 4 * 64 * 256, SPACES["ort-cpu"]
    plan = plan_memory(graph, space=space)
    assert plan.peak == 3 * size
    biased = [op for op in graph.ops if is_biased(op)]
    made, order = biases_apart(graph, plan.order, biased)
    verify(made)
    assert not any(map(is_biased, made.ops))
    apart = plan_memory(made, space=space, order=order)
    validate(apart, made)
    assert apart.peak == 2 * size
    assert_equivalent(graph, made)

    def never(tile: Tile) -> Graph:
        raise AssertionError

    fitted = fitted_to(Limits(activations=2 * size), graph, graph, "ort-cpu", never)
    assert [s.what for s in fitted.savings][-1] == "biases apart"
    assert fitted.plan.peak == 2 * size
