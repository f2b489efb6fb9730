"""ONNX Runtime's own ops: our bodies against its kernels, and untouched in files."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

import graphopt
from graphopt.ops.contrib import DOMAIN
from graphopt.ops.registry import RUNTIME, kinds

pytestmark = pytest.mark.runtime

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WEIGHTS = {
    "b": numbers(8, seed=1),
    "g": numbers(8, seed=2),
    "skip": numbers(2, 3, 8, seed=3),
    "square": numbers(2, 8, 3, seed=4),
    "tall": numbers(2, 3, 8, seed=5),
    "n": numbers(4, 8, seed=6),
    "r": numbers(4, seed=7),
    "k": numbers(2, 2, 3, 3, seed=8),
    "s": numbers(2, seed=9),
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
    "QuickGelu (x)",
    "QuickGelu <alpha = 0.5> (x)",
]
FUSED = [
    'FusedGemm <activation = "Relu", transB = 1> (m, n, r)',
    'FusedGemm <activation = "Tanh", alpha = 0.5, beta = 2.0, transA = 1> (m, m)',
    'FusedGemm <activation = "LeakyRelu", activation_alpha = 0.3, transB = 1> (m, n)',
    'FusedConv <activation = "Relu", pads = [1, 1, 1, 1]> (i, k, s)',
    'FusedConv <activation = "Sigmoid", strides = [2, 2]> (i, k)',
    'FusedConv <activation = "Clip", activation_params = [-0.5, 0.25]> (i, k)',
    'FusedConv <activation = "LeakyRelu", activation_params = [0.3]> (i, k)',
    'FusedConv <activation = "HardSigmoid", activation_params = [0.3, 0.6]> (i, k)',
    'FusedConv <activation = "Relu", auto_pad = "SAME_UPPER"> (i, k, s, i)',
]
"""Nodes that end with an activation; ``m`` and ``i`` are made of the input."""


def model(nodes: str) -> ModelProto:
    text = f"{HEADER} g (float[2, 3, 8] x) => (float[] y) {{ {nodes} }}"
    proto = parser.parse_model(text)
    for name, array in WEIGHTS.items():
        if f" {name}," in nodes or f" {name})" in nodes:
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


MATRIX = "to = Constant <value_ints = [6, 8]> ()  m = Reshape (x, to)"
IMAGE = "to = Constant <value_ints = [1, 2, 4, 6]> ()  i = Reshape (x, to)"


def before(node: str) -> str:
    """What makes the operands of a node."""
    return "" if node in NODES else MATRIX if "Gemm" in node else IMAGE


@pytest.mark.parametrize("node", NODES + FUSED)
def test_bodies_mean_what_the_kernels_compute(node: str) -> None:
    pytest.importorskip("onnxruntime")
    proto = model(f"{before(node)} h = com.microsoft.{node}  y = Neg (h)")
    inputs = {"x": numbers(2, 3, 8, seed=9)}
    (ours,) = graphopt.run_model(proto, inputs)
    (theirs,) = graphopt.run_model(proto, inputs, target="ort-cpu")
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("node", NODES + FUSED)
def test_they_stay_what_they_are(node: str) -> None:
    """Nothing about them is left unchecked, and they are written as they were."""
    proto = model(f"{before(node)} h = com.microsoft.{node}  y = Identity (h)")
    result = graphopt.optimize(graphopt.load(proto))
    assert result.report.check is not None
    assert result.report.check.passed
    assert not result.report.check.unchecked
    made = graphopt.optimize_model(proto)
    (kept,) = [n for n in made.graph.node if n.domain]
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


def test_what_is_declared_is_what_the_runtime_registers() -> None:
    state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    found = set()
    for theirs in state.get_all_operator_schema():
        domain = theirs.domain or RUNTIME
        cls = kinds.get((domain, theirs.name))
        if cls is None or domain not in (DOMAIN, RUNTIME) or theirs.since_version > 1:
            continue
        found.add((domain, theirs.name))
        ours, attributes = cls.schema(), theirs.attributes
        defaults = {
            name: value
            for name, attribute in attributes.items()
            if (value := default(attribute)) is not None
        }
        assert ours.attributes == set(attributes), theirs.name
        assert ours.required == {n for n, a in attributes.items() if a.required}
        known = {n: v for n, v in ours.defaults.items() if n in defaults}
        assert known == pytest.approx(defaults), theirs.name
        arity = (theirs.min_input, theirs.max_input, theirs.max_output)
        assert arity == (ours.min_operands, ours.max_operands, ours.max_results)
    assert found == {key for key in kinds if key[0] in (DOMAIN, RUNTIME)}


def default(attribute: Any) -> Any:
    """The default that a schema of the runtime gives to an attribute, if any."""
    proto = onnx.AttributeProto.FromString(attribute._default_value)
    if not proto.type:
        return None
    value = onnx.helper.get_attribute_value(proto)
    return value.decode() if isinstance(value, bytes) else value
