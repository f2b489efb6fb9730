"""Constant folding: what it computes, and what it must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import (
    N,
    const,
    fires,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    random,
    rewritten,
)

from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import (
    Add,
    Cast,
    Concat,
    ConstantOfShape,
    DequantizeLinear,
    Div,
    Dropout,
    Exp,
    Expand,
    Identity,
    If,
    MatMul,
    Mean,
    Mod,
    Mul,
    Neg,
    Pow,
    RandomNormalLike,
    RandomUniform,
    Range,
    Relu,
    SequenceConstruct,
    Shape,
    Split,
    Sqrt,
    StringConcat,
    Sub,
    Sum,
    Tile,
    TopK,
    Transpose,
)
from graphopt.passes.fold import Fold, is_determined
from graphopt.rewrite import Rule
from graphopt.types import DType, tensor
from graphopt.weights import Tensor

D = DType
contents, constants, rounded = Fold().rules()
X = param("x", 3)


def folding(value: Value) -> Rule:
    """The rule that folds the op of a value."""
    assert value.op is not None
    return constants if is_determined(value.op) else rounded


EQUATIONS: list[tuple[Value, Value | None]] = [
    (Add(const([1, 2]), const(0.5)), const([1.5, 2.5])),
    (MatMul(const([[1, 2]]), const([[3], [4]])), const([[11]])),
    (Sqrt(const(-1.0)), None),
    (Div(const([1.0, -1.0]), const(0.0)), const([np.inf, -np.inf])),
    (Neg(const(0.0)), const(-0.0)),
    (Mul(const(-1.0), const(0.0)), const(-0.0)),
    (Sub(const(-0.0), const(0.0)), const(-0.0)),
    (Cast(const([1.5, -1.5]), to=D.I32), const([1, -1], D.I32)),
    (Cast(const([300, -1], D.I32), to=D.U8), const([44, 255], D.U8)),
    (Add(const(1.0, D.BF16), const(2**-9, D.BF16)), const(1.0, D.BF16)),
    (Mul(const(3.0, D.F16), const(3e4, D.F16)), const(np.inf, D.F16)),
    (Neg(const([1, -8], D.I4)), None),
    (Expand(const(2.0), ints(2, 2)), const([[2, 2], [2, 2]])),
    (ConstantOfShape(ints(2), value=Tensor.of([7.0])), const([7, 7])),
    (Transpose(const([["a", "b"]], D.STRING)), const([["a"], ["b"]], D.STRING)),
    (
        StringConcat(const(["a"], D.STRING), const(["é"], D.STRING)),
        const(["aé"], D.STRING),
    ),
    (Tile(const(np.zeros((0, 2))), ints(3, 1)), const(np.zeros((0, 2)))),
]


@pytest.mark.parametrize(("before", "after"), EQUATIONS)
def test_equation(before: Value, after: Value | None) -> None:
    if after is None:
        assert kinds(rewritten(folding(before), before, opset=25)) == []
    else:
        fires(folding(before), before, after, opset=25)


def test_what_executors_round_otherwise_is_not_exact() -> None:
    sharp, vague = Add(const(1.0), const(2.0)), Exp(const(1.0))
    assert (constants.exact, rounded.exact) == (True, False)
    misses(constants, vague)
    misses(rounded, sharp)
    three = [const(1.0), const(2.0), const(3.0)]
    assert not is_determined(Mean(*three))  # executors add them as they like
    assert not is_determined(Sum(*three[:2]))
    assert is_determined(Sum(three[0]))
    graph = Fold(exact=True)(graph_of(sharp, vague))
    assert kinds(graph) == ["Exp"]


INTEGERS: list[tuple[Value, Value]] = [
    (Add(const(2**31 - 1, D.I32), const(1, D.I32)), const(-(2**31), D.I32)),
    (Mul(const(2**31 - 1, D.I32), const(2, D.I32)), const(-2, D.I32)),
    (Sub(const(0, D.U8), const(1, D.U8)), const(255, D.U8)),
    (Mul(const(2**62, D.I64), const(4, D.I64)), const(0, D.I64)),
    (Neg(const(-128, D.I8)), const(-128, D.I8)),
    (
        Div(const([7, -7, 7, -7], D.I64), const([2, 2, -2, -2], D.I64)),
        ints(3, -3, -3, 3),
    ),
    (
        Mod(const([7, -7, 7, -7], D.I64), const([3, 3, -3, -3], D.I64)),
        ints(1, 2, -2, -1),
    ),
    (
        Mod(const([7, -7, 7, -7], D.I64), const([3, 3, -3, -3], D.I64), fmod=1),
        ints(1, -1, 1, -1),
    ),
    (Pow(const(3, D.I64), const(3, D.I64)), const(27, D.I64)),
    (Range(const(5, D.I64), const(0, D.I64), const(-2, D.I64)), ints(5, 3, 1)),
]


@pytest.mark.parametrize(("before", "after"), INTEGERS)
def test_integers_wrap_and_truncate(before: Value, after: Value) -> None:
    done = rewritten([contents, constants], before)
    assert done.outputs == (after,)


def test_integer_division_by_zero_does_not_stop_the_pass() -> None:
    before = Div(const(1, D.I64), const(0, D.I64))
    done = rewritten([contents, constants], before)
    assert kinds(done) == []


def test_known_contents() -> None:
    fixed = param("fixed", 2, 3)
    fires(contents, Shape(fixed), ints(2, 3))
    fires(contents, Concat(Shape(fixed), ints(7), axis=0), ints(2, 3, 7))
    misses(contents, Shape(param("d", N, 3)))
    misses(contents, Identity(fixed))


def test_some_results_of_an_op() -> None:
    split = Split(Shape(param("d", 4, N)), ints(1, 1), axis=0)
    fires(contents, split.results, (ints(4), split.results[1]))


def test_all_results_of_an_op() -> None:
    top = TopK(const([3, 1, 2]), ints(2))
    fires(rounded, top.results, (const([3, 2]), ints(0, 2)))


GUARDS: list[tuple[Any, str]] = [
    (Add(X, const(1.0)), ""),
    (RandomNormalLike(const([1, 2]), token=1), ""),
    (RandomUniform(shape=(2,), token=1), ""),
    (SequenceConstruct(const([1, 2])), "the size of the result is not known"),
    (If(const(True, D.BOOL), bodies=(Graph([], [const(1.0)]),) * 2), ""),
    (Dropout(const([1, 2]), const(0.5), const(True, D.BOOL), token=1), ""),
    (Relu(param("default", 3)), ""),
    (ConstantOfShape(ints(30_000_000)), "takes 120000000 bytes"),
    (ConstantOfShape(ints(100_000)), "the file would grow by 399992 bytes"),
    (Tile(random(100, 100), ints(10, 1)), "the file would grow by"),
    (Expand(const(1.0), ints(1000, 1000)), "the file would grow by"),
    (Cast(random(100, 100, dtype=D.F32), to=D.F64), "the file would grow by"),
    (Range(const(0, D.I64), const(10**6, D.I64), const(1, D.I64)), "would grow by"),
    (
        Range(const(0.0), const(np.inf), const(1.0)),
        "the size of the result",
    ),
    (
        DequantizeLinear(const([1, 2], D.I8), const(0.5), const(0, D.I8)),
        "kernels take the quantized constant",
    ),
]


@pytest.mark.parametrize(("before", "reason"), GUARDS)
def test_guard(before: Value, reason: str) -> None:
    misses(folding(before), before, reason)
    misses(contents, before)


def test_what_keeps_the_constant_alive_makes_the_file_grow() -> None:
    big = random(200, 200)  # 160 kB
    fires_once = Neg(big)
    assert kinds(rewritten(constants, fires_once)) == []
    misses(constants, (Neg(big), big), "the file would grow by 160000 bytes")


def test_doubling_again_and_again_is_no_way_round_the_guard() -> None:
    value: Value = random(100, 100)
    for _ in range(10):
        value = Tile(value, ints(2, 1))
    misses(constants, value, "the file would grow by")


def test_small_constants_may_grow_a_little() -> None:
    mask = Expand(const(2.0), ints(64, 64))
    assert kinds(rewritten(constants, mask)) == []
    strict = Fold(free=0).rules()[1]
    misses(strict, mask, "the file would grow by 16364 bytes")
    misses(Fold(limit=100).rules()[1], mask, "takes 16384 bytes")


def test_what_is_filled_with_one_number_grows_less() -> None:
    assert kinds(rewritten(constants, ConstantOfShape(ints(32, 32)))) == []
    large = ConstantOfShape(ints(32, 33))
    misses(constants, large, "the file would grow by")


def test_strings_count_as_64_bytes() -> None:
    words = Tile(const(["a", "b"], D.STRING), ints(100))
    assert kinds(rewritten(Fold(limit=12_800).rules()[1], words)) == []
    misses(Fold(limit=12_799).rules()[1], words, "takes 12800 bytes")


def test_overridable_initializers_are_no_constants() -> None:
    w = Parameter(tensor(D.F32, 2), "w", default=Tensor.of([1.0, 2.0]))
    graph = Graph([w], [Neg(w)])
    assert Fold()(graph) is graph


def test_inside_bodies() -> None:
    condition, x = param("c", dtype=D.BOOL), param("x", 2)
    inner = Parameter(tensor(D.F32, 2), "inner")
    then = Graph([inner], [Add(inner, Add(const(1.0), const(2.0)))])
    other = Graph(
        [Parameter(tensor(D.F32, 2), "inner")], [Mul(const([1, 2]), const(2.0))]
    )
    graph = Graph([condition, x], [If(condition, x, bodies=(then, other), captures=1)])
    done = Fold()(graph)
    (op,) = done.ops
    assert op.bodies[0].outputs == (Add(op.bodies[0].inputs[0], const(3.0)),)
    assert op.bodies[1].outputs == (const([2, 4]),)
