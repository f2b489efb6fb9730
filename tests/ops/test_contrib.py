"""ONNX Runtime's own ops: our bodies against its kernels, and untouched in files."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

import graphopt

pytestmark = pytest.mark.runtime

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
X = "float[2, 3, 8] x"
ROW = "float[8] {}"


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WEIGHTS = {
    "b": numbers(8, seed=1),
    "g": numbers(8, seed=2),
    "skip": numbers(2, 3, 8, seed=3),
    "square": numbers(2, 8, 3, seed=4),
    "tall": numbers(2, 3, 8, seed=5),
}
NODES = [
    "Gelu (x)",
    "BiasGelu (x, b)",
    "FastGelu (x)",
    "FastGelu (x, b)",
    "SkipLayerNormalization (x, skip, g)",
    "SkipLayerNormalization <epsilon = 0.01> (x, skip, g, b)",
    "SkipLayerNormalization <epsilon = 0.5> (x, skip, g, b, b)",
    "SkipSimplifiedLayerNormalization <epsilon = 0.1> (x, skip, g)",
    "SkipSimplifiedLayerNormalization (x, skip, g, b)",
    "FusedMatMul (x, square)",
    "FusedMatMul <alpha = 0.25> (x, square)",
    "FusedMatMul <transB = 1> (x, tall)",
    "FusedMatMul <transA = 1, alpha = 3.0> (x, tall)",
]


def model(nodes: str) -> ModelProto:
    proto = parser.parse_model(f"{HEADER} g ({X}) => (float[a, b, c] y) {{ {nodes} }}")
    for name, array in WEIGHTS.items():
        if f" {name}" in nodes:
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


@pytest.mark.parametrize("node", NODES)
def test_bodies_mean_what_the_kernels_compute(node: str) -> None:
    pytest.importorskip("onnxruntime")
    proto = model(f"h = com.microsoft.{node}  y = Neg (h)")
    inputs = {"x": numbers(2, 3, 8, seed=9)}
    (ours,) = graphopt.run_model(proto, inputs)
    (theirs,) = graphopt.run_model(proto, inputs, target="ort-cpu")
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("node", NODES)
def test_they_stay_what_they_are(node: str) -> None:
    """They are checked like any op, and written as they were."""
    proto = model(f"n = Identity (x)  y = com.microsoft.{node.replace('(x', '(n')}")
    result = graphopt.optimize(graphopt.load(proto))
    assert result.report.check is not None
    assert result.report.check.passed
    assert not result.report.check.unchecked
    made = graphopt.optimize_model(proto)
    (kept,) = made.graph.node
    (source,) = [n for n in proto.graph.node if n.domain]
    assert (kept.domain, kept.op_type) == (source.domain, source.op_type)
    options = {a.name: onnx.helper.get_attribute_value(a) for a in source.attribute}
    written = {a.name: onnx.helper.get_attribute_value(a) for a in kept.attribute}
    assert options.items() <= written.items()


def test_the_sum_is_a_result_too() -> None:
    pytest.importorskip("onnxruntime")
    proto = model("h, m, v, y = com.microsoft.SkipLayerNormalization (x, skip, g, b)")
    inputs = {"x": numbers(2, 3, 8)}
    for target in ("reference", "ort-cpu"):
        (y,) = graphopt.run_model(proto, inputs, target=target)
        np.testing.assert_allclose(y, inputs["x"] + WEIGHTS["skip"], rtol=1e-6)
