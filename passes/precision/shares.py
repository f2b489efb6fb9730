"""Which operands and results of an op change their element type together.

ONNX says it by type variables: those of LayerNormalization's X, Scale, B and Y are one,
its Mean has another, and Resize's scales have none. Ops of ONNX Runtime have no schema
here: there all float operands go together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from graphopt.errors import GraphoptError
from graphopt.ir import Op, Parameter, Value
from graphopt.ops import Cast, CastLike, Constant
from graphopt.ops.contrib import Declared
from graphopt.ops.control import Control
from graphopt.ops.opaque import Opaque
from graphopt.ops.schema import LATEST
from graphopt.ops.structured import Computed, Structured
from graphopt.types import DType, TensorType

TOGETHER: Final = {"Attention": ("T2", "U"), "Pow": ("T1",)}
"""Variables beside the one of the first result that mean the same numbers."""

_NAMES: Final = {DType.F16: "tensor(float16)", DType.BF16: "tensor(bfloat16)"}


@dataclass(frozen=True)
class Share:
    """Positions of operands and results that are of one float type."""

    operands: tuple[int, ...]
    results: tuple[int, ...]


def is_single(value: Value | None) -> bool:
    """True for a tensor of float32."""
    return value is not None and value.dtype is DType.F32


def moves(op: Op) -> bool:
    """True for an op that gives numbers that it was given, and rounds none."""
    return isinstance(op, Structured) and not op.flops


def shares(op: Op, to: DType) -> Iterator[Share]:
    """What could become ``to``, the least first; nothing where the op needs float32.

    The first result must follow an operand: an attribute says the type of a constant or
    a cast. Operands that steer a shape (those of Range) keep their type, or the shape
    might change, and random ops theirs, or the numbers would be others.
    """
    if not isinstance(op, Computed) or isinstance(
        op, Constant | Opaque | Control | Cast | CastLike
    ):
        return
    if not op.deterministic or op.results[0].dtype is not DType.F32:
        return
    if isinstance(op, Declared):
        yield from _checked(op, to, _floats(op))
        return
    formals = _variables(op.kind, op.domain, to)
    if formals is None:
        return
    operands, results = formals
    last = len(operands) - 1
    of_operand = [operands[min(i, last)] for i in range(len(op.operands))]
    of_result = [results[min(i, len(results) - 1)] for i in range(op.outs)]
    main = of_result[0]
    every = {v for v in (*of_operand, *of_result) if v}
    least = {main, of_operand[0], *TOGETHER.get(op.kind, ())}  # "" is of no operand
    for variables in (least - {""}, every):
        share = Share(
            tuple(
                i
                for i, v in enumerate(op.operands)
                if is_single(v) and of_operand[i] in variables
            ),
            tuple(
                i
                for i, v in enumerate(op.results)
                if is_single(v) and of_result[i] in variables
            ),
        )
        if main and share.operands and 0 in share.results:
            yield from _checked(op, to, share)


def narrow_operands(op: Op, share: Share, to: DType) -> Op:
    """The op on parameters of its operands' shapes, those of the share narrow.

    Raises GraphoptError where the op takes no such types.
    """
    operands: list[Value | None] = list(op.operands)
    for i in share.operands:
        value = operands[i]
        assert value is not None
        operands[i] = Parameter(TensorType(to, value.shape))
    return op.with_operands(operands)


def _checked(op: Computed, to: DType, share: Share) -> Iterator[Share]:
    """The share, if the op makes of it what it says, and steers nothing by it."""
    if not share.operands or not share.results or set(share.operands) & {*op.static}:
        return
    try:
        made = narrow_operands(op, share, to)
    except GraphoptError:
        return
    for i, (old, new) in enumerate(zip(op.types, made.types, strict=True)):
        wanted = to if i in share.results else None
        if not isinstance(new, TensorType) or not isinstance(old, TensorType):
            return
        if new.dtype is not (wanted or old.dtype):
            return
    yield share


def _floats(op: Op) -> Share:
    return Share(
        tuple(i for i, v in enumerate(op.operands) if is_single(v)),
        tuple(i for i, v in enumerate(op.results) if is_single(v)),
    )


@cache
def _variables(
    kind: str, domain: str, to: DType
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The type variables of operands and results, empty where one excludes ``to``."""
    import onnx

    try:
        raw = onnx.defs.get_schema(kind, LATEST if not domain else 1000, domain)
    except onnx.defs.SchemaError:
        return None
    wide = {
        c.type_param_str
        for c in raw.type_constraints
        if {_NAMES[to], "tensor(float)"} <= {*c.allowed_type_strs}
    }
    operands, results = (
        tuple(f.type_str if f.type_str in wide else "" for f in side)
        for side in (raw.inputs, raw.outputs)
    )
    return (operands, results) if operands and results else None
