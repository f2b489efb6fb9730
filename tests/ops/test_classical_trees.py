"""Trees of ai.onnx.ml, made up here, against ONNX Runtime's kernels."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from classical_models import (
    MODES,
    TRANSFORMS,
    assert_alike,
    compare,
    in_runtime,
    model,
    rows,
    trees,
    voting,
)
from peers import QUICK

import graphopt
from graphopt.errors import GraphoptError, NoReference
from graphopt.importer import load


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
        run = jax.jit(lambda x: op.compute(traced(), x), compiler_options=QUICK)  # type: ignore[attr-defined]
        found = run(x)
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
            found = jax.jit(run, compiler_options=QUICK)(x)
            total = jax.grad(lambda x, run=run: run(x).sum())
            slope = jax.jit(total, compiler_options=QUICK)(x)
        expected = np.minimum([[0], [1], [17], [251], [depth]], depth)
        np.testing.assert_array_equal(np.asarray(found), expected)
        np.testing.assert_array_equal(graphopt.run_model(proto, {"x0": x})[0], expected)
        assert not np.asarray(slope).any()
    assert sizes[0] == sizes[1]
