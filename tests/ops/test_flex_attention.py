"""Attention with bodies: what they capture, and how it is written again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, parser
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt import text
from graphopt.errors import GraphoptError
from graphopt.importer import load
from graphopt.ops import FlexAttention
from graphopt.types import DType
from graphopt.verify import verify

HEADER = '<ir_version: 10, opset_import: ["" : 23, "ai.onnx.preview" : 1]>'
TENSORS = "float[2, 4, 3, 8] q, float[2, 2, 5, 8] k, float[2, 2, 5, 6] v"
CAPPED = (
    "score_mod = f (float[2, 4, 3, 5] s) => (float[2, 4, 3, 5] t) "
    "{ a = Div (s, cap)\n b = Tanh (a)\n t = Mul (b, cap) }"
)
SQUARED = (
    "prob_mod = g (float[2, 4, 3, 5] p) => (float[2, 4, 3, 5] r) { r = Mul (p, p) }"
)


def model(bodies: str) -> ModelProto:
    call = f"y = ai.onnx.preview.FlexAttention <{bodies}> (q, k, v)"
    return parser.parse_model(
        f"{HEADER} main ({TENSORS}, float cap) => (float[2, 4, 3, 6] y) {{ {call} }}"
    )


def feeds() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 4, 3, 8), "k": (2, 2, 5, 8), "v": (2, 2, 5, 6)}
    made = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return made | {"cap": np.float32(1.5)}


BODIES = ("scale=0.5", CAPPED, SQUARED, f"{SQUARED}, {CAPPED}")


@pytest.mark.parametrize("bodies", BODIES)
def test_bodies_modify_scores_and_weights(bodies: str) -> None:
    proto, given = model(bodies), feeds()
    given = {name: np.asarray(array) for name, array in given.items()}
    graph = load(proto)
    verify(graph)
    written = graphopt.optimize_model(proto)
    (node,) = written.graph.node
    assert node.op_type == "FlexAttention"
    names = {attribute.name for attribute in node.attribute}
    assert names == {attribute.name for attribute in proto.graph.node[0].attribute}
    (found,) = graphopt.run_model(proto, given)
    (again,) = graphopt.run_model(written, given)
    np.testing.assert_array_equal(found, again)
    if "cap" not in bodies:  # onnx's reference gives bodies nothing from around them
        (expected,) = ReferenceEvaluator(proto).run(None, given)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bodies", BODIES)
def test_its_text_can_be_read_again(bodies: str) -> None:
    graph = load(model(bodies))
    printed = text.format_graph(graph)
    assert text.parse(printed).key == graph.key


def test_captured_values_are_what_they_are_around() -> None:
    given = feeds()
    (found,) = graphopt.run_model(model(CAPPED), given)
    scale = np.sqrt(8)
    k, v = (given[name].repeat(2, 1) for name in "kv")
    scores = np.tanh(given["q"] @ k.swapaxes(2, 3) / scale / 1.5) * 1.5
    powers = np.exp(scores)
    expected = powers / powers.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_heads_must_be_shared_evenly() -> None:
    from graphopt.ir import Parameter
    from graphopt.types import tensor

    q, k = (Parameter(tensor(DType.F32, 1, heads, 2, 4), "x") for heads in (3, 2))
    with pytest.raises(GraphoptError, match="cannot share"):
        FlexAttention(q, k, k).body()
    with pytest.raises(GraphoptError, match="rank 3"):
        FlexAttention(Parameter(tensor(DType.F32, 1, 2, 4), "x"), k, k)
