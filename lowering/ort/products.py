"""Products and convolutions with what stands around them, as ONNX Runtime's own ops."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    Clip,
    Conv,
    Div,
    Gemm,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    MatMul,
    Mul,
    Relu,
    Sigmoid,
    Tanh,
    Transpose,
)
from graphopt.ops.contrib import FusedConv, FusedGemm, FusedMatMul
from graphopt.ops.contrib.activation import ACTIVATIONS
from graphopt.passes.match import perm_of, same_type, stretches_nothing, uniform
from graphopt.passes.raise_gelu import plus
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .gate import Fusion

# --- products -----------------------------------------------------------------------


def _flags(product: MatMul | FusedMatMul) -> dict[str, Any]:
    """The attributes of a product, those that it has none of included."""
    if isinstance(product, FusedMatMul):
        return dict(product.attrs)
    return dict(FusedMatMul.defaults)


def _turns(perm: tuple[int, ...]) -> tuple[int, int] | None:
    """``transBatch`` and ``trans`` that move axes as a permutation does."""
    *batches, row, column = range(len(perm))
    first, *others = range(len(perm) - 1)
    return {
        (*batches, column, row): (0, 1),
        (*others, first, column): (1, 0),
        (*others, column, first): (1, 1),
    }.get(perm)


def _moved(op: MatMul | FusedMatMul, scene: Scene, side: int) -> Outcome:
    moved, flags = op.operands[side], _flags(op)
    batch, last = (name + "AB"[side] for name in ("transBatch", "trans"))
    if not isinstance(moved, Transpose) or moved.rank is None or moved.rank < 2:
        return None
    if flags[batch] or flags[last]:
        return miss("the operand is moved as it is", moved)
    if not scene.single(moved):
        return miss("others read the moved operand too", moved)
    turns = _turns(perm_of(moved.rank, moved.perm))
    if turns is None:
        return miss("the product cannot move axes so", moved)
    operands = list(op.operands)
    operands[side] = moved.operands[0]
    return FusedMatMul(*operands, **flags | {batch: turns[0], last: turns[1]})


@rule(exact=False)
def moved_left(op: MatMul | FusedMatMul, scene: Scene) -> Outcome:
    """transpose(a) @ b = fusedmatmul(a, b) with transA, transBatchA, or both"""
    return _moved(op, scene, 0)


@rule(exact=False)
def moved_right(op: MatMul | FusedMatMul, scene: Scene) -> Outcome:
    """a @ transpose(b) = fusedmatmul(a, b) with transB, transBatchB, or both"""
    return _moved(op, scene, 1)


def _scaled(value: Value | None) -> tuple[Value, float] | None:
    """x and a of ``a * x``, a being one number that float32 holds as well as x does."""
    if not isinstance(value, Mul | Div):
        return None
    a, b = value.operands
    pairs = ((a, b), (b, a)) if isinstance(value, Mul) else ((a, b),)
    for x, factor in pairs:
        number = uniform(factor)
        if x is None or factor is None or number is None:
            continue
        if not stretches_nothing(factor, x) or not value.dtype:
            continue
        scale = float(number)
        scale = scale if isinstance(value, Mul) else 1 / scale if scale else math.inf
        whole = value.dtype is DType.F32 or float(np.float32(scale)) == scale
        if scale and math.isfinite(scale) and whole:
            return x, scale
    return None


@rule(exact=False)
def scaled_product(op: Mul | Div, scene: Scene) -> Outcome:
    """s * (a @ b) = fusedmatmul(a, b) with alpha s"""
    found = _scaled(op)
    if found is None:
        return None
    product, scale = found
    if not isinstance(product, MatMul | FusedMatMul):
        return None
    if not scene.single(product):
        return miss("the product is read elsewhere too", product)
    flags = _flags(product)
    return FusedMatMul(*product.operands, **flags | {"alpha": flags["alpha"] * scale})


@rule(exact=False)
def scaled_operand(op: MatMul | FusedMatMul, scene: Scene) -> Outcome:
    """(s * a) @ b = fusedmatmul(a, b) with alpha s"""
    operands, flags = list(op.operands), _flags(op)
    for i, operand in enumerate(operands):
        found = _scaled(operand)
        if found is not None and operand is not None and scene.single(operand):
            operands[i], scale = found
            flags["alpha"] *= scale
    if operands == list(op.operands):
        return None
    return FusedMatMul(*operands, **flags)


# --- what follows -------------------------------------------------------------------


def _numbers(op: Op) -> tuple[float, ...] | None:
    """The numbers of an activation in the order of the fused ops; None if unknown."""
    if isinstance(op, Clip):
        bounds = [(op.operand(1), -math.inf), (op.operand(2), math.inf)]
        found = [none if v is None else uniform(v) for v, none in bounds]
        return None if None in found else tuple(float(n) for n in found)
    _, names = ACTIVATIONS[op.kind]
    return tuple(float(op.attrs[name]) for name in names)  # type: ignore[arg-type]


@rule(exact=False)
def activated_gemm(
    op: Relu | Sigmoid | Tanh | LeakyRelu | HardSigmoid, scene: Scene
) -> Outcome:
    """f(gemm(a, b, c)) = fusedgemm(a, b, c) with f"""
    product = op.operands[0]
    if not isinstance(product, Gemm):
        return None
    if not scene.single(product):
        return miss("the product is read elsewhere too", product)
    numbers = _numbers(op)
    assert numbers is not None
    names = ("activation_alpha", "activation_beta")
    attrs: dict[str, Any] = {**product.attrs, **dict(zip(names, numbers, strict=False))}
    return FusedGemm(*product.operands, **attrs, activation=op.kind)


@rule(exact=False)
def activated_conv(
    op: Relu | Sigmoid | Tanh | LeakyRelu | HardSigmoid | HardSwish | Clip,
    scene: Scene,
) -> Outcome:
    """f(conv(x, w, b) + z) = fusedconv(x, w, b, z) with f; z may be absent"""
    product = op.operands[0]
    if not isinstance(product, Conv | FusedConv) or product.attrs.get("activation"):
        return None
    if not scene.single(product):
        return miss("the convolution is read elsewhere too", product)
    numbers = _numbers(op)
    if numbers is None:
        return miss("the bounds are not known", op)
    attrs: dict[str, Any] = {**product.attrs, "activation": op.kind}
    if numbers:
        attrs["activation_params"] = numbers
    return FusedConv(*product.operands, **attrs)


@rule(exact=False)
def conv_and_sum(op: Add, scene: Scene) -> Outcome:
    """conv(x, w, b) + z = fusedconv(x, w, b, z)"""
    for product, z in _summed_convs(op):
        if scene.single(product):
            x, w, bias = (product.operand(i) for i in range(3))
            same: dict[str, Any] = dict(product.attrs)
            return FusedConv(x, w, bias, z, **same)
    return None


def _summed_convs(total: Add) -> Iterator[tuple[Conv, Value]]:
    for product, z in plus(total):
        if isinstance(product, Conv) and same_type(product, z):
            yield product, z


RULES: tuple[Rule, ...] = (
    moved_left,
    moved_right,
    scaled_product,
    scaled_operand,
    activated_gemm,
    activated_conv,
    conv_and_sum,
)


@dataclass(frozen=True)
class FuseProducts(Fusion):
    """Products and convolutions with what stands before and after them.

    a @ transpose(b)   -->   fusedmatmul(a, b) with transB
    relu(conv(x, w))   -->   fusedconv(x, w) with Relu
    """

    def fusions(self) -> Sequence[Rule]:
        return RULES
