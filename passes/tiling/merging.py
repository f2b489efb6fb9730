"""What a reduction over a cut axis keeps from tile to tile, and makes of it at last.

Sums, products and extremes keep what they give. The position of an extreme keeps the
extreme, too; the k best keep k; a log of a sum of exponentials keeps the largest and
the sum relative to it, as Milakov and Gimelshein, "Online normalizer calculation for
softmax", arXiv 1805.02867; elements at places that are given keep what was found.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

import numpy as np

from graphopt.index import Combiner
from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    And,
    ArgMax,
    ArgMin,
    Concat,
    Exp,
    Expand,
    GatherElements,
    Greater,
    GreaterOrEqual,
    IsNaN,
    Less,
    LessOrEqual,
    Log,
    Max,
    Min,
    Mul,
    Not,
    Or,
    ReduceLogSumExp,
    ReduceMax,
    ReduceSum,
    Squeeze,
    Sub,
    TopK,
    Where,
)
from graphopt.ops.bodies import cast, scalar, vector, widest
from graphopt.ops.steering import normal_axis
from graphopt.rewrite import Miss, miss
from graphopt.types import DType

from .pieces import Operands, Place, piece

States: TypeAlias = "Sequence[Value]"

MERGES: Final = {
    Combiner.SUM: (Add, 0.0),
    Combiner.PROD: (Mul, 1.0),
    Combiner.MAX: (Max, -np.inf),
    Combiner.MIN: (Min, np.inf),
}
"""How results over parts of an axis are combined, and what changes nothing."""


class Merge(ABC):
    """How an op over an axis is put together from its parts."""

    op: Op
    kept: ClassVar[int] = 1
    """How many values it keeps."""

    @abstractmethod
    def step(
        self, before: States | None, operands: Operands, place: Place
    ) -> list[Value] | Miss:
        """What is kept after one more tile; ``before`` is None at the first one."""

    @abstractmethod
    def finished(self, states: States) -> Sequence[Value]:
        """The results of the op."""

    def neutral(self) -> list[Value] | None:
        """What is kept before any tile; None where that is not to be said."""
        return None


def merge_of(op: Op, combiner: Combiner | None) -> Merge | Miss:
    """How an op is merged along an axis that its results are without."""
    x = op.operands[0]
    special = _SPECIAL.get(type(op))
    if special is not None and x is not None and x.dtype is not None:
        return special(op, x)
    if combiner not in MERGES or op.outs > 1 or op.results[0].dtype is DType.BOOL:
        return miss(f"parts of it cannot be combined by {combiner}", op)
    return _Combined(op, combiner)


@dataclass(frozen=True)
class _Combined(Merge):
    """One result, combined as it is."""

    op: Op
    combiner: Combiner

    def step(
        self, before: States | None, operands: Operands, place: Place
    ) -> list[Value] | Miss:
        made = piece(self.op, operands, place)
        if isinstance(made, Miss):
            return made
        return [MERGES[self.combiner][0](before[0], made) if before else made]

    def finished(self, states: States) -> Sequence[Value]:
        return states

    def neutral(self) -> list[Value] | None:
        dtype, shape = self.op.results[0].dtype, self.op.results[0].shape
        if dtype is None or shape is None:
            return None
        if not all(isinstance(dim, int) for dim in shape):
            return None
        number = MERGES[self.combiner][1]
        if not np.isfinite(number) and not dtype.is_float:
            return None
        filling = scalar(number, dtype)
        return [Expand(filling, vector(*shape)) if shape else filling]


@dataclass(frozen=True)
class _Extreme(Merge):
    """Where the largest (or smallest) is: the first or the last NaN, if there is one.

    Kept are the extreme and its position.
    """

    kept: ClassVar[int] = 2
    op: Op
    x: Value

    @property
    def _axis(self) -> int:
        return normal_axis(self.op.axis, self.x.rank or 0)

    def step(
        self, before: States | None, operands: Operands, place: Place
    ) -> list[Value] | Miss:
        part, axis = operands[0], self._axis
        assert part is not None
        at = self.op.copy(operands=(part,), keepdims=1)
        value = GatherElements(part, at, axis=axis)
        where = Add(at, place.first())
        if before is None:
            return [value, where]
        better = self._better(before[0], value)
        return [Where(better, value, before[0]), Where(better, where, before[1])]

    def _better(self, old: Value, new: Value) -> Value:
        last = bool(self.op.select_last_index)
        if isinstance(self.op, ArgMax):
            better: Value = (GreaterOrEqual if last else Greater)(new, old)
        else:
            better = (LessOrEqual if last else Less)(new, old)
        assert new.dtype is not None
        if not new.dtype.is_float:
            return better
        nan: Value = IsNaN(new)
        if last:
            return Or(And(better, Not(IsNaN(old))), nan)
        return Or(better, And(nan, Not(IsNaN(old))))

    def finished(self, states: States) -> Sequence[Value]:
        at = states[1]
        return [at if self.op.keepdims else Squeeze(at, vector(self._axis))]


@dataclass(frozen=True)
class _Best(Merge):
    """The k best, and where they are; of equals, those of earlier tiles."""

    kept: ClassVar[int] = 2
    op: Op
    x: Value
    k: int

    def step(
        self, before: States | None, operands: Operands, place: Place
    ) -> list[Value] | Miss:
        part = operands[0]
        if part is None or (before is None and place.count < self.k):
            return miss(f"a tile of {place.count} has no {self.k} best", self.op)
        best = self._best(part, min(self.k, place.count))
        values, at = best.results
        where: Value = Add(at, place.first())
        if before is None:
            return [values, where]
        values = Concat(before[0], values, axis=self._axis)
        where = Concat(before[1], where, axis=self._axis)
        values, chosen = self._best(values, self.k).results
        return [values, GatherElements(where, chosen, axis=self._axis)]

    @property
    def _axis(self) -> int:
        return normal_axis(self.op.axis, self.x.rank or 0)

    def _best(self, x: Value, k: int) -> Op:
        return TopK(x, vector(k), axis=self._axis, largest=self.op.largest, sorted=1)

    def finished(self, states: States) -> Sequence[Value]:
        return states


@dataclass(frozen=True)
class _LogSumExp(Merge):
    """The largest, which is held finite, and the sum of what is relative to it."""

    kept: ClassVar[int] = 2
    op: ReduceLogSumExp
    x: Value

    def step(
        self, before: States | None, operands: Operands, place: Place
    ) -> list[Value] | Miss:
        part, axes = operands[0], self.op.reduced_axes()
        assert part is not None
        assert axes is not None
        part = cast(part, self._wide)
        most = np.finfo(np.float64 if self._wide is DType.F64 else np.float32)
        top: Value = Max(
            ReduceMax(part, vector(*axes)), scalar(float(most.min), self._wide)
        )
        top = Min(top, scalar(float(most.max), self._wide))
        if before is not None:
            top = Max(before[0], top)
        total: Value = ReduceSum(Exp(Sub(part, top)), vector(*axes))
        if before is not None:
            total = Add(Mul(before[1], Exp(Sub(before[0], top))), total)
        return [top, total]

    @property
    def _wide(self) -> DType:
        assert self.x.dtype is not None
        return widest(DType.F32, self.x.dtype)

    def finished(self, states: States) -> Sequence[Value]:
        top, total = states
        made: Value = Add(Log(total), top)
        axes = self.op.reduced_axes()
        assert axes is not None
        if not self.op.keepdims:
            made = Squeeze(made, vector(*axes))
        assert self.x.dtype is not None
        return [cast(made, self.x.dtype)]


@dataclass(frozen=True)
class _Picked(Merge):
    """Elements at given places: each is in one tile."""

    op: Op
    x: Value
    extent: int

    def step(
        self, before: States | None, operands: Operands, place: Place
    ) -> list[Value] | Miss:
        part, at = operands[:2]
        assert part is not None
        assert at is not None
        assert part.dtype is not None
        places = cast(at, DType.I64)
        zero = scalar(0, DType.I64)
        back = Add(places, scalar(self.extent, DType.I64))
        places = Sub(Where(Less(places, zero), back, places), place.first())
        size = scalar(place.count, DType.I64)
        inside = And(GreaterOrEqual(places, zero), Less(places, size))
        places = Where(inside, places, zero)
        axis = normal_axis(self.op.axis, self.x.rank or 0)
        found = GatherElements(part, places, axis=axis)
        other = scalar(0, part.dtype) if before is None else before[0]
        return [Where(inside, found, other)]

    def finished(self, states: States) -> Sequence[Value]:
        return states


def _extreme(op: Op, x: Value) -> Merge | Miss:
    return _Extreme(op, x)


def _best(op: Op, x: Value) -> Merge | Miss:
    k = op.operands[1]
    if k is None or k.ints is None:
        return miss("how many are wanted depends on data", op)
    return _Best(op, x, k.ints[0])


def _logarithm(op: Op, x: Value) -> Merge | Miss:
    assert isinstance(op, ReduceLogSumExp)
    if x.dtype not in (DType.F16, DType.BF16, DType.F32, DType.F64):
        return miss(f"a sum of exponentials of {x.dtype}", op)
    if not op.reduced_axes():
        return miss("its axes are not known", op)
    return _LogSumExp(op, x)


def _picked(op: Op, x: Value) -> Merge | Miss:
    extent = (x.shape or ())[normal_axis(op.axis, x.rank or 0)]
    if not isinstance(extent, int) or x.dtype in (DType.STRING, None):
        return miss("a dim is not known, or its elements are no numbers", op)
    return _Picked(op, x, extent)


_SPECIAL: Final[dict[type[Op], Callable[[Op, Value], Merge | Miss]]] = {
    ArgMax: _extreme,
    ArgMin: _extreme,
    TopK: _best,
    ReduceLogSumExp: _logarithm,
    GatherElements: _picked,
}
