"""How large the numbers of a value can be, as far as what makes it says."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from graphopt.dims import product
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Concat,
    Div,
    Expand,
    Flatten,
    Gather,
    Identity,
    LayerNormalization,
    MatMul,
    Mul,
    Neg,
    Reshape,
    RMSNormalization,
    RotaryEmbedding,
    Slice,
    Softmax,
    Squeeze,
    Sub,
    Tanh,
    Transpose,
    Unsqueeze,
)
from graphopt.weights import Tensor

from .match import axis_of

DEEPEST: Final = 32
"""Ops in a row that are looked through."""

READ: Final = 1 << 26
"""Constants of more elements are not read for a bound."""

_AS_LARGE: Final = (
    *(Expand, Flatten, Gather, Identity, Neg, Reshape, Slice),
    *(Squeeze, Transpose, Unsqueeze),
)
"""Ops whose results hold numbers of the first operand, or their negatives."""


def largest(value: Value | None) -> float:
    """A bound of the magnitudes in a float value; infinite where none is known.

    It is that of exact arithmetic: rounding may exceed it by a little.
    """
    return _Bounds().of(value, DEEPEST)


class _Bounds:
    """Bounds of values, each found once; ``left`` says how many ops may follow."""

    def __init__(self) -> None:
        self.known: dict[Value, float] = {}

    def of(self, value: Value | None, left: int) -> float:
        if value is None or not left or value.dtype is None or not value.dtype.is_float:
            return math.inf
        if value not in self.known:
            tensor = value.constant
            self.known[value] = (
                self.made(value, left - 1) if tensor is None else _magnitude(tensor)
            )
        return self.known[value]

    def made(self, value: Value, left: int) -> float:
        """The bound of what an op makes."""
        op = value.op
        if op is None or value is not op.results[0]:
            return math.inf
        if isinstance(op, Softmax | Tanh):
            return 1.0
        if isinstance(op, _AS_LARGE):
            return self.of(op.operands[0], left)
        if isinstance(op, Concat):
            return max(self.of(x, left) for x in op.operands)
        if isinstance(op, MatMul):
            return self.product(op, left)
        if isinstance(op, LayerNormalization | RMSNormalization):
            return self.normalized(op, left)
        if isinstance(op, RotaryEmbedding):  # each is a sum of two products
            x, cosine, sine = (self.of(op.operand(i), left) for i in range(3))
            return _times(x, cosine + sine)
        if not isinstance(op, Add | Sub | Mul | Div):
            return math.inf
        x = self.of(op.operands[0], left)
        if isinstance(op, Div):
            return _times(x, _inverse(op.operands[1]))
        y = self.of(op.operands[1], left)
        return _times(x, y) if isinstance(op, Mul) else x + y

    def product(self, op: MatMul, left: int) -> float:
        x, y = op.operands
        if y is None or y.shape is None or len(y.shape) < 2:
            return math.inf
        tensor, depth = y.constant, y.shape[-2]
        if tensor is not None and tensor.size <= READ:
            columns = np.abs(tensor.array().astype(np.float64)).sum(-2)
            return _times(self.of(x, left), _finite(columns.max(initial=0.0)))
        if not isinstance(depth, int):
            return math.inf
        return _times(depth * self.of(x, left), self.of(y, left))

    def normalized(self, op: LayerNormalization | RMSNormalization, left: int) -> float:
        """Of n numbers whose mean square is 1, none is larger than the root of n."""
        x = op.operands[0]
        if x is None or x.shape is None:
            return math.inf
        count = product(x.shape[axis_of(op.axis, len(x.shape)) :])
        if not isinstance(count, int):
            return math.inf
        bias = op.operand(2)
        shift = 0.0 if bias is None else self.of(bias, left)
        return _times(math.sqrt(count), self.of(op.operands[1], left)) + shift


def _times(a: float, b: float) -> float:
    """a * b, where nothing is known of 0 times infinity."""
    return math.inf if math.inf in (a, b) else a * b


def _finite(number: float) -> float:
    return math.inf if math.isnan(number) else float(number)


def _magnitude(tensor: Tensor) -> float:
    if tensor.size > READ:
        return math.inf
    return _finite(np.abs(tensor.array().astype(np.float64)).max(initial=0.0))


def _inverse(value: Value | None) -> float:
    """The largest magnitude of 1 / c, for a constant c."""
    tensor = None if value is None else value.constant
    if tensor is None or tensor.size > READ:
        return math.inf
    least = np.abs(tensor.array().astype(np.float64)).min(initial=math.inf)
    return float(1 / least) if least > 0 else math.inf
