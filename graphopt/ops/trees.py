"""Ensembles of decision trees (domain ai.onnx.ml).

Where ONNX leaves open what two classes with one score are, it is as in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NoReference
from ..types import DType
from ..weights import Tensor
from .forest import LEAF, MEMBER, MODES, Forest, Totals, depth_of, sets_of, votes_of
from .registry import op
from .scores import DOMAIN, Classifier, RowModel, of_two_classes, transformed
from .structured import Array

if TYPE_CHECKING:
    from ..ir import Op
    from ..xp import Namespace

_HOW = {"SUM": "add", "AVERAGE": "add", "MIN": "min", "MAX": "max"}


def _stated(op: Op, name: str) -> Any:
    """An attribute that may be given as a tensor; an empty array where it is not."""
    tensor = op.attrs.get(f"{name}_as_tensor", op.attrs.get(name))
    if isinstance(tensor, Tensor):
        return tensor.array().reshape(-1)
    return np.array(() if tensor is None else tensor, np.float32)


def _ints(op: Op, name: str) -> Any:
    found: Any = op.attrs.get(name)
    return np.array(() if found is None else found, np.int64)


def _forest(op: Op, votes: str, count: int) -> Forest:
    """The trees of nodes that are known by the numbers of tree and node.

    ``votes`` is what attributes that tell of votes begin with. Raises ValueError.
    """
    trees, numbers = _ints(op, "nodes_treeids"), _ints(op, "nodes_nodeids")
    given: Any = op.attrs.get("nodes_modes", ())
    nodes = len(trees)
    try:
        modes = np.array([MODES.index(mode) for mode in given], np.int64)
    except ValueError as error:
        raise ValueError(f"nodes_modes: {error}") from None
    pairs = list(zip(trees.tolist(), numbers.tolist(), strict=True))
    place = {pair: i for i, pair in enumerate(pairs)}
    if len(modes) != nodes or len(place) != nodes:
        raise ValueError("nodes_* differ in length, or two nodes have one number")

    def places(owners: Any, wanted: Any) -> Any:
        try:
            keys = zip(owners.tolist(), wanted.tolist(), strict=True)
            return np.array([place[key] for key in keys], np.int64)
        except KeyError as error:
            raise ValueError(f"there is no node {error} (tree, node)") from None

    def children(name: str) -> Any:
        found = np.arange(nodes)
        inner = modes != LEAF
        found[inner] = places(trees[inner], _ints(op, name)[inner])
        return found

    yes, no = children("nodes_truenodeids"), children("nodes_falsenodeids")
    _, first = np.unique(trees, return_index=True)
    roots = np.sort(first)
    missing = _ints(op, "nodes_missing_value_tracks_true")
    leaves = places(_ints(op, f"{votes}_treeids"), _ints(op, f"{votes}_nodeids"))
    ids, weights = _ints(op, f"{votes}_ids"), _stated(op, f"{votes}_weights")
    targets, by = votes_of(leaves, ids, weights, nodes, count)
    return Forest(
        modes=modes,
        features=_features(op, modes),
        thresholds=_stated(op, "nodes_values"),
        yes=yes,
        no=no,
        missing_is_yes=missing > 0 if missing.size else np.zeros(nodes, np.bool_),
        members=None,
        roots=roots,
        depth=depth_of(yes, no),
        targets=targets,
        weights=by,
    )


def _features(op: Op, modes: Any) -> Any:
    """What each node looks at; leaves at nothing, whatever they say."""
    found = np.where(modes == LEAF, 0, _ints(op, "nodes_featureids"))
    if found.min(initial=0) < 0:
        raise ValueError(f"nodes_featureids: there is no feature {found.min()}")
    return found


@op("TreeEnsembleRegressor", domain=DOMAIN)
class TreeEnsembleRegressor(RowModel):
    """What the trees say of each target, aggregated, plus its base value.

    Transformed where there are two targets and more.
    """

    def scores(self) -> int:
        if self.n_targets is not None:
            return int(self.n_targets)
        return int(_ints(self, "target_ids").max(initial=0)) + 1

    @cached_property
    def forest(self) -> Forest:
        return _forest(self, "target", self.scores())

    def compute(self, xp: Namespace, x: Array) -> Array:
        x, how = self.features(xp, x), self.aggregate_function
        scores = _aggregated(xp, self.forest, x, self.scores(), how).scores
        base = _stated(self, "base_values")
        if base.size:
            base = xp.cast(xp.asarray(base), DType.of(scores.dtype))
            scores = xp.add(scores, base)
        if self.scores() == 1 and self.post_transform != "PROBIT":
            return scores
        return transformed(xp, scores, self.post_transform)


def _aggregated(
    xp: Namespace, forest: Forest, x: Array, count: int, how: str
) -> Totals:
    if how not in _HOW:
        raise NoReference(f"aggregate_function {how!r} is not known")
    found = forest.aggregated(xp, x, count, _HOW[how])
    if how == "AVERAGE":
        return found._replace(scores=xp.divide(found.scores, float(len(forest.roots))))
    return found


@op("TreeEnsembleClassifier", domain=DOMAIN)
class TreeEnsembleClassifier(Classifier):
    """The label of the class with the most votes, and the scores of all.

    If there are votes for one of two classes only, the second is the label where that
    score is above 0, or 0.5 if no vote is negative.
    """

    @cached_property
    def forest(self) -> Forest:
        return _forest(self, "class", self.scores())

    def compute(self, xp: Namespace, x: Array) -> Any:
        x, count = self.features(xp, x), self.scores()
        scores, voted = self.forest.aggregated(xp, x, count, "add")
        base = _stated(self, "base_values")
        if count < 2:
            raise NoReference("ONNX does not say what one class without another is")
        if count == 2 and base.size == 2:
            raise NoReference("runtimes mix up the base values of two classes")
        classes = set(_ints(self, "class_ids").tolist())
        if count == 2 and len(classes) == 1:
            return self._either(xp, scores, base, classes.pop())
        if base.size:
            scores = xp.add(scores, xp.cast(xp.asarray(base), DType.of(scores.dtype)))
            best = xp.argmax(scores, 1)
        else:
            nothing = xp.full(scores.shape, -np.inf, DType.of(scores.dtype))
            best = xp.argmax(xp.where(voted, scores, nothing), 1)
        return self.labelled(xp, best, transformed(xp, scores, self.post_transform))

    def _either(self, xp: Namespace, scores: Array, base: Any, voted: int) -> Any:
        """The results for two classes of which one gets all votes."""
        positive = bool(_stated(self, "class_weights").min(initial=0) >= 0)
        score, how = scores[:, voted : voted + 1], self.post_transform
        if voted == 0:
            score = xp.add(score, float(base[0])) if base.size else score
            centred = xp.asarray(not positive, np.bool_)
            pair = of_two_classes(xp, score, how, centred=centred)
        else:
            pair = transformed(xp, scores, how)
        above = xp.greater(score, 0.5 if positive else 0.0)
        return self.labelled(xp, xp.cast(above[:, 0], DType.I64), pair)


_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


@op("TreeEnsemble", domain=DOMAIN)
class TreeEnsemble(RowModel):
    """What the trees say of each target, aggregated; leaves are apart from nodes."""

    def scores(self) -> int:
        if self.n_targets is not None:
            return int(self.n_targets)
        return int(_ints(self, "leaf_targetids").max(initial=0)) + 1

    def result_dtypes(self) -> Sequence[DType | None]:
        return [self._dtype(0)]

    def features(self, xp: Namespace, x: Array) -> Array:
        return xp.reshape(x, (1, -1)) if x.ndim == 1 else x

    @cached_property
    def forest(self) -> Forest:
        modes = self.nodes_modes.array().reshape(-1).astype(np.int64)
        targets, weights = _ints(self, "leaf_targetids"), _stated(self, "leaf_weights")
        nodes, leaves = len(modes), len(targets)

        def children(side: str) -> Any:
            ids = _ints(self, f"nodes_{side}nodeids")
            ends = _ints(self, f"nodes_{side}leafs") > 0
            found = np.where(ends, ids + nodes, ids)
            if not 0 <= found.min() <= found.max() < nodes + leaves:
                raise ValueError(f"nodes_{side}nodeids has one that there is not")
            return np.concatenate([found, np.arange(nodes, nodes + leaves)])

        def of_nodes(array: Any) -> Any:
            """With nothing for the leaves."""
            return np.concatenate([array, np.zeros(leaves, array.dtype)])

        yes, no = children("true"), children("false")
        missing = _ints(self, "nodes_missing_value_tracks_true")
        missing = missing if missing.size else np.zeros(nodes, np.int64)
        members = None
        if MEMBER in modes:
            asking = np.flatnonzero(modes == MEMBER).tolist()
            values = _stated(self, "membership_values")
            members = sets_of(values, asking, nodes + leaves)
        roots = _ints(self, "tree_roots")
        if not 0 <= roots.min(initial=0) <= roots.max(initial=0) < nodes:
            raise ValueError("tree_roots has a node that there is not")
        to, by = votes_of(
            np.arange(nodes, nodes + leaves),
            targets,
            weights,
            nodes + leaves,
            self.scores(),
        )
        return Forest(
            modes=np.concatenate([modes, np.full(leaves, LEAF)]),
            features=of_nodes(_features(self, modes)),
            thresholds=of_nodes(_stated(self, "nodes_splits")),
            yes=yes,
            no=no,
            missing_is_yes=of_nodes(missing > 0),
            members=members,
            roots=roots,
            depth=depth_of(yes, no),
            targets=to,
            weights=by,
        )

    def compute(self, xp: Namespace, x: Array) -> Array:
        x, how = self.features(xp, x), _AGGREGATES[self.aggregate_function]
        scores = _aggregated(xp, self.forest, x, self.scores(), how).scores
        transform = _TRANSFORMS[self.post_transform]
        if self.scores() == 1 and transform != "PROBIT":
            return scores
        return transformed(xp, scores, transform)
