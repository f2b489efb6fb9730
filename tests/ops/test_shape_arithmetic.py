"""Shape arithmetic: small integer tensors are followed as dims while ops are built."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt import ops
from graphopt.dims import parse_dim, symbol
from graphopt.errors import TypeMismatch
from graphopt.ir import Parameter, Value
from graphopt.types import UNKNOWN, DType, TensorType, tensor
from graphopt.weights import Tensor

N = symbol("n")
X = Parameter(tensor(DType.F32, N, 3), "x")
SEVEN = Tensor.of(np.array([7]))
UNSURE = Parameter(tensor(DType.F32, None, 3), "u")


def ints(*values: int) -> Value:
    return ops.Constant(np.array(values, np.int64))


def scalar(value: int) -> Value:
    return ops.Constant(np.array(value, np.int64))


def known(value: Value) -> list[Any]:
    assert value.contents is not None
    return [str(v) if not isinstance(v, bool) else v for v in value.contents.ravel()]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (ops.Shape(X), ["n", "3"]),
        (ops.Shape(X, start=1), ["3"]),
        (ops.Shape(X, start=-1, end=9), ["3"]),
        (ops.Shape(X, start=1, end=0), []),
        (ops.Size(X), ["3*n"]),
        (ops.Size(UNSURE), ["None"]),
        (ops.Mul(ops.Shape(X), ints(2)), ["2*n", "6"]),
        (ops.Add(ops.Shape(X), ints(1, -1)), ["n + 1", "2"]),
        (ops.Sub(ints(0), ops.Shape(X)), ["-n", "-3"]),
        (ops.Neg(ops.Shape(X)), ["-n", "-3"]),
        (ops.Div(ops.Mul(ops.Shape(X), ints(4)), ints(2)), ["2*n", "6"]),
        (ops.Div(ops.Size(X), scalar(3)), ["n"]),
        (ops.Mod(ops.Mul(ops.Shape(X), ints(4)), ints(2)), ["0", "0"]),
        (ops.Mod(ints(-7, 7), ints(3, -3)), ["2", "-2"]),
        (ops.Mod(ints(-7, 7), ints(3, -3), fmod=1), ["-1", "1"]),
        (ops.Max(ops.Shape(X), ints(-1)), ["n", "3"]),
        (ops.Min(ops.Shape(X), ints(2**40)), ["min(n, 1099511627776)", "3"]),
        (ops.Clip(ops.Shape(X), scalar(0), scalar(2)), ["min(n, 2)", "2"]),
        (ops.Identity(ops.Shape(UNSURE)), ["None", "3"]),
        (ops.Cast(ops.Shape(X), to=DType.I32), ["n", "3"]),
        (ops.CastLike(ops.Shape(X), ops.Cast(X, to=DType.I32)), ["n", "3"]),
        (ops.Equal(ops.Shape(X), ints(-1, 3)), [False, True]),
        (ops.Not(ops.Equal(ops.Shape(X), ints(-1, 3))), [True, False]),
        (ops.Less(ops.Shape(X), ints(0, 4)), [False, True]),
        (
            ops.Where(ops.Equal(ops.Shape(X), ints(-1)), ints(1), ops.Shape(X)),
            ["n", "3"],
        ),
        (ops.ReduceProd(ops.Shape(X), keepdims=0), ["3*n"]),
        (ops.ReduceSum(ops.Shape(X), ints(0)), ["n + 3"]),
        (ops.Range(scalar(0), scalar(6), scalar(2)), ["0", "2", "4"]),
        (ops.ConstantOfShape(ints(2), value=SEVEN), ["7", "7"]),
    ],
    ids=lambda v: v.op.kind if isinstance(v, Value) else "",
)
def test_contents(value: Value, wanted: list[Any]) -> None:
    assert known(value) == wanted


@pytest.mark.parametrize(
    "value",
    [
        ops.Mul(ops.Shape(UNSURE), ints(2)),
        ops.Cast(ops.Shape(X), to=DType.F32),
        ops.Equal(ops.Shape(X), ints(5, 3)),
        ops.Shape(Parameter(UNKNOWN, "unknown")),
        ops.Div(ops.Shape(X), ints(0)),
    ],
    ids=lambda v: v.op.kind,
)
def test_what_is_not_known(value: Value) -> None:
    assert value.contents is None


@pytest.mark.parametrize(
    ("value", "dims"),
    [
        (ops.ConstantOfShape(ops.Shape(X)), ("n", "3")),
        (ops.Range(scalar(0), ops.Size(X), scalar(1)), ("3*n",)),
        (ops.Range(scalar(0), ops.Size(X), scalar(2)), ("(3*n + 1)//2",)),
        (ops.Range(ops.Size(X), scalar(0), scalar(-3)), ("n",)),
        (ops.MatMul(X, Parameter(tensor(DType.F32, 3, 5))), ("n", "5")),
        (ops.ReduceMean(X, ints(-1)), ("n", "1")),
        (ops.HannWindow(ops.Size(X)), ("3*n",)),
        (ops.Einsum(X, X, equation="nc,mc->nm"), ("n", "n")),
    ],
    ids=lambda v: v.op.kind if isinstance(v, Value) else "",
)
def test_dims_of_results(value: Value, dims: tuple[str, ...]) -> None:
    assert value.shape == tuple(parse_dim(d) for d in dims)


FIXED = Parameter(tensor(DType.F32, 4, 3))
VECTOR = Parameter(tensor(DType.F32, 4))


@pytest.mark.parametrize(
    "build",
    [
        lambda: ops.MatMul(FIXED, FIXED),
        lambda: ops.MatMul(X, Parameter(tensor(DType.F32))),
        lambda: ops.Add(X, VECTOR),
        lambda: ops.Gemm(FIXED, FIXED),
        lambda: ops.Softmax(X, axis=2),
        lambda: ops.ReduceSum(X, ints(2)),
        lambda: ops.ReduceSum(X, ints(0, -2)),
        lambda: ops.ArgMax(X, axis=-3),
        lambda: ops.LayerNormalization(X, VECTOR, axis=5),
        lambda: ops.Einsum(X, equation="ab,bc->ac"),
        lambda: ops.Einsum(X, equation="abc->a"),
        lambda: ops.CumSum(X, scalar(2)),
        lambda: ops.Attention(X, X, X),
        lambda: ops.Relu(X, slope=1.0),
    ],
)
def test_what_does_not_fit_is_refused(build: Any) -> None:
    with pytest.raises(TypeMismatch) as caught:
        build()
    assert build.__code__.co_names[1] in str(caught.value)


def test_reductions_know_the_rank_without_the_axes() -> None:
    axes = Parameter(tensor(DType.I64, 1), "axes")
    assert ops.ReduceSum(X, axes).shape == (None, None)
    assert ops.ReduceSum(X, axes, keepdims=0).shape == (None,)
    assert ops.ReduceSum(Parameter(TensorType(DType.F32)), keepdims=0).shape == ()
