"""Casts: chains that lose nothing, and every pair of types that does."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from equations import const, fires, ints, kinds, misses, param, rewritten

from graphopt.ir import Value
from graphopt.ops import (
    Abs,
    Add,
    Cast,
    CastLike,
    Clip,
    Concat,
    Equal,
    Exp,
    Greater,
    Less,
    Max,
    MaxPool,
    Min,
    Mul,
    Relu,
    Reshape,
    Transpose,
    Where,
)
from graphopt.passes import casts as c
from graphopt.types import DType, TensorType
from graphopt.xp import host

D = DType
FLOATS = [D.F64, D.F32, D.F16, D.BF16]
INTEGERS = [D.I8, D.U8, D.I16, D.U16, D.I32, D.U32, D.I64, D.U64, D.I4, D.U4]


def of(dtype: DType) -> Value:
    return param(f"x_{dtype}", 5, dtype=dtype)


EQUATIONS: list[tuple[Any, Value, Value]] = [
    (c.cast_like, CastLike(of(D.F32), of(D.I32)), Cast(of(D.F32), to=D.I32)),
    (
        c.cast_like,
        CastLike(of(D.F32), of(D.F8E4M3FN), saturate=0),
        Cast(of(D.F32), to=D.F8E4M3FN, saturate=0),
    ),
    (
        c.cast_like,
        CastLike(of(D.F32), of(D.F8E8M0), round_mode="down"),
        Cast(of(D.F32), to=D.F8E8M0, round_mode="down"),
    ),
    (c.cast_nothing, Cast(of(D.F32), to=D.F32), of(D.F32)),
    (c.cast_nothing, Cast(of(D.F8E4M3FN), to=D.F8E4M3FN), of(D.F8E4M3FN)),
    (c.cast_nothing, Cast(of(D.STRING), to=D.STRING), of(D.STRING)),
]


@pytest.mark.parametrize(("rule", "before", "after"), EQUATIONS)
def test_equation(rule: Any, before: Value, after: Value) -> None:
    # Parameters are equal by identity: build both sides on the same ones.
    x = before.op.operands[0] if before.op else None
    assert isinstance(x, Value)
    after = x if after.op is None else after.op.with_operands([x])
    fires(rule, before, after, opset=25)


CHAINS = [
    (D.I32, D.I64, D.F32),
    (D.F16, D.F32, D.F16),
    (D.BF16, D.F32, D.F64),
    (D.F16, D.F32, D.BF16),
    (D.F32, D.F64, D.F16),
    (D.U8, D.I16, D.I8),
    (D.I8, D.I32, D.U8),
    (D.I32, D.F64, D.I64),
    (D.I8, D.F32, D.F16),
    (D.BOOL, D.I64, D.F32),
    (D.BOOL, D.F16, D.I8),
    (D.I64, D.I64, D.BOOL),
    (D.U4, D.I8, D.F32),
    (D.I4, D.F16, D.I8),
    (D.F32, D.F64, D.F8E5M2),
    # as wide as the float holds just so
    (D.I8, D.BF16, D.F32),
    (D.U8, D.BF16, D.F32),
]


@pytest.mark.parametrize(("source", "middle", "last"), CHAINS)
def test_lossless_chains_become_one(source: D, middle: D, last: D) -> None:
    x = of(source)
    fires(c.cast_cast, Cast(Cast(x, to=middle), to=last), Cast(x, to=last), opset=21)


def test_the_last_cast_keeps_its_attributes() -> None:
    x = of(D.F16)
    before = Cast(Cast(x, to=D.F32), to=D.F8E4M3FN, saturate=0)
    fires(c.cast_cast, before, Cast(x, to=D.F8E4M3FN, saturate=0), opset=21)


LOSSY = [
    (D.F32, D.F16, D.F32, "cannot hold"),
    (D.F32, D.BF16, D.F32, "cannot hold"),
    (D.BF16, D.F16, D.F32, "cannot hold"),
    (D.F16, D.BF16, D.F32, "cannot hold"),
    (D.F32, D.I64, D.F32, "cannot hold"),
    (D.I64, D.F64, D.I64, "cannot hold"),
    (D.I32, D.F32, D.I32, "cannot hold"),
    (D.I64, D.I32, D.I64, "cannot hold"),
    (D.I8, D.U8, D.I32, "cannot hold"),
    (D.U8, D.I8, D.I32, "cannot hold"),
    (D.I32, D.U64, D.F32, "cannot hold"),
    (D.F32, D.BOOL, D.F32, "cannot hold"),
    (D.I64, D.BOOL, D.I64, "cannot hold"),
    (D.F32, D.F8E4M3FN, D.F32, "cannot hold"),
    (D.F8E4M3FN, D.F16, D.F32, "cannot hold"),
    # integers wrap, a float between them saturates
    (D.U32, D.F64, D.I32, "rules of its own"),
    (D.I32, D.F64, D.U8, "rules of its own"),
    # an integer comes to a half by way of float32
    (D.I32, D.F64, D.F16, "rules of its own"),
    (D.F32, D.STRING, D.F32, "a string"),
    (D.I32, D.I64, D.STRING, "a string"),
]


@pytest.mark.parametrize(("source", "middle", "last", "reason"), LOSSY)
def test_lossy_chains_stay(source: D, middle: D, last: D, reason: str) -> None:
    x = of(source)
    misses(c.cast_cast, Cast(Cast(x, to=middle), to=last), reason, opset=21)


def test_other_guards() -> None:
    unknown = param("u", 3)
    unknown.type = TensorType(None, (3,))
    misses(c.cast_nothing, Cast(unknown, to=D.F32))
    misses(c.cast_nothing, Cast(of(D.F32), to=D.F16))
    misses(c.cast_like, CastLike(of(D.F32), unknown), "is not known")
    misses(c.cast_cast, Cast(Cast(unknown, to=D.F32), to=D.F16), "is not known")
    misses(c.cast_cast, Cast(of(D.F16), to=D.F32))


def samples(dtype: DType) -> Any:
    """Numbers at the edges of a type, and between."""
    if dtype is D.BOOL:
        return np.array([False, True])
    if dtype.is_integer:
        top = 1 << (dtype.bits - dtype.is_signed)
        low = -top if dtype.is_signed else 0
        edges = {low, low + 1, -1, 0, 1, 3, top // 2 + 1, top - 2, top - 1}
        return np.array([e for e in edges if low <= e < top], object).astype(
            dtype.numpy
        )
    big = float(np.finfo(np.float32).max) if dtype is not D.F16 else 65504.0
    numbers = [0, -0.0, 1, -1.5, 1 / 3, big, -big, 1e-7, np.inf, np.nan, 2049.5]
    with np.errstate(all="ignore"):
        return np.array(numbers).astype(dtype.numpy)


@pytest.mark.parametrize("source", [*FLOATS, *INTEGERS, D.BOOL], ids=str)
def test_what_the_rule_takes_for_equal_is(source: DType) -> None:
    """Every chain for which `cast_cast` fires gives the same bits, on edge numbers."""
    xp, x = host(), samples(source)
    taken = 0
    for middle, last in product([*FLOATS, *INTEGERS, D.BOOL], repeat=2):
        op = Cast(Cast(of(source), to=middle), to=last)
        if not isinstance(c.cast_cast.apply(op, None), Value):  # type: ignore[arg-type]
            continue
        taken += 1
        with xp.scope():
            twice = xp.cast(xp.cast(x, middle), last)
            once = xp.cast(x, last)
        assert twice.tobytes() == once.tobytes(), (source, middle, last, x, twice, once)
    assert taken >= 15


@pytest.mark.parametrize("wide", [*FLOATS, *INTEGERS], ids=str)
def test_holds_is_what_a_round_trip_says(wide: DType) -> None:
    xp = host()
    for narrow in [*FLOATS, *INTEGERS, D.BOOL]:
        x = samples(narrow)
        with xp.scope():
            back = xp.cast(xp.cast(x, wide), narrow)
        kept = back.tobytes() == x.tobytes()
        if wide.holds(narrow):
            assert kept, (wide, narrow)
        elif wide.is_integer or (narrow.is_float and not wide.is_integer):
            assert not kept or narrow.is_integer, (wide, narrow)


def test_constants_are_castable() -> None:
    before = Cast(Cast(const([1.5, -2.5], D.F16), to=D.F32), to=D.I32)
    fires(c.cast_cast, before, Cast(const([1.5, -2.5], D.F16), to=D.I32))


WIDE = DType.F32


def half(name: str, *shape: int) -> Value:
    return param(name, *(shape or (4,)), dtype=DType.F16)


def up(x: Value) -> Value:
    return Cast(x, to=WIDE)


ISLANDS: list[Any] = [
    Relu(up(half("x"))),
    Abs(up(half("x"))),
    Max(up(half("x")), up(half("y"))),
    Min(up(half("x")), const(0.5)),
    Clip(up(half("x")), const(0.0), const(6.0)),
    Reshape(up(half("x")), ints(2, 2)),
    Transpose(up(half("m", 2, 3))),
    Concat(up(half("x")), up(half("y")), axis=0),
    Where(param("c", 4, dtype=DType.BOOL), up(half("x")), const(-np.inf)),
    MaxPool(up(half("i", 1, 1, 4, 4)), kernel_shape=(2, 2)),
]


@pytest.mark.parametrize("wide", ISLANDS, ids=lambda op: str(op.kind))
def test_what_selects_or_moves_is_done_narrow(wide: Any) -> None:
    """And the way back takes the rest: no cast is left of an island."""
    done = rewritten(c.widened_late, wide)
    assert kinds(done) == [wide.kind, "Cast"]
    round_trip = rewritten(c.RULES, Cast(wide, to=DType.F16))
    assert kinds(round_trip) == [wide.kind]


def test_what_must_be_done_wide() -> None:
    x, y = half("x"), half("y")
    for computed in (Add(up(x), up(y)), Exp(up(x)), Mul(up(x), const(2.0))):
        misses(c.widened_late, computed)
    misses(c.widened_late, Max(up(x), const(1e-9)), "not all of its numbers")
    misses(c.widened_late, Max(up(x), const(1e6)), "not all of its numbers")
    misses(c.widened_late, Max(up(x), param("wide", 4)), "was not narrow")
    other = param("b", 4, dtype=DType.BF16)
    misses(c.widened_late, Max(up(x), up(other)), "several types")
    shared = up(x)
    misses(c.widened_late, (Relu(shared), Exp(shared)), "read elsewhere")
    misses(c.widened_late, Relu(Cast(param("d", 4, dtype=DType.F64), to=WIDE)))
    whole = Cast(param("i", 4, dtype=DType.I32), to=WIDE)
    misses(c.widened_late, Relu(whole))


def test_narrowed_before_it_is_moved() -> None:
    x = param("w", 2, 3)
    before = Cast(Transpose(x), to=DType.F16)
    fires(c.narrowed_early, before, Transpose(Cast(x, to=DType.F16)))
    misses(c.narrowed_early, Cast(Transpose(half("h", 2, 3)), to=WIDE))
    joined = Concat(x, param("v", 2, 3), axis=0)
    misses(c.narrowed_early, Cast(joined, to=DType.F16), "more than one")
    moved = Transpose(x)
    misses(c.narrowed_early, (Cast(moved, to=DType.F16), Relu(moved)), "more than one")
    misses(c.narrowed_early, Cast(Relu(x), to=DType.F16))
    misses(c.narrowed_early, Cast(Transpose(x), to=DType.I32))


@pytest.mark.parametrize("kind", [Equal, Less, Greater])
def test_compared_as_they_were(kind: Any) -> None:
    x, y = half("x"), half("y")
    fires(c.compared_narrow, kind(up(x), up(y)), kind(x, y))
    fires(c.compared_narrow, kind(up(x), const(0.5)), kind(x, const(0.5, DType.F16)))
    i = param("i", 4, dtype=DType.I32)
    long = Cast(i, to=DType.I64)
    fires(c.compared_narrow, kind(long, ints(7)), kind(i, const([7], DType.I32)))
    misses(c.compared_narrow, kind(long, ints(1 << 40)), "not all of its numbers")
    misses(c.compared_narrow, kind(Cast(i, to=DType.F64), const(0.5, DType.F64)))
    short = param("u", 4, dtype=DType.U8)
    misses(c.compared_narrow, kind(Cast(short, to=DType.I64), ints(7)))
