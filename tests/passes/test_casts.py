"""Casts: chains that lose nothing, and every pair of types that does."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from equations import const, fires, misses, param

from graphopt.ir import Value
from graphopt.ops import Cast, CastLike
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
