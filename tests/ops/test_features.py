"""The ops of classical models that are modelled, against onnx's own reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphopt import ops
from graphopt.ir import Parameter, Value
from graphopt.reference import fold
from graphopt.types import DType, TensorType
from graphopt.weights import Tensor

DOMAIN = "ai.onnx.ml"


def peer(kind: str, operands: list[Any], attrs: dict[str, Any]) -> Any:
    """What onnx's evaluator computes."""
    plain = {
        name: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v
        for name, v in attrs.items()
    }
    names = [f"x{i}" for i in range(len(operands))]
    node = helper.make_node(kind, names, ["y"], domain=DOMAIN, **plain)
    inputs = [
        helper.make_tensor_value_info(name, DType.of(x.dtype).value, x.shape)
        for name, x in zip(names, operands, strict=True)
    ]
    graph = helper.make_graph([node], "one", inputs, [onnx.ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid("", 28), helper.make_opsetid(DOMAIN, 5)]
    model = helper.make_model(graph, opset_imports=opsets)
    feeds = dict(zip(names, operands, strict=True))
    results: Any = ReferenceEvaluator(model).run(None, feeds)
    return results[0]


def strings(*values: str) -> Any:
    return np.array(values, object)


CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    (
        "LabelEncoder",
        [strings("a", "b", "z")],
        {"keys_strings": ["a", "b"], "values_int64s": [7, 8], "default_int64": 3},
    ),
    (
        "LabelEncoder",
        [np.array([[1, 2], [3, 1]])],
        {"keys_int64s": [1, 2, 1], "values_strings": ["x", "y", "w"]},
    ),
    (
        "LabelEncoder",
        [np.array([1.5, 2.5], np.float32)],
        {"keys_floats": [1.5, 3.5], "values_floats": [0.5, 2.0]},
    ),
    (
        "LabelEncoder",
        [strings("a", "q")],
        {
            "keys_tensor": strings("a", "b"),
            "values_tensor": np.array([4, 5], np.int16),
            "default_tensor": np.array([42], np.int16),
        },
    ),
    ("ArrayFeatureExtractor", [np.arange(12.0).reshape(3, 4), np.array([3, 0])], {}),
    ("ArrayFeatureExtractor", [np.arange(4), np.array([[1, 1]])], {}),
    ("Binarizer", [np.linspace(-1, 1, 6, dtype=np.float32)], {"threshold": 0.2}),
    ("Binarizer", [np.arange(5)], {"threshold": 2.0}),
]


@pytest.mark.parametrize(("kind", "operands", "attrs"), CASES)
def test_features(kind: str, operands: list[Any], attrs: dict[str, Any]) -> None:
    values: list[Value] = [
        Parameter(TensorType(DType.of(x.dtype), x.shape), "x") for x in operands
    ]
    stored = {
        name: Tensor.of(v) if isinstance(v, np.ndarray) else v
        for name, v in attrs.items()
    }
    op = getattr(ops, kind)(*values, **stored)
    (found,) = fold(op, operands)
    wanted = peer(kind, operands, attrs)
    assert op.type == TensorType(DType.of(wanted.dtype), wanted.shape)
    assert DType.of(found.dtype) is DType.of(wanted.dtype)
    assert found.tolist() == wanted.tolist()


def test_nan_is_a_key() -> None:
    """As ONNX says; its reference never finds one."""
    x = np.array([1.5, np.nan], np.float32)
    op = ops.LabelEncoder(
        Parameter(TensorType(DType.F32, (2,)), "x"),
        keys_floats=(1.5, float("nan")),
        values_int64s=(4, 5),
    )
    assert fold(op, [x])[0].tolist() == [4, 5]
