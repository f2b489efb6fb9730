"""Conditions on positions: causal in every spelling, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from equations import M, N, const, ints, param, typed

from graphopt.dims import equal
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    And,
    Constant,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Mul,
    Not,
    Or,
    Range,
    Shape,
    Squeeze,
    Sub,
    Unsqueeze,
)
from graphopt.passes.causal import (
    band_of,
    counts,
    is_causal,
    sees_a_key,
    split_causal,
    window_of,
)
from graphopt.types import DType, TensorType

LENGTH = Shape(param("x", N, 4), start=0, end=1)
PADDING = param("padding", 2, 1, 1, N, dtype=DType.BOOL)


def numbers(*axes: int, start: int = 0, step: int = 1) -> Value:
    """As many as `LENGTH` says, along an axis among those of one."""
    first, apart = const(start, DType.I64), const(step, DType.I64)
    end = Add(Mul(Squeeze(LENGTH), apart), first)
    return Unsqueeze(Range(first, end, apart), ints(*axes))


COLUMN, ROW = numbers(0, 1, 2), numbers(0, 1, 3)
CAUSAL = LessOrEqual(COLUMN, ROW)


def truths(array: object) -> Value:
    return const(array, DType.BOOL)


@pytest.mark.parametrize(
    "spell",
    [
        lambda c, r: LessOrEqual(c, r),
        lambda c, r: GreaterOrEqual(r, c),
        lambda c, r: Not(Greater(c, r)),
        lambda c, r: Not(Less(r, c)),
    ],
)
def test_spellings(spell: Callable[[Value, Value], Value]) -> None:
    assert is_causal(spell(COLUMN, ROW), N, N)
    assert not is_causal(spell(ROW, COLUMN), N, N)
    assert not is_causal(spell(numbers(0, 1, 2, start=1), ROW), N, N)
    assert not is_causal(spell(COLUMN, numbers(0, 1, 3, step=2)), N, N)
    flat = spell(numbers(0), numbers(1))
    assert is_causal(flat, N, N)


def test_other_conditions() -> None:
    for other in (
        Less(COLUMN, ROW),
        Greater(ROW, COLUMN),
        Not(CAUSAL),
        Not(LessOrEqual(ROW, COLUMN)),
        Not(GreaterOrEqual(COLUMN, ROW)),
        Or(CAUSAL, CAUSAL),
        Not(Or(CAUSAL, CAUSAL)),
        PADDING,
        typed("any", TensorType(DType.BOOL)),
        LessOrEqual(numbers(1), numbers(1)),
        LessOrEqual(Add(COLUMN, COLUMN), ROW),
        LessOrEqual(param("c", 1, 1, 1, N), param("r", 1, 1, N, 1)),
    ):
        assert not is_causal(other, N, N)
    assert not is_causal(CAUSAL, 1, N)
    assert not is_causal(CAUSAL, N, M)
    line = LessOrEqual(numbers(0), numbers(0))
    assert not is_causal(Squeeze(line, ints(0)), N, N)
    many = LessOrEqual(COLUMN, Add(ROW, const(np.zeros((2, 1, 1, 1)), DType.I64)))
    assert not is_causal(many, N, N)


def test_constants() -> None:
    triangle = truths(np.tri(4, 6))
    assert is_causal(triangle, 4, 6)
    assert is_causal(truths(np.tri(4, 6)[None, None]), 4, 6)
    assert not is_causal(triangle, 4, 7)
    assert not is_causal(triangle, 5, 6)
    assert not is_causal(truths(np.tri(4, 6, 1)), 4, 6)
    assert not is_causal(truths(np.ones((2, 4, 4))), 4, 4)
    assert not is_causal(truths(np.ones(4)), 4, 4)
    positions = [const(np.arange(4).reshape(s), DType.I64) for s in ((1, 4), (4, 1))]
    assert is_causal(LessOrEqual(*positions), 4, 4)
    ones = const(np.ones((4, 1)), DType.I64)
    assert not is_causal(LessOrEqual(positions[0], ones), 4, 4)


def test_large_constants_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    triangle = truths(np.tri(4, 4))
    for limit, read in ((4, True), (3, False)):
        for module in ("causal", "triangles"):
            monkeypatch.setattr(f"graphopt.passes.{module}.READ_LIMIT", limit)
        assert is_causal(triangle, 4, 4) is read
        assert sees_a_key(triangle) is read


def test_counts() -> None:
    assert counts(COLUMN, 1, N)
    assert not counts(COLUMN, 2, N)
    assert not counts(COLUMN, 1, M)
    assert not counts(numbers(), 2, N)
    assert not counts(numbers(start=1), 1, N)
    assert not counts(numbers(step=2), 1, N)
    assert equal(numbers(start=1).shape[0], N)  # type: ignore[index]
    assert equal(numbers(step=2).shape[0], N)  # type: ignore[index]
    assert not counts(param("n", 1, N, dtype=DType.I64), 1, N)
    assert not counts(typed("any", TensorType(DType.I64)), 1, N)
    assert not counts(const(np.arange(6).reshape(2, 3), DType.I64), 1, 3)
    assert counts(const([0, 1, 2], DType.I64), 1, 3)
    assert not counts(const([0, 1, 1], DType.I64), 1, 3)


def test_splitting() -> None:
    near = param("near", N, N, dtype=DType.BOOL)
    found = split_causal(CAUSAL, N, N)
    assert found is not None
    assert found.rest is None
    found = split_causal(And(CAUSAL, PADDING), N, N)
    assert found is not None
    assert found.rest is PADDING
    found = split_causal(And(CAUSAL, near), N, N)
    assert found is not None
    assert found.rest is near
    found = split_causal(And(And(PADDING, CAUSAL), And(near, CAUSAL)), N, N)
    assert found is not None
    assert found.rest is And(PADDING, near)
    assert split_causal(PADDING, N, N) is None
    assert split_causal(And(PADDING, near), N, N) is None
    flat = param("flat", N, dtype=DType.BOOL)
    assert split_causal(And(CAUSAL, flat), N, N) is None
    vague = typed("vague", TensorType(DType.BOOL))
    assert split_causal(And(CAUSAL, vague), N, N) is None


def test_what_each_query_sees() -> None:
    assert sees_a_key(CAUSAL)
    few = Unsqueeze(
        Range(
            const(0, DType.I64),
            Squeeze(Shape(param("y", M, 4), start=0, end=1)),
            const(1, DType.I64),
        ),
        ints(1),
    )
    assert sees_a_key(LessOrEqual(COLUMN, few))
    assert sees_a_key(truths(np.tri(3, 5)))
    assert sees_a_key(truths([[0, 1], [1, 0]]))
    assert sees_a_key(truths([0, 1]))
    for other in (
        truths([[0, 0], [1, 1]]),
        truths([0, 0]),
        truths(1),
        PADDING,
        And(CAUSAL, PADDING),
        typed("any", TensorType(DType.BOOL)),
        param("flat", N, dtype=DType.BOOL),
    ):
        assert not sees_a_key(other)


def test_bands_are_over_all_queries_and_keys() -> None:
    band = truths(np.tri(4, 4) * (1 - np.tri(4, 4, -2)))
    assert band_of(band, 4, 4) == 2
    assert band_of(band, 4, 5) is None
    assert band_of(truths(np.ones((1, 1))), 4, 4) is None
    row, column = (Constant(np.arange(4).reshape(s)) for s in ((4, 1), (1, 4)))
    near = Less(Sub(row, column), Constant(np.int64(3)))
    assert window_of(near, 4, 4, 0) == 3
    assert window_of(near, 4, 8, 0) is None
