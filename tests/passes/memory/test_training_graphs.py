"""Training steps that are ONNX models: backward passes and optimizers are ops, too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from graphopt import optimize
from graphopt.importer import load
from graphopt.inputs import random_inputs
from graphopt.ir import Graph
from graphopt.passes.memory import (
    SPACES,
    plan_memory,
    recomputed,
    run_in_arena,
    validate,
)
from graphopt.reference import evaluate

LAYERS, BATCH, WIDTH = 4, 256, 32
TRAINING = "ai.onnx.preview.training"


def step() -> Graph:
    """Layers h = tanh(h w) towards y, slopes by hand, and each w moved at the end."""
    square, rows = [WIDTH, WIDTH], [BATCH, WIDTH]
    inputs = {"rate": [], "x": rows, "y": rows}
    nodes, outputs = [], {"loss": []}
    for i in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"a{i}"]))
        nodes.append(helper.make_node("Tanh", [f"a{i}"], [f"h{i + 1}"]))
        inputs |= {f"{name}{i}": square for name in ("w", "m", "v")}
    nodes += [
        helper.make_node("Sub", [f"h{LAYERS}", "y"], [f"d{LAYERS}"]),
        helper.make_node("ReduceSumSquare", [f"d{LAYERS}"], ["loss"], keepdims=0),
    ]
    for i in reversed(range(LAYERS)):
        nodes += [
            helper.make_node("Mul", [f"h{i + 1}", f"h{i + 1}"], [f"s{i}"]),
            helper.make_node("Sub", ["one", f"s{i}"], [f"t{i}"]),
            helper.make_node("Mul", [f"d{i + 1}", f"t{i}"], [f"e{i}"]),
            helper.make_node("Transpose", [f"h{i}"], [f"ht{i}"], perm=[1, 0]),
            helper.make_node("MatMul", [f"ht{i}", f"e{i}"], [f"g{i}"]),
            helper.make_node("Transpose", [f"w{i}"], [f"wt{i}"], perm=[1, 0]),
            helper.make_node("MatMul", [f"e{i}", f"wt{i}"], [f"d{i}"]),
        ]
    for i in range(LAYERS):
        moved = [f"new_w{i}", f"new_m{i}"] + ([f"new_v{i}"] if i % 2 else [])
        given = [f"w{i}", f"g{i}", f"m{i}"] + ([f"v{i}"] if i % 2 else [])
        nodes.append(
            helper.make_node(
                "Adam" if i % 2 else "Momentum",
                ["rate", "steps", *given],
                moved,
                domain=TRAINING,
                **({} if i % 2 else {"alpha": 0.9, "beta": 1.0, "mode": "standard"}),
                norm_coefficient=0.0,
            )
        )
        outputs |= dict.fromkeys(moved, square)
    for node in nodes:
        node.input[:] = ["x" if name == "h0" else name for name in node.input]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [n for n in nodes if n.output[0] != "d0"],
        "step",
        [
            *(helper.make_tensor_value_info(n, kind, s) for n, s in inputs.items()),
            helper.make_tensor_value_info("steps", onnx.TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info(n, kind, s) for n, s in outputs.items()],
        [onnx.numpy_helper.from_array(np.float32(1), "one")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(TRAINING, 1)]
    return load(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def test_a_step_runs_in_its_arena() -> None:
    graph = step()
    inputs = random_inputs(graph, 0)
    inputs |= {f"v{i}": np.abs(inputs[f"v{i}"]) for i in range(LAYERS)}
    wanted = evaluate(graph, inputs)
    for reorder in (False, True):
        plan = plan_memory(graph, reorder=reorder)
        validate(plan, graph)
        assert not plan.unknown
        for a, b in zip(run_in_arena(graph, plan, inputs), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_what_the_forward_pass_makes_is_live_until_the_backward_pass_reads_it() -> None:
    graph = step()
    plan = plan_memory(graph, reorder=True)
    kept = LAYERS * BATCH * WIDTH * 4
    assert kept <= plan.lower_bound <= kept + 4 * BATCH * WIDTH * 4
    assert plan.peak == plan.lower_bound


@pytest.mark.parametrize("share", [0.01, 1.0])
def test_values_are_made_again_within_their_share(share: float) -> None:
    graph = step()
    plan = plan_memory(graph, reorder=True)
    made = recomputed(graph, order=plan.order, share=share)
    assert made.after <= made.before == plan.lower_bound
    after = plan_memory(made.graph, order=made.order)
    validate(after, made.graph)
    assert after.lower_bound == made.after
    if share == 1.0:
        assert made.after < made.before
        inputs = random_inputs(graph, 0)
        inputs |= {f"v{i}": np.abs(inputs[f"v{i}"]) for i in range(LAYERS)}
        again = run_in_arena(made.graph, after, inputs)
        for a, b in zip(again, evaluate(graph, inputs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_step_is_optimized_within_a_limit() -> None:
    graph = step()
    peak = plan_memory(graph, space=SPACES["onnx"], reorder=True).peak
    report = optimize(graph, max_activations=peak).report
    assert report.memory is not None
    assert report.memory.plan.peak <= peak
    assert report.check is not None
    assert report.check.passed
