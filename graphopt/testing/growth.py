"""What families of ops draw from: values that fit, and constants beside them.

A family is a function of Hypothesis' ``draw`` and the values there are. It adds one op,
or a few, and gives its results; None where no value fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st

from .. import dims, ops
from ..dims import Dim
from ..ir import Value
from ..types import DType

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]
Family: TypeAlias = "Callable[[Draw, list[Value]], Value | Sequence[Value] | None]"
Test: TypeAlias = Callable[[Value], bool]

MAX_RANK = 4
MAX_ELEMENTS = 4096
FLOATS = (DType.F32, DType.F64, DType.F16)
INTEGERS = (DType.I64, DType.I32)

families: dict[str, Family] = {}
"""What grows a graph, by name; add a function to make graphs with ops of your own."""


def family(function: Family) -> Family:
    """Register a function that adds ops to the values there are."""
    families[getattr(function, "__name__", "family")] = function
    return function


def pick(draw: Draw, values: Sequence[Value], *tests: Test) -> Any:
    """One of the values that pass all tests, mostly a late one; None without any."""
    fitting = [v for v in reversed(values) if all(test(v) for test in tests)]
    if not fitting:
        return None
    last = len(fitting) - 1
    late = st.integers(0, min(2, last))
    return fitting[draw(late if draw(st.integers(0, 2)) else st.integers(0, last))]


def twin(draw: Draw, values: Sequence[Value], x: Value) -> Value:
    """A value of the type of x; x itself is one."""
    same = [v for v in reversed(values) if v.type == x.type]
    return same[draw(st.integers(0, len(same) - 1))] if same else x


def floating(value: Value) -> bool:
    return value.dtype in FLOATS


def integral(value: Value) -> bool:
    return value.dtype in INTEGERS


def numeric(value: Value) -> bool:
    return floating(value) or integral(value)


def boolean(value: Value) -> bool:
    return value.dtype is DType.BOOL


def ranked(low: int, high: int = MAX_RANK) -> Test:
    """A test for ranks in [low, high]."""
    return lambda v: v.rank is not None and low <= v.rank <= high


def filled(value: Value) -> bool:
    """No dim can be zero."""
    return all(dims.at_least(d, 1) for d in shape_of(value))


def known_at(*axes: int) -> Test:
    """A test for axes of known, positive extent."""

    def test(value: Value) -> bool:
        shape = shape_of(value)
        extents = [shape[a] for a in axes if -len(shape) <= a < len(shape)]
        return all(isinstance(d, int) and d > 0 for d in extents)

    return test


def known(value: Value) -> bool:
    """All dims are known and positive."""
    return all(isinstance(d, int) and d > 0 for d in shape_of(value))


def shape_of(value: Value) -> tuple[Dim, ...]:
    assert value.shape is not None
    return value.shape


def known_dims(value: Value) -> list[int]:
    """The dims of a value that are all known."""
    return [extent(value, i) for i in range(len(shape_of(value)))]


def extent(value: Value, axis: int) -> int:
    """A dim that is known."""
    found = shape_of(value)[axis]
    assert isinstance(found, int)
    return found


def numpy_of(value: Value) -> np.dtype[np.generic]:
    assert value.dtype is not None
    return value.dtype.numpy


def scalar(number: float, like: Value) -> ops.Constant:
    """A number of rank 0 in the element type of a value."""
    return ops.Constant(np.asarray(number).astype(numpy_of(like)))


def ints(*numbers: int) -> ops.Constant:
    return ops.Constant(np.array(numbers, np.int64))


def random_of(draw: Draw) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**16)))


def weight(
    draw: Draw, shape: Sequence[int], dtype: DType = DType.F32, *, plain: bool = False
) -> ops.Constant:
    """A constant of small numbers; often all 0, 1 or -0.0, unless ``plain``."""
    kinds = ["normal"] if plain else ["normal", "normal", "zero", "one", "minus zero"]
    kind, random = draw(st.sampled_from(kinds)), random_of(draw)
    if dtype is DType.BOOL:
        return ops.Constant(random.random(shape) < {"zero": 0, "one": 1}.get(kind, 0.5))
    numbers = np.full(shape, {"one": 1.0, "minus zero": -0.0}.get(kind, 0.0))
    if kind == "normal" and dtype.is_float:
        numbers = numbers + random.normal(size=shape)
    elif kind == "normal":
        numbers = numbers + random.integers(-3, 4, shape)
    return ops.Constant(numbers.astype(dtype.numpy))


def like(draw: Draw, x: Value, *, plain: bool = False) -> ops.Constant:
    """A constant that broadcasts with x without stretching it."""
    shape = [
        d if isinstance(d, int) and draw(st.booleans()) else 1 for d in shape_of(x)
    ]
    start = draw(st.integers(0, len(shape)))
    return weight(draw, shape[start:], x.dtype or DType.F32, plain=plain)


def along(draw: Draw, x: Value, axis: int) -> ops.Constant:
    """A constant that varies along one axis of x only."""
    rank = len(shape_of(x))
    shape = [extent(x, axis) if i == axis % rank else 1 for i in range(rank)]
    return weight(draw, shape, x.dtype or DType.F32, plain=True)
