"""Rotations of pairs of elements: which values are spelled as one, and by what angles.

What is compared is what the two halves of the last axis (or its even and its odd
elements) hold, each as two products; how an exporter cuts, negates, doubles and glues
them is read through by `LastAxis`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Concat,
    Div,
    Gather,
    Mul,
    Neg,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Sub,
    Unsqueeze,
)

from .last_axis import LastAxis, last_dim, same_leads, slice_last, source_of
from .match import negated

NEAR = 24
"""Values around a rotation that are tried as what it turns."""

_SPELLING = (
    Add,
    Sub,
    Mul,
    Div,
    Neg,
    Concat,
    Slice,
    Split,
    Gather,
    Reshape,
    Squeeze,
    Unsqueeze,
)


@dataclass(frozen=True)
class Signed:
    """``value``, or minus it."""

    value: Value
    negative: bool = False

    def __neg__(self) -> Signed:
        return Signed(self.value, not self.negative)

    def written(self, value: Value) -> Value:
        """What has been made of its value, with the sign."""
        return Neg(value) if self.negative else value

    def equals(self, other: Signed) -> bool:
        """True where both surely hold the same numbers."""
        if self.value is other.value:
            return self.negative == other.negative
        if self.negative == other.negative:
            return False
        a, b = self.value.constant, other.value.constant
        if a is None or b is None or a.shape != b.shape or a.dtype is not b.dtype:
            return False
        return bool(np.array_equal(a.array(), -b.array()))


def signed(value: Value) -> Signed:
    """A value without the minus signs before it."""
    negative = False
    while True:
        inner = _negated(value)
        if inner is None:
            return Signed(value, negative)
        value, negative = inner, not negative


def _negated(value: Value) -> Value | None:
    """x, where ``value`` is -x, or moves elements of -x."""
    if isinstance(value, Unsqueeze | Squeeze | Reshape | Gather):
        inner = None if value.operands[0] is None else _negated(value.operands[0])
        return inner and value.with_operands([inner, *value.operands[1:]])
    return negated(value)


@dataclass(frozen=True)
class Term:
    """A signed product of two factors."""

    left: Value
    right: Value
    negative: bool

    def weight_of(self, x: Value) -> Signed | None:
        """What x is multiplied by."""
        if self.left is x:
            return Signed(self.right, self.negative)
        return Signed(self.left, self.negative) if self.right is x else None


def terms(value: Value, negative: bool = False) -> list[Term] | None:
    """The two products whose sum, or difference, ``value`` is."""
    bare = signed(value)
    value, negative = bare.value, bare.negative != negative
    if not isinstance(value, Add | Sub):
        return None
    found: list[Term] = []
    for i, operand in enumerate(value.operands):
        if operand is None:
            return None
        part = signed(operand)
        if not isinstance(part.value, Mul):
            return None
        minus = negative != part.negative
        if i and isinstance(value, Sub):
            minus = not minus
        a, b = part.value.operands
        if a is None or b is None:
            return None
        left, right = signed(a), signed(b)
        minus ^= left.negative ^ right.negative
        found.append(Term(left.value, right.value, minus))
    return found


@dataclass(frozen=True)
class Rotation:
    """``x`` turned by angles whose cosines and sines are known, one of each pair."""

    x: Value
    cosine: Signed
    sine: Signed
    interleaved: bool


def rotation(y: Value) -> Rotation | None:
    """What ``y`` turns, and by how much."""
    size = last_dim(y)
    if size is None or size % 2 or size < 2:
        return None
    for x, source, start in _near(y, size):
        axis = LastAxis(source)
        for interleaved in (False, True):
            step = 2 if interleaved else 1
            second, half = (1, size // 2) if interleaved else (size // 2, size // 2)
            firsts = axis.cut(y, 0, half, step), axis.cut(y, second, half, step)
            turned = (
                axis.cut(source, start, half, step),
                axis.cut(source, start + second, half, step),
            )
            found = _weights(firsts, turned)
            if found is not None:
                return Rotation(x, *found, interleaved)
    return None


def _weights(
    y: tuple[Value, Value], x: tuple[Value, Value]
) -> tuple[Signed, Signed] | None:
    """c and s, where y is ``c * x0 - s * x1`` and ``c * x1 + s * x0``."""
    sums = [terms(part) for part in y]
    if sums[0] is None or sums[1] is None:
        return None
    weights = [[_weight(sum_, part) for part in x] for sum_ in sums if sum_]
    (c, minus_s), (s, other_c) = weights
    if c is None or s is None or minus_s is None or other_c is None:
        return None
    if not c.equals(other_c) or not s.equals(-minus_s):
        return None
    return c, s


def _weight(sum_: Sequence[Term], x: Value) -> Signed | None:
    found = [w for term in sum_ if (w := term.weight_of(x)) is not None]
    return found[0] if len(found) == 1 else None


def _near(y: Value, size: int) -> Iterator[tuple[Value, Value, int]]:
    """Runs of ``size`` elements that ``y`` may turn: each, its source, its start."""
    seen: set[Value] = set()
    tried: set[tuple[Value, int]] = set()
    queue = [y]
    while queue and len(seen) < NEAR:
        value = queue.pop(0)
        if value in seen:
            continue
        seen.add(value)
        source, start = source_of(value)
        width = last_dim(source)
        if value is not y and width is not None and start + size <= width:
            key = (source, start)
            if key not in tried and same_leads(source, y):
                tried.add(key)
                yield run_of(source, start, size, value), source, start
        if isinstance(value.op, _SPELLING):
            queue.extend([v for v in value.op.operands if v is not None])


def run_of(source: Value, start: int, size: int, like: Value) -> Value:
    """``size`` elements of the last axis, as ``like``, where that is those, or anew."""
    if last_dim(like) == size:
        return like
    return source if last_dim(source) == size else slice_last(source, start, size)
