"""Ops for which XLA has a better way than their own `compute`.

Each override computes what the op's `compute` does, and is tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from graphopt.ops import Attention
from graphopt.ops.pooling import AveragePool, GlobalAveragePool
from graphopt.ops.reduction import ReduceMean
from graphopt.ops.reshaping import Reshaping
from graphopt.ops.softmax import AlongAxis, LogSoftmax, Softmax
from graphopt.ops.strings import TfIdfVectorizer
from graphopt.types import DType

from .flash import attended
from .mesh_ops import MESH_OPS

if TYPE_CHECKING:
    from graphopt.xp import Namespace

Array = Any


def tf_idf(op: TfIdfVectorizer, xp: Namespace, x: Array) -> Array:
    """Every window of a row compared with every n-gram of the pool."""
    rows = xp.reshape(x, (1, -1)) if x.ndim < 2 else x
    width = max(op.ngram_indexes) + 1
    counts = xp.zeros((rows.shape[0], width), DType.F32)
    for gram, number in op.pool().items():
        column = op.ngram_indexes[number]
        place = xp.asarray(np.eye(width, dtype=np.float32)[column])
        for apart in op.distances(len(gram)):
            if (len(gram) - 1) * apart < rows.shape[1]:
                found = xp.cast(_matches(xp, rows, gram, apart), DType.F32)
                hits = xp.sum(found, 1, keepdims=True)
                counts = xp.add(counts, xp.multiply(hits, place))
    return xp.reshape(op.weighted(xp, counts), (*x.shape[:-1], width))


def _matches(xp: Namespace, rows: Array, gram: Any, apart: int) -> Array:
    """Where an n-gram begins whose elements lie ``apart``."""
    last = rows.shape[1] - (len(gram) - 1) * apart
    found = xp.asarray(np.ones((1, last), np.bool_))
    for i, word in enumerate(gram):
        part = rows[:, i * apart : i * apart + last]
        found = xp.logical_and(found, xp.equal(part, word))
    return found


def of_mean(op: AlongAxis, xp: Namespace, x: Array) -> Array:
    """softmax(x) = softmax(x - max(x)), where x is a mean.

    In a fusion XLA divides the sum again, by a fused multiply-add, so that a mean is
    off from its own largest by what rounding took: of 1e10 up to 512, which exp does
    not bear. What is left is what the op takes away itself.
    """
    source = op.operands[0]
    while isinstance(source, Reshaping):
        source = source.operands[0]
    if isinstance(source, ReduceMean | GlobalAveragePool | AveragePool):
        x = xp.subtract(x, xp.held(xp.max(x, op.axis, keepdims=True)))
    return op.compute(xp, x)


OVERRIDES: Final[Mapping[type, Callable[..., Any]]] = {
    Attention: attended,
    LogSoftmax: of_mean,
    Softmax: of_mean,
    TfIdfVectorizer: tf_idf,
    **MESH_OPS,
}
"""The override of each kind of op that has one: of op, namespace and operands."""
