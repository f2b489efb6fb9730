"""How large the numbers of a value can be, as far as what makes it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from graphopt.dims import equal, product
from graphopt.ir import Op, Value
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
    Split,
    Squeeze,
    Sub,
    Tanh,
    Transpose,
    Unsqueeze,
)
from graphopt.weights import Tensor

from .match import axis_of, perm_of

DEEPEST: Final = 32
"""Ops in a row that are looked through."""

READ: Final = 1 << 26
"""Constants of more elements are not read for a bound."""

_AS_LARGE: Final = (
    *(Expand, Flatten, Gather, Identity, Neg, Reshape, Slice),
    *(Split, Squeeze, Transpose, Unsqueeze),
)
"""Ops whose results hold numbers of the first operand, or their negatives."""


def largest(value: Value | None) -> float:
    """A bound of the magnitudes in a float value; infinite where none is known.

    It is that of exact arithmetic: rounding may exceed it by a little.
    """
    return _Bounds().of(value, DEEPEST)


class _Bounds:
    """Bounds of values, each found once; ``left`` says how many ops may follow.

    Products are bounded by the largest numbers, and by the lengths of rows: those of
    what is normed are known, and each number of a product is at most that of a row and
    of a column taken together (Cauchy and Schwarz).
    """

    def __init__(self) -> None:
        self.known: dict[Value, float] = {}
        self.rows: dict[Value, float] = {}

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
        if op is None or (value is not op.results[0] and not isinstance(op, Split)):
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
        largest, row = self.of(x, left), self.length(x, left)
        if math.isinf(largest):  # so is the length, as all numbers are in rows
            return math.inf
        tensor, depth = y.constant, y.shape[-2]
        if tensor is not None and tensor.size <= READ:
            numbers = np.abs(tensor.array().astype(np.float64))
            total = _finite(numbers.sum(-2).max(initial=0.0))
            column = _finite(np.sqrt((numbers**2).sum(-2)).max(initial=0.0))
            return min(_times(largest, total), _times(row, column))
        found = _times(row, self.column(y, left))
        if not isinstance(depth, int):
            return found
        return min(_times(depth * largest, self.of(y, left)), found)

    def length(self, value: Value | None, left: int) -> float:
        """A bound of the lengths of rows, which are vectors along the last axis."""
        if value is None or not left or not value.shape:
            return math.inf
        if value not in self.rows:
            size = value.shape[-1]
            root = math.sqrt(size) if isinstance(size, int) else math.inf
            found = _times(root, self.of(value, left))
            self.rows[value] = min(found, self.row(value, left - 1))
        return self.rows[value]

    def column(self, value: Value, left: int) -> float:
        """A bound of the lengths of vectors along the last axis but one."""
        if not isinstance(value, Transpose) or value.rank is None:
            return math.inf
        last = value.rank - 1
        if perm_of(value.rank, value.perm)[-2] != last:
            return math.inf
        return self.length(value.operands[0], left)

    def row(self, value: Value, left: int) -> float:
        """The bound of rows by those of what they are made of; infinite elsewhere."""
        op, tensor = value.op, value.constant
        if tensor is not None:
            if tensor.size > READ:
                return math.inf
            squares = tensor.array().astype(np.float64) ** 2
            return _finite(np.sqrt(squares.sum(-1)).max(initial=0.0))
        if op is None or (value is not op.results[0] and not isinstance(op, Split)):
            return math.inf
        x = op.operand(0)
        if isinstance(op, _AS_LARGE):
            return self.length(x, left) if _holds_rows(op, x, value) else math.inf
        if isinstance(op, LayerNormalization | RMSNormalization):
            rank = value.rank
            if rank is None or axis_of(op.axis, rank) != rank - 1:
                return math.inf
            return self.normalized(op, left, rows=True)
        if isinstance(op, RotaryEmbedding):  # pairs are turned
            cosine, sine = (self.of(op.operand(i), left) for i in (1, 2))
            return _times(self.length(x, left), cosine + sine)
        if isinstance(op, Add | Sub) and all(map(_as_wide(value), op.operands)):
            return sum(self.length(each, left) for each in op.operands)
        if isinstance(op, MatMul):
            y = op.operands[1]
            weight = None if y is None or (y.rank or 0) < 2 else y.constant
            if weight is None or weight.size > READ:
                return math.inf
            squares = weight.array().astype(np.float64) ** 2
            whole = np.sqrt(squares.sum((-2, -1))).max(initial=0.0)
            return _times(self.length(x, left), _finite(whole))
        return math.inf

    def normalized(
        self,
        op: LayerNormalization | RMSNormalization,
        left: int,
        *,
        rows: bool = False,
    ) -> float:
        """Of n numbers whose mean square is 1, the length is the root of n.

        So none of them is larger, either.
        """
        x = op.operands[0]
        if x is None or x.shape is None:
            return math.inf
        count = product(x.shape[axis_of(op.axis, len(x.shape)) :])
        if not isinstance(count, int):
            return math.inf
        bias = op.operand(2)
        of = self.length if rows else self.of
        shift = 0.0 if bias is None else of(bias, left)
        return _times(math.sqrt(count), self.of(op.operands[1], left)) + shift


def _as_wide(value: Value) -> Callable[[Value | None], bool]:
    """Whether an operand has as large a last dim as what is made of it."""
    size = value.shape[-1] if value.shape else None
    return lambda x: bool(x and x.shape and size and equal(x.shape[-1], size))


def _holds_rows(op: Op, x: Value | None, value: Value) -> bool:
    """True where each row of a result is a row of x, or a part of one."""
    if x is None or not x.shape or not value.shape:
        return False
    last, rank = x.shape[-1], len(x.shape)
    if isinstance(op, Neg | Identity | Slice | Split | Unsqueeze):
        return True
    if isinstance(op, Transpose):
        return perm_of(rank, op.perm)[-1] == rank - 1
    if isinstance(op, Gather):
        return axis_of(op.axis, rank) != rank - 1
    size = value.shape[-1]
    if isinstance(op, Reshape | Flatten):
        both = isinstance(last, int) and isinstance(size, int) and size > 0
        return equal(last, size) or (both and last % size == 0)
    return last != 1 and equal(last, size)


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
