"""Sizes that are known as ranges: the largest that a dim can be.

Interval arithmetic (Moore, 1966) on the normal form of a dim. It is sound, and exact
where each symbol occurs once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from graphopt import dims
from graphopt.dims import Dim

Size: TypeAlias = "int | tuple[int, int]"
"""A size, or the least and the greatest that there may be."""


@dataclass(frozen=True, slots=True)
class Interval:
    """All integers from low to high."""

    low: int
    high: int

    def __add__(self, other: Interval | int) -> Interval:
        other = _interval(other)
        return Interval(self.low + other.low, self.high + other.high)

    def __mul__(self, other: Interval | int) -> Interval:
        return _spanned(operator.mul, self, _interval(other))

    __radd__ = __add__
    __rmul__ = __mul__


def largest(dim: Dim, sizes: Mapping[str, Size]) -> int | None:
    """The most that a dim can be; None where a symbol has no size.

    Raises ZeroDivisionError where a divisor may be 0.
    """
    if dim is None or isinstance(dim, int):
        return dim
    names = dims.symbols(dim)
    if not names <= sizes.keys():
        return None
    found = dims.evaluate(dim, {n: _interval(sizes[n]) for n in names}, _OPERATIONS)
    return _interval(found).high


def _interval(size: Interval | Size) -> Interval:
    if isinstance(size, Interval):
        return size
    return Interval(*size) if isinstance(size, tuple) else Interval(size, size)


def _spanned(
    operation: Callable[[int, int], int], a: Interval, b: Interval
) -> Interval:
    """What an operation gives that is monotone in each operand."""
    ends = [operation(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return Interval(min(ends), max(ends))


def _quotient(a: Interval | int, b: Interval | int) -> Interval:
    a, b = _interval(a), _interval(b)
    if b.low <= 0 <= b.high:
        raise ZeroDivisionError("a divisor may be 0")
    return _spanned(operator.floordiv, a, b)


def _rest(a: Interval | int, b: Interval | int) -> Interval:
    a, b = _interval(a), _interval(b)
    if b.low <= 0:
        raise ZeroDivisionError("a divisor may be 0")
    if a.low == a.high and b.low == b.high:
        return Interval(a.low % b.low, a.low % b.low)
    return Interval(0, min(a.high, b.high - 1) if a.low >= 0 else b.high - 1)


def _maximum(a: Interval | int, b: Interval | int) -> Interval:
    return _spanned(max, _interval(a), _interval(b))


def _minimum(a: Interval | int, b: Interval | int) -> Interval:
    return _spanned(min, _interval(a), _interval(b))


_OPERATIONS: Final[Mapping[str, Callable[[Interval, Interval], Interval]]] = {
    "//": _quotient,
    "%": _rest,
    "max": _maximum,
    "min": _minimum,
}
