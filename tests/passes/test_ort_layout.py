"""Transposes move below what is elementwise, and mean the same, or stay and say why."""

from __future__ import annotations

import pytest
from equations import N, const, fires, misses, param

from graphopt.ir import Value
from graphopt.lowering.ort.layout import transposes_meet
from graphopt.ops import Add, Mul, Relu, Sum, Transpose

NHWC = (0, 2, 3, 1)
P, Q = (Transpose(param(name, N, 4, 5, 6), perm=NHWC) for name in "pq")


def source(value: Transpose) -> Value:
    (x,) = value.operands
    assert x is not None
    return x


def test_transposes_meet() -> None:
    p, q = source(P), source(Q)
    fires(transposes_meet, Add(P, Q), Transpose(Add(p, q), perm=NHWC))
    both = (Add(P, Q), Relu(P))
    fires(transposes_meet, both, (Transpose(Add(p, q), perm=NHWC), Relu(P)))
    few = param("few", 1, 4, 1, 1)
    fires(
        *(transposes_meet, Mul(P, Transpose(few, perm=NHWC))),
        Transpose(Mul(p, few), perm=NHWC),
    )
    one = const([[1.5]])
    fires(
        *(transposes_meet, Sum(P, one, Q)),
        Transpose(Sum(p, one, q), perm=NHWC),
    )


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (Add(P, const(0.5)), ""),
        (Add(P, Transpose(param("o", N, 6, 4, 5), perm=(0, 3, 1, 2))), "differently"),
        (Sum(P, param("o", N, 5, 6, 4), Q), "is not transposed"),
        (Sum(P, const([0.5] * 4), Q), "is not transposed"),
        ((Add(P, Q), Relu(P), Relu(Q)), "read elsewhere"),
    ],
)
def test_transposes_stay(before: Value, reason: str) -> None:
    misses(transposes_meet, before, reason)
