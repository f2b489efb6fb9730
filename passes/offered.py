"""What an opset offers: whether it has an op for these element types."""

from __future__ import annotations

from functools import cache

from graphopt.ir import Op
from graphopt.rewrite import Outcome, Scene, miss
from graphopt.types import DType

_FLOATS = {
    "tensor(double)": DType.F64,
    "tensor(float)": DType.F32,
    "tensor(float16)": DType.F16,
    "tensor(bfloat16)": DType.BF16,
}


@cache
def float_types(kind: str, opset: int) -> frozenset[DType]:
    """The floating-point types that an op of the default domain takes first."""
    import onnx

    try:
        schema = onnx.defs.get_schema(kind, opset, "")
    except onnx.defs.SchemaError:
        return frozenset()
    return frozenset(_FLOATS[t] for t in schema.inputs[0].types if t in _FLOATS)


def said(op: Op, scene: Scene) -> Outcome:
    """The op, where the opset has it for floats of its type."""
    if scene.says(op) and op.dtype in float_types(op.kind, scene.opset):
        return op
    return miss(f"opset {scene.opset} has no {op.kind} like it of this type", op)
