"""Means, variances and their roots, in the spellings that exporters have for them.

Between narrow floats casts are read through: the ops that these stand for compute in
float32 inside, and round once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.dims import Dim, equal
from graphopt.ir import Value
from graphopt.ops import (
    Abs,
    Cast,
    Div,
    GlobalAveragePool,
    Max,
    Mul,
    Pow,
    Reciprocal,
    ReduceL1,
    ReduceL2,
    ReduceMean,
    ReduceSum,
    ReduceSumSquare,
    Relu,
    Reshape,
    Sqrt,
    Sub,
    Unsqueeze,
)
from graphopt.ops.reduction import Reduction
from graphopt.types import DType

from .match import axis_of, is_zero, same_shape, same_type, uniform
from .raise_gelu import plus

NARROW = (DType.F32, DType.F16, DType.BF16)
"""Norms compute in float32 inside: they are no stand-in for double arithmetic."""


@dataclass(frozen=True)
class Reduced:
    """Something of ``x`` over ``axes``, which are counted from the end, in order."""

    x: Value
    axes: tuple[int, ...]

    @property
    def kept(self) -> list[Dim]:
        """The dims of x, with 1 for those that are reduced."""
        shape = self.x.shape or ()
        return [1 if i - len(shape) in self.axes else d for i, d in enumerate(shape)]

    @property
    def count(self) -> int | None:
        """How many elements become one, where that is known."""
        sizes = [(self.x.shape or ())[axis] for axis in self.axes]
        known = [size for size in sizes if isinstance(size, int)]
        return math.prod(known) if len(known) == len(sizes) else None

    @property
    def trailing(self) -> int | None:
        """The first axis, where these are the last ones."""
        return self.axes[0] if self.axes == (*range(-len(self.axes), 0),) else None

    def is_kept(self, value: Value) -> bool:
        """True where ``value`` keeps the reduced dims, as 1."""
        shape, kept = value.shape, self.kept
        if shape is None or len(shape) != len(kept):
            return False
        return all(map(equal, shape, kept))


def uncast(value: Value) -> Value:
    """A value before it was cast from one of the narrow floats to another."""
    while isinstance(value, Cast) and value.operands[0] is not None:
        if value.dtype not in NARROW or value.operands[0].dtype not in NARROW:
            break
        value = value.operands[0]
    return value


def bare(value: Value) -> Value:
    """A value before casts, and reshapes that only put dims of 1 back."""
    while True:
        inner = uncast(value)
        if isinstance(inner, Reshape | Unsqueeze) and inner.operands[0] is not None:
            inner = inner.operands[0]
        if inner is value:
            return value
        value = inner


def reduced(value: Value, *kinds: type[Reduction]) -> Reduced | None:
    """What a reduction of these kinds reduces; its dims are kept, or left out."""
    if not isinstance(value, kinds):
        return None
    x, axes = value.operands[0], value.operand(1)
    if x is None or not x.rank or axes is None or not axes.ints:
        return None
    rank = x.rank
    over = tuple(sorted(axis_of(a, rank) - rank for a in axes.ints))
    return Reduced(uncast(x), over)


def _averaged(value: Value, *kinds: type[Reduction]) -> Reduced | None:
    """What a sum, over the number of summands, reduces."""
    for total, factor in _scaled(value):
        found = reduced(total, *kinds)
        count = None if found is None else found.count
        if count and math.isclose(count * factor, 1, rel_tol=1e-6):
            return found
    return None


def _scaled(value: Value) -> Iterator[tuple[Value, float]]:
    """x and a number that it is multiplied by."""
    if isinstance(value, Mul | Div):
        for x, number in (value.operands, value.operands[::-1]):
            known = uniform(number)
            if known is None or x is None or not same_type(x, value):
                continue
            if isinstance(value, Mul):
                yield x, float(known)
            elif number is value.operands[1] and known:
                yield x, 1 / float(known)


def mean(value: Value | None) -> Reduced | None:
    """What ``value`` is the mean of."""
    if value is None:
        return None
    value = bare(value)
    if isinstance(value, GlobalAveragePool):
        x = value.operands[0]
        rank = None if x is None else x.rank
        return (x and rank and Reduced(x, tuple(range(2 - rank, 0)))) or None
    return reduced(value, ReduceMean) or _averaged(value, ReduceSum)


def squared(value: Value | None) -> Value | None:
    """x, where ``value`` is x * x."""
    value = None if value is None else uncast(value)
    if not isinstance(value, Mul | Pow):
        return None
    x, other = value.operands
    again = other is x if isinstance(value, Mul) else uniform(other) == 2
    return uncast(x) if again and x is not None else None


def mean_square(value: Value | None) -> Reduced | None:
    """x and the axes, where ``value`` is the mean of x * x."""
    found = mean(value)
    x = None if found is None else squared(found.x)
    if found is not None and x is not None and same_shape(x, found.x):
        return Reduced(x, found.axes)
    return None if value is None else _averaged(bare(value), ReduceSumSquare)


def sum_square(value: Value | None) -> Reduced | None:
    """x and the axes, where ``value`` is the sum of x * x."""
    if value is None:
        return None
    value = bare(value)
    found = reduced(value, ReduceSum)
    x = None if found is None else squared(found.x)
    if found is not None and x is not None and same_shape(x, found.x):
        return Reduced(x, found.axes)
    return reduced(value, ReduceSumSquare)


def centred(value: Value) -> Reduced | None:
    """x and the axes, where ``value`` is x less its mean."""
    value = uncast(value)
    if not isinstance(value, Sub):
        return None
    x, middle = value.operands
    found = mean(middle)
    if found is None or middle is None or x is None or found.x is not uncast(x):
        return None
    return found if found.is_kept(middle) else None


def variance(value: Value | None) -> Reduced | None:
    """x and the axes, where ``value`` is the mean square of x less its mean.

    Or the mean square of x less the square of its mean, also kept from below 0.
    """
    if value is None:
        return None
    value = bare(value)
    found = mean_square(value)
    middle = None if found is None else centred(found.x)
    if found is not None and middle is not None:
        return middle if middle.axes == found.axes else None
    if isinstance(value, Relu) and value.operands[0] is not None:
        value = bare(value.operands[0])
    elif isinstance(value, Max) and any(map(is_zero, value.operands)):
        value = next(v for v in value.operands if v is not None and not is_zero(v))
        value = bare(value)
    if not isinstance(value, Sub):
        return None
    squares, first = value.operands
    found, other = mean_square(squares), mean(squared(first))
    return found if found is not None and found == other else None


@dataclass(frozen=True)
class Root:
    """``sqrt(inner + epsilon)``, or 1 over that."""

    inner: Value
    epsilon: float | None
    inverse: bool


def root(value: Value | None) -> Root | None:
    """How ``value`` is a root, or 1 over one."""
    inverse = False
    while value is not None:
        value = bare(value)
        if isinstance(value, Reciprocal):
            value, inverse = value.operands[0], not inverse
        elif isinstance(value, Div) and uniform(value.operands[0]) == 1:
            value, inverse = value.operands[1], not inverse
        elif isinstance(value, Sqrt):
            value = value.operands[0]
            break
        elif isinstance(value, Pow) and uniform(value.operands[1]) in (0.5, -0.5):
            inverse ^= uniform(value.operands[1]) < 0
            value = value.operands[0]
            break
        else:
            return None
    if value is None:
        return None
    if isinstance(value, Reciprocal):  # sqrt(1 / x)
        value, inverse = value.operands[0], not inverse
    if value is None:
        return None
    value = bare(value)
    for inner, number in plus(value):
        epsilon = uniform(number)
        if epsilon is not None:
            return Root(inner, float(epsilon), inverse)
    return Root(value, None, inverse)


def quotients(op: Div | Mul) -> Iterator[tuple[Value, Value, Root]]:
    """What is divided by a root, or multiplied by its inverse; that; how it is one."""
    a, b = op.operands
    if a is None or b is None:
        return
    for x, divisor in ((a, b),) if isinstance(op, Div) else ((a, b), (b, a)):
        found = root(divisor)
        if found is not None and found.inverse == isinstance(op, Mul):
            yield x, divisor, found


def norm_of(value: Value | None) -> tuple[Reduced, int] | None:
    """x, the axis, and the order p, where ``value`` is the L1 or L2 norm along it."""
    if value is None:
        return None
    for kind, order in ((ReduceL1, 1), (ReduceL2, 2)):
        found = reduced(value, kind)
        if found is not None:
            return found, order
    found = reduced(value, ReduceSum)
    if found is not None and isinstance(found.x, Abs):
        inner = found.x.operands[0]
        return (Reduced(inner, found.axes), 1) if inner is not None else None
    if isinstance(value, Sqrt):
        found = sum_square(value.operands[0])
        return (found, 2) if found is not None else None
    return None
