"""What ONNX Runtime cannot run as it is, said by simpler ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from onnx import defs

from graphopt.ops.strips import Strips
from graphopt.ops.structured import Composite
from graphopt.ops.tiled import Tiled
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, miss, rule
from graphopt.types import DType

from .kernels import Kernels

OLDEST: Final = 7
"""The lowest opset that the runtime still takes."""


@cache
def _has_function(kind: str) -> bool:
    """True where ONNX says an op by simpler ones: the runtime does so by itself."""
    try:
        schema = defs.get_schema(kind)
    except defs.SchemaError:
        return False
    return any(
        getattr(schema, name)  # unknown to onnx's stubs
        for name in ("has_function", "has_context_dependent_function")
    )


def _managed(op: Composite, kernels: Kernels) -> bool:
    """True for an op of ONNX that the runtime itself says otherwise.

    It inlines functions, and on the CPU computes in float32 what is in float16.
    """
    if op.domain:
        return False
    narrow = any(v is not None and v.dtype is DType.F16 for v in op.operands)
    return _has_function(op.kind) or (narrow and kernels.has("", op.kind))


def written_out(provider: str) -> Rule:
    """The rule for one execution provider."""
    kernels = Kernels.of(provider)

    @rule
    def body(op: Composite) -> Outcome:
        """f(x) = the body of f, where the runtime has no kernel for f"""
        if isinstance(op, Tiled | Strips):
            return None  # the exporter does, when nothing can take the tiles apart
        reason = kernels.why_not(op, opset=OLDEST)
        if reason is None or _managed(op, kernels):
            return None
        values = op.expansion
        if values is None:
            return miss(f"{reason}, and it has no body here", op)
        return values[: op.outs]

    return body


@dataclass(frozen=True)
class WriteOut(RulePass):
    """Say composite ops by their bodies where ONNX Runtime has no kernel for them.

    quickgelu(x) of float16   -->   x * sigmoid(1.702 * x)
    """

    provider: str = "cpu"

    def rules(self) -> Sequence[Rule]:
        return [written_out(self.provider)]
