"""Cases of reductions, running sums and softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
from single import Case, constant, normal, positive, special, sweep

from graphopt.types import DType

KINDS = ("Sum", "Prod", "Max", "Min", "Mean", "L1", "L2", "SumSquare")
LOGS = ("LogSum", "LogSumExp")
FLAGS = [
    {},
    {"keepdims": 0},
    {"noop_with_empty_axes": 1},
    {"keepdims": 0, "noop_with_empty_axes": 1},
]


def axes(*values: int) -> Any:
    return constant(values)


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    shapes = [
        ((2, 3, 4), axes(1)),
        ((2, 3, 4), axes(-1, 0)),
        ((2, 3, 4),),
        ((5,), axes(0)),
        ((), axes()),
        ((2, 3, 4), axes()),
        ((3, 1), axes(1)),
        ((2, 2, 3, 2), axes(2, 1)),
    ]
    for kind in KINDS:
        add(f"Reduce{kind}", shapes, FLAGS)
    for kind in LOGS:
        add(f"Reduce{kind}", shapes, FLAGS, values=positive)
    for kind in ("Max", "Min", "LogSumExp"):
        add(f"Reduce{kind}", shapes[:2], values=special, dtypes=[DType.F32])
    for kind in ("Sum", "Prod", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp"):
        add(f"Reduce{kind}", [((2, 0, 3), axes(1))], FLAGS[:2], dtypes=[DType.F32])
    for kind in ("ArgMax", "ArgMin"):
        attrs = [
            {},
            {"axis": 1, "keepdims": 0},
            {"axis": -1, "select_last_index": 1},
            {"axis": -2, "keepdims": 0, "select_last_index": 1},
        ]
        add(kind, [((2, 5, 4),), ((3, 6),)], attrs)
    flags = [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}]
    steps = [((2, 3, 4), _axis(1)), ((5,), _axis(0)), ((2, 4), _axis(-1, np.int32))]
    for kind in ("CumSum", "CumProd"):
        add(kind, steps, flags)
    for kind in ("Softmax", "LogSoftmax", "Hardmax"):
        turns = [{}, {"axis": 1}, {"axis": -2}, {"axis": 0}]
        add(kind, [((2, 3, 4),), ((3, 4, 2),), ((2, 0, 3),)], turns)
    add("Softmax", [((3, 4),)], values=large, dtypes=[DType.F32, DType.F16])
    norms = [{}, {"p": 1}, {"axis": 0}, {"axis": 1, "p": 1}]
    add("LpNormalization", [((2, 3, 4),), ((3, 4),)], norms)
    add("LpNormalization", [(np.zeros((2, 3), np.float32),)], norms, dtypes=[DType.F32])
    return made


def _axis(value: int, dtype: Any = np.int64) -> Any:
    return constant(value, dtype)


def large(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    return normal(rng, shape, dtype) * dtype.numpy.type(100)
