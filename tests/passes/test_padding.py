"""Pads taken into windows: only where the border is neutral and runtimes allow it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import N, const, fires, ints, misses, param, random, typed

from graphopt.ir import Value
from graphopt.ops import AveragePool, Conv, LpPool, MaxPool, Pad, Relu
from graphopt.passes.padding import pad_into_window
from graphopt.types import DType, TensorType

F64 = DType.F64
X = param("x", N, 2, 5, 6, dtype=F64)
LINE = param("line", N, 2, 5, dtype=F64)
W = random(3, 2, 2, 3, dtype=F64)
INF, ZERO, ONE = const(-np.inf, F64), const(0.0, F64), const(1.0, F64)
# top 1, left 2, bottom 0, right 1: no two alike
P = ints(0, 0, 1, 2, 0, 0, 0, 1)


def conv(x: Value, **attrs: Any) -> Value:
    return Conv(x, W, **attrs)


def mean(x: Value, **attrs: Any) -> Value:
    return AveragePool(x, kernel_shape=(3, 4), **attrs)


def peak(x: Value, **attrs: Any) -> Value:
    return MaxPool(x, kernel_shape=(3, 4), **attrs)


EQUATIONS: list[tuple[Value, Value]] = [
    (conv(Pad(X, P)), conv(X, pads=(1, 2, 0, 1))),
    (conv(Pad(X, P, ZERO)), conv(X, pads=(1, 2, 0, 1))),
    (conv(Pad(X, P, const(-0.0, F64))), conv(X, pads=(1, 2, 0, 1))),
    (
        conv(Pad(X, ints(1, 2, 0, 1), None, ints(2, 3))),
        conv(X, pads=(1, 2, 0, 1)),
    ),
    (
        conv(Pad(X, ints(2, 1, 1, 0), None, ints(-1, -2))),
        conv(X, pads=(1, 2, 0, 1)),
    ),
    (
        conv(Pad(X, P), pads=(2, 0, 1, 1), strides=(2, 1), dilations=(1, 2)),
        conv(X, pads=(3, 2, 1, 2), strides=(2, 1), dilations=(1, 2)),
    ),
    (conv(Pad(X, P), auto_pad="VALID"), conv(X, pads=(1, 2, 0, 1))),
    (
        Conv(Pad(X, P), W, random(3, dtype=F64)),
        Conv(X, W, random(3, dtype=F64), pads=(1, 2, 0, 1)),
    ),
    (
        Conv(Pad(LINE, ints(0, 0, 1, 0, 0, 2)), random(3, 2, 3, dtype=F64)),
        Conv(LINE, random(3, 2, 3, dtype=F64), pads=(1, 2)),
    ),
    (mean(Pad(X, P)), mean(X, pads=(1, 2, 0, 1), count_include_pad=1)),
    (
        mean(Pad(X, P), count_include_pad=1, pads=(1, 0, 1, 0)),
        mean(X, count_include_pad=1, pads=(2, 2, 1, 1)),
    ),
    (peak(Pad(X, P, INF)), peak(X, pads=(1, 2, 0, 1))),
    (peak(Pad(X, P, INF), pads=(0, 1, 0, 0)), peak(X, pads=(1, 3, 0, 1))),
]


@pytest.mark.parametrize(("before", "after"), EQUATIONS)
def test_equation(before: Value, after: Value) -> None:
    fires(pad_into_window, before, after)


OWN_RULE = "pads by its own rule"
COUNTS = "count for more or less"
GUARDS: list[tuple[Value, str]] = [
    (conv(Pad(X, P), auto_pad="SAME_UPPER"), OWN_RULE),
    (mean(Pad(X, P), auto_pad="SAME_LOWER"), OWN_RULE),
    (conv(Pad(X, ints(0, 0, -1, 2, 0, 0, 0, 1))), "is computed, or crops"),
    (conv(Pad(X, param("p", 8, dtype=DType.I64))), "is computed, or crops"),
    (conv(Pad(X, ints(1, 0), None, param("a", 1, dtype=DType.I64))), "is computed"),
    (conv(Pad(X, ints(0, 0, 1, 1, 1, 0, 1, 1))), "the batch or the channels"),
    (
        Conv(Pad(X, ints(0, 1, 0, 0, 0, 0, 0, 0)), random(3, 3, 2, 3, dtype=F64)),
        "the batch or the channels",
    ),
    (
        Conv(Pad(X, ints(0, 0, 0, 0, 0, 1, 0, 0)), random(3, 3, 2, 3, dtype=F64)),
        "the batch or the channels",
    ),
    (conv(Pad(X, ints(1, 0, 0, 0, 0, 0, 0, 0))), "the batch or the channels"),
    (conv(Pad(X, P, ONE)), "the border is not zero"),
    (conv(Pad(X, P, const(np.nan, F64))), "the border is not zero"),
    (conv(Pad(X, P, param("v", dtype=F64))), "the border is not zero"),
    (conv(Pad(X, P, mode="edge")), ""),
    (conv(Pad(X, P, mode="reflect")), ""),
    (conv(Pad(X, P, mode="wrap")), ""),
    (mean(Pad(X, P, ONE)), COUNTS),
    (mean(Pad(X, P), ceil_mode=1), COUNTS),
    # the pool's own border does not count, the pad does
    (mean(Pad(X, P), pads=(1, 0, 0, 0)), COUNTS),
    (peak(Pad(X, P)), "could be the maximum"),
    (peak(Pad(X, P, const(-1e30, F64))), "could be the maximum"),
    (peak(Pad(X, P, INF), ceil_mode=1), "could be the maximum"),
    # runtimes refuse pads as large as the kernel, whatever the dilation
    (AveragePool(Pad(X, P), kernel_shape=(2, 2)), "pads a whole window"),
    (MaxPool(Pad(X, P, INF), kernel_shape=(2, 2)), "pads a whole window"),
    (
        # a window with gaps could see nothing but the border
        MaxPool(Pad(X, P, INF), kernel_shape=(3, 3), dilations=(2, 2)),
        "could be the maximum",
    ),
    (mean(Pad(X, P), count_include_pad=1, pads=(2, 0, 0, 0)), "pads a whole window"),
    (LpPool(Pad(X, P), kernel_shape=(2, 2)), ""),
    (conv(Relu(X)), ""),
]


@pytest.mark.parametrize(("before", "reason"), GUARDS)
def test_guard(before: Value, reason: str) -> None:
    misses(pad_into_window, before, reason)


def test_positions_of_the_maximum_would_move() -> None:
    op = MaxPool(Pad(X, P, INF), kernel_shape=(3, 4), outs=2)
    misses(pad_into_window, op.results, "could be the maximum")
    misses(pad_into_window, op.results[:1], "could be the maximum")


def test_before_opset_7_no_border_counts() -> None:
    before = mean(Pad(X, P))
    misses(pad_into_window, before, "counts no border", opset=6)
    fires(
        pad_into_window,
        before,
        mean(X, pads=(1, 2, 0, 1), count_include_pad=1),
        opset=7,
    )


def test_an_unknown_rank_misses() -> None:
    x = typed("x", TensorType(F64, None))
    misses(pad_into_window, conv(Pad(x, P)), "is computed, or crops")


def test_a_pad_that_others_read_stays_for_them() -> None:
    pad = Pad(X, P)
    fires(pad_into_window, (conv(pad), pad), (conv(X, pads=(1, 2, 0, 1)), pad))
