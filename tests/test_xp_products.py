"""Products, Fourier transforms and control flow on both sides of the namespace."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from xp_sides import compare, on_host

from graphopt.errors import TypeMismatch
from graphopt.xp import host
from graphopt.xp.contraction import exact_float

SHAPES = [
    ((3, 4), (4, 2)),
    ((4,), (4,)),
    ((4,), (2, 4, 3)),
    ((2, 3, 4), (4,)),
    ((2, 3, 4), (4, 5)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((3, 0), (0, 2)),
    ((0, 3), (3, 2)),
]


def near(dtype: Any, *shape: int, seed: int = 0) -> Any:
    """Numbers of one sign, so that no sum cancels."""
    values = np.random.default_rng(seed).uniform(1, 9, size=shape)
    return values.astype(dtype)


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, ml_dtypes.bfloat16, np.int8, np.uint32]
)
def test_matmul_agrees(dtype: Any) -> None:
    for left, right in SHAPES:
        a, b = near(dtype, *left), near(dtype, *right, seed=1)
        compare({"matmul": lambda xp, a, b: xp.matmul(a, b)}, a, b)
    if np.dtype(dtype).kind != "f":
        a, b = near(dtype, 3, 4), near(dtype, 4, 2)
        wide = {"wide": lambda xp, a, b: xp.matmul(a, b, accumulate=np.float32)}
        compare(wide, a, b)


def test_matmul_accumulates_in_the_stated_type() -> None:
    a = np.full((1, 300), 127, np.int8)
    b = np.full((300, 1), 127, np.uint8)
    (sums,) = on_host(lambda xp, a, b: xp.matmul(a, b, accumulate=np.int32), a, b)
    assert (sums.dtype, sums.item()) == (np.int32, 300 * 127 * 127)
    a = near(ml_dtypes.bfloat16, 2, 500)
    (sums,) = on_host(lambda xp, a: xp.matmul(a, a.T, accumulate=np.float32), a)
    exact = a.astype(np.float64) @ a.astype(np.float64).T
    np.testing.assert_allclose(sums, exact, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64, np.int8])
@pytest.mark.parametrize("bits", [6, 20, 31, 62])
def test_integer_products_are_exact_and_wrap(dtype: Any, bits: int) -> None:
    random = np.random.default_rng(bits)
    info = np.iinfo(dtype)
    low, high = max(info.min, -(2**bits)), min(info.max, 2**bits)
    a = random.integers(low, high, (3, 50), dtype, endpoint=True)
    b = random.integers(low, high, (50, 4), dtype, endpoint=True)
    (ours,) = on_host(lambda xp, a, b: xp.matmul(a, b), a, b)
    width = 8 * info.dtype.itemsize
    exact = a.astype(object) @ b.astype(object) % 2**width
    if info.min:
        exact = (exact + 2 ** (width - 1)) % 2**width - 2 ** (width - 1)
    np.testing.assert_array_equal(ours, exact.astype(dtype))


def test_exact_float_is_chosen_by_what_fits() -> None:
    small, large = np.array([[100]]), np.array([[2**40]])
    assert exact_float(small, small, 10) == np.float32
    assert exact_float(small, large, 10) == np.float64
    assert exact_float(large, large, 1) is None
    assert exact_float(np.array([[-(2**63)]]), small, 1) is None


@pytest.mark.parametrize(
    "equation",
    [
        "ij,jk->ik",
        "ij, jk",
        "bij,bjk->bik",
        "bhqd,bhkd->bhqk",
        "...ij,...jk->...ik",
        "i,j->ij",
        "ij->ji",
        "ii->i",
        "ii",
        "iij->j",
        "ij,ij->",
        "ij,kl->",
        "ij,j->i",
        "i...,...i->...",
        "ab,bc,cd->ad",
        "ab,ab,ab->ba",
        "...,...->...",
        "aBc,Bc->aB",
    ],
)
def test_einsum_equals_numpy(equation: str) -> None:
    size = {name: 2 + ord(name) % 3 for name in "abcdhijklqB"}
    operands = []
    for i, term in enumerate(equation.split("->")[0].replace(" ", "").split(",")):
        spread = (5, 1) if i % 2 else (5, 4)
        head, dots, tail = term.partition("...")
        shape = [*map(size.get, head), *(spread if dots else ()), *map(size.get, tail)]
        operands.append(near(np.float64, *shape, seed=i))
    expected = np.einsum(equation, *operands)
    (ours,) = on_host(lambda xp, *a: xp.einsum(equation, *a), *operands)
    np.testing.assert_allclose(ours, expected, rtol=1e-13)
    whole = [np.rint(a).astype(np.int64) for a in operands]
    (ours,) = on_host(lambda xp, *a: xp.einsum(equation, *a), *whole)
    np.testing.assert_array_equal(ours, np.einsum(equation, *whole))


def test_einsum_agrees() -> None:
    a, b = near(np.float32, 2, 3, 4), near(np.float32, 2, 5, 4)
    cases = {
        "pair": lambda xp, a, b: xp.einsum("bqd,bkd->bqk", a, b),
        "sum": lambda xp, a, b: xp.einsum("bqd,bkd->k", a, b),
        "broadcast": lambda xp, a, b: xp.einsum("...d,...d->...", a[:, :, None], b[0]),
        "tensordot": lambda xp, a, b: xp.tensordot(a, b, ((0, 2), (0, -1))),
    }
    compare(cases, a, b)
    compare(cases, a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("equation", ["ij,jk,kl->il", "ijk,jk->i", "ij,jk->iz", "i1,j"])
def test_einsum_refuses_what_does_not_fit(equation: str) -> None:
    a = np.ones((2, 2), np.float32)
    with pytest.raises(TypeMismatch, match="einsum"):
        host().einsum(equation, a, a)


def test_einsum_refuses_extents_that_differ() -> None:
    with pytest.raises(TypeMismatch, match="an axis of 2 and of 3"):
        host().einsum("i,i->", np.ones(2), np.ones(3))


def test_determinants() -> None:
    x = near(np.float64, 2, 3, 3)
    compare({"det": lambda xp, x: xp.det(x)}, x, units=64)
    compare({"det": lambda xp, x: xp.det(x)}, x.astype(np.float32), units=64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fourier_transforms(dtype: Any) -> None:
    cases = {
        "fft": lambda xp, x: xp.abs(xp.fft(x, None, 0)),
        "ifft": lambda xp, x: xp.real(xp.ifft(xp.fft(x), 8)),
        "rfft": lambda xp, x: xp.abs(xp.rfft(x, 5)),
        "irfft": lambda xp, x: xp.irfft(xp.rfft(x, 6), 6),
    }
    # Far from zero everywhere: sums of positive numbers plus one large element.
    x = near(dtype, 3, 8)
    x[:, 0] += 100
    compare(cases, x, units=64)
    assert on_host(cases["irfft"], x)[0].dtype == dtype


def test_control_flow() -> None:
    def doubled(xp: Any, x: Any) -> Any:
        return xp.while_loop(
            lambda carried: carried[0] < 5,
            lambda carried: (carried[0] + 1, carried[1] * 2),
            (xp.asarray(0, np.int64), x),
        )[1]

    def scanned(xp: Any, x: Any, **options: Any) -> Any:
        def body(carried: Any, slices: Any) -> Any:
            total = xp.add(carried[0], slices[0])
            return (total,), (total, slices[0] * 2)

        (last,), outputs = xp.scan(body, (xp.zeros(3, x.dtype),), (x,), **options)
        return (last, *outputs)

    cases: dict[str, Any] = {
        "cond": lambda xp, x: xp.cond(x[0, 0] > 0, xp.exp, xp.negative, x),
        "cond not": lambda xp, x: xp.cond(x[:1, 0] < 0, xp.exp, xp.negative, x),
        "while": doubled,
        "scan": scanned,
        "scan back": lambda xp, x: scanned(xp, x, reverse=True),
        "scan nothing": lambda xp, x: scanned(xp, x[:0]),
        "count": lambda xp, x: xp.scan(
            lambda c, _: ((c[0] * x[0, 0],), ()), (x[0],), (), 3
        )[0],
    }
    compare(cases, near(np.float32, 4, 3))
