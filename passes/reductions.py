"""Reductions: dims kept or dropped at once, sums of products, extremes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from graphopt.dims import equal
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    ArgMax,
    ArgMin,
    Constant,
    Flatten,
    LogSoftmax,
    MatMul,
    Mul,
    ReduceMax,
    ReduceMin,
    ReduceSum,
    Reshape,
    Softmax,
    Squeeze,
    Sub,
    TopK,
    Unsqueeze,
)
from graphopt.ops.reduction import Reduction
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .match import axis_of, same_shape, static_shape, stretches_nothing
from .scale_shift import numbers

ROUNDED = 1e-3
"""By how much a shift may round what it is added to: float32 up to shifts of 8000."""

Reshaping: TypeAlias = Squeeze | Unsqueeze | Reshape | Flatten
Extreme: TypeAlias = ArgMax | ArgMin


@rule
def dims_of_reduction(
    op: Squeeze | Unsqueeze | Reshape | Flatten, scene: Scene
) -> Outcome:
    """squeeze(sum(x, keepdims=1)) = sum(x, keepdims=0), and the other way round"""
    inner = op.operands[0]
    if not isinstance(inner, Reduction | ArgMax | ArgMin) or op.shape is None:
        return None
    if not scene.single(inner):
        return miss("it is read elsewhere too", inner)
    made = inner.copy(keepdims=1 - inner.keepdims)
    if made.rank == inner.rank or not same_shape(made, op):
        return miss("other dims go or come", op)
    return made if scene.says(made) else None


@rule(exact=False)
def sum_of_products(op: ReduceSum, scene: Scene) -> Outcome:
    """sum(x * w, last axis) = x @ w for a vector w of constants"""
    product = op.operands[0]
    if not isinstance(product, Mul) or not scene.single(product):
        return None
    x, weight = product.operands
    axes = op.reduced_axes()
    if x is None or weight is None or x.rank is None or op.dtype is None:
        return None
    shape = None if weight.constant is None else static_shape(weight)
    if shape is None or not op.dtype.is_float or axes != (x.rank - 1,):
        return None
    if x.rank < 2 or not stretches_nothing(weight, x):
        return miss("the weights stretch it", weight)
    if not shape or any(dim != 1 for dim in shape[:-1]) or shape[-1] == 1:
        return miss("the weights are no vector along the summed axis", weight)
    wanted = [shape[-1], 1] if op.keepdims else [shape[-1]]
    return MatMul(x, Reshape(weight, Constant(np.array(wanted, np.int64))))


@rule(exact=False)
def position_of_softmax(op: ArgMax | ArgMin, scene: Scene) -> Outcome:
    """argmax(softmax(x)) = argmax(x) along one axis"""
    inner = op.operands[0]
    if not isinstance(inner, Softmax | LogSoftmax) or inner.rank is None:
        return None
    if axis_of(inner.axis, inner.rank) != axis_of(op.axis, inner.rank):
        return miss("they are along two axes", inner)
    if not scene.single(inner):
        return miss("it is read elsewhere too", inner)
    return op.with_operands(inner.operands)


@rule(exact=False)
def softmax_of_shifted(op: Softmax | LogSoftmax, scene: Scene) -> Outcome:
    """softmax(x + c) = softmax(x) for a constant that is one along the axis

    Where c is so large that x is rounded beside it, the rows would change.
    """
    inner = op.operands[0]
    if not isinstance(inner, Add | Sub) or not scene.single(inner):
        return None
    x, shift = inner.operands
    given = numbers(shift)
    if x is None or shift is None or given is None or op.rank is None:
        return None
    at = axis_of(op.axis, op.rank) - op.rank
    if given.ndim + at >= 0 and given.shape[at] != 1:
        return miss("it varies along the axis", shift)
    if not np.all(np.isfinite(given)) or not stretches_nothing(shift, x):
        return miss("it is not finite, or stretches the operand", shift)
    if op.dtype is None or np.max(np.abs(given), initial=0) * _unit(op.dtype) > ROUNDED:
        return miss("x is rounded beside it", shift)
    return op.with_operands([x])


def _unit(dtype: DType) -> float:
    """The distance of 1 and the number after it."""
    info: Any = ml_dtypes.finfo
    return float(info(dtype.numpy).eps)


@rule(exact=False)
def largest_of_all(op: TopK, scene: Scene) -> Outcome:
    """topk(x, 1) = max(x), or argmax(x): what is asked for of the two"""
    x, count = op.operands
    if x is None or x.rank is None or count is None or count.ints != (1,):
        return None
    values, indices = op.results
    used = [scene.uses(values) > 0, scene.uses(indices) > 0]
    if all(used):
        return miss("both the number and its position are asked for", op)
    axis = axis_of(op.axis, x.rank)
    if equal(x.shape[axis], 0):  # type: ignore[index]
        return None
    axes = Constant(np.array([axis], np.int64))
    if used[1]:
        kind = ArgMax if op.largest else ArgMin
        made: Value = kind(x, axis=axis, keepdims=1)
    else:
        made = (ReduceMax if op.largest else ReduceMin)(x, axes, keepdims=1)
    if made.op is None or not scene.says(made.op):
        return miss("this opset has it for other types", op)
    return [values, made] if used[1] else [made, indices]


RULES: tuple[Rule, ...] = (
    dims_of_reduction,
    sum_of_products,
    position_of_softmax,
    softmax_of_shifted,
    largest_of_all,
)


@dataclass(frozen=True)
class Reductions(RulePass):
    """Reduce once, and only what is asked for.

    squeeze(sum(x * w, -1, keepdims=1))   -->   x @ w
    argmax(softmax(x))                    -->   argmax(x)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
