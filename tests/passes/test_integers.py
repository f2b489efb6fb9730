"""Integers: casts of indices that go, and proofs that they may."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from equations import N, const, fires, graph_of, ints, misses, op_of, param, rewritten

from graphopt.ir import Op, Value
from graphopt.ops import (
    Abs,
    Add,
    Cast,
    CumSum,
    Equal,
    Expand,
    Gather,
    GatherElements,
    GatherND,
    Greater,
    Less,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    ReduceSum,
    ScatterElements,
    Sub,
    Unsqueeze,
    Where,
)
from graphopt.passes import integers as i
from graphopt.passes.integers import interval
from graphopt.passes.match import LONGEST
from graphopt.reference import evaluate
from graphopt.rewrite import Scene
from graphopt.types import DType, TensorType

D = DType
TABLE = const(np.arange(60).reshape(20, 3))


def long(x: Value) -> Cast:
    return Cast(x, to=D.I64)


def short(x: Value) -> Cast:
    return Cast(x, to=D.I32)


def small(name: str, *shape: Any, dtype: DType = D.I32) -> Value:
    return param(name, *(shape or (4,)), dtype=dtype)


def known(value: Value) -> Any:
    return interval(value, Scene(graph_of(value)))


# --- look-ups -----------------------------------------------------------------------


def test_a_look_up_takes_the_index_as_it_was() -> None:
    at = const([[1, -2], [0, 19]], D.I32)
    fires(i.index_as_it_was, Gather(TABLE, long(at)), Gather(TABLE, at))
    rows = const([[1, -2, 0], [0, 19, 3]], D.I32)
    before = GatherElements(TABLE, long(rows), axis=0)
    fires(i.index_as_it_was, before, GatherElements(TABLE, rows, axis=0))
    new = param("new", 2, 3)
    put = ScatterElements(TABLE, long(rows), new, axis=0)
    fires(i.index_as_it_was, put, ScatterElements(TABLE, rows, new, axis=0))


def test_indices_of_other_types_stay() -> None:
    misses(i.index_as_it_was, Gather(TABLE, long(small("x", dtype=D.I16))))
    misses(i.index_as_it_was, Gather(TABLE, short(small("x", dtype=D.I64))))
    misses(i.index_as_it_was, Gather(TABLE, small("x", dtype=D.I64)))
    misses(i.index_as_it_was, GatherND(TABLE, long(small("x", 4, 1))))


# --- arithmetic modulo 2**32 --------------------------------------------------------


def test_what_wraps_may_wrap_early() -> None:
    x, y = small("x"), small("y")
    for kind in (Add, Sub, Mul):
        fires(i.wrapped_early, short(kind(long(x), long(y))), kind(x, y))
    far = ints((1 << 40) + 5, 1, 2, -(1 << 33))
    near = const([5, 1, 2, 0], D.I32)
    fires(i.wrapped_early, short(Sub(far, long(x))), Sub(near, x))
    fires(i.wrapped_early, short(Neg(long(x))), Neg(x))
    bits = small("m", N, 4, dtype=D.BOOL)
    before = short(CumSum(long(bits), ints(1), exclusive=1))
    fires(i.wrapped_early, before, CumSum(short(bits), ints(1), exclusive=1))


def test_what_may_not_wrap_early() -> None:
    x, wide = small("x"), small("w", dtype=D.I64)
    misses(i.wrapped_early, short(Add(long(x), wide)), "an operand was wide")
    misses(i.wrapped_early, short(Add(wide, wide)))
    real = Cast(param("f", 4), to=D.I64)  # which saturates
    misses(i.wrapped_early, short(Add(real, ints(1))))
    misses(i.wrapped_early, short(Add(real, long(x))), "an operand was wide")
    misses(i.wrapped_early, short(Max(long(x), ints(1))))
    misses(i.wrapped_early, Cast(Add(long(x), ints(1)), to=D.I16))
    misses(i.wrapped_early, Cast(Add(Cast(x, to=D.F32), const(1.0)), to=D.I32))
    total = Add(long(x), ints(1))
    misses(i.wrapped_early, (short(total), Neg(total)))
    whole = small("u", dtype=D.U32)
    fires(i.wrapped_early, short(Neg(long(whole))), Neg(short(whole)))


# --- sums that fit ------------------------------------------------------------------


def test_counting_is_done_narrow_where_it_fits() -> None:
    bits = small("m", N, 4, dtype=D.BOOL)
    seen = CumSum(short(bits), ints(1))
    masked = Mul(seen, short(bits))
    before = Gather(TABLE, Add(long(masked), ints(1)))
    fires(
        i.counted_narrow,
        before,
        Gather(TABLE, long(Add(masked, const([1], D.I32)))),
    )
    done = rewritten(i.RULES, before)
    assert done.outputs[0] is Gather(TABLE, Add(masked, const([1], D.I32)))


def test_each_counting_op() -> None:
    x = Min(Max(small("x"), const(-50, D.I32)), const(70, D.I32))
    y = short(small("b", dtype=D.BOOL))
    for kind in (Add, Sub, Mul, Min, Max):
        fires(i.counted_narrow, kind(long(x), long(y)), long(kind(x, y)))
        fires(
            i.counted_narrow, kind(long(x), ints(9)), long(kind(x, const([9], D.I32)))
        )
    fires(i.counted_narrow, CumSum(long(x), ints(0)), long(CumSum(x, ints(0))))
    bits = small("m", dtype=D.BOOL)
    fires(i.counted_narrow, Sub(long(x), long(bits)), long(Sub(x, short(bits))))


def test_counting_stays_wide_where_it_may_not_fit() -> None:
    x, wide = small("x"), small("w", dtype=D.I64)
    misses(i.counted_narrow, Add(long(x), ints(1)), "may not fit")
    misses(i.counted_narrow, Sub(long(x), ints(1)), "may not fit")
    misses(i.counted_narrow, Max(long(x), ints(1 << 31)), "may not fit")
    misses(i.counted_narrow, Min(long(x), ints(-(1 << 31) - 1)), "may not fit")
    misses(i.counted_narrow, CumSum(long(x), ints(0)), "may not fit")
    misses(i.counted_narrow, Add(long(x), wide), "an operand was wide")
    bits = short(small("m", dtype=D.BOOL))
    misses(i.counted_narrow, Mul(long(bits), ints(1 << 31)), "may not fit")
    shared = long(bits)
    misses(i.counted_narrow, (Add(shared, ints(1)), Neg(shared)), "read elsewhere")
    whole = long(small("u", dtype=D.U32))
    misses(i.counted_narrow, Max(long(bits), whole), "has more numbers")
    misses(i.counted_narrow, Add(whole, ints(1)))
    misses(i.counted_narrow, Add(Cast(x, to=D.F32), const(1.0)))
    misses(i.counted_narrow, Add(x, const(1, D.I32)))


# --- comparisons, and the way back --------------------------------------------------


def ids_of(table: Value = TABLE, axis: int = 0) -> tuple[Value, Value]:
    ids = small("ids", 2, 3, dtype=D.I64)
    return ids, Gather(table, ids, axis=axis)


def outcome(rule: Any, before: Op, *others: Value) -> Any:
    """What a rule makes of an op in a graph that cannot be run on random ids."""
    return rule.apply(before, Scene(graph_of(before, *others)))


@pytest.mark.parametrize("kind", [Equal, Less, Greater])
def test_ids_of_a_table_are_compared_as_they_are(kind: Any) -> None:
    ids, picked = ids_of()
    end = const(7, D.I32)
    seven = const(7, D.I64)
    made = outcome(i.compared_wide, kind(short(ids), end), picked)
    assert made is kind(ids, seven)
    made = outcome(i.compared_wide, kind(end, short(ids)), picked)
    assert made is kind(seven, ids)
    assert outcome(i.widened_back, long(short(ids)), picked) is ids


def test_numbers_that_nobody_looks_up_may_be_any() -> None:
    ids = small("ids", 2, 3, dtype=D.I64)
    misses(i.compared_wide, Equal(short(ids), const(7, D.I32)), "may not fit")
    misses(i.widened_back, long(short(ids)), "may not fit")
    data = Gather(ids, ints(0), axis=1)
    misses(i.widened_back, (long(short(ids)), data), "may not fit")
    misses(i.compared_wide, Equal(short(ids), small("y", 3)))
    misses(i.compared_wide, Equal(Cast(ids, to=D.I16), const(7, D.I16)))
    misses(i.compared_wide, Equal(short(param("f", 3)), const(7, D.I32)))
    misses(i.widened_back, long(Cast(ids, to=D.I16)))
    misses(i.widened_back, Cast(short(ids), to=D.I16))
    misses(i.widened_back, long(short(small("u", dtype=D.U32))))


def test_a_small_number_comes_back_as_it_was() -> None:
    bits = small("m", 3, 4, dtype=D.BOOL)
    seen = CumSum(long(bits), ints(1))
    fires(i.widened_back, long(short(seen)), seen)
    fires(
        i.compared_wide,
        Equal(short(seen), const(2, D.I32)),
        Equal(seen, const(2, D.I64)),
    )


def test_what_is_known_of_ids() -> None:
    ids = small("ids", 2, 3, dtype=D.I64)
    full = (-(1 << 63), (1 << 63) - 1)

    def of(*others: Value) -> Any:
        return interval(ids, Scene(graph_of(Neg(ids), *others)))

    assert of(Gather(TABLE, ids)) == (-20, 19)
    assert of(Gather(TABLE, ids, axis=1)) == (-3, 2)
    assert of(Gather(TABLE, ids, axis=-1)) == (-3, 2)
    assert of() == full
    assert of(Gather(param("open", N, 3), ids)) == full
    assert of(Gather(ids, ids)) == full  # as data it may be any, too
    assert of(GatherElements(const(np.ones((9, 9))), ids)) == full
    assert of(Gather(ids, ints(0))) == full
    unknown = param("unknown", 1)
    unknown.type = TensorType(D.F32, None)
    assert of(Gather(unknown, ids)) == full


# --- ranges -------------------------------------------------------------------------


def test_ranges() -> None:
    bits = small("m", 3, 4, dtype=D.BOOL)
    one, x = short(bits), small("x", dtype=D.I8)
    assert known(bits) == (0, 1)
    assert known(param("f", 2)) is None
    assert known(small("u", dtype=D.U8)) == (0, 255)
    assert known(x) == (-128, 127)
    assert known(short(x)) == (-128, 127)
    assert known(Cast(short(x), to=D.U8)) == (0, 255)
    assert known(Cast(param("f", 2), to=D.I16)) == (-(1 << 15), (1 << 15) - 1)
    assert known(Neg(short(x))) == (-127, 128)
    assert known(Abs(short(x))) == (0, 128)
    assert known(Neg(x)) == (-128, 127)  # 128 wraps
    assert known(ints(3, -7, 5)) == (-7, 5)
    assert known(Add(short(x), const(3, D.I32))) == (-125, 130)
    assert known(Sub(const(3, D.I32), short(x))) == (-124, 131)
    assert known(Min(short(x), const(3, D.I32))) == (-128, 3)
    assert known(Max(short(x), const(3, D.I32))) == (3, 127)
    assert known(Where(bits, one, const(-4, D.I32))) == (-4, 1)
    assert known(Expand(Unsqueeze(one, ints(0)), ints(2, 3, 4))) == (0, 1)
    assert known(CumSum(one, ints(1))) == (0, 4)
    assert known(CumSum(Neg(one), ints(0))) == (-3, 0)
    assert known(CumSum(Add(one, const(2, D.I32)), ints(0), exclusive=1)) == (0, 9)
    assert known(ReduceSum(one)) == (-(1 << 31), (1 << 31) - 1)
    open_ = short(small("o", 3, N, dtype=D.BOOL))
    assert known(CumSum(open_, ints(1))) == (0, LONGEST)
    assert known(CumSum(one, small("axis", 1))) == (0, LONGEST)


@pytest.mark.parametrize(("low", "high"), [(-2, 3), (2, 3), (-3, -2)])
def test_ranges_of_products(low: int, high: int) -> None:
    x = short(small("x", 256, dtype=D.I8))
    y = Max(
        Min(short(small("y", 1, dtype=D.I8)), const(high, D.I32)), const(low, D.I32)
    )
    found = known(Mul(x, y))
    every = [a * b for a, b in product((-128, 127), range(low, high + 1))]
    assert found == (min(every), max(every))


def test_a_deep_chain_is_not_followed() -> None:
    x: Value = short(small("m", dtype=D.BOOL))
    for _ in range(i.DEEPEST):
        x = Add(x, const(1, D.I32))
    assert known(x) == (-(1 << 31), (1 << 31) - 1)


def test_each_value_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sum with itself, and so on, there are twice as many ways at each step."""
    seen: list[Op] = []
    made = i._Intervals.made
    monkeypatch.setattr(
        i._Intervals,
        "made",
        lambda self, op, left: (seen.append(op), made(self, op, left))[1],
    )
    x: Value = Cast(small("bits", 2, dtype=D.BOOL), to=D.I64)
    for _ in range(i.DEEPEST - 2):
        x = Add(x, x)
    assert known(x) == (0, 1 << i.DEEPEST - 2)
    assert len(seen) == len(set(seen)) == i.DEEPEST - 1


def test_ranges_hold_every_number() -> None:
    """Of random expressions of small integers, run."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        feeds = [rng.integers(-128, 128, 5).astype(np.int8) for _ in range(3)]
        pool: list[Value] = [small(f"x{k}", 5, dtype=D.I8) for k in range(3)]
        inputs = list(pool)
        pool = [short(v) for v in pool]
        for _ in range(4):
            a, b = (pool[k] for k in rng.integers(0, len(pool), 2))
            kind = [Add, Sub, Mul, Min, Max, Neg, Abs, CumSum][rng.integers(0, 8)]
            if kind in (Neg, Abs):
                pool.append(kind(a))
            elif kind is CumSum:
                ways = {
                    "exclusive": int(rng.integers(2)),
                    "reverse": int(rng.integers(2)),
                }
                pool.append(CumSum(a, ints(0), **ways))
            else:
                pool.append(kind(a, b))
        graph = graph_of(*pool, inputs=inputs)  # type: ignore[arg-type]
        for value, array in zip(pool, evaluate(graph, feeds), strict=True):
            low, high = known(value)
            assert low <= array.min()
            assert array.max() <= high


# --- all of it ----------------------------------------------------------------------


def test_position_ids_lose_their_casts() -> None:
    """As models count the tokens that are no padding: three casts of four go."""
    ids = small("ids", 2, N, dtype=D.I64)
    real = Not(Equal(ids, ints(1)))
    seen = short(CumSum(long(real), ints(1)))
    at = Add(long(Mul(seen, short(real))), ints(1))
    done = rewritten([*i.RULES], Gather(const(np.ones((600, 2))), at), opset=20)
    at = op_of(op_of(done.outputs[0]).operands[1])
    assert at.dtype is D.I32
    casts = [op for op in done.ops if isinstance(op, Cast)]
    assert casts == [short(real)]
