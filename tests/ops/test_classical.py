"""Classical models (ai.onnx.ml), made up here, against ONNX Runtime's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.errors import GraphoptError, NoReference
from graphopt.importer import load
from graphopt.ops import Opaque
from graphopt.types import DType

DOMAIN = "ai.onnx.ml"
Array = np.ndarray[Any, Any]
TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT")


def model(
    kind: str,
    inputs: Sequence[Any],
    outs: int = 1,
    version: int = 3,
    **attrs: Any,
) -> onnx.ModelProto:
    """One node; ``inputs`` are arrays or types."""
    plain = {
        name: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v
        for name, v in attrs.items()
        if v is not None
    }
    names = [f"x{i}" for i in range(len(inputs))]
    outputs = [f"y{i}" for i in range(outs)]
    node = helper.make_node(kind, names, outputs, domain=DOMAIN, **plain)
    values = [
        helper.make_value_info(name, x)
        if isinstance(x, onnx.TypeProto)
        else helper.make_tensor_value_info(
            name, DType.of(x.dtype).value, [None] * x.ndim
        )
        for name, x in zip(names, inputs, strict=True)
    ]
    made = helper.make_graph(
        [node], "one", values, [onnx.ValueInfoProto(name=name) for name in outputs]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, version)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def in_runtime(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    made: list[Any] = session.run(None, feeds)
    return made


def assert_alike(found: Any, expected: Any, rtol: float = 2e-5) -> None:
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.keys() == theirs.keys()
            values = [mine[key] for key in theirs]
            np.testing.assert_allclose(values, [*theirs.values()], rtol)
        return
    assert found.shape == expected.shape
    if expected.dtype.kind == "O":
        assert found.tolist() == expected.tolist()
        return
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-6)


def compare(kind: str, *inputs: Any, rtol: float = 2e-5, **options: Any) -> None:
    """The reference and what is written again give what the runtime gives."""
    proto = model(kind, inputs, **options)
    feeds = {f"x{i}": x for i, x in enumerate(inputs)}
    expected = in_runtime(proto, feeds)
    graph = load(proto)
    assert not any(isinstance(op, Opaque) for op in graph.ops)
    for mine, theirs in zip(graphopt.run_model(proto, feeds), expected, strict=True):
        assert_alike(mine, theirs, rtol)
    written = graphopt.optimize_model(proto, check="off")
    assert written.opset_import == proto.opset_import
    for mine, theirs in zip(in_runtime(written, feeds), expected, strict=True):
        assert_alike(mine, theirs, 0)


# --- trees --------------------------------------------------------------------------


def trees(
    rng: np.random.Generator,
    count: int,
    depth: int,
    features: int,
    modes: Sequence[str] = ("BRANCH_LEQ",),
    missing: bool = False,
) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """Attributes of nodes, and the leaves. Trees are full, but for some branches."""
    rows: list[tuple[Any, ...]] = []
    leaves: list[tuple[int, int]] = []
    for tree in range(count):
        pending, following = [(0, 0)], 1
        while pending:
            number, level = pending.pop()
            if level == depth or (level > 1 and rng.random() < 0.2):
                rows.append((tree, number, "LEAF", 0, 0.0, 0, 0, 0))
                leaves.append((tree, number))
                continue
            yes, no, following = following, following + 1, following + 2
            mode = modes[rng.integers(len(modes))]
            value = float(np.round(rng.normal(), 1))
            feature = int(rng.integers(features))
            lost = int(missing and rng.random() < 0.5)
            rows.append((tree, number, mode, feature, value, yes, no, lost))
            pending += [(yes, level + 1), (no, level + 1)]
    names = [
        "treeids",
        "nodeids",
        "modes",
        "featureids",
        "values",
        "truenodeids",
        "falsenodeids",
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    names.append("missing_value_tracks_true")
    return {f"nodes_{n}": c for n, c in zip(names, columns, strict=True)}, leaves


def voting(
    rng: np.random.Generator,
    leaves: list[tuple[int, int]],
    of: str,
    ids: Sequence[int],
    positive: bool = False,
) -> dict[str, Any]:
    """A vote of every leaf for some of the targets."""
    votes = [(t, n, i) for t, n in leaves for i in ids if rng.random() < 0.8]
    votes += [(t, n, ids[0]) for t, n in leaves if (t, n, ids[0]) not in votes]
    weights = rng.normal(size=len(votes)) / 4
    return {
        f"{of}_treeids": [t for t, _, _ in votes],
        f"{of}_nodeids": [n for _, n, _ in votes],
        f"{of}_ids": [i for _, _, i in votes],
        f"{of}_weights": (np.abs(weights) if positive else weights).tolist(),
    }


def rows(rng: np.random.Generator, features: int, holes: bool = False) -> Array:
    """Rounded, so that thresholds are met."""
    x = np.round(rng.normal(size=(50, features)), 1).astype(np.float32)
    if holes:
        x[rng.random(x.shape) < 0.2] = np.nan
    return x


MODES = [f"BRANCH_{mode}" for mode in ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ")]


@pytest.mark.runtime
@pytest.mark.parametrize("modes", [*[[mode] for mode in MODES], MODES], ids=str)
@pytest.mark.parametrize("holes", [False, True])
def test_what_nodes_ask(modes: list[str], holes: bool) -> None:
    rng = np.random.default_rng(0)
    nodes, leaves = trees(rng, 5, 4, 3, modes, missing=holes)
    votes = voting(rng, leaves, "target", [0])
    x = rows(rng, 3, holes)
    compare("TreeEnsembleRegressor", x, n_targets=1, **nodes, **votes)


@pytest.mark.runtime
@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("base", [False, True])
def test_what_trees_say_is_aggregated(how: str, targets: int, base: bool) -> None:
    rng = np.random.default_rng(1)
    nodes, leaves = trees(rng, 7, 3, 4)
    votes = voting(rng, leaves, "target", range(targets))
    votes["base_values"] = [0.5, -1.0, 0.25][:targets] if base else None
    for x in (rows(rng, 4), rows(rng, 4).astype(np.float64)):
        compare(
            "TreeEnsembleRegressor",
            x,
            n_targets=targets,
            aggregate_function=how,
            **nodes,
            **votes,
        )


@pytest.mark.runtime
@pytest.mark.parametrize("how", TRANSFORMS)
@pytest.mark.parametrize("targets", [1, 3])
def test_scores_of_trees_are_transformed(how: str, targets: int) -> None:
    rng = np.random.default_rng(2)
    nodes, leaves = trees(rng, 3, 3, 4)
    votes = voting(rng, leaves, "target", range(targets), positive=True)
    votes["target_weights"] = [w / 4 for w in votes["target_weights"]]
    compare(
        "TreeEnsembleRegressor",
        rows(rng, 4),
        n_targets=targets,
        post_transform=how,
        rtol=2e-4,
        **nodes,
        **votes,
    )


@pytest.mark.runtime
@pytest.mark.parametrize("how", TRANSFORMS)
@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("base", [False, True])
def test_a_class_of_three(how: str, names: bool, base: bool) -> None:
    rng = np.random.default_rng(3)
    nodes, leaves = trees(rng, 6, 3, 4)
    votes = voting(rng, leaves, "class", range(3), positive=how == "PROBIT")
    if how == "PROBIT":
        votes["class_weights"] = [w / 8 for w in votes["class_weights"]]
    labels: dict[str, Any] = {"classlabels_int64s": [4, 2, 9]}
    if names:
        labels = {"classlabels_strings": ["a", "b", "c"]}
    votes["base_values"] = [0.125, 0.25, 0.0625] if base else None
    compare(
        "TreeEnsembleClassifier",
        rows(rng, 4),
        outs=2,
        post_transform=how,
        rtol=2e-4,
        **labels,
        **nodes,
        **votes,
    )


@pytest.mark.runtime
@pytest.mark.parametrize("how", TRANSFORMS[:4])
@pytest.mark.parametrize("voted", [0, 1])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("base", [False, True])
def test_one_of_two_classes(how: str, voted: int, positive: bool, base: bool) -> None:
    rng = np.random.default_rng(4)
    nodes, leaves = trees(rng, 3, 3, 4)
    votes = voting(rng, leaves, "class", [voted], positive)
    votes["base_values"] = [0.25] if base else None
    for labels in (
        {"classlabels_int64s": [3, 8]},
        {"classlabels_strings": ["no", "yes"]},
    ):
        compare(
            "TreeEnsembleClassifier",
            rows(rng, 4),
            outs=2,
            post_transform=how,
            **labels,
            **nodes,
            **votes,
        )


@pytest.mark.runtime
@pytest.mark.parametrize("how", TRANSFORMS[:4])
def test_the_top_of_two_classes(how: str) -> None:
    """As ONNX says. The runtime's label is 0 or 1, whatever the labels are."""
    rng = np.random.default_rng(4)
    nodes, leaves = trees(rng, 3, 3, 4)
    pairs = list(product(leaves, [0, 1]))
    votes = {
        "class_treeids": [tree for (tree, _), _ in pairs],
        "class_nodeids": [node for (_, node), _ in pairs],
        "class_ids": [i for _, i in pairs],
        "class_weights": (rng.normal(size=len(pairs)) / 4).tolist(),
        "classlabels_int64s": [3, 8],
    }
    x = rows(rng, 4)
    proto = model(
        "TreeEnsembleClassifier", [x], outs=2, post_transform=how, **nodes, **votes
    )
    labels, scores = graphopt.run_model(proto, {"x0": x})
    theirs, expected = in_runtime(proto, {"x0": x})
    assert_alike(scores, expected)
    assert labels.tolist() == np.array([3, 8])[scores.argmax(1)].tolist()
    assert set(theirs.tolist()) == {0, 1}


@pytest.mark.runtime
def test_doubles_are_compared_as_such() -> None:
    rng = np.random.default_rng(5)
    nodes, leaves = trees(rng, 5, 4, 3)
    votes = voting(rng, leaves, "target", [0, 1])
    nodes["nodes_values_as_tensor"] = np.array(nodes.pop("nodes_values")) / 10
    votes["target_weights_as_tensor"] = np.array(votes.pop("target_weights"))
    x = rows(rng, 3).astype(np.float64) / 10
    compare("TreeEnsembleRegressor", x, n_targets=2, **nodes, **votes)


@pytest.mark.runtime
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", [0, 1, 2, 3])
def test_leaves_apart_from_nodes(dtype: Any, how: int) -> None:
    """TreeEnsemble of opset 5: two trees, one of a single leaf, and sets of members."""
    x = np.array([[1, 2], [3, -1], [0.5, 7], [np.nan, 2]], dtype)
    compare(
        "TreeEnsemble",
        x,
        version=5,
        n_targets=2,
        aggregate_function=how,
        tree_roots=[0, 3],
        nodes_modes=np.array([0, 6, 3, 0], np.uint8),
        nodes_featureids=[0, 1, 1, 0],
        nodes_splits=np.array([1, 0, 1.5, 0], dtype),
        nodes_truenodeids=[1, 0, 2, 4],
        nodes_trueleafs=[0, 1, 1, 1],
        nodes_falsenodeids=[2, 1, 3, 4],
        nodes_falseleafs=[0, 1, 1, 1],
        nodes_missing_value_tracks_true=[1, 0, 0, 0],
        leaf_targetids=[0, 1, 0, 1, 1],
        leaf_weights=np.array([5, 6, 7, 8, 0.25], dtype),
        membership_values=np.array([2, 4, np.nan], dtype),
    )


def test_trees_that_go_round_are_refused() -> None:
    nodes = {
        "nodes_treeids": [0, 0],
        "nodes_nodeids": [0, 1],
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ"],
        "nodes_featureids": [0, 0],
        "nodes_values": [0.0, 0.0],
        "nodes_truenodeids": [1, 0],
        "nodes_falsenodeids": [1, 0],
    }
    votes = {"target_treeids": [0], "target_nodeids": [1], "target_ids": [0]}
    x = np.zeros((1, 1), np.float32)
    proto = model(
        "TreeEnsembleRegressor",
        [x],
        n_targets=1,
        target_weights=[1.0],
        **nodes,
        **votes,
    )
    with pytest.raises(GraphoptError, match="circle"):
        graphopt.run_model(proto, {"x0": x})


def test_base_values_of_two_classes_have_no_reference() -> None:
    rng = np.random.default_rng(6)
    nodes, leaves = trees(rng, 2, 2, 2)
    votes = voting(rng, leaves, "class", [0, 1])
    labels = {"classlabels_int64s": [0, 1], "base_values": [0.5, 0.25]}
    x = rows(rng, 2)
    proto = model("TreeEnsembleClassifier", [x], outs=2, **labels, **nodes, **votes)
    with pytest.raises(NoReference, match="base values"):
        graphopt.run_model(proto, {"x0": x})


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


@pytest.mark.xla
def test_trees_can_be_traced() -> None:
    jax = pytest.importorskip("jax")
    from graphopt.xp import host, traced

    rng = np.random.default_rng(11)
    nodes, leaves = trees(rng, 6, 4, 3, MODES, missing=True)
    votes = voting(rng, leaves, "target", [0, 1])
    x = rows(rng, 3, holes=True)
    proto = model("TreeEnsembleRegressor", [x], n_targets=2, **nodes, **votes)
    (op,) = load(proto).ops
    with traced().scope():
        found = jax.jit(lambda x: op.compute(traced(), x))(x)  # type: ignore[attr-defined]
    with host().scope():
        expected = op.compute(host(), x)  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-6)


def chain(depth: int) -> dict[str, Any]:
    """One tree, in which each node has a leaf and the next node: as deep as can be."""
    inner, leaves = list(range(depth)), list(range(depth, 2 * depth + 1))
    none = [0] * len(leaves)
    return {
        "nodes_treeids": [0] * (2 * depth + 1),
        "nodes_nodeids": inner + leaves,
        "nodes_modes": ["BRANCH_LEQ"] * depth + ["LEAF"] * len(leaves),
        "nodes_featureids": [0] * depth + none,
        "nodes_values": [float(i) for i in inner] + [0.0] * len(leaves),
        "nodes_truenodeids": leaves[:-1] + none,
        "nodes_falsenodeids": inner[1:] + leaves[-1:] + none,
        "target_treeids": none,
        "target_nodeids": leaves,
        "target_ids": none,
        "target_weights": [float(i) for i in range(len(leaves))],
        "n_targets": 1,
    }


@pytest.mark.xla
def test_deep_trees_are_no_larger_programs() -> None:
    jax = pytest.importorskip("jax")
    from graphopt.xp import traced

    x = np.array([[-1.0], [0.5], [17.0], [250.5], [1e9]], np.float32)
    sizes = []
    for depth in (40, 400):
        proto = model("TreeEnsembleRegressor", [x], **chain(depth))
        (op,) = load(proto).ops

        def run(x: Any, op: Any = op) -> Any:
            return op.compute(traced(), x)

        with traced().scope():
            sizes.append(str(jax.make_jaxpr(run)(x)).count("gather"))
            found = jax.jit(run)(x)
            slope = jax.grad(lambda x, run=run: run(x).sum())(x)
        expected = np.minimum([[0], [1], [17], [251], [depth]], depth)
        np.testing.assert_array_equal(np.asarray(found), expected)
        np.testing.assert_array_equal(graphopt.run_model(proto, {"x0": x})[0], expected)
        assert not np.asarray(slope).any()
    assert sizes[0] == sizes[1]
