"""Arithmetic on positions: what exported masks compute, and need not.

Range, and sums and multiples of it, are affine in the index of the element. So a mask
that an exporter looks up at ``row * length + column`` is seen to be read in order, and
``range(0, n) >= 0`` to be true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphopt.dims import Dim, Expr, Shape, add, equal, mul, nonnegative, sub
from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    And,
    Cast,
    Constant,
    Expand,
    Flatten,
    Gather,
    GatherND,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Mul,
    Not,
    Or,
    Range,
    Reshape,
    Squeeze,
    Sub,
    Unsqueeze,
    Where,
)
from graphopt.ops.structured import Elementwise, broadcast_shapes
from graphopt.pipeline import RulePass
from graphopt.polynomial import Polynomial
from graphopt.rewrite import Outcome, Rule, miss, rule
from graphopt.types import DType

from .match import LONGEST, READ_LIMIT, same_type, uniform
from .shapes import reshape_to

Comparison: TypeAlias = Greater | GreaterOrEqual | Less | LessOrEqual

DEEPEST = 12
"""Ops between a position and the Range that it is made of."""

WRAPPED = 1 << 63


@dataclass(frozen=True)
class Positions:
    """An integer tensor whose element at ``i, j, ...`` is ``a*i + b*j + ... + offset``.

    Steps along dims of 1 are 0. This is arithmetic modulo 2**64: only of what `fits` is
    the order of the elements known.
    """

    shape: Shape
    steps: tuple[Dim, ...]
    offset: Dim

    def scaled(self, factor: Dim) -> Positions:
        steps = tuple([mul(step, factor) for step in self.steps])
        return Positions(self.shape, steps, mul(self.offset, factor))

    def plus(self, other: Positions) -> Positions:
        shape = broadcast_shapes(self.shape, other.shape)
        pairs = zip(self.aligned(len(shape)), other.aligned(len(shape)), strict=True)
        steps = tuple([add(a, b) for a, b in pairs])
        return Positions(shape, steps, add(self.offset, other.offset))

    def aligned(self, rank: int) -> tuple[Dim, ...]:
        return (0,) * (rank - len(self.steps)) + self.steps

    @property
    def fits(self) -> bool:
        """True where no element wraps around, all dims being below `LONGEST`."""
        spans = map(mul, self.steps, self.shape)
        return sum(map(_magnitude, (self.offset, *spans))) < WRAPPED

    @property
    def never_negative(self) -> bool:
        """True where every element is 0 or more."""
        lowest = self.offset
        for step, dim in zip(self.steps, self.shape, strict=True):
            if not nonnegative(step):
                lowest = add(lowest, mul(step, sub(dim, 1)))
        return nonnegative(lowest)

    def counts(self, limit: Dim) -> bool:
        """True for 0, 1, 2, ... ``limit - 1`` in row-major order."""
        stride: Dim = 1
        for step, dim in zip(reversed(self.steps), reversed(self.shape), strict=True):
            if equal(dim, 1):
                continue
            if not equal(step, stride):
                return False
            stride = mul(stride, dim)
        return equal(self.offset, 0) and equal(stride, limit)


def _magnitude(dim: Dim) -> int:
    """No less than the absolute value, where no symbol is above `LONGEST`."""
    if isinstance(dim, Expr):
        return _magnitude_of(dim.polynomial)
    return WRAPPED if dim is None else abs(dim)


def _magnitude_of(polynomial: Polynomial) -> int:
    total = 0
    for monomial, coefficient in polynomial.terms:
        term = abs(coefficient)
        for factor in monomial:
            inner = map(_magnitude_of, factor.operands)
            term *= LONGEST if factor.operation == "symbol" else sum(inner)
        total += term
    return total


def positions_of(value: Value | None, depth: int = DEEPEST) -> Positions | None:
    """An integer value as positions, None where it is not seen to be that."""
    if value is None or value.dtype is not DType.I64 or not depth:
        return None
    shape = value.shape
    if shape is None or None in shape:
        return None
    known = value.contents
    if known is not None and known.size == 1:
        return Positions(shape, (0,) * len(shape), known.item())
    op = value.op
    if value.constant is not None:
        return _of_constant(value)
    if op is None:
        return None
    if isinstance(op, Range):
        return _of_range(op)
    inner = [positions_of(v, depth - 1) for v in op.operands[:2]]
    first = inner[0] if inner else None
    if isinstance(op, Add | Sub | Mul):
        return _of_arithmetic(op, *inner)
    if first is None:
        return None
    if isinstance(op, Reshape | Flatten | Squeeze | Unsqueeze):
        return _reshaped(first, shape)
    if isinstance(op, Expand):
        return first.plus(Positions(shape, (0,) * len(shape), 0))
    return None


def _of_range(op: Range) -> Positions | None:
    start, _, step = [None if v is None else v.contents for v in op.operands]
    if start is None or step is None or op.shape is None:
        return None
    return Positions(op.shape, (step.item(),), start.item())


def _of_arithmetic(
    op: Add | Sub | Mul, a: Positions | None, b: Positions | None
) -> Positions | None:
    if a is None or b is None:
        return None
    if isinstance(op, Add):
        return a.plus(b)
    if isinstance(op, Sub):
        return a.plus(b.scaled(-1))
    for one, other in ((a, b), (b, a)):
        if all(step == 0 for step in one.steps):
            flat = other.scaled(one.offset)
            return flat.plus(Positions(one.shape, (0,) * len(one.shape), 0))
    return None


def _reshaped(of: Positions, shape: Shape) -> Positions | None:
    """Dims of 1 come or go."""
    left = [(d, s) for d, s in zip(of.shape, of.steps, strict=True) if not equal(d, 1)]
    wide = [dim for dim in shape if not equal(dim, 1)]
    if len(left) != len(wide) or not all(map(equal, [d for d, _ in left], wide)):
        return None
    steps = iter([step for _, step in left])
    found = tuple([0 if equal(dim, 1) else next(steps) for dim in shape])
    return Positions(shape, found, of.offset)


def _of_constant(value: Value) -> Positions | None:
    tensor = value.constant
    if tensor is None or not 0 < tensor.size <= READ_LIMIT:
        return None
    array = tensor.array()
    first = int(array.flat[0])
    steps: list[int] = []
    for axis, extent in enumerate(array.shape):
        one = [0] * array.ndim
        one[axis] = int(extent > 1)
        steps.append(int(array[tuple(one)]) - first)
    found = Positions(tuple(array.shape), tuple(steps), first)
    if not found.fits:
        return None
    total = np.full(array.shape, first)
    for axis, (extent, step) in enumerate(zip(array.shape, steps, strict=True)):
        behind = (1,) * (len(steps) - axis - 1)
        total = total + (np.arange(extent) * step).reshape(-1, *behind)
    return found if np.array_equal(total, array) else None


# --- look-ups in order --------------------------------------------------------------


@rule
def gather_in_order(op: Gather) -> Outcome:
    """gather(flatten(x), row * n + column) = reshape(x)"""
    x, indices = op.operands
    if x is None or x.shape is None or op.shape is None or op.axis != 0:
        return None
    found = positions_of(indices) if indices is not None and indices.rank else None
    if found is None or not found.counts(x.shape[0]):
        return None
    return _as(x, op.shape) or miss("the dims cannot be said by a constant", op)


@rule
def gather_nd_in_order(op: GatherND) -> Outcome:
    """gathernd(x, [[[0, 0], [0, 1]], [[1, 0], [1, 1]]]) = x"""
    x, indices = op.operands
    tensor = None if indices is None else indices.constant
    if x is None or x.shape is None or op.shape is None or tensor is None:
        return None
    if op.batch_dims or not 0 < tensor.size <= READ_LIMIT:
        return None
    tuples = tensor.array()
    depth = tuples.shape[-1]
    lead = [dim for dim in x.shape[:depth] if isinstance(dim, int)]
    if len(lead) < depth:
        return None
    flat = np.zeros(tuples.shape[:-1], np.int64)
    for i, dim in enumerate(lead):
        flat = flat * dim + tuples[..., i]
        if np.any(tuples[..., i] < 0) or np.any(tuples[..., i] >= dim):
            return None
    if not np.array_equal(flat.reshape(-1), np.arange(math.prod(lead))):
        return None
    return _as(x, op.shape) or miss("the dims cannot be said by a constant", op)


def _as(x: Value, shape: Shape) -> Value | None:
    """The elements of ``x``, or of what it is a reshape of, in other dims."""
    source: Value | None = x
    while source is not None:
        made = _with_ones(source, shape) or reshape_to(source, shape)
        if made is not None:
            return made
        if not isinstance(source, Reshape | Flatten | Squeeze | Unsqueeze):
            return None
        source = source.operands[0]
    return None


def _with_ones(x: Value, shape: Shape) -> Value | None:
    """``x`` with dims of 1 put between its own."""
    own = x.shape
    if own is None or len(own) >= len(shape):
        return None
    axes, at = [], 0
    for i, dim in enumerate(shape):
        if at < len(own) and equal(dim, own[at]):
            at += 1
        elif equal(dim, 1):
            axes.append(i)
        else:
            return None
    if at < len(own):
        return None
    return Unsqueeze(x, Constant(np.array(axes, np.int64)))


# --- conditions ---------------------------------------------------------------------


def proved(value: Value | None) -> bool | None:
    """What a condition always is; None where that hangs on data."""
    known = uniform(value)
    if known is not None:
        return bool(known) if isinstance(known, np.bool_) else None
    if isinstance(value, Not):
        inner = proved(value.operands[0])
        return None if inner is None else not inner
    if not isinstance(value, Comparison):
        return None
    a, b = map(positions_of, value.operands)
    if a is None or b is None or not (a.fits and b.fits):
        return None
    if isinstance(value, Less | LessOrEqual):
        a, b = b, a
    ahead, behind = a.plus(b.scaled(-1)), b.plus(a.scaled(-1))
    one = Positions((), (), -1)
    strict = isinstance(value, Less | Greater)
    if (ahead.plus(one) if strict else ahead).never_negative:
        return True
    return False if (behind if strict else behind.plus(one)).never_negative else None


@rule
def proved_condition(op: Elementwise) -> Outcome:
    """x + where(m and range(0, n) >= 0, a, b) = x + where(m, a, b), of the same dims"""
    if op.outs != 1:
        return None
    if isinstance(op, And | Or):
        made = without_proved(op)
        if made is not op and same_type(made, op):
            return made
    operands = [v if v is None else without_proved(v) for v in op.operands]
    if all(new is old for new, old in zip(operands, op.operands, strict=True)):
        return None
    made = op.with_operands(operands)
    if not same_type(made, op):
        return miss("the condition gives the result its dims", op)
    return made


def without_proved(value: Value, depth: int = DEEPEST) -> Value:
    """A mask without conditions that always hold; its dims may be fewer."""
    op = value.op
    if op is None or not depth:
        return value
    if isinstance(op, And | Or):
        neutral = isinstance(op, And)
        for i, operand in enumerate(op.operands):
            other = op.operands[1 - i]
            if proved(operand) is neutral and other is not None:
                return without_proved(other, depth - 1)
    operands = list(op.operands)
    for i in _conditions(op):
        operand = operands[i]
        if operand is not None:
            operands[i] = without_proved(operand, depth - 1)
    if all(new is old for new, old in zip(operands, op.operands, strict=True)):
        return value
    made = op.with_operands(operands)
    return made if made.rank == op.rank else value


def _conditions(op: Op) -> Sequence[int]:
    """Operands that a mask is made of, besides numbers."""
    if isinstance(op, And | Or | Not):
        return range(len(op.operands))
    if isinstance(op, Where | Cast):
        return (0,)
    return ()


RULES: tuple[Rule, ...] = (gather_in_order, gather_nd_in_order, proved_condition)


@dataclass(frozen=True)
class PositionMath(RulePass):
    """See through arithmetic on positions, as masks are exported.

    gather(flatten(mask), row * n + column)   -->   unsqueeze(mask)
    mask and range(0, n) >= 0                 -->   mask
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
