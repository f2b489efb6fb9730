"""Cheap values made again: what that saves, what it computes, and where it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings, strategies as st

from graphopt import UsageError
from graphopt.dims import symbols
from graphopt.exporter import save
from graphopt.importer import load
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import Cast, Expand, MatMul, Mul, Relu, Softmax, Transpose
from graphopt.ops.constant import Constant
from graphopt.passes.memory import Space, plan_memory, validate
from graphopt.passes.memory.recompute import Recomputed, recomputed
from graphopt.reference import evaluate
from graphopt.testing import assert_equivalent, graphs
from graphopt.types import DType, tensor
from graphopt.verify import verify

ROWS = 64
SPACE = Space()


def masked(layers: int = 3) -> Graph:
    """A mask made of few numbers, which every layer adds to something large."""
    x = Parameter(tensor(DType.F32, ROWS, ROWS), "x")
    few = Parameter(tensor(DType.I64, 1, ROWS), "few")
    shape = Constant(np.asarray([ROWS, ROWS]))
    mask = Expand(Cast(few, to=DType.F32), shape)
    h: Value = x
    for _ in range(layers):
        h = Mul(h, mask)
        h = MatMul(Transpose(Softmax(h, axis=-1), perm=(1, 0)), x)
        h = MatMul(Relu(MatMul(h, x)), x)
    return Graph([x, few], [h])


def computed(graph: Graph) -> list[Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, ROWS)).astype(np.float32) / ROWS
    return evaluate(graph, {"x": x, "few": np.arange(ROWS)[None] % 3})


def check(graph: Graph, made: Recomputed, space: Space | None = None) -> None:
    """Legal, of the heights that it says, and no dearer."""
    verify(made.graph)
    plans = [
        plan_memory(graph, space=space, order=None),
        plan_memory(made.graph, space=space, order=made.order),
    ]
    for plan, height in zip(plans, (made.before, made.after), strict=True):
        assert plan.lower_bound == height
    validate(plans[1], made.graph)
    assert made.after <= made.before
    assert made.copies == len(made.order) - len(plans[0].order)


def test_a_mask_is_made_again_in_each_layer() -> None:
    graph = masked()
    made = recomputed(graph, space=SPACE)
    check(graph, made, SPACE)
    assert made.before - made.after > ROWS * ROWS * 4 - 512  # a row is kept
    assert made.flops > 0
    kinds = [op.kind for op in made.order]
    assert kinds.count("Expand") > 1
    assert len({op for op in made.order if op.kind == "Expand"}) == kinds.count(
        "Expand"
    )
    for a, b in zip(computed(graph), computed(made.graph), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_more_than_the_budget_asks_for() -> None:
    graph = masked()
    whole = recomputed(graph, space=SPACE)
    assert recomputed(graph, budget=whole.before, space=SPACE).copies == 0
    assert recomputed(graph, budget=whole.after, space=SPACE).after <= whole.after


def test_what_costs_too_much_is_kept() -> None:
    graph = masked()
    assert recomputed(graph, space=SPACE, share=0.0).graph is graph
    made = recomputed(graph, space=SPACE, share=0.01)
    total = 3 * 3 * 2 * ROWS**3
    assert made.flops <= 0.011 * total + ROWS * ROWS


def test_products_and_outputs_stay() -> None:
    x = Parameter(tensor(DType.F32, ROWS, ROWS), "x")
    product = MatMul(x, x)
    cast = Cast(x, to=DType.F64)
    big = Cast(Relu(MatMul(x, x)), to=DType.F64)
    graph = Graph([x], [MatMul(Cast(big, to=DType.F32), product), cast])
    made = recomputed(graph, space=Space(in_place=False, outputs=True))
    kinds = [op.kind for op in made.order]
    assert kinds.count("MatMul") == 2
    assert made.graph.outputs[1] is cast


def test_an_order_is_one_of_the_graph() -> None:
    graph = masked(1)
    with pytest.raises(UsageError, match="order"):
        recomputed(graph, order=graph.ops[:2])


@given(graphs(), st.integers(0, 2000))
@settings(max_examples=40, deadline=None)
def test_random_graphs_compute_the_same(graph: Graph, budget: int) -> None:
    binding = dict.fromkeys(_symbols(graph), 3)
    made = recomputed(graph, binding, budget, share=1.0)
    verify(made.graph)
    plan = plan_memory(made.graph, binding, order=made.order)
    assert plan.lower_bound <= made.after <= made.before
    assert_equivalent(graph, made.graph)


def _symbols(graph: Graph) -> set[str]:
    return {
        name for p in graph.inputs for dim in (p.shape or ()) for name in symbols(dim)
    }


def test_files_hold_copies_but_reading_them_merges_equal_nodes(tmp_path: Path) -> None:
    made = recomputed(masked(), space=SPACE)
    path = tmp_path / "model.onnx"
    save(made.graph, path)
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count("Expand") == 1 + made.copies // 2
    assert [op.kind for op in load(path).ops].count("Expand") == 1


@pytest.mark.runtime
@pytest.mark.parametrize(
    ("level", "kept"), [("ORT_DISABLE_ALL", True), ("ORT_ENABLE_BASIC", False)]
)
def test_onnx_runtime_merges_copies_unless_it_optimizes_nothing(
    level: str, kept: bool, tmp_path: Path
) -> None:
    ort = pytest.importorskip("onnxruntime")
    made = recomputed(masked(), space=SPACE)
    save(made.graph, tmp_path / "model.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "executed.onnx")
    options.log_severity_level = 3
    for disabled in ([], ["CommonSubexpressionElimination"]):
        ort.InferenceSession(
            tmp_path / "model.onnx",
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=disabled,
        )
        nodes = onnx.load(tmp_path / "executed.onnx").graph.node
        expands = [node.op_type for node in nodes].count("Expand")
        assert (expands > 1) == (kept or bool(disabled))
