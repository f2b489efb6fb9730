"""Arithmetic on positions: look-ups in order, and conditions that always hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import M, N, fires, graph_of, ints, kinds, misses, param, rewritten

from graphopt.ir import Value
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
    Shape,
    Sub,
    Unsqueeze,
    Where,
)
from graphopt.passes import positions as p
from graphopt.passes.match import LONGEST
from graphopt.passes.positions import PositionMath
from graphopt.rewrite import rewrite
from graphopt.types import DType

MASK = param("mask", N, M, dtype=DType.BOOL)
SCORES = param("scores", N, 2, M, M)


def scalar(n: int) -> Constant:
    return Constant(np.array(n, np.int64))


ZERO, ONE = scalar(0), scalar(1)


def dim(axis: int, of: Value = MASK) -> Value:
    return Gather(Shape(of), scalar(axis))


def count(axis: int) -> Value:
    return Range(ZERO, dim(axis), ONE)


ROWS = Unsqueeze(count(0), ints(1, 2, 3))
COLUMNS = Unsqueeze(count(1), ints(0, 1, 2))
QUERIES = Unsqueeze(count(1), ints(0, 1, 3))


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mask_looked_up_at_row_and_column(axis: int) -> None:
    """As exporters by tracing spell ``mask[rows, columns]``."""
    where = Add(COLUMNS, Mul(ROWS, dim(1)))
    flat = Flatten(MASK, axis=2) if axis == 2 else Reshape(MASK, ints(-1))
    done = rewritten(p.gather_in_order, Gather(flat, where))
    assert kinds(done) == ["Unsqueeze"]
    turned = Add(Mul(dim(1), ROWS), COLUMNS)
    assert kinds(rewritten(p.gather_in_order, Gather(flat, turned))) == ["Unsqueeze"]


def test_positions_of_constants_and_differences() -> None:
    x = param("v", 6, 3)
    grid = Constant(np.arange(6).reshape(2, 3))
    fires(p.gather_in_order, Gather(x, grid), Reshape(x, ints(2, 3, 3)))
    same = param("w", N, 3)
    lengths = Sub(Add(Range(ZERO, dim(0, same), ONE), scalar(5)), scalar(5))
    assert rewrite(graph_of(Gather(same, lengths)), [p.gather_in_order]).outputs == (
        same,
    )


def test_look_ups_in_another_order() -> None:
    flat = Reshape(MASK, ints(-1))
    misses(p.gather_in_order, Gather(flat, Add(ROWS, Mul(COLUMNS, dim(0)))))
    misses(p.gather_in_order, Gather(flat, Add(Add(COLUMNS, Mul(ROWS, dim(1))), ONE)))
    misses(p.gather_in_order, Gather(flat, Add(COLUMNS, Mul(ROWS, dim(0)))))
    misses(p.gather_in_order, Gather(flat, COLUMNS))
    x = param("v", 6)
    misses(p.gather_in_order, Gather(x, ints(0, 1, 2, 3, 4)))
    misses(p.gather_in_order, Gather(x, ints(5, 4, 3, 2, 1, 0)))
    misses(p.gather_in_order, Gather(x, ints(0, 1, 2, 3, 5, 4)))
    misses(p.gather_in_order, Gather(param("s", 6, 6), ints(*range(6)), axis=1))
    narrow = Cast(Range(ZERO, dim(0), ONE), to=DType.I32)
    misses(p.gather_in_order, Gather(MASK, narrow))
    data = param("d", N, dtype=DType.I64)
    misses(p.gather_in_order, Gather(MASK, data))


def grid_of(*shape: int) -> Any:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)


def test_tuples_in_order() -> None:
    mask = param("mask", 3, 4, dtype=DType.BOOL)
    whole = Constant(grid_of(3, 4).reshape(3, 1, 4, 2))
    fires(p.gather_nd_in_order, GatherND(mask, whole), Unsqueeze(mask, ints(1)))
    first = Constant(grid_of(3).reshape(3, 1, 1))
    fires(p.gather_nd_in_order, GatherND(mask, first), Unsqueeze(mask, ints(1)))
    turned = Constant(grid_of(3, 4).transpose(1, 0, 2).copy())
    misses(p.gather_nd_in_order, GatherND(mask, turned))
    some = Constant(grid_of(2, 4))
    misses(p.gather_nd_in_order, GatherND(mask, some))
    back = Constant(grid_of(3, 4) - np.array([0, 4]))
    misses(p.gather_nd_in_order, GatherND(mask, back))
    beyond = Constant(np.stack([np.zeros(12, np.int64), np.arange(12)], axis=-1))
    misses(p.gather_nd_in_order, GatherND(mask, beyond))
    batched = Constant(np.arange(4).reshape(1, 4, 1).repeat(3, 0))
    misses(p.gather_nd_in_order, GatherND(mask, batched, batch_dims=1))
    misses(p.gather_nd_in_order, GatherND(MASK, whole))


def masked(condition: Value) -> Value:
    zero, low = (Constant(np.array(v, np.float32)) for v in (0, -1e9))
    return Add(SCORES, Where(condition, zero, low))


PADDING = Unsqueeze(MASK, ints(1, 2))


@pytest.mark.parametrize(
    "always",
    [
        GreaterOrEqual(QUERIES, ZERO),
        Greater(QUERIES, scalar(-1)),
        LessOrEqual(ZERO, QUERIES),
        Less(QUERIES, dim(1)),
        Greater(dim(1), QUERIES),
        LessOrEqual(QUERIES, Sub(dim(1), ONE)),
        Not(Less(QUERIES, ZERO)),
        GreaterOrEqual(Mul(QUERIES, scalar(3)), Mul(QUERIES, scalar(2))),
        GreaterOrEqual(Expand(QUERIES, ints(1, 1, 1, 1)), ZERO),
        GreaterOrEqual(Mul(QUERIES, scalar(2**62 // LONGEST)), ZERO),
    ],
)
def test_conditions_that_always_hold(always: Value) -> None:
    """What is left is of fewer dims, and the scores have them anyway."""
    assert p.proved(always) is True
    before = masked(And(always, PADDING))
    done = rewritten(p.proved_condition, before)
    assert kinds(done) == ["Unsqueeze", "Where", "Add"]
    negated = masked(Or(Not(always), PADDING))
    assert kinds(rewritten(p.proved_condition, negated)) == kinds(done)


@pytest.mark.parametrize(
    "sometimes",
    [
        Greater(QUERIES, ZERO),
        GreaterOrEqual(QUERIES, ONE),
        Less(QUERIES, Sub(dim(1), ONE)),
        Less(QUERIES, dim(0)),
        LessOrEqual(COLUMNS, QUERIES),
        GreaterOrEqual(Mul(QUERIES, QUERIES), ZERO),
        GreaterOrEqual(param("i", 1, 1, M, 1, dtype=DType.I64), ZERO),
    ],
)
def test_conditions_that_hang_on_data(sometimes: Value) -> None:
    assert p.proved(sometimes) is None
    misses(p.proved_condition, masked(And(sometimes, PADDING)))


@pytest.mark.parametrize(
    "wrapped",
    [
        Greater(Add(QUERIES, scalar(2**63 - 2)), scalar(-5)),
        GreaterOrEqual(Mul(QUERIES, scalar(2**62)), ZERO),
        GreaterOrEqual(Mul(QUERIES, scalar(2**63 // LONGEST)), ZERO),
        GreaterOrEqual(Mul(Mul(QUERIES, dim(0)), Mul(dim(1), dim(1))), ZERO),
        GreaterOrEqual(ints(0, 2**62, -(2**63), -(2**62)), ZERO),
    ],
)
def test_conditions_on_numbers_that_wrap_around(wrapped: Value) -> None:
    """Integers have 64 bits: 2**63 - 2 and 2 more are negative."""
    assert p.proved(wrapped) is None
    misses(p.proved_condition, And(wrapped, param("any", N, 1, M, 4, dtype=DType.BOOL)))


def test_conditions_that_never_hold() -> None:
    never = Less(QUERIES, ZERO)
    assert p.proved(never) is False
    assert p.proved(GreaterOrEqual(QUERIES, dim(1))) is False
    misses(p.proved_condition, masked(And(never, PADDING)))


def test_a_condition_that_gives_the_dims() -> None:
    always = GreaterOrEqual(QUERIES, ZERO)
    lone = Where(And(always, PADDING), SCORES, Constant(np.float32(0)))
    assert kinds(rewritten(p.proved_condition, lone)) == ["Unsqueeze", "Where"]
    small = param("small", N, 1, 1, M)
    wide = Where(And(always, PADDING), small, Constant(np.float32(0)))
    misses(p.proved_condition, wide, "gives the result its dims")
    full = param("full", N, 1, M, M, dtype=DType.BOOL)
    fires(p.proved_condition, And(always, full), full)
    known = Constant(np.ones((3, 1), bool))
    plain = param("b", 3, 4, dtype=DType.BOOL)
    fires(p.proved_condition, And(plain, known), plain)


def test_the_pass() -> None:
    assert PositionMath().name == "position-math"
    assert tuple(PositionMath().rules()) == p.RULES


def test_what_is_not_seen_to_be_positions() -> None:
    data = param("n", dtype=DType.I64)
    assert p.positions_of(Range(ZERO, data, ONE)) is None
    assert p.positions_of(Range(data, scalar(4), ONE)) is None
    assert p.positions_of(Range(ZERO, scalar(4), data)) is None
    line = Range(ZERO, scalar(4), ONE)
    assert p.positions_of(Mul(line, line)) is None
    assert p.positions_of(Sub(line, data)) is None
    long: Value = count(0)
    for _ in range(p.DEEPEST):
        long = Add(long, dim(0))
    assert p.positions_of(long) is None


def test_positions_of_one() -> None:
    """Steps along dims of 1 are 0, so that they may be stretched."""
    found = p.positions_of(ints(3))
    assert found is not None
    assert (found.steps, found.offset) == ((0,), 3)
    doubled = p.positions_of(Mul(Range(ZERO, scalar(4), ONE), ints(2)))
    assert doubled is not None
    assert doubled.steps == (2,)


def test_tuples_from_the_end() -> None:
    """(1, -3) is not the first element, though 1 * 3 - 3 is 0."""
    x = param("x", 2, 3)
    tuples = grid_of(2, 3)
    tuples[0, 0] = (1, -3)
    misses(p.gather_nd_in_order, GatherND(x, Constant(tuples)))
