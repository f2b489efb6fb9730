"""What is turned, by which numbers, read from the arithmetic."""

from __future__ import annotations

import numpy as np
from equations import N, const, ints, param

from graphopt.ir import Value
from graphopt.ops import Add, Mul, Relu, Slice, Sub
from graphopt.passes import rotations as r
from graphopt.passes.rotations import Signed
from graphopt.types import DType

X = param("x", N, 3, 8)
A, B = Slice(X, ints(0), ints(4), ints(2)), Slice(X, ints(4), ints(8), ints(2))
C, S = param("c", N, 3, 4), param("s", N, 3, 4)


def test_numbers_with_signs() -> None:
    one, minus = const([1.0, 2.0]), const([-1.0, -2.0])
    assert Signed(one).equals(Signed(one))
    assert not Signed(one).equals(Signed(one, negative=True))
    assert Signed(one).equals(Signed(minus, negative=True))
    assert not Signed(one).equals(Signed(minus))
    assert not Signed(one).equals(Signed(const([-1.0, 2.0]), negative=True))
    assert not Signed(one).equals(Signed(C, negative=True))
    assert not Signed(C).equals(Signed(minus, negative=True))
    wide = const([[-1.0, -2.0]])
    assert not Signed(one).equals(Signed(wide, negative=True))
    long = const(np.array([-1.0, -2.0]), DType.F64)
    assert not Signed(one).equals(Signed(long, negative=True))


def test_weights_of_a_rotation() -> None:
    y: tuple[Value, Value] = (Sub(Mul(A, C), Mul(B, S)), Add(Mul(B, C), Mul(A, S)))
    assert r._weights(y, (A, B)) == (Signed(C), Signed(S))
    assert r._weights((y[0], Relu(A)), (A, B)) is None
    assert r._weights((Relu(A), y[1]), (A, B)) is None
    assert r._weights((y[0], Add(Mul(B, S), Mul(A, S))), (A, B)) is None
    assert r._weights((y[0], Sub(Mul(B, C), Mul(A, S))), (A, B)) is None


def test_runs_that_end_with_their_source() -> None:
    y = Add(A, C)
    found = [(source, start) for _, source, start in r._near(y, 8)]
    assert found == [(X, 0)]
    late = Add(B, C)
    assert (X, 4) not in [(source, at) for _, source, at in r._near(late, 8)]
    assert (X, 4) in [(source, at) for _, source, at in r._near(late, 4)]
