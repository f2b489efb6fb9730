"""Numbers that hide scores: conditions, where that is certain."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from equations import N, const, fires, ints, kinds, misses, param, rewritten

from graphopt.ir import Value
from graphopt.ops import (
    Abs,
    Add,
    And,
    Attention,
    Cast,
    Constant,
    Div,
    Greater,
    IsNaN,
    LayerNormalization,
    LessOrEqual,
    MatMul,
    Mul,
    Range,
    Reshape,
    Shape,
    Softmax,
    Squeeze,
    Sub,
    Tanh,
    Transpose,
    Unsqueeze,
    Where,
)
from graphopt.passes.raise_attention import RULES, attention
from graphopt.passes.scores import same_rows, unscaled
from graphopt.types import DType

OPSET = 24
QUERIES, KEYS, SIZE = 3, 5, 16
Q, K = param("q", 2, 4, QUERIES, SIZE), param("k", 2, 4, KEYS, SIZE)
V = param("v", 2, 4, KEYS, 8)
ADDED = param("added", 2, 1, QUERIES, KEYS)
TRIANGLE = np.tri(QUERIES, KEYS, dtype=bool)
SEEN, HIDDEN = Constant(TRIANGLE), Constant(~TRIANGLE)
NOBODY = Constant(TRIANGLE & np.array([[True], [False], [True]]))
"""The second query sees nothing."""


def normed(x: Value) -> Value:
    """Numbers up to 4, the root of 16."""
    return LayerNormalization(x, const(np.ones(SIZE)), axis=-1)


def scores(q: Value | None = None, k: Value | None = None) -> Value:
    """Rows are 4 long, so they are at most 4 * 4 / 4."""
    k = Transpose(normed(K) if k is None else k, perm=(0, 1, 3, 2))
    return Mul(MatMul(normed(Q) if q is None else q, k), const(0.25))


def spelled(hidden: Value, v: Value = V) -> Value:
    return MatMul(Softmax(hidden), v)


def raised(mask: Value | None, q: Value | None = None, k: Value | None = None) -> Value:
    return Attention(q or normed(Q), k or normed(K), V, mask)


def added(number: float, seen: Constant = SEEN) -> Constant:
    return const(np.where(seen.tensor.array(), 0, number))


@pytest.mark.parametrize("number", [-1e9, -1017.0, -1e30, -3e38])
@pytest.mark.parametrize(
    "hide",
    [
        lambda s, n: Where(SEEN, s, const(n)),
        lambda s, n: Where(HIDDEN, const(n), s),
        lambda s, n: Add(s, Where(SEEN, const(0.0), const(n))),
        lambda s, n: Add(s, Where(HIDDEN, const(n), const(0.0))),
        lambda s, n: Add(s, added(n)),
    ],
)
def test_a_choice_and_a_sum_are_conditions(
    hide: Callable[[Value, float], Value], number: float
) -> None:
    fires(attention, spelled(hide(scores(), number)), raised(SEEN), opset=OPSET)


def test_the_nearest_of_several_numbers_decides() -> None:
    def mask(number: float) -> Constant:
        array = np.where(TRIANGLE, 0, -1e9)
        array[0, 1:3] = number, -math.inf
        return const(array)

    for number, found in ((-2e3, SEEN), (-1016.0, mask(-1016.0)), (5.0, mask(5.0))):
        before = spelled(Add(scores(), mask(number)))
        fires(attention, before, raised(found), opset=OPSET)


def test_a_constant_of_infinities_is_a_condition() -> None:
    """Even where it hides all keys of a query, which then are NaN."""
    before = spelled(Add(scores(Q, K), added(-math.inf)))
    fires(attention, before, raised(SEEN, Q, K), opset=OPSET)


def test_a_soft_cap_is_a_bound() -> None:
    inner = Mul(MatMul(Q, Transpose(K, perm=(0, 1, 3, 2))), const(0.25))
    capped = Mul(Tanh(Div(inner, const(30.0))), const(30.0))
    for number, certain in ((-1e9, True), (-1121.0, True), (-1120.0, False)):
        before = spelled(Where(SEEN, capped, const(number)))
        if certain:
            after = Attention(Q, K, V, SEEN, softcap=30.0)
            fires(attention, before, after, opset=OPSET)
        else:
            misses(attention, before, "far below all", opset=OPSET)


UNCERTAIN = {
    "too near": Where(SEEN, scores(), const(-1016.0)),
    "of any size": Where(SEEN, scores(Q, K), const(-1e9)),
    "a query without keys": Where(NOBODY, scores(), const(-1e9)),
    "another mask within": Where(SEEN, Add(scores(), ADDED), const(-1e9)),
    "another mask around": Add(Where(SEEN, scores(), const(-1e9)), ADDED),
    "an input": Where(
        param("seen", QUERIES, KEYS, dtype=DType.BOOL), scores(), const(-1e9)
    ),
}


@pytest.mark.parametrize("why", UNCERTAIN)
def test_a_choice_that_may_count_stays(why: str) -> None:
    misses(attention, spelled(UNCERTAIN[why]), "far below all", opset=OPSET)


def test_a_sum_that_may_count_stays_one() -> None:
    for mask, q, k in (
        (added(-1016.0), normed(Q), normed(K)),
        (added(-1e9), Q, K),
        (added(-1e9, NOBODY), normed(Q), normed(K)),
    ):
        before = spelled(Add(scores(q, k), mask))
        fires(attention, before, raised(mask, q, k), opset=OPSET)
    several = Where(SEEN, Add(scores(), ADDED), const(-1e30))
    after = raised(Add(ADDED, Where(SEEN, const(0.0), const(-1e30))))
    fires(attention, spelled(several), after, opset=OPSET)


M = const(TRIANGLE.astype(np.float32))


def less(x: Value, m: Value, number: float) -> Value:
    """x * m - number * (1 - m), as GPT-2 hides scores."""
    return Sub(Mul(x, m), Mul(const(number), Sub(const(1.0), m)))


def test_scores_that_are_taken_times_0_or_1() -> None:
    hidden = const(np.where(TRIANGLE, 0, 1e4))
    for before in (
        less(scores(), M, 1e4),
        Sub(Mul(M, scores()), hidden),
        Add(Mul(Sub(M, const(1.0)), const(1e4)), Mul(scores(), M)),
    ):
        fires(attention, spelled(before), raised(SEEN), opset=OPSET)


def test_what_is_taken_times_0_or_1_and_may_count_stays() -> None:
    padding = Cast(param("seen", QUERIES, KEYS, dtype=DType.BOOL), to=DType.F32)
    for before in (
        less(scores(), M, 1016.0),
        less(scores(Q, K), M, 1e4),
        less(scores(), padding, 1e4),
    ):
        misses(attention, spelled(before), "far below all", opset=OPSET)
    for before in (
        less(scores(), Mul(M, const(2.0)), 1e4),  # no 0 or 1
        less(scores(), M, -1e4),  # hides nothing
        less(scores(), M, math.inf),  # 0 * inf
        Sub(Mul(scores(), M), const(1e4)),  # less everywhere
        Sub(Mul(scores(), M), Mul(const(1e4), Sub(const(1.0), padding))),
    ):
        misses(attention, spelled(before), "no scaled and masked", opset=OPSET)


@pytest.mark.parametrize("spell", [0, 1, 2])
def test_the_first_key_is_seen_by_all(spell: int) -> None:
    """So what hides later keys by a number is causal."""
    q, k, v = (param(n, 2, 4, N, s) for n, s in (("q", 16), ("k", 16), ("v", 8)))
    count = Squeeze(Shape(q, start=2, end=3), ints(0))
    positions = Range(*(Constant(np.array(0)), count, Constant(np.array(1))))
    row, column = Unsqueeze(positions, ints(1)), Unsqueeze(positions, ints(0))
    inner = scores(normed(q), normed(k))
    if spell == 2:
        hidden = less(inner, Cast(LessOrEqual(column, row), to=DType.F32), 1e4)
    elif spell:
        hidden = Where(Greater(column, row), const(-1e9), inner)
    else:
        hidden = Where(LessOrEqual(column, row), inner, const(-1e9))
    done = rewritten(RULES, spelled(hidden, v), opset=OPSET)
    (made,) = (op for op in done.ops if isinstance(op, Attention))
    assert made.is_causal
    assert made.operand(3) is None
    window = And(LessOrEqual(column, row), param("near", N, N, dtype=DType.BOOL))
    before = spelled(Where(window, inner, const(-1e9)), v)
    misses(attention, before, "far below all", opset=OPSET)


def test_scores_that_others_read_stay() -> None:
    """Wherever on the way they are read: they would be computed twice."""
    plain = scores(Q, K)
    masked = Add(plain, ADDED)
    for read in (plain, masked):
        before = MatMul(Softmax(masked), V)
        misses(attention, (before, Abs(read)), "no scaled and masked", opset=OPSET)


def test_how_scores_are_read() -> None:
    assert unscaled(Mul(Mul(Q, const(0.25)), const(0.5))) == (Q, 0.125)
    x = param("x", 2, 3, 4)
    one = param("one", 1, 3, 4)
    assert same_rows(Reshape(one, ints(3, 4))) is one
    assert same_rows(Reshape(x, ints(6, 4))) is None
    assert same_rows(Reshape(x, ints(24))) is None
    assert same_rows(Reshape(x, ints(2, 12))) is None
    line = param("line", 4)
    assert same_rows(Reshape(line, ints(1, 4))) is None
    weights = Softmax(scores(Q, K))
    kept = MatMul(Where(IsNaN(weights), const(0.0), weights), V)
    assert kinds(rewritten(attention, kept, opset=OPSET)).count("Attention") == 1
    other = Softmax(scores(Q, normed(K)))
    wrong = MatMul(Where(IsNaN(other), const(0.0), weights), V)
    misses(attention, wrong, opset=OPSET)
