"""Triangles: masks by tril and triu, however they are spelled, are causal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from equations import N, const, fires, graph_of, ints, param

from graphopt import check
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    And,
    Attention,
    Cast,
    Concat,
    ConstantOfShape,
    Equal,
    Expand,
    Greater,
    MatMul,
    Mul,
    Neg,
    Not,
    Shape,
    Slice,
    Softmax,
    Sub,
    Transpose,
    Trilu,
    Unsqueeze,
    Where,
)
from graphopt.ops.bodies import vector
from graphopt.passes import triangles
from graphopt.passes.raise_attention import RaiseAttention, causal
from graphopt.passes.triangles import DEEPEST, Triangle, triangle_of
from graphopt.reference import evaluate
from graphopt.types import DType

OPSET = 24
Q, K, V = (param(name, 2, 4, N, 8) for name in "qkv")
PAD = param("pad", 2, 1, 1, N)
SIDES = Concat(Shape(Q, start=2, end=3), Shape(Q, start=2, end=3), axis=0)
LOWEST = float(np.finfo(np.float32).min)
ONES = Expand(const(1.0), SIDES)
TRIL = Trilu(ONES, upper=0)
ONE = const(1, DType.I64)

CONDITIONS: dict[str, Callable[[], Value]] = {
    "cast": lambda: Cast(TRIL, to=DType.BOOL),
    "compared": lambda: Greater(TRIL, const(0.5)),
    "complement": lambda: Not(Equal(TRIL, const(0.0))),
    "upper": lambda: Equal(Trilu(ONES, ONE, upper=1), const(0.0)),
    "batched": lambda: Cast(Unsqueeze(TRIL, vector(0, 1)), to=DType.BOOL),
    "part": lambda: Cast(Slice(TRIL, ints(0, 0), SIDES, ints(0, 1)), to=DType.BOOL),
}

ADDED: dict[str, Callable[[float], Value]] = {
    "triu": lambda low: Trilu(Expand(const(low), SIDES), ONE, upper=1),
    "product": lambda low: Mul(Sub(const(1.0), TRIL), const(low)),
    "choice": lambda low: Where(Equal(TRIL, const(0.0)), const(low), const(0.0)),
    "negated": lambda low: Neg(Trilu(Expand(const(-low), SIDES), ONE, upper=1)),
}


def attended(scores: Callable[[Value], Value]) -> Value:
    """Attention spelled out, its scores masked."""
    product = MatMul(Q, Transpose(K, perm=(0, 1, 3, 2)))
    return MatMul(Softmax(scores(Mul(product, const(8**-0.5)))), V)


def raised(y: Value) -> Any:
    """The one attention that the pass makes of it, proved the same."""
    graph = graph_of(y, opset=OPSET)
    done = RaiseAttention()(graph)
    check(graph, done).raise_if_failed()
    found = [op for op in done.ops if isinstance(op, Attention)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions(name: str) -> None:
    seen = CONDITIONS[name]()
    fires(causal, Attention(Q, K, V, seen), Attention(Q, K, V, is_causal=1), opset=24)
    for low in (-math.inf, LOWEST):
        core = raised(attended(lambda scores, low=low: Where(seen, scores, const(low))))  # type: ignore[misc]
        assert core.is_causal
        assert core.operand(3) is None


@pytest.mark.parametrize("low", [-math.inf, LOWEST])
@pytest.mark.parametrize("name", ADDED)
def test_what_is_added(name: str, low: float) -> None:
    if name == "product" and math.isinf(low):
        pytest.skip("0 * inf is no number")
    mask = ADDED[name](low)
    core = raised(attended(lambda scores: Add(scores, mask)))
    assert core.is_causal
    assert core.operand(3) is None


@pytest.mark.parametrize(
    "scores",
    [
        lambda x: Add(Add(x, ADDED["triu"](-math.inf)), PAD),
        lambda x: Add(x, Add(ADDED["triu"](-math.inf), PAD)),
        lambda x: Add(Where(CONDITIONS["cast"](), x, const(-math.inf)), PAD),
    ],
)
def test_what_else_is_added_stays(scores: Callable[[Value], Value]) -> None:
    core = raised(attended(scores))
    assert core.is_causal
    assert core.operand(3) is PAD


def test_a_finite_number_beside_others_stays_in_the_mask() -> None:
    """Where all that is seen is hidden by another mask, later keys would count."""
    core = raised(attended(lambda x: Add(Add(x, ADDED["triu"](LOWEST)), PAD)))
    assert not core.is_causal


def test_keys_of_a_condition_beside_others() -> None:
    keep = param("keep", 2, 1, 1, N, dtype=DType.BOOL)
    seen = And(CONDITIONS["cast"](), keep)
    after = Attention(Q, K, V, keep, is_causal=1)
    fires(causal, Attention(Q, K, V, seen), after, opset=OPSET)


@pytest.mark.parametrize(
    "mask",
    [
        Trilu(Expand(const(-math.inf), SIDES), upper=1),  # nothing but earlier keys
        Trilu(Expand(const(-math.inf), SIDES), const(2, DType.I64), upper=1),
        Trilu(Expand(const(-math.inf), SIDES), ONE, upper=0),
        Trilu(Expand(const(1.0), SIDES), ONE, upper=1),
        Trilu(Expand(const(-math.inf), SIDES), param("k", dtype=DType.I64), upper=1),
        Add(ADDED["triu"](-math.inf), const(1.0)),
        Trilu(param("m", N, N), ONE, upper=1),
    ],
)
def test_other_triangles_are_masks(mask: Value) -> None:
    graph = graph_of(attended(lambda x: Add(x, mask)), opset=OPSET)
    done = RaiseAttention()(graph)
    assert not any(getattr(op, "is_causal", 0) for op in done.ops)


@pytest.mark.parametrize("diagonal", [-2, -1, 0, 1, 3])
@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("start", [(0, 0), (1, 0), (0, 2)])
def test_a_triangle_is_what_it_says(
    diagonal: int, upper: int, start: tuple[int, int]
) -> None:
    square = ConstantOfShape(ints(6, 7), value=const(5.0).tensor)
    made = Trilu(square, const(diagonal, DType.I64), upper=upper)
    value = Mul(Slice(made, ints(*start), ints(9, 9), ints(-2, -1)), const(2.0))
    found = triangle_of(value)
    assert isinstance(found, Triangle)
    assert found.diagonal is not None
    (array,) = evaluate(graph_of(value), {})
    inside = np.tri(*array.shape, found.diagonal, dtype=bool)
    np.testing.assert_array_equal(array, np.where(inside, found.inside, found.outside))


def test_no_rows_are_no_triangle() -> None:
    assert triangle_of(const(np.zeros((0, 2)), DType.BOOL)) is None


def test_what_is_read_twice_is_looked_at_once() -> None:
    looked = 0
    value: Value = TRIL
    for _ in range(DEEPEST - 3):
        value = Mul(value, value)

    def counted(*given: Any) -> Any:
        nonlocal looked
        looked += 1
        return made(*given)

    made = triangles._made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triangles, "_made", counted)
        assert triangle_of(value) is not None
    assert looked < 2 * DEEPEST
