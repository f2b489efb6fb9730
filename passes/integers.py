"""Integers: arithmetic on indices in the type that they came in, where it has room.

Exporters widen positions to int64 and narrow them again, as each op of a framework has
a type of its own. What fits either way needs no casts between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from graphopt.ir import Op, Value
from graphopt.ops import (
    Abs,
    Add,
    Cast,
    Constant,
    CumSum,
    Equal,
    Expand,
    Gather,
    GatherElements,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Max,
    Min,
    Mul,
    Neg,
    Reshape,
    ScatterElements,
    Squeeze,
    Sub,
    Transpose,
    Unsqueeze,
    Where,
)
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType
from graphopt.weights import Tensor

from .match import LONGEST, READ_LIMIT, axis_of

Modular: TypeAlias = Add | Sub | Mul | Neg | CumSum
"""Ops that compute modulo any power of two: upper bits never come down."""

Counting: TypeAlias = Add | Sub | Mul | CumSum | Min | Max
"""Ops on integers that runtimes have for 32 bits as for 64."""

LookUp: TypeAlias = Gather | GatherElements | ScatterElements
"""Ops whose second operand says where, in either of two types."""

Comparing: TypeAlias = Equal | Greater | GreaterOrEqual | Less | LessOrEqual

_MOVED: Final = (Expand, Reshape, Squeeze, Transpose, Unsqueeze)

DEEPEST: Final = 12
"""Ops in a row that are looked through for a range."""

Interval: TypeAlias = tuple[int, int]

_I32: Final = (-(1 << 31), (1 << 31) - 1)


def _inside(inner: Interval, outer: Interval) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _all_of(dtype: DType | None) -> Interval | None:
    """The range of an integer type."""
    if dtype is DType.BOOL:
        return 0, 1
    if dtype is None or not dtype.is_integer:
        return None
    half = 1 << (dtype.bits - 1)
    return (-half, half - 1) if dtype.is_signed else (0, 2 * half - 1)


def interval(value: Value | None, scene: Scene) -> Interval | None:
    """The least and the greatest integer that a value can hold; None for no integers.

    It is that of its type where nothing better is known, or where sums may wrap.
    """
    return _Intervals(scene).of(value, DEEPEST)


class _Intervals:
    """Ranges of values, each found once; ``left`` says how many ops may follow."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.known: dict[Value, Interval] = {}

    def of(self, value: Value | None, left: int) -> Interval | None:
        full = _all_of(None if value is None else value.dtype)
        if value is None or full is None or not left:
            return full
        if value not in self.known:
            found = self.found(value, left)
            better = found is not None and _inside(found, full)
            self.known[value] = found if found is not None and better else full
        return self.known[value]

    def found(self, value: Value, left: int) -> Interval | None:
        """What is known beyond the type of a value, None where that is nothing."""
        tensor, op = value.constant, value.op
        if tensor is not None:
            if not 0 < tensor.size <= READ_LIMIT:
                return None
            array = tensor.array()
            return int(array.min()), int(array.max())
        return self.looked_up(value) if op is None else self.made(op, left - 1)

    def looked_up(self, value: Value) -> Interval | None:
        """What an input is where a table is always read at it, or no run succeeds."""
        for op, _ in self.scene.graph.users.get(value, ()):
            table = op.operands[0]
            if isinstance(op, Gather) and table is not None and table.shape:
                rows = table.shape[axis_of(op.axis, len(table.shape))]
                if isinstance(rows, int) and value is not table:
                    return -rows, rows - 1
        return None

    def made(self, op: Op, left: int) -> Interval | None:
        """The range of what an op makes, in exact arithmetic."""
        if isinstance(op, (Cast, Neg, Abs, CumSum, *_MOVED)):
            x = self.of(op.operands[0], left)
            if x is None:
                return None
            low, high = x
            if isinstance(op, Neg):
                return -high, -low
            if isinstance(op, Abs):
                return 0, max(-low, high)
            if isinstance(op, CumSum):
                count = _count(op)
                return min(low * count, low, 0), max(high * count, high, 0)
            return x
        if not isinstance(op, Add | Sub | Mul | Min | Max | Where):
            return None
        operands = op.operands[1:] if isinstance(op, Where) else op.operands
        inner = [self.of(v, left) for v in operands]
        known = [x for x in inner if x is not None]  # all of them, as the result
        lows, highs = zip(*known, strict=True)
        if isinstance(op, Min):
            return min(lows), min(highs)
        if isinstance(op, Max):
            return max(lows), max(highs)
        if isinstance(op, Where):
            return min(lows), max(highs)
        (a, b), (c, d) = known
        if isinstance(op, Add):
            return a + c, b + d
        if isinstance(op, Sub):
            return a - d, b - c
        corners = (a * c, a * d, b * c, b * d)
        return min(corners), max(corners)


def _count(op: CumSum) -> int:
    """How many elements a running sum has at most."""
    axis, shape = op.operands[1], op.shape
    if axis is None or shape is None or axis.ints is None:
        return LONGEST
    dim = shape[axis_of(axis.ints[0], len(shape))]
    return dim if isinstance(dim, int) else LONGEST


def _numbers(op: Op) -> Sequence[Value | None]:
    """The operands of a sum or the like; the axis of a running one is none."""
    return op.operands[:1] if isinstance(op, CumSum) else op.operands


def _narrowed(op: Op) -> list[Value | None] | None:
    """The int64 operands of an op as int32; None where that would take a cast more."""
    found: list[Value | None] = []
    for value in _numbers(op):
        if value is not None and value.constant is not None:
            small = value.constant.array().astype(np.int32)
            found.append(Constant(Tensor.of(small, DType.I32)))
        elif isinstance(value, Cast):
            source = value.operands[0]
            same = source is not None and source.dtype is DType.I32
            found.append(source if same else value.copy(to=DType.I32))
        else:
            return None
    return [*found, *op.operands[len(found) :]]


@rule
def index_as_it_was(op: LookUp, scene: Scene) -> Outcome:
    """gather(x, cast(i: i32, i64)) = gather(x, i)"""
    x, index, *others = op.operands
    if not isinstance(index, Cast):
        return None
    source = index.operands[0]
    if source is None or source.dtype is not DType.I32:
        return None
    made = op.with_operands([x, source, *others])
    return made if scene.says(made) else miss("this opset has it not", op)


@rule
def wrapped_early(op: Cast, scene: Scene) -> Outcome:
    """cast(cast(x: t, i64) * cast(y: t, i64), i32) = cast(x, i32) * cast(y, i32)"""
    inner = op.operands[0]
    if DType(op.to) is not DType.I32 or not isinstance(inner, Modular):
        return None
    if inner.dtype is not DType.I64 or not scene.single(inner):
        return None
    if not any(isinstance(v, Cast) and _from_integers(v) for v in inner.operands):
        return None
    operands = _narrowed(inner)
    if operands is None or not all(map(_from_integers, inner.operands)):
        return miss("an operand was wide", inner)
    made = inner.with_operands(operands)
    return made if scene.says(made) else miss("this opset has it not", inner)


def _from_integers(value: Value | None) -> bool:
    """True for all but casts of floats, which saturate."""
    source = value.operands[0] if isinstance(value, Cast) else None
    return source is None or _all_of(source.dtype) is not None


@rule
def counted_narrow(op: Counting, scene: Scene) -> Outcome:
    """cast(x: i32, i64) + c = cast(x + c, i64) where no sum leaves i32"""
    if op.dtype is not DType.I64:
        return None
    casts = [v for v in _numbers(op) if isinstance(v, Cast)]
    sources = [v.operands[0] for v in casts]
    if not any(x is not None and x.dtype is DType.I32 for x in sources):
        return None
    if not all(x is not None and _small(x.dtype) for x in sources):
        return miss("an operand has more numbers", op)
    if not all(map(scene.single, casts)):
        return miss("the wide operand is read elsewhere too", op)
    operands = _narrowed(op)
    if operands is None:
        return miss("an operand was wide", op)
    known = _Intervals(scene)
    ranges = [known.made(op, DEEPEST), *(known.of(v, DEEPEST) for v in _numbers(op))]
    if not all(_inside(found, _I32) for found in ranges if found is not None):
        return miss("it may not fit into 32 bits", op)
    made = op.with_operands(operands)
    if scene.says(made):
        return Cast(made, to=DType.I64)
    return miss("this opset has it not", op)


def _small(dtype: DType | None) -> bool:
    full = _all_of(dtype)
    return full is not None and _inside(full, _I32)


@rule
def compared_wide(op: Comparing, scene: Scene) -> Outcome:
    """cast(x: i64, i32) = c is x = c where all x are of the smaller type"""
    x, y = op.operands
    if isinstance(y, Cast):
        x, y = y, x
    if not isinstance(x, Cast) or DType(x.to) is not DType.I32 or y is None:
        return None
    source, number = x.operands[0], y.constant
    if source is None or source.dtype is not DType.I64 or number is None:
        return None
    found = interval(source, scene)
    if found is None or not _inside(found, _I32):
        return miss("the wide numbers may not fit into 32 bits", source)
    wide = Constant(Tensor.of(number.array().astype(np.int64), DType.I64))
    made = op.with_operands([wide, source] if x is op.operands[1] else [source, wide])
    return made if scene.says(made) else miss("this opset has it not", op)


@rule
def widened_back(op: Cast, scene: Scene) -> Outcome:
    """cast(cast(x: i64, i32), i64) = x where all x are of the smaller type"""
    inner = op.operands[0]
    if DType(op.to) is not DType.I64 or not isinstance(inner, Cast):
        return None
    x = inner.operands[0]
    if DType(inner.to) is not DType.I32 or x is None or x.dtype is not DType.I64:
        return None
    found = interval(x, scene)
    if found is None or not _inside(found, _I32):
        return miss("the wide numbers may not fit into 32 bits", x)
    return x


RULES: tuple[Rule, ...] = (
    index_as_it_was,
    wrapped_early,
    counted_narrow,
    compared_wide,
    widened_back,
)


@dataclass(frozen=True)
class Integers(RulePass):
    """Drop casts of indices that have room in 32 bits.

    gather(x, cast(cast(cumsum(cast(m, i64)), i32) * n, i64))
        -->   gather(x, cumsum(cast(m, i32)) * n)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
