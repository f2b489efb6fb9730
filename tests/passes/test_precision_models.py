"""Narrow models, the whole way: written, checked, told; and what their errors are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from equations import N, const, graph_of, ints, param, random

from graphopt import check, optimize
from graphopt.check.tolerance import Runs, compare
from graphopt.errors import CheckFailed, UsageError
from graphopt.exporter import save, to_proto
from graphopt.importer import load
from graphopt.inputs import random_inputs
from graphopt.ir import Value
from graphopt.lowering.ort.kernels import Kernels
from graphopt.ops import (
    Add,
    ArgMax,
    Gather,
    LayerNormalization,
    MatMul,
    Mul,
    ReduceSum,
    Relu,
    Reshape,
    Softmax,
)
from graphopt.passes.precision import Precision, unit_of
from graphopt.reference import run
from graphopt.types import DType

# --- the whole way ------------------------------------------------------------------


def model(tmp_path: Path) -> Path:
    x, ids = param("x", N, 16), param("ids", N, dtype=DType.I64)
    y: Value = Add(x, Gather(random(21, 16), ids))
    y = LayerNormalization(y, random(16), random(16, seed=1), axis=-1)
    y = Relu(MatMul(y, random(16, 64)))
    w = const(random(64, 16).tensor.array() / 8)
    y = Softmax(Add(MatMul(y, w), random(16)), axis=-1)
    path = tmp_path / "model.onnx"
    save(graph_of(y, Reshape(ReduceSum(y, ints(-1)), ints(-1))), path)
    return path


@pytest.mark.parametrize("target", ["onnx", "ort-cpu", "ort-cuda"])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "mixed"])
def test_optimize_and_run(tmp_path: Path, target: str, precision: str) -> None:
    path = model(tmp_path)
    before = load(path)
    result = optimize(path, target, precision=precision)
    assert result.report.check is not None
    assert result.report.check.budget == Precision(precision).allowed
    assert "largest error of an output" in str(result.report)
    dtypes = {v.dtype for op in result.graph.ops for v in op.results}
    assert (DType.BF16 if precision == "bf16" else DType.F16) in dtypes
    saved = result.save(tmp_path / "narrow.onnx")
    after = load(tmp_path / "narrow.onnx")
    assert [p.type for p in after.inputs] == [p.type for p in before.inputs]
    assert after.output_types == before.output_types
    trial = saved.report.trial
    if trial is not None:  # the CPU has hardly any kernels for bfloat16
        assert trial.passed or (precision == "bf16" and trial.passed is None)
    fed = random_inputs(before, sizes={"n": 5})
    truth = run(before, fed, precision="float64")
    made = run(after, fed)
    for name, array in truth.items():
        error = np.max(np.abs(made[name] - array)) / np.max(np.abs(array))
        assert 0 < error < Precision(precision).allowed or array.ndim == 1


def test_a_narrow_interface_is_made_only_when_asked_for(tmp_path: Path) -> None:
    path = model(tmp_path)
    result = optimize(path, precision="fp16", keep_io=False)
    saved = result.save(tmp_path / "narrow.onnx")
    after = load(tmp_path / "narrow.onnx")
    assert {p.name: p.dtype for p in after.inputs} == {"x": DType.F16, "ids": DType.I64}
    assert [v.dtype for v in after.outputs] == [DType.F16] * 2
    assert not any(op.kind == "Cast" for op in after.ops)
    assert saved.report.check is not None
    assert saved.report.check.passed
    assert saved.report.trial is None or saved.report.trial.passed
    with pytest.raises(UsageError, match="narrow models alone"):
        optimize(path, keep_io=False)
    with pytest.raises(UsageError, match="narrow models alone"):
        optimize(path, budget=0.1)


def test_all_that_is_narrow_has_a_kernel(tmp_path: Path) -> None:
    kernels = Kernels.of("ort-cuda")
    for precision in ("fp16", "bf16"):
        graph = optimize(model(tmp_path), "ort-cuda", precision=precision).graph
        assert [kernels.why_not(op) for op in graph.ops if op.outs == 1] == [
            None for op in graph.ops if op.outs == 1
        ]
        (tmp_path / "model.onnx").unlink()


def test_speed_is_said_before_anything_is_written(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    result = optimize(model(tmp_path), "ort-cpu", precision="fp16")
    assert any("fp32's time on ort-cpu, measured" in n for n in result.report.notes)


def test_float32_asked_for_changes_nothing(tmp_path: Path) -> None:
    path = model(tmp_path)
    plain, asked = optimize(path), optimize(path, precision="fp32")
    made, others = asked.graph.ops, plain.graph.ops
    assert [op.kind for op in made] == [op.kind for op in others]
    assert asked.checking.budget == 0


def test_unknown_precisions_and_budgets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean.*fp16"):
        optimize(model(tmp_path), precision="fp61")
    with pytest.raises(UsageError, match="from 0 to 1"):
        Precision("fp16", budget=2.0)


def test_the_check_holds_a_narrow_result_to_its_budget() -> None:
    x = param("x", 4, 8)
    before = graph_of(MatMul(x, random(8, 8)))
    after = Precision()(before)
    check(before, after, budget=1e-2).raise_if_failed()
    with pytest.raises(CheckFailed):
        check(before, after, budget=1e-5).raise_if_failed()
    with pytest.raises(CheckFailed):
        check(before, after).raise_if_failed()


@pytest.mark.parametrize(("error", "passes"), [(0.9e-2, True), (1.1e-2, False)])
def test_a_budget_is_a_share_of_the_largest_number(error: float, passes: bool) -> None:
    truth = np.linspace(1.0, 4.0, 50)
    after = truth.copy()
    after[3] += 4.0 * error
    single = truth.astype(np.float32)
    runs = Runs(truth, single, after.astype(np.float32), unit=2.0**-24, budget=1e-2)
    assert compare("y", runs, 4.0).passed is passes


def test_a_near_tie_is_undecided_where_a_loss_is_allowed() -> None:
    x = param("x", N, 3)
    before = graph_of(ArgMax(Mul(x, const(np.ones(3))), axis=-1))
    after = graph_of(ArgMax(Mul(x, const([1.0002, 1, 1])), axis=-1))
    clear, near = [1.0, 0.5, 0.2], [1.0, 1.0001, 0.2]
    rows = np.array([clear] * 399 + [near], np.float32)
    check(before, after, inputs={"x": rows}, budget=8e-3).raise_if_failed()
    with pytest.raises(CheckFailed):
        check(before, after, inputs={"x": rows}).raise_if_failed()
    wrong = graph_of(ArgMax(Mul(x, const([1.1, 1, 1])), axis=-1))
    rows[-1, 1] = 1.05
    with pytest.raises(CheckFailed):
        check(before, wrong, inputs={"x": rows}, budget=8e-3).raise_if_failed()


@pytest.mark.parametrize(("to", "unit"), [("fp16", 2.0**-11), ("bf16", 2.0**-8)])
def test_units(to: str, unit: float) -> None:
    assert unit_of(to) == unit


def test_values_come_in_order(tmp_path: Path) -> None:
    """Casts stand before what reads them: a converter once put them behind."""
    result = optimize(model(tmp_path), precision="fp16")
    proto = to_proto(result.graph)
    known = {v.name for v in (*proto.graph.input, *proto.graph.initializer)}
    for node in proto.graph.node:
        assert {name for name in node.input if name} <= known
        known |= {*node.output}
