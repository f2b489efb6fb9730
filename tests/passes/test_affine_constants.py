"""Constants that meet: one product, one sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import const, fires, graph_of, kinds, misses, param
from linear_ops import F64, MATRIX, OVERFLOW, SCALAR, w

from graphopt.ops import Add, Mul
from graphopt.passes import affine as f
from graphopt.passes.affine import FoldAffine
from graphopt.types import DType


def test_scale_scale() -> None:
    two, three = const(2.0, F64), const(3.0, F64)
    fires(f.scale_scale, Mul(Mul(MATRIX, two), three), Mul(MATRIX, const(6.0, F64)))
    fires(f.scale_scale, Add(Add(MATRIX, two), three), Add(MATRIX, const(5.0, F64)))
    row = const([1, 2, 3, 4], F64)
    fires(
        f.scale_scale,
        Mul(Mul(MATRIX, row), two),
        Mul(MATRIX, const([2, 4, 6, 8], F64)),
    )
    fires(f.scale_scale, Mul(Mul(SCALAR, two), three), Mul(SCALAR, const(6.0, F64)))


TWO = const(2.0, F64)
CONSTANTS: list[tuple[Any, str]] = [
    (Mul(Add(MATRIX, TWO), TWO), ""),
    (Mul(Mul(MATRIX, SCALAR), TWO), ""),
    (Mul(Mul(MATRIX, TWO), SCALAR), ""),
    ((Mul(Mul(MATRIX, TWO), TWO), Mul(MATRIX, TWO)), ""),
    (
        Mul(Mul(SCALAR, w(4)), w(3, 1)),
        "would be larger than each",
    ),
    (Mul(Mul(MATRIX, const(1e200, F64)), const(1e200, F64)), OVERFLOW),
    (Mul(Mul(MATRIX, const(1e-200, F64)), const(1e-200, F64)), OVERFLOW),
    (Mul(Mul(MATRIX, const(np.inf, F64)), const(0.0, F64)), OVERFLOW),
    (
        Mul(
            Mul(param("i", 2, dtype=DType.I64), const(2, DType.I64)),
            const(3, DType.I64),
        ),
        "",
    ),
]


@pytest.mark.parametrize(("before", "reason"), CONSTANTS)
def test_guard_constants(before: Any, reason: str) -> None:
    misses(f.scale_scale, before, reason)


def test_a_product_that_underflows_stays_two() -> None:
    x = param("f", 3)
    misses(f.scale_scale, Mul(Mul(x, const(1e-30)), const(1e-30)), OVERFLOW)
    done = FoldAffine()(graph_of(Mul(Mul(x, const(0.0)), const(1e-30))))
    assert kinds(done) == ["Mul"]


def test_constants_that_cancel_round_on_purpose() -> None:
    """(x + 1.5 * 2**23) - 1.5 * 2**23 is x as a whole number."""
    magic = 1.5 * 2**23
    x = param("x", 3)
    misses(f.scale_scale, Add(Add(x, const(magic)), const(-magic)), "on purpose")
    fires(f.scale_scale, Add(Add(x, const(2.0)), const(-1.0)), Add(x, const(1.0)))
