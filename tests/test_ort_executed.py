"""What ONNX Runtime takes where it lays out convolutions anew, and knows few shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from graphopt import ops
from graphopt.dims import symbol
from graphopt.exporter import save, to_proto
from graphopt.fitted import Fitted, Limits
from graphopt.importer import load
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter, Value
from graphopt.limits import counting
from graphopt.lowering.meters import MeterFailed
from graphopt.lowering.ort.advice import recipe
from graphopt.lowering.ort.arena import UNLIMITED
from graphopt.lowering.ort.books import books
from graphopt.lowering.ort.executed import _largest, arena_of
from graphopt.lowering.ort.measured import measured, numbered
from graphopt.lowering.ort.meter import realised_peak
from graphopt.lowering.ort.ordered import KEPT
from graphopt.lowering.ort.recipe import Recipe
from graphopt.lowering.ort.session import Session
from graphopt.opened import opened
from graphopt.passes.memory import SPACES, plan_memory
from graphopt.types import DType, tensor

pytest.importorskip("onnxruntime", minversion="1.32")

SIZES = {"batch": 1}


def strided(rng: np.random.Generator, depth: int = 3) -> Graph:
    """Convolutions between what is no convolution, for which layouts are changed."""

    def weight(*shape: int) -> Value:
        return ops.Constant(rng.normal(size=shape).astype(np.float32))

    x = Parameter(tensor(DType.F32, symbol("batch"), 16, 40, 40), "x")
    h: Value = x
    for _ in range(depth):
        wide = ops.Conv(h, weight(32, 16, 3, 3), pads=(1, 1, 1, 1))
        gate = ops.Softmax(ops.Exp(wide), axis=1)
        narrow = ops.Conv(ops.Mul(wide, gate), weight(16, 32, 1, 1))
        h = ops.Add(ops.Erf(narrow), h)
    return Graph([x], [h])


@pytest.mark.parametrize("depth", [1, 3])
def test_the_arena_is_that_of_the_layouts(tmp_path: Path, depth: int) -> None:
    graph = strided(np.random.default_rng(depth), depth)
    plan = plan_memory(graph, SIZES, space=SPACES["ort-cpu"], reorder=True)
    plain = Fitted(graph, plan, Limits(activations=1 << 30), target="ort-cpu")
    with counting("ort-cpu") as counter:
        asked = opened(plain, counter)
    assert not asked.uncounted
    assert asked.arena is not None
    path = tmp_path / "m.onnx"
    save(graph, path, order=plan.order)
    how = recipe(graph, "cpu", ordered=True)
    real = realised_peak(
        path, random_inputs(graph, 0, SIZES), recipe=how, growing=False
    )
    assert real.peak == pytest.approx(asked.arena + plan.beside, rel=0.002)
    assert asked.arena != plain.arena  # else nothing is shown
    assert asked.activations == max(plan.peak, asked.arena)


@pytest.mark.parametrize("windows", [False, True])
def test_casts_of_16_bits_count(tmp_path: Path, windows: bool) -> None:
    """The runtime has no kernels for these, and casts operands, and weights."""
    rng = np.random.default_rng(0)
    x = Parameter(tensor(DType.F16, 1, 16, 24, 24), "x")
    h: Value = x
    for size in (3, 1, 3):
        shape = (16, 16, size, size) if windows else (24, 24)
        weight = ops.Constant(rng.normal(size=shape).astype(np.float16))
        pads = (size // 2,) * 4
        made = ops.Conv(h, weight, pads=pads) if windows else ops.MatMul(h, weight)
        h = ops.Add(h, ops.Softmax(made, axis=1))
    graph = Graph([x], [h])
    plan = plan_memory(graph, space=SPACES["ort-cpu"], reorder=True)
    plain = Fitted(graph, plan, Limits(activations=1 << 30), target="ort-cpu")
    with counting("ort-cpu") as counter:
        asked = opened(plain, counter)
    path = tmp_path / "m.onnx"
    save(graph, path, order=plan.order)
    for layouts in (True, False) if windows else (True,):
        taken = asked.executed
        if not layouts:
            taken = arena_of(graph, {}, plan.order, layouts=False)[False]
        assert taken is not None
        how = recipe(graph, "cpu", ordered=True, layouts=layouts)
        fed = random_inputs(graph, 0)
        real = realised_peak(path, fed, recipe=how, growing=False)
        assert real.peak == pytest.approx(taken, rel=0.1)
        assert taken > 1.3 * (plan.peak + plan.beside)  # else nothing is shown


DEPTH = {"Exp": 0, "MatMul": 1, "ReduceSum": 2, "Add": 3}


def test_nothing_is_asked_of_what_runs_as_it_is() -> None:
    x = Parameter(tensor(DType.F32, 8, 8), "x")
    graph = Graph([x], [ops.Exp(ops.MatMul(x, x))])
    plan = plan_memory(graph, space=SPACES["ort-cpu"])
    fitted = Fitted(graph, plan, Limits(activations=1 << 20), target="ort-cpu")
    assert opened(fitted, lambda *_: pytest.fail("asked")).fits


@pytest.mark.parametrize("unknown", ["Crop <border=[1, 1, 1, 1]>", "Neg"])
def test_buffers_are_reused_where_the_runtime_knows_shapes(
    unknown: str, tmp_path: Path
) -> None:
    """Of what it infers nothing of, it reuses nothing: no run tells that."""
    source = tmp_path / "m.onnx"
    model = parser.parse_model(
        f"""<ir_version: 3, opset_import: ["" : 7]>
        g (float[None, 16, 32, 32] x) => (float[None, 16, H, W] y)
        {{ a = Exp (x)  b = {unknown} (a)  c = Concat <axis=1> (b, b)  d = Exp (c)
           e = Conv (d, w)  f = Exp (e)  y = Exp (f) }}"""
    )
    weight = np.ones((16, 32, 1, 1), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, source)
    executed = tmp_path / "x.onnx"
    Session(source, executed=executed, threads=1)
    fed = random_inputs(load(source), 0, {"None": 1})
    plain = Recipe(session={**KEPT, "enable_mem_pattern": False})
    laid_out = numbered(onnx.load(executed))
    found = measured(laid_out, fed, recipe=plain).foreseen()
    (entries,) = books(
        laid_out.SerializeToString(),
        fed,
        recipe=replace(plain, arena=UNLIMITED),
        threads=1,
    )
    assert found is not None
    assert found.in_use == entries[-1].peak - entries[0].before


def test_a_model_that_does_not_end_is_not_waited_for() -> None:
    """It is asked in a child, whose time is limited."""
    given = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 4, 8, 8] x, float[4, 4, 3, 3] w) => (float[1, 4, 8, 8] y) {
            on = Constant<value = bool {1}>()
            h = Conv<pads = [1, 1, 1, 1]>(x, w)
            y = Loop(, on, h) <body = b (int64 i, bool c, float[1, 4, 8, 8] a)
                => (bool d, float[1, 4, 8, 8] e) { d = Identity(c) e = Neg(a) }>
        }"""
    )
    graph = load(given)
    with pytest.raises(MeterFailed, match="after 5 s"):
        arena_of(graph, {}, graph.ops, limit_s=5.0)


def test_of_several_orders_the_one_that_takes_most_counts() -> None:
    """Two branches, one after the other or side by side."""
    x = Parameter(tensor(DType.F32, 64, 64), "x")
    w = [ops.Constant(np.full((64, 64), i, np.float32)) for i in range(2)]
    thin = [ops.ReduceSum(ops.MatMul(ops.Exp(x), each)) for each in w]
    graph = Graph([x], [ops.Add(*thin)])
    model = numbered(to_proto(graph))
    ran = measured(model, random_inputs(graph, 0))
    wide = sorted(model.graph.node, key=lambda node: DEPTH[node.op_type])
    orders = [{node.output[0]: i for i, node in enumerate(wide)}]
    for reuse in (False, True):
        alone = _largest(ran, model, [], reuse=reuse)
        largest = _largest(ran, model, orders, reuse=reuse)
        assert alone is not None
        assert largest is not None
        assert alone == ran.foreseen(reuse=reuse)
        assert alone.block < largest.block == 3 * 4 * 64 * 64
