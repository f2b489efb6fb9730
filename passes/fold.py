"""Constant folding: an op on constants is the constant it computes.

Sizes are bounded before anything is computed: a model must not grow because it was
optimized, and a folding bomb (a huge ConstantOfShape or Tile) stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.cost import op_flops
from graphopt.errors import GraphoptError, NoReference
from graphopt.ir import Op, Value
from graphopt.ops import (
    Col2Im,
    Constant,
    ConstantOfShape,
    DequantizeLinear,
    Mean,
    Shape,
    Size,
    Sum,
)
from graphopt.ops.elementwise import is_inexact
from graphopt.ops.structured import Computed, Elementwise, Structured
from graphopt.pipeline import RulePass
from graphopt.reference import fold
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType, TensorType
from graphopt.weights import Tensor

from .match import static_shape
from .scale_shift import GROWTH

OPERATIONS = 10**9
"""Floating-point operations that one folded op may take."""


@dataclass(frozen=True)
class Fold(RulePass):
    """Replace ops on constants by what they compute.

    add(2, 3)   -->   5

    ``limit`` bytes bound each result; above ``free`` bytes a result must not be larger
    than the constants that it replaces, unless nothing else keeps those alive.
    """

    limit: int = 64 << 20
    free: int = 64 << 10

    def rules(self) -> Sequence[Rule]:
        limit, free = self.limit, self.free

        @rule
        def known_contents(op: Op) -> Outcome:
            """An integer tensor that shape arithmetic has evaluated is a constant."""
            return _from_contents(op)

        @rule
        def on_constants(op: Op, scene: Scene) -> Outcome:
            """f(constants) = constant, where no executor can say otherwise"""
            return _folded(op, scene, limit, free) if is_determined(op) else None

        @rule(exact=False)
        def rounded_constants(op: Op, scene: Scene) -> Outcome:
            """f(constants) = constant, where executors may round otherwise"""
            return None if is_determined(op) else _folded(op, scene, limit, free)

        return (known_contents, on_constants, rounded_constants)


def is_determined(op: Op) -> bool:
    """True where all executors must give the same bits.

    The result is no float, or is made by moving numbers, or by one operation that
    IEEE 754 rounds: exp, sums and products of matrices are rounded as executors like.
    """
    if not any(v.dtype is None or is_inexact(v.dtype) for v in op.results):
        return True
    if not isinstance(op, Structured) or isinstance(op, Col2Im):
        return False
    if isinstance(op, Sum | Mean):
        return len(op.operands) == 1
    return op.flops == 0 or (isinstance(op, Elementwise) and op.flops <= 1)


def _from_contents(op: Op) -> Outcome:
    if isinstance(op, Constant):
        return None
    made = [_known(value) for value in op.results]
    if not any(made):
        return None
    return [new or old for new, old in zip(made, op.results, strict=True)]


def _known(value: Value) -> Constant | None:
    contents, dtype = value.contents, value.dtype
    if contents is None or dtype is None:
        return None
    if not all(isinstance(x, int) for x in contents.flat):
        return None
    array = np.array(contents.tolist(), dtype=dtype.numpy).reshape(contents.shape)
    return Constant(Tensor.of(array, dtype))


def _folded(op: Op, scene: Scene, limit: int, free: int) -> Outcome:
    if isinstance(op, Constant | Shape | Size) or not isinstance(op, Computed):
        return None
    if op.bodies or not op.deterministic:
        return None
    operands = [v for v in op.operands if v is not None]
    for value in operands:
        if value.constant is None:
            return None  # the common case: say nothing
    if isinstance(op, DequantizeLinear):
        return miss("kernels take the quantized constant")
    sizes = [_bytes(value) for value in op.results]
    if any(size is None for size in sizes):
        return miss("the size of the result is not known")
    total = sum(size for size in sizes if size is not None)
    replaced = sum(
        v.constant.nbytes
        for v in dict.fromkeys(operands)
        if v.constant is not None and scene.uses(v) <= 1
    )
    if isinstance(op, ConstantOfShape):
        free = min(free, GROWTH)  # one node is saved, and rules see through it
    if total > limit:
        return miss(f"the result takes {total} bytes")
    if total > max(free, replaced):
        return miss(f"the file would grow by {total - replaced} bytes")
    flops = op_flops(op)
    if not isinstance(flops, int):
        return miss("how many operations it takes is not known")
    if flops > OPERATIONS:
        return miss(f"it takes {flops:,} operations")
    try:
        arrays = fold(op)
    except (NoReference, GraphoptError) as error:
        return miss(str(error))
    values = []
    for old, array in zip(op.results, arrays, strict=True):
        if not isinstance(array, np.ndarray) or old.dtype is None:
            return miss("a result is no tensor")
        values.append(Constant(Tensor.of(array, old.dtype)))
    return values


def _bytes(value: Value) -> int | None:
    """Bytes of a result, from its type alone."""
    shape = static_shape(value)
    type_ = value.type
    if shape is None or not isinstance(type_, TensorType) or type_.dtype is None:
        return None
    count = 1
    for dim in shape:
        count *= dim
    if type_.dtype is DType.STRING:
        return 64 * count
    return -(-count * type_.dtype.bits // 8)
