"""Gathers, scatters and what depends on data, on both sides of the array namespace."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from xp_sides import compare, on_host

from graphopt.errors import TypeMismatch
from graphopt.xp import host

REDUCTIONS = ["none", "add", "mul", "min", "max"]


def normal(*shape: int, dtype: Any = np.float32) -> Any:
    return (np.random.default_rng(0).normal(size=shape) * 4).astype(dtype)


def test_gathers_agree() -> None:
    x = normal(4, 3, 5)
    few = np.array([[0, -1], [2, -3]], np.int32)
    tuples = np.array([[[0, -1]], [[-4, 2]]])
    along = np.array([[[0, -1, 2]], [[1, -4, 3]]])
    batched = np.array([[1], [0], [-1], [2]])
    cases = {
        "take": lambda xp, x, *i: xp.take(x, i[0], 1),
        "take scalar": lambda xp, x, *i: xp.take(x, i[0][0, 1], -1),
        "take_along_axis": lambda xp, x, *i: xp.take_along_axis(x, i[2], 0),
        "gather_nd": lambda xp, x, *i: xp.gather_nd(x, i[1]),
        "gather_nd batched": lambda xp, x, *i: xp.gather_nd(x, i[3], 1),
        "gather_nd empty": lambda xp, x, *i: xp.gather_nd(x, i[1][..., :0]),
        "reverse": lambda xp, x, *i: xp.reverse_sequence(x, i[3][:3, 0] + 1, 1, 2),
    }
    compare(cases, x, few, tuples, along, batched)
    compare(cases, x.astype(ml_dtypes.bfloat16), few, tuples, along, batched)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_few_slices_of_what_lies_otherwise(axis: int) -> None:
    """They are taken where they lie, by the same rules."""
    x = normal(5, 4, 6).transpose(2, 0, 1)
    indices = np.array([[0, -1], [3, -4]])
    with host().scope():
        np.testing.assert_array_equal(
            host().take(x, indices, axis), np.take(x, indices, axis)
        )
        with pytest.raises(IndexError):
            host().take(x, np.array([7]), axis)


def test_gathers_mean_what_onnx_says() -> None:
    x = np.arange(12).reshape(3, 4)
    (taken,) = on_host(lambda xp, x: xp.take(x, np.array([[-1]]), 0), x)
    assert taken.tolist() == [[[8, 9, 10, 11]]]
    # Fewer rows than x: allowed by GatherElements.
    (along,) = on_host(lambda xp, x: xp.take_along_axis(x, np.array([[3, -4]]), 1), x)
    assert along.tolist() == [[3, 0]]
    (tuples,) = on_host(lambda xp, x: xp.gather_nd(x, np.array([[2, 3], [0, 0]])), x)
    assert tuples.tolist() == [11, 0]
    with pytest.raises(IndexError):
        host().take(x, np.array([3]), 0)
    with pytest.raises(TypeMismatch, match="rank 1"):
        host().take_along_axis(x, np.array([0]), 0)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, ml_dtypes.bfloat16])
def test_scatters_agree(dtype: Any) -> None:
    x, updates = normal(4, 3, dtype=dtype), normal(2, 3, dtype=dtype) + dtype(1)
    rows = np.array([[0, -1, 2], [3, 1, -2]])
    # Equal positions twice, where that is defined.
    twice = np.array([[0, -1, 2], [0, 3, -2]])
    cases: dict[str, Any] = {}
    for reduction in REDUCTIONS:
        at = rows if reduction == "none" else twice
        cases[f"elements {reduction}"] = lambda xp, x, u, i=at, r=reduction: (
            xp.scatter_elements(x, i, u, 0, r)
        )
        cases[f"nd {reduction}"] = lambda xp, x, u, i=at, r=reduction: xp.scatter_nd(
            x, i[:, :1], u, r
        )
    compare(cases, x, updates)
    if dtype is np.int8:
        (added,) = on_host(cases["elements add"], x, updates)
        expected = x.copy()
        for i, j in np.ndindex(2, 3):
            expected[twice[i, j], j] += updates[i, j]
        np.testing.assert_array_equal(added, expected)


def test_scatters_leave_their_operand_alone_and_check_the_reduction() -> None:
    x = np.zeros((2, 2), np.float32)
    host().scatter_nd(x, np.array([[0, 1]]), np.ones(1, np.float32))
    assert not x.any()
    with pytest.raises(TypeMismatch, match="mean"):
        host().scatter_nd(x, np.array([[0, 1]]), np.ones(1, np.float32), "mean")


def test_narrow_scatters_round_once() -> None:
    # Rounding after each of the 256 steps would stop at 256.
    ones = np.ones(512, ml_dtypes.bfloat16)
    (total,) = on_host(
        lambda xp, x: xp.scatter_nd(x[:1], np.zeros((512, 1), int), x, "add"), ones
    )
    assert total == 512


@pytest.mark.parametrize("shape", [(), (5,), (2, 0), (3, 4)])
def test_nonzero(shape: tuple[int, ...]) -> None:
    x = np.asarray(np.arange(1, 1 + int(np.prod(shape))).reshape(shape) % 3)
    found = host().nonzero(x)
    assert (found.dtype, found.shape[0]) == (np.int64, len(shape))
    expected = [i for i in np.ndindex(*shape) if x[i]]
    assert found.T.tolist() == [list(place) for place in expected]


@pytest.mark.parametrize("shown", [True, False])
def test_unique_elements(shown: bool) -> None:
    x = np.array([[5, 2], [5, 3], [2, 9]], np.int32)
    values, first, inverse, counts = host().unique(x, sorted=shown)
    assert values.tolist() == ([2, 3, 5, 9] if shown else [5, 2, 3, 9])
    np.testing.assert_array_equal(values[inverse], x.ravel())
    np.testing.assert_array_equal(x.ravel()[first], values)
    assert counts.tolist() == ([2, 1, 2, 1] if shown else [2, 2, 1, 1])
    assert {a.dtype for a in (first, inverse, counts)} == {np.dtype(np.int64)}


@pytest.mark.parametrize("shown", [True, False])
def test_unique_slices(shown: bool) -> None:
    x = np.array([[4, 1], [2, 2], [4, 1], [0, 7]], np.float32)
    values, first, inverse, counts = host().unique(x, 0, sorted=shown)
    assert values[:, 0].tolist() == ([0, 2, 4] if shown else [4, 2, 0])
    np.testing.assert_array_equal(values[inverse], x)
    np.testing.assert_array_equal(x[first], values)
    assert counts.sum() == 4


def test_unique_of_strings() -> None:
    values, *_ = host().unique(np.array(["b", "a", "b"], object), sorted=False)
    assert values.tolist() == ["b", "a"]
