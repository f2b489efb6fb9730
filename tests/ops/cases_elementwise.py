"""Cases of elementwise ops."""

from __future__ import annotations

import numpy as np
from single import Case, normal, positive, special, sweep, unit

from graphopt.types import DType

PAIRS = [
    ((3, 4), (3, 4)),
    ((2, 3, 4), (4,)),
    ((3, 1), (2, 1, 5)),
    ((), (4,)),
    ((2, 0), (1, 1)),
]
SINGLES = [((3, 4),), ((),), ((2, 0, 3),), ((5,),)]
FLOATS = [DType.F32, DType.F64, DType.F16, DType.BF16]


def nonzero(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType):
    array = normal(rng, shape, dtype)
    return np.where(array == 0, array + 1, array).astype(dtype.numpy)


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes, attrs=({},), **options) -> None:
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    for kind in ("Add", "Sub", "Mul"):
        add(kind, PAIRS)
        add(kind, PAIRS[:1], values=special, dtypes=FLOATS[:2])
    add("Div", PAIRS, values=nonzero)
    add("Div", PAIRS[:1], values=special, dtypes=[DType.F32])
    add("Mod", PAIRS, [{"fmod": 0}, {"fmod": 1}], values=nonzero)
    add("Mod", PAIRS[:1], [{"fmod": 0}, {"fmod": 1}], values=special, dtypes=FLOATS[:1])
    add("Pow", PAIRS, values=positive, dtypes=[*FLOATS, DType.I32, DType.I64], ulps=16)
    for base, power in ((DType.F32, DType.I64), (DType.I32, DType.F32)):
        add("Pow", [((3, 4), _as(power))], values=positive, dtypes=[base])
    for kind in ("Sum", "Mean", "Max", "Min"):
        add(
            kind, [((2, 3, 4), (4,), ()), ((2, 3),), ((3, 4), (3, 1)), ((2, 0), (1, 1))]
        )
        add(kind, [((2, 1), (3,), (1, 3), ())], dtypes=[DType.F32])
    for kind in ("Max", "Min"):
        add(kind, PAIRS[:2], values=special, dtypes=FLOATS[:2])
    low, high = _bound(-2), _bound(3)
    add("Clip", [((3, 4), low, high), ((4,), low), ((4,), None, high), ((4,),)])
    add("Clip", [((3, 4), high, low)], dtypes=[DType.F32, DType.I32])

    for kind in ("Neg", "Abs", "Sign", "Floor", "Ceil", "Round"):
        add(kind, SINGLES)
        add(kind, SINGLES[:1], values=special, dtypes=FLOATS)
    for kind in ("Sqrt", "Log", "Reciprocal"):
        add(kind, SINGLES, values=positive)
        add(kind, SINGLES[:1], values=special, dtypes=[DType.F32])
    for kind in ("Exp", "Erf", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Tanh"):
        add(kind, SINGLES)
        add(kind, SINGLES[:1], values=special, dtypes=[DType.F32])
    for kind in ("Asin", "Acos", "Atanh"):
        add(kind, SINGLES, values=unit)
    add("Asinh", SINGLES)
    add("Acosh", SINGLES, values=lambda r, s, d: positive(r, s, d) + d.numpy.type(1))

    for kind in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        add(kind, PAIRS)
        add(kind, PAIRS[:1], values=special, dtypes=[DType.F32])
    add("Equal", PAIRS[:2], dtypes=[DType.STRING], traced=False)
    for kind in ("And", "Or", "Xor"):
        add(kind, PAIRS)
    add("Not", SINGLES)
    add("IsNaN", SINGLES, values=special)
    signs = [{}, {"detect_negative": 0}, {"detect_positive": 0}]
    add("IsInf", SINGLES, signs, values=special)
    add("Where", [(_bools(3, 1), (2, 1, 4), (4,)), (_bools(), (3,), (3,))])
    add("Where", [(_bools(3, 1), (2, 1, 4), (4,))], dtypes=FLOATS[:2])
    add("Where", [(_bools(3), (3,), (1,))], dtypes=[DType.STRING], traced=False)

    for kind in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        add(kind, PAIRS)
    add("BitwiseNot", SINGLES)
    ways = [{"direction": "LEFT"}, {"direction": "RIGHT"}]
    add("BitShift", PAIRS, ways)
    add("Identity", SINGLES)
    return made


def _as(dtype: DType):
    def power(rng: np.random.Generator, _: DType):
        return positive(rng, (4,), dtype)

    return power


def _bound(value: int):
    def bound(_: np.random.Generator, dtype: DType):
        return np.asarray(value).astype(dtype.numpy)

    return bound


def _bools(*shape: int):
    def condition(rng: np.random.Generator, _: DType):
        return rng.random(shape) < 0.5

    return condition
