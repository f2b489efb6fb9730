"""The names that people import, and the two functions for people who hold a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from broken import Damp
from onnx import TensorProto, helper

import graphopt

EXPORTS = [
    "BackendMissing",
    "CheckFailed",
    "Graph",
    "GraphoptError",
    "InvalidModel",
    "Miss",
    "Op",
    "Outcome",
    "Pass",
    "Pipeline",
    "Result",
    "Rule",
    "RulePass",
    "UnsupportedModel",
    "UsageError",
    "Value",
    "check",
    "cost",
    "debug",
    "load",
    "miss",
    "optimize",
    "optimize_model",
    "rule",
    "run_model",
]


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_exports() -> None:
    for name in EXPORTS:
        assert not isinstance(getattr(graphopt, name), ModuleType), name
    assert set(EXPORTS) <= set(dir(graphopt))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        graphopt.nonsense  # noqa: B018


def test_import_is_light() -> None:
    loaded = fresh("import sys, graphopt; print('numpy' in sys.modules)")
    assert loaded == "False"


@pytest.mark.parametrize("name", ["check", "cost", "debug"])
def test_a_function_hides_the_module_of_its_name(name: str) -> None:
    code = f"""
import graphopt.{name}, graphopt.driver, graphopt
from graphopt.{name} import {name}
print(graphopt.{name} is {name}, callable(graphopt.{name}))"""
    assert fresh(code) == "True True"


def test_debug_is_a_context() -> None:
    from graphopt.debug import level

    with graphopt.debug(3):
        assert level() == 3


def test_optimize_model(digits: Path) -> None:
    model = onnx.load(digits)
    made = graphopt.optimize_model(model)
    assert len(made.graph.node) < len(model.graph.node) / 2
    assert made.graph.input == model.graph.input
    assert [o.version for o in made.opset_import] == [17]
    images = np.full((3, 8, 8), 7, np.float32)
    (before,) = graphopt.run_model(model, {"images": images})
    (after,) = graphopt.run_model(made, {"images": images})
    np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())


def test_optimize_model_of_a_path_with_options(digits: Path) -> None:
    made = graphopt.optimize_model(digits, passes=["casts"], check="off")
    kinds = [node.op_type for node in made.graph.node]
    assert "BatchNormalization" in kinds


def test_optimize_model_raises_what_the_check_finds(digits: Path) -> None:
    with pytest.raises(graphopt.CheckFailed) as caught:
        graphopt.optimize_model(digits, add=[Damp()])
    told = str(caught.value)
    assert "logits" in told
    assert "pass damp, rule damped_sigmoid" in told
    assert "/convolutions/convolutions" in told


def one_op(kind: str, *, domain: str = "") -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(kind, ["x"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 17)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_run_model_takes_protos_bytes_and_paths(tmp_path: Path) -> None:
    model = one_op("Neg")
    path = tmp_path / "neg.onnx"
    onnx.save(model, path)
    fed = {"x": np.array([1, -2], np.float32)}
    for form in (model, model.SerializeToString(), path, str(path)):
        (y,) = graphopt.run_model(form, fed)
        assert y.tolist() == [-1, 2]


def test_run_model_names_the_op_that_it_cannot_run() -> None:
    fed = {"x": np.zeros(2, np.float32)}
    with pytest.raises(NotImplementedError, match="Wobble"):
        graphopt.run_model(one_op("Wobble", domain="com.example"), fed)


def test_run_model_refuses_inputs_that_do_not_fit() -> None:
    with pytest.raises(graphopt.UsageError, match="'x'"):
        graphopt.run_model(one_op("Neg"), {})
    with pytest.raises(graphopt.UsageError, match="xpu"):
        graphopt.run_model(one_op("Neg"), {"x": np.zeros(2, np.float32)}, "xpu")
