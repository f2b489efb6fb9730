"""Products factored: low-rank updates, weights in a row, what two addends share."""

from __future__ import annotations

from typing import Any

import pytest
from equations import N, const, graph_of, kinds, misses, param, random, rewritten

from graphopt.dims import Dim
from graphopt.ir import Value
from graphopt.ops import Add, Constant, MatMul, Mul, Relu, Sub
from graphopt.passes import factor as f
from graphopt.passes.affine import after_linear
from graphopt.passes.factor import Factor
from graphopt.rewrite import rewrite
from graphopt.types import DType

F64 = DType.F64
X = param("x", N, 3, 8, dtype=F64)


def w(*shape: int, seed: int = 0) -> Constant:
    return random(*shape, dtype=F64, seed=seed)


def y(name: str, *shape: Dim, dtype: DType = F64) -> Value:
    return param(name, *shape, dtype=dtype)


def test_weights_in_a_row() -> None:
    """Where the one weight is no larger than the two."""
    wide = MatMul(MatMul(X, w(8, 16)), w(16, 8, seed=1))
    assert kinds(rewritten(f.weights_in_a_row, wide)) == ["MatMul"]
    square = MatMul(MatMul(X, w(8, 4)), w(4, 8, seed=1))
    assert kinds(rewritten(f.weights_in_a_row, square)) == ["MatMul"]
    thin = MatMul(MatMul(X, w(8, 3)), w(3, 8, seed=1))
    misses(f.weights_in_a_row, thin, "larger than both")


@pytest.mark.parametrize("bias", [(16,), (1, 16), (1,)])
def test_weights_in_a_row_with_a_bias(bias: tuple[int, ...]) -> None:
    inner = Add(MatMul(X, w(8, 16)), w(*bias, seed=2))
    done = rewritten(f.weights_in_a_row, MatMul(inner, w(16, 8, seed=1)))
    assert kinds(done) == ["MatMul", "Add"]


@pytest.mark.parametrize(
    ("x", "bias"), [((3, 4), (1, 1, 2)), ((4,), (1, 2)), ((3, 4), (1, 1, 1))]
)
def test_a_bias_that_gives_the_sum_its_dims(
    x: tuple[int, ...], bias: tuple[int, ...]
) -> None:
    inner = Add(MatMul(y("x", *x), w(4, 2)), w(*bias, seed=2))
    misses(f.weights_in_a_row, MatMul(inner, w(2, 3, seed=1)), "stretches")


def test_weights_that_stay() -> None:
    inner = MatMul(X, w(8, 16))
    right = w(16, 8, seed=1)
    misses(f.weights_in_a_row, (MatMul(inner, right), Relu(inner)), "elsewhere")
    misses(f.weights_in_a_row, MatMul(Relu(inner), right))
    misses(f.weights_in_a_row, MatMul(inner, y("p", 16, 8)))
    misses(f.weights_in_a_row, MatMul(inner, w(2, 3, 16, 8)))
    places = Add(inner, w(3, 16, seed=2))
    misses(f.weights_in_a_row, MatMul(places, right), "not one row")
    large = const([[1e200]], F64)
    twice = MatMul(MatMul(y("l", N, 1), large), large)
    misses(f.weights_in_a_row, twice, "overflow")


def lora(scale: float | None) -> Value:
    """A projection with a low-rank update beside it."""
    update = MatMul(MatMul(X, w(8, 4)), w(4, 8, seed=1))
    plain = Add(MatMul(X, w(8, 8, seed=2)), w(8, seed=3))
    return Add(plain, update if scale is None else Mul(update, const(scale, F64)))


def test_a_low_rank_update_becomes_part_of_the_weight() -> None:
    """Also where a number scales it, as adapters do."""
    assert kinds(rewritten(f.RULES, lora(None))) == ["MatMul", "Add"]
    done = rewritten((*f.RULES, after_linear), lora(0.5))
    assert kinds(done) == ["MatMul", "Add"]


@pytest.mark.parametrize("order", [0, 1])
def test_weights_side_by_side(order: int) -> None:
    both = [MatMul(X, w(8, 5)), MatMul(X, w(8, 5, seed=1))]
    done = rewritten(f.weights_side_by_side, Add(both[order], both[1 - order]))
    assert kinds(done) == ["MatMul"]
    biased = Add(both[0], w(5, seed=2))
    pair = (biased, both[1]) if order else (both[1], biased)
    assert kinds(rewritten(f.weights_side_by_side, Add(*pair))) == ["MatMul", "Add"]


def test_weights_that_are_not_side_by_side() -> None:
    one, two = MatMul(X, w(8, 5)), MatMul(X, w(8, 5, seed=1))
    misses(f.weights_side_by_side, (Add(one, two), Relu(two)), "elsewhere")
    other = MatMul(y("o", N, 3, 8), w(8, 5, seed=1))
    misses(f.weights_side_by_side, Add(one, other))
    misses(f.weights_side_by_side, Add(one, MatMul(X, w(8, 1))))
    misses(f.weights_side_by_side, Add(one, one), "elsewhere")


@pytest.mark.parametrize("kind", [Add, Sub])
def test_a_common_matrix(kind: Any) -> None:
    a, b, c = y("a", N, 3, 4), y("b", N, 4, 5), y("c", N, 4, 5)
    done = rewritten(f.common_matrix, kind(MatMul(a, b), MatMul(a, c)))
    assert kinds(done) == [kind.kind, "MatMul"]
    d = y("d", N, 3, 4)
    done = rewritten(f.common_matrix, kind(MatMul(a, b), MatMul(d, b)))
    assert kinds(done) == [kind.kind, "MatMul"]


def test_matrices_that_are_not_common() -> None:
    a, b, c = y("a", N, 3, 3), y("b", N, 3, 3), y("c", N, 3, 3)
    misses(f.common_matrix, Add(MatMul(a, b), MatMul(b, c)))
    misses(f.common_matrix, Add(MatMul(a, b), MatMul(c, a)))
    misses(f.common_matrix, Add(MatMul(a, b), MatMul(a, y("e", 3, 3))), "dims")
    shared = MatMul(a, b)
    misses(f.common_matrix, (Add(shared, MatMul(a, c)), Relu(shared)), "elsewhere")
    half = [y(n, 3, 3, dtype=DType.F16) for n in "pqr"]
    misses(f.common_matrix, Add(MatMul(*half[:2]), MatMul(half[0], half[2])))


@pytest.mark.parametrize("kind", [Add, Sub])
def test_a_common_factor(kind: Any) -> None:
    a, b = y("a", N, 4), y("b", N, 4)
    x = y("f", N, 4)
    for left in (Mul(x, a), Mul(a, x)):
        for right in (Mul(x, b), Mul(b, x)):
            done = rewritten(f.common_factor, kind(left, right))
            assert kinds(done) == [kind.kind, "Mul"]
    numbers = kind(Mul(x, const(2.0, F64)), Mul(x, w(4)))
    assert kinds(rewritten(f.common_factor, numbers)) == ["Mul"]


def test_factors_that_stay() -> None:
    x, a = y("f", N, 4), y("a", N, 4)
    near = const(2.0, F64), const(2.0001, F64)
    misses(f.common_factor, Sub(Mul(x, near[0]), Mul(x, near[1])), "cancel")
    misses(f.common_factor, Add(Mul(x, a), Mul(y("g", N, 4), y("h", N, 4))))
    misses(f.common_factor, Add(Mul(x, a), Mul(x, y("row", 4))), "grow")
    rows, columns = w(3, 1), w(4, seed=1)
    tall = y("tall", 3, 4)
    grows = Add(Mul(tall, rows), Mul(tall, columns))
    misses(f.common_factor, grows, "grow")
    huge = const(1.5e308, F64)
    misses(f.common_factor, Add(Mul(x, huge), Mul(x, huge)), "")
    half = [y(n, N, dtype=DType.F16) for n in "pqr"]
    misses(f.common_factor, Add(Mul(*half[:2]), Mul(half[0], half[2])), "overflow")
    shared = Mul(x, a)
    assert rewrite(
        graph_of(Add(shared, Mul(x, y("b", N, 4))), shared), [f.common_factor]
    )
    misses(f.common_factor, (Add(shared, Mul(x, y("b", N, 4))), shared))


def test_the_pass() -> None:
    assert Factor().name == "factor"
    assert tuple(Factor().rules()) == f.RULES


def test_large_weights_that_others_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two would be kept of each."""
    monkeypatch.setattr("graphopt.passes.affine.SHARED_LIMIT", 0)
    a, b = w(8, 8), w(8, 8, seed=1)
    other = y("o", N, 8)
    for shared in (a, b):
        row = MatMul(MatMul(X, a), b)
        misses(f.weights_in_a_row, (row, MatMul(other, shared)), "others read")
        beside = Add(MatMul(X, a), MatMul(X, b))
        misses(f.weights_side_by_side, (beside, MatMul(other, shared)), "others read")


def test_what_is_added_beside_weights_may_be_data() -> None:
    biased = Add(MatMul(X, w(8, 5)), y("p", 2, 1, 3, 5))
    done = rewritten(f.weights_side_by_side, Add(biased, MatMul(X, w(8, 5, seed=1))))
    assert kinds(done) == ["MatMul", "Add"]
