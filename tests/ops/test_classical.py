"""Classical models (ai.onnx.ml), made up here, against ONNX Runtime's kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from classical_models import (
    DOMAIN,
    TRANSFORMS,
    assert_alike,
    compare,
    in_runtime,
    model,
    rows,
    trees,
    voting,
)
from onnx import helper

import graphopt
from graphopt.errors import GraphoptError
from graphopt.types import DType

# --- linear models, support vectors -------------------------------------------------


@pytest.mark.runtime
@pytest.mark.parametrize("how", TRANSFORMS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_linear_models(how: str, count: int) -> None:
    rng = np.random.default_rng(7)
    weights, shifts = rng.random((count, 3)) / 4, rng.random(count) / 8
    given = {
        "coefficients": weights.reshape(-1).tolist(),
        "intercepts": shifts.tolist(),
        "post_transform": how,
    }
    x = rng.random((6, 3)).astype(np.float32)
    compare("LinearRegressor", x, targets=count, rtol=2e-4, **given)
    compare("LinearRegressor", x[0], targets=count, rtol=2e-4, **given)
    if count == 1 and how == "PROBIT":
        return  # nobody says what that is
    classes = max(count, 2)
    labels = {"classlabels_ints": [5, 3, 8][:classes]}
    compare("LinearClassifier", x, outs=2, rtol=2e-4, **labels, **given)
    names = {"classlabels_strings": ["u", "v", "w"][:classes]}
    whole = (4 * x - 2).astype(np.int64)
    if how != "PROBIT":
        compare("LinearClassifier", whole, outs=2, rtol=2e-4, **names, **given)


KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")


@pytest.mark.runtime
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_regression_by_support_vectors(kernel: str, one_class: int) -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(9, 3)).astype(np.float32)
    compare(
        "SVMRegressor",
        x,
        kernel_type=kernel,
        kernel_params=[0.5, 0.25, 2.0],
        n_supports=4,
        one_class=one_class,
        support_vectors=rng.normal(size=12).tolist(),
        coefficients=rng.normal(size=4).tolist(),
        rho=[0.125],
    )
    linear = {"kernel_params": [0.0, 0.0, 0.0], "coefficients": [0.5, -1.0, 2.0]}
    compare("SVMRegressor", x, rho=[0.25], **linear)


@pytest.mark.runtime
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("likely", [False, True])
def test_classes_by_support_vectors(kernel: str, classes: int, likely: bool) -> None:
    rng = np.random.default_rng(9)
    duels = classes * (classes - 1) // 2
    per_class = [2, 3, 1, 2][:classes]
    vectors = sum(per_class)
    platt = {}
    if likely:
        platt = {"prob_a": (-1 - rng.random(duels)).tolist(), "prob_b": [0.1] * duels}
    compare(
        "SVMClassifier",
        rng.normal(size=(9, 3)).astype(np.float32),
        outs=2,
        kernel_type=kernel,
        kernel_params=[0.5, 0.25, 2.0],
        vectors_per_class=per_class,
        support_vectors=rng.normal(size=3 * vectors).tolist(),
        coefficients=rng.normal(size=vectors * (classes - 1)).tolist(),
        rho=rng.normal(size=duels).tolist(),
        classlabels_ints=[7, 3, 5, 1][:classes],
        rtol=1e-3 if likely else 1e-4,
        **platt,
    )


# --- features -----------------------------------------------------------------------

NUMBERS = (np.float32, np.float64, np.int64, np.int32)


@pytest.mark.runtime
@pytest.mark.parametrize("dtype", NUMBERS)
def test_features_of_numbers(dtype: Any) -> None:
    x = np.array([[1, -2, 0], [4, 4, -1], [0, 0, 0]], dtype)
    for norm in ("MAX", "L1", "L2"):
        compare("Normalizer", x, norm=norm)
        compare("Normalizer", x[0], norm=norm)
    compare("Scaler", x, offset=[0.5], scale=[2.0])
    compare("Scaler", x, offset=[0.5, 1.0, -1.0], scale=[2.0, 0.25, 3.0])
    if dtype != np.int32:
        compare("OneHotEncoder", x, cats_int64s=[4, 0, -2])
    compare("FeatureVectorizer", x, x[:, 1:], inputdimensions=[3, 2])
    compare("FeatureVectorizer", x, x[:, 1:], inputdimensions=[2, 4])
    compare("ArrayFeatureExtractor", x, np.array([2, 0]))
    if dtype in (np.float32, np.int64):
        kind = "floats" if dtype == np.float32 else "int64s"
        compare("Imputer", x, **replacing(kind, [7]))
        compare("Imputer", x, **replacing(kind, [7, 8, 9]))


def replacing(kind: str, values: list[int]) -> dict[str, Any]:
    """Attributes of an Imputer that replaces 4."""
    number = float if kind == "floats" else int
    return {
        f"imputed_value_{kind}": [number(v) for v in values],
        f"replaced_value_{kind[:-1]}": number(4),
    }


@pytest.mark.runtime
def test_nan_is_replaced() -> None:
    x = np.array([[1, np.nan], [np.nan, 2]], np.float32)
    gone = {"replaced_value_float": float("nan")}
    compare("Imputer", x, imputed_value_floats=[0.5, -1.0], **gone)


@pytest.mark.runtime
def test_categories_of_strings() -> None:
    x = np.array([["b", "a"], ["z", "b"]], object)
    compare("OneHotEncoder", x, cats_strings=["a", "b"])
    tables = {"cats_strings": ["a", "b"], "cats_int64s": [5, 3], "default_int64": 9}
    compare("CategoryMapper", x, **tables)
    compare("CategoryMapper", np.array([3, 4, 5]), default_string="?", **tables)
    proto = model("OneHotEncoder", [x], cats_strings=["a", "b"], zeros=0)
    with pytest.raises(GraphoptError, match="none of the categories"):
        graphopt.run_model(proto, {"x0": x})


@pytest.mark.runtime
@pytest.mark.parametrize("version", [1, 2, 4])
def test_labels_at_each_version(version: int) -> None:
    texts, numbers = np.array(["b", "z", "a"], object), np.array([1, 7, 0])
    if version == 1:
        table: dict[str, Any] = {"classes_strings": ["a", "b"]}
        for x in (texts, numbers):
            proto = model("LabelEncoder", [x], version=1, **table)
            feeds = {"x0": x}
            (found,), (expected,) = (
                graphopt.run_model(proto, feeds),
                in_runtime(proto, feeds),
            )
            assert_alike(found, expected)
            written = graphopt.optimize_model(proto, check="off")
            assert [node.op_type for node in written.graph.node] == ["CategoryMapper"]
            assert_alike(in_runtime(written, feeds)[0], expected)
        return
    pairs = {"keys_strings": ["a", "b"], "values_floats": [0.5, 2.0]}
    compare("LabelEncoder", texts, version=version, default_float=-1.0, **pairs)
    codes = {"keys_int64s": [1, 0], "values_strings": ["one", "none"]}
    compare("LabelEncoder", numbers, version=version, **codes)


# --- dictionaries -------------------------------------------------------------------


def map_type(key: int, value: int) -> onnx.TypeProto:
    return helper.make_map_type_proto(key, helper.make_tensor_type_proto(value, []))


@pytest.mark.runtime
@pytest.mark.parametrize("names", [False, True])
def test_scores_become_dictionaries(names: bool) -> None:
    labels: dict[str, Any] = {"classlabels_int64s": [4, 2]}
    if names:
        labels = {"classlabels_strings": ["u", "v"]}
    compare("ZipMap", np.array([[0.25, 0.75], [1, 0]], np.float32), **labels)


F32, I64, STRING = DType.F32.value, DType.I64.value, DType.STRING.value


@pytest.mark.runtime
@pytest.mark.parametrize(
    ("kind", "key", "value", "given", "attrs"),
    [
        ("DictVectorizer", STRING, F32, {"a": 4.0}, {"string_vocabulary": ["a", "b"]}),
        ("DictVectorizer", I64, F32, {3: 0.5}, {"int64_vocabulary": [1, 3]}),
        ("CastMap", I64, F32, {7: 1.5, 2: 0.25}, {"cast_to": "TO_FLOAT"}),
        ("CastMap", I64, F32, {7: 1.5, 2: 2.5}, {"cast_to": "TO_INT64"}),
        ("CastMap", I64, F32, {3: 1.5, 1: 2.5}, {"map_form": "SPARSE", "max_map": 5}),
    ],
)
def test_dictionaries_become_rows(
    kind: str, key: int, value: int, given: dict[Any, Any], attrs: dict[str, Any]
) -> None:
    proto = model(kind, [map_type(key, value)], **attrs)
    (expected,) = in_runtime(proto, {"x0": given})
    (found,) = graphopt.run_model(proto, {"x0": given})
    assert_alike(found, expected)


def test_dictionaries_that_the_runtime_is_not_given() -> None:
    """By ONNX's text: Python cannot hand these to the runtime."""
    vocabulary = {"string_vocabulary": ["a", "c", "b", "z"]}
    proto = model("DictVectorizer", [map_type(STRING, I64)], **vocabulary)
    (row,) = graphopt.run_model(proto, {"x0": {"a": 4, "c": 8}})
    assert row.dtype == np.int64
    assert row.tolist() == [[4, 8, 0, 0]]
    proto = model("CastMap", [map_type(I64, STRING)], cast_to="TO_INT64")
    (row,) = graphopt.run_model(proto, {"x0": {7: "4", 2: "6"}})
    assert row.dtype == np.int64
    assert row.tolist() == [[6, 4]]


# --- all together -------------------------------------------------------------------


@pytest.mark.runtime
def test_a_pipeline_as_converters_write_it() -> None:
    """Imputed, scaled, judged by trees, and zipped: opset 1 of a forest, optimized."""
    rng = np.random.default_rng(10)
    nodes, leaves = trees(rng, 20, 5, 4)
    votes = voting(rng, leaves, "class", range(3), positive=True)
    labels = {"classlabels_strings": ["x", "y", "z"]}
    steps = [
        ("Imputer", "x", ["a"], {"imputed_value_floats": [0.0], **NO_NUMBER}),
        ("Scaler", "a", ["b"], {"offset": [0.5], "scale": [2.0]}),
        ("TreeEnsembleClassifier", "b", ["label", "p"], {**labels, **nodes, **votes}),
        ("ZipMap", "p", ["scores"], labels),
    ]
    made = helper.make_graph(
        [helper.make_node(k, [i], o, domain=DOMAIN, **a) for k, i, o, a in steps],
        "pipeline",
        [helper.make_tensor_value_info("x", F32, ["n", 4])],
        [
            helper.make_tensor_value_info("label", STRING, ["n"]),
            helper.make_value_info(
                "scores", helper.make_sequence_type_proto(map_type(STRING, F32))
            ),
        ],
    )
    opsets = [helper.make_opsetid("", 12), helper.make_opsetid(DOMAIN, 1)]
    proto = helper.make_model(made, opset_imports=opsets, ir_version=7)
    feeds = {"x": rows(rng, 4, holes=True)}
    expected = in_runtime(proto, feeds)
    written = graphopt.optimize_model(proto)
    assert written.opset_import == proto.opset_import
    for found in (graphopt.run_model(proto, feeds), in_runtime(written, feeds)):
        for mine, theirs in zip(found, expected, strict=True):
            assert_alike(mine, theirs)


NO_NUMBER = {"replaced_value_float": float("nan")}
