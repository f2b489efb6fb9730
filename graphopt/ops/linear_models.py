"""Linear models of rows (domain ai.onnx.ml)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..types import DType
from .registry import op
from .scores import DOMAIN, Classifier, RowModel, of_two_classes, transformed
from .structured import Array

if TYPE_CHECKING:
    from ..xp import Namespace


def _product(xp: Namespace, x: Array, op: Any, count: int) -> Array:
    """``count`` scores of each row."""
    weights = np.array(op.coefficients, np.float32).reshape((count, -1))
    dtype = DType.of(x.dtype)
    scores = xp.matmul(x, xp.cast(xp.asarray(weights.T), dtype))
    if not op.intercepts:
        return scores
    shift = np.array(op.intercepts, np.float32)
    return xp.add(scores, xp.cast(xp.asarray(shift), dtype))


@op("LinearRegressor", domain=DOMAIN)
class LinearRegressor(RowModel):
    """``x coefficients' + intercepts``, transformed where there are two and more."""

    def scores(self) -> int:
        return int(self.targets)

    def compute(self, xp: Namespace, x: Array) -> Array:
        scores = _product(xp, self.features(xp, x), self, self.scores())
        if self.scores() == 1 and self.post_transform != "PROBIT":
            return scores
        return transformed(xp, scores, self.post_transform)


@op("LinearClassifier", domain=DOMAIN)
class LinearClassifier(Classifier):
    """Scores as of `LinearRegressor`, and the label of the highest.

    Where two classes have one score, it is that of the second: its label is that of
    a row with a score above 0.
    """

    def compute(self, xp: Namespace, x: Array) -> Any:
        x, how, classes = self.features(xp, x), self.post_transform, self.scores()
        count = len(self.intercepts or ()) or classes
        scores = _product(xp, x, self, count)
        if count == 1 and classes == 2:
            first = xp.cast(xp.greater(scores[:, 0], 0.0), DType.I64)
            centred = xp.asarray(False, np.bool_)
            pair = of_two_classes(xp, scores, how, centred=centred)
            return self.labelled(xp, first, pair)
        best = xp.argmax(scores, 1, keepdims=False)
        return self.labelled(xp, best, transformed(xp, scores, how))
