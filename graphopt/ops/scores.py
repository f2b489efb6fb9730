"""What classical models have in common: rows of features in, scores and labels out.

ONNX leaves much of this open; where it does, it is as in ONNX Runtime, which is what
runs such models (domain ai.onnx.ml).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Dim, Shape
from ..errors import NoReference
from ..index import Maps
from ..types import DType
from .steering import shape_of
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace

DOMAIN = "ai.onnx.ml"


class RowModel(Structured):
    """A model of rows: ``[row, feature]`` -> ``[row, score]``; a vector is one row."""

    combiner = None

    def scores(self) -> int:
        """How many scores each row has."""
        raise NotImplementedError

    def rows(self) -> Dim:
        """How many rows there are."""
        shape = shape_of(self)
        if shape is None:
            return None
        if len(shape) not in (1, 2):
            raise ValueError(f"x is of rank {len(shape)}, not 1 or 2")
        return shape[0] if len(shape) == 2 else 1

    def index_maps(self) -> Maps | None:
        shape = shape_of(self)
        if shape is None or len(shape) != 2:
            return None
        return self.parse_maps("n _f -> " + ", ".join(self.words()))

    def words(self) -> list[str]:
        """The results in the notation of index maps."""
        return ["n _e"]

    def extents(self) -> Mapping[str, Dim]:
        return {"e": self.scores()}

    def result_shapes(self) -> Sequence[Shape | None]:
        if shape_of(self) is None:
            return [None]
        return [(self.rows(), self.scores())]

    def features(self, xp: Namespace, x: Array) -> Array:
        """The rows, as numbers of 32 bits or more."""
        x = xp.reshape(x, (1, -1)) if x.ndim == 1 else x
        return x if x.dtype == np.float64 else xp.cast(x, DType.F32)


class Classifier(RowModel):
    """A model that gives a label for each row, then its scores."""

    def default_outs(self) -> int:
        return 2

    def labels(self) -> np.ndarray[Any, Any]:
        """The label of each class. Raises ValueError where there are none."""
        for name in ("classlabels_int64s", "classlabels_ints"):
            if self.attrs.get(name):
                return np.array(self.attrs[name], np.int64)
        found: Any = self.attrs.get("classlabels_strings")
        if not found:
            raise ValueError("no labels of classes are given")
        return np.array(found, object)

    def scores(self) -> int:
        return len(self.labels())

    def words(self) -> list[str]:
        return ["n", "n _e"]

    def result_dtypes(self) -> Sequence[DType | None]:
        return [DType.of(self.labels().dtype), DType.F32][: self.outs]

    def result_shapes(self) -> Sequence[Shape | None]:
        if shape_of(self) is None:
            return [None] * self.outs
        return [(self.rows(),), (self.rows(), self.scores())][: self.outs]

    def labelled(self, xp: Namespace, classes: Array, scores: Array) -> Any:
        """The results, from the position of each row's label."""
        labels = self.labels()
        if labels.dtype.kind == "O" and xp.name != "host":
            raise NoReference(f"{self.kind} with labels of strings runs on NumPy only")
        found = xp.take(xp.asarray(labels), classes)
        return found if self.outs == 1 else (found, scores)


def transformed(xp: Namespace, scores: Array, how: str) -> Array:
    """Scores of each row after ``post_transform``. Raises NoReference."""
    if how == "NONE":
        return scores
    if how == "LOGISTIC":
        return xp.sigmoid(scores)
    if how == "PROBIT":
        return _probit(xp, scores)
    if how not in ("SOFTMAX", "SOFTMAX_ZERO"):
        raise NoReference(f"post_transform {how!r} is not known")
    top = xp.max(scores, -1, keepdims=True)
    powers = xp.exp(xp.subtract(scores, top))
    if how == "SOFTMAX_ZERO":  # what is zero stays so
        powers = xp.where(xp.greater(xp.abs(scores), 1e-7), powers, 0.0)
    return xp.divide(powers, xp.sum(powers, -1, keepdims=True))


def of_two_classes(xp: Namespace, score: Array, how: str, *, centred: Array) -> Array:
    """Scores ``[row, 2]`` from ``[row, 1]``, that of the second class.

    That of the first is the opposite where ``centred``, else what is left of 1.
    """
    if how == "LOGISTIC":
        pair = [xp.sigmoid(xp.negative(score)), xp.sigmoid(score)]
    elif how == "PROBIT":
        raise NoReference("ONNX does not say what PROBIT makes of one score")
    else:
        whole = xp.cast(xp.logical_not(centred), DType.of(score.dtype))
        pair = [xp.subtract(whole, score), score]
    return xp.concat(pair, -1)


_A = 0.147


def _probit(xp: Namespace, p: Array) -> Array:
    """The inverse of the normal distribution, to two parts in a thousand.

    Winitzki, "A handy approximation for the error function and its inverse" (2008).
    """
    x = xp.subtract(xp.multiply(p, 2.0), 1.0)
    log = xp.log(xp.multiply(xp.subtract(1.0, x), xp.add(1.0, x)))
    half = xp.add(xp.multiply(log, 0.5), 2 / (math.pi * _A))
    root = xp.sqrt(xp.subtract(xp.square(half), xp.multiply(log, 1 / _A)))
    size = xp.sqrt(xp.multiply(xp.subtract(root, half), 2.0))
    return xp.where(xp.less(x, 0.0), xp.negative(size), size)
