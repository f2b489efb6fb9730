"""Support vector machines (domain ai.onnx.ml).

Chang and Lin, "LIBSVM: a library for support vector machines", 2011.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NoReference
from ..types import DType
from .registry import op
from .scores import DOMAIN, Classifier, RowModel, of_two_classes, transformed
from .structured import Array

if TYPE_CHECKING:
    from ..xp import Namespace

_TINY = 1e-7


class SupportVectors(RowModel):
    """A model by how near rows are to the support vectors."""

    def numbers(self, xp: Namespace, name: str, x: Array) -> Array:
        """An attribute, in the type of x."""
        given = np.array(self.attrs.get(name, ()), np.float32)
        return xp.cast(xp.asarray(given), DType.of(x.dtype))

    def nearness(self, xp: Namespace, x: Array, others: Array, kind: str) -> Array:
        """``[row, other]``: the kernel of each row with each other vector."""
        gamma, shift, degree = self.kernel_params or (0.0, 0.0, 0.0)
        if kind == "RBF":
            apart = xp.subtract(xp.unsqueeze(x, (1,)), xp.unsqueeze(others, (0,)))
            square = xp.sum(xp.square(apart), 2)
            return xp.exp(xp.multiply(square, -gamma))
        product = xp.matmul(x, xp.transpose(others, (1, 0)))
        if kind == "LINEAR":
            return product
        scaled = xp.add(xp.multiply(product, gamma), shift)
        if kind == "POLY":
            return xp.power(scaled, xp.asarray(degree, DType.of(x.dtype)))
        if kind == "SIGMOID":
            return xp.tanh(scaled)
        raise NoReference(f"kernel_type {kind!r} is not known")


@op("SVMRegressor", domain=DOMAIN)
class SVMRegressor(SupportVectors):
    """The weighed nearness to all support vectors, plus rho; without any, linear.

    With ``one_class`` 1 where that is above 0, else -1.
    """

    def scores(self) -> int:
        return 1

    def compute(self, xp: Namespace, x: Array) -> Array:
        x = self.features(xp, x)
        weights = xp.reshape(self.numbers(xp, "coefficients", x), (1, -1))
        if self.n_supports:
            others = self.numbers(xp, "support_vectors", x)
            others = xp.reshape(others, (self.n_supports, -1))
            near = self.nearness(xp, x, others, self.kernel_type)
            score = xp.matmul(near, xp.transpose(weights, (1, 0)))
        else:
            score = self.nearness(xp, x, weights, "LINEAR")
        score = xp.add(score, self.numbers(xp, "rho", x)[:1])
        if self.one_class:
            one = xp.ones(score.shape, DType.of(x.dtype))
            return xp.where(xp.greater(score, 0.0), one, xp.negative(one))
        return score


@op("SVMClassifier", domain=DOMAIN)
class SVMClassifier(Classifier, SupportVectors):
    """The class that wins most of its duels with each other class.

    The scores are those of the duels, or with ``prob_a`` and ``prob_b`` probabilities
    of the classes; without support vectors, those of a linear model of each class.
    """

    def duels(self) -> list[tuple[int, int]]:
        count = len(self.labels())
        return [(i, j) for i in range(count) for j in range(i + 1, count)]

    def scores(self) -> int:
        classes = len(self.labels())
        if not self.vectors_per_class or self.prob_a or classes == 2:
            return classes
        return len(self.duels())

    def compute(self, xp: Namespace, x: Array) -> Any:
        x, how = self.features(xp, x), self.post_transform
        if not self.vectors_per_class:
            return self._linear(xp, x)
        scores = self._fought(xp, x)
        votes = self._votes(xp, scores)
        best = xp.argmax(votes, 1)
        if self.prob_a:
            scores = self._likely(xp, scores)
        if self.prob_a or len(self.labels()) > 2:
            return self.labelled(xp, best, transformed(xp, scores, how))
        centred = xp.asarray(True, np.bool_)
        pair = of_two_classes(xp, scores, how, centred=centred)
        return self.labelled(xp, best, pair)

    def _linear(self, xp: Namespace, x: Array) -> Any:
        weights = self.numbers(xp, "coefficients", x)
        weights = xp.reshape(weights, (len(self.labels()), -1))
        scores = self.nearness(xp, x, weights, "LINEAR")
        scores = xp.add(scores, self.numbers(xp, "rho", x)[:1])
        best = xp.argmax(scores, 1)
        return self.labelled(xp, best, transformed(xp, scores, self.post_transform))

    def _fought(self, xp: Namespace, x: Array) -> Array:
        """``[row, duel]``: above 0 where the first class wins."""
        per_class: Any = self.vectors_per_class
        ends = np.cumsum((0, *per_class)).tolist()
        others = xp.reshape(self.numbers(xp, "support_vectors", x), (ends[-1], -1))
        weights = xp.reshape(self.numbers(xp, "coefficients", x), (-1, ends[-1]))
        near = self.nearness(xp, x, others, self.kernel_type)
        rho = self.numbers(xp, "rho", x)
        columns = []
        for at, (i, j) in enumerate(self.duels()):
            of_i, of_j = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
            first = xp.matmul(near[:, of_i], weights[j - 1, of_i])
            second = xp.matmul(near[:, of_j], weights[i, of_j])
            columns.append(xp.add(xp.add(first, second), rho[at]))
        return xp.stack(columns, 1)

    def _votes(self, xp: Namespace, scores: Array) -> Array:
        """``[row, class]``: how many duels each class wins."""
        won = xp.greater(scores, 0.0)
        wins = np.zeros((2, len(self.duels()), len(self.labels())), np.int64)
        for at, (i, j) in enumerate(self.duels()):
            wins[0, at, i] = wins[1, at, j] = 1
        first, second = (xp.cast(x, DType.I64) for x in (won, xp.logical_not(won)))
        of_first, of_second = map(xp.asarray, wins)
        return xp.add(xp.matmul(first, of_first), xp.matmul(second, of_second))

    def _likely(self, xp: Namespace, scores: Array) -> Array:
        """``[row, class]``: probabilities that agree best with those of all duels."""
        if xp.name != "host":
            raise NoReference("probabilities of an SVMClassifier run on NumPy only")
        count = len(self.labels())
        a, b = (self.numbers(xp, name, scores) for name in ("prob_a", "prob_b"))
        wins = xp.sigmoid(xp.negative(xp.add(xp.multiply(scores, a), b)))
        wins = xp.clip(wins, _TINY, 1 - _TINY)
        duels = np.zeros((len(scores), count, count), scores.dtype)
        for at, (i, j) in enumerate(self.duels()):
            duels[:, i, j] = wins[:, at]
            duels[:, j, i] = 1 - wins[:, at]
        return np.stack([_coupled(row) for row in duels]) if len(duels) else scores


def _coupled(duels: Array) -> Array:
    """Probabilities of classes from ``duels[i, j]``, that i wins against j.

    Wu, Lin and Weng, "Probability estimates for multi-class classification by pairwise
    coupling", JMLR 5 (2004), algorithm 2, with LIBSVM's limits.
    """
    count = len(duels)
    matrix = -duels.T * duels
    np.fill_diagonal(matrix, (duels**2).sum(0))
    p = np.full(count, 1 / count, duels.dtype)
    for _ in range(max(100, count)):
        product = matrix @ p
        mean = p @ product
        if np.abs(product - mean).max() < 0.005 / count:
            break
        for t in range(count):
            step = (mean - product[t]) / matrix[t, t]
            p[t] += step
            mean = mean + step * (step * matrix[t, t] + 2 * product[t])
            mean /= (1 + step) ** 2
            product = (product + step * matrix[t]) / (1 + step)
            p /= 1 + step
    return p
