"""Norms of sums, and of embeddings, as ONNX Runtime's own ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.dims import equal
from graphopt.ir import Op, Value
from graphopt.ops import Add, LayerNormalization, RMSNormalization
from graphopt.ops.contrib import (
    SimplifiedLayerNormalization,
    SkipLayerNormalization,
    SkipSimplifiedLayerNormalization,
)
from graphopt.passes.match import axis_of, is_row, same_type
from graphopt.passes.raise_gelu import plus
from graphopt.rewrite import Miss, Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .embeddings import embed_layer_norm
from .gate import Fusion


@dataclass(frozen=True)
class Summands:
    """``x + skip + bias``: x has the shape of the sum, the bias that of its rows."""

    x: Value
    skip: Value
    bias: Value | None = None


def summands(total: Add, scene: Scene) -> Summands | None:
    """A sum as the kernels take it; None where its operands are none they take."""
    for outer, inner in plus(total):
        if not isinstance(inner, Add) or not scene.single(inner):
            continue
        for left, right in plus(inner):
            for bias, a, b in ((right, left, outer), (outer, left, right)):
                pair = _paired(a, b, total) if is_row(bias, total) else None
                if pair is not None:
                    return Summands(*pair, bias)
    pairs = (_paired(a, b, total) for a, b in plus(total))
    return next((Summands(*pair) for pair in pairs if pair is not None), None)


def _paired(a: Value, b: Value, total: Value) -> tuple[Value, Value] | None:
    """The two, the one of the sum's shape first."""
    for x, skip in ((a, b), (b, a)):
        if same_type(x, total) and _is_skip(skip, total):
            return x, skip
    return None


def _is_skip(skip: Value, total: Value) -> bool:
    """True for what has the dims of the sum; that of batches may be one, or absent."""
    if skip.shape is None or total.shape is None or skip.dtype is not total.dtype:
        return False
    if len(skip.shape) < 2 or len(skip.shape) > len(total.shape):
        return False
    *batch, rows, width = skip.shape
    *_, all_rows, all_width = total.shape
    if not equal(rows, all_rows) or not equal(width, all_width):
        return False
    return all(
        dim == 1 or equal(dim, other)
        for dim, other in zip(batch[::-1], total.shape[-3::-1], strict=False)
    )


def _sum_of_norm(
    op: LayerNormalization | RMSNormalization, scene: Scene
) -> tuple[Add, Summands] | Miss | None:
    """The sum that a norm of rows reads, and what it is the sum of."""
    total, gain = op.operands[:2]
    if not isinstance(total, Add) or gain is None or total.rank is None:
        return None
    if axis_of(op.axis, total.rank) != total.rank - 1:
        return miss("it norms more than rows", op)
    if any(scene.uses(result) for result in op.results[1:]):
        return miss("its mean or spread is read", op)
    if not all(is_row(v, total) for v in op.operands[1:] if v is not None):
        return miss("the gain or bias is no vector as long as the rows", gain)
    if op.stash_type != DType.F32.value:
        return miss("it computes in another type", op)
    found = summands(total, scene)
    if found is None:
        return miss("the operands of the sum differ in shape", total)
    return total, found


def _replaced(op: Op, made: Op, total: Value) -> Outcome:
    """The norm, and the sum where others read it, by a fused op's results."""
    first, *rest = op.results
    news = {first: made.results[0], **{value: value for value in rest}}
    return news if made.outs == 1 else {**news, total: made.results[3]}


def _outs(total: Value, scene: Scene) -> int:
    """The sum is the fourth result."""
    return 1 if scene.single(total) else 4


@rule(exact=False)
def skip_layer_norm(op: LayerNormalization, scene: Scene) -> Outcome:
    """layernorm(x + r + b, g, c) = skiplayernorm(x, r, g, c, b), which gives the sum"""
    found = _sum_of_norm(op, scene)
    if found is None or isinstance(found, Miss):
        return found
    total, parts = found
    made = SkipLayerNormalization(
        *(parts.x, parts.skip, op.operands[1], op.operand(2), parts.bias),
        epsilon=op.epsilon,
        outs=_outs(total, scene),
    )
    return _replaced(op, made, total)


@rule(exact=False)
def skip_rms_norm(op: RMSNormalization, scene: Scene) -> Outcome:
    """rmsnorm(x + r + b, g) = skiprmsnorm(x, r, g, b), which gives the sum"""
    found = _sum_of_norm(op, scene)
    if found is None or isinstance(found, Miss):
        return found
    total, parts = found
    made = SkipSimplifiedLayerNormalization(
        *(parts.x, parts.skip, op.operands[1], parts.bias),
        epsilon=op.epsilon,
        outs=_outs(total, scene),
    )
    return _replaced(op, made, total)


@rule(exact=False)
def rms_norm(op: RMSNormalization) -> Outcome:
    """rmsnorm(x, g) = simplifiedlayernorm(x, g), its name before opset 23"""
    same: dict[str, Any] = dict(op.attrs)
    return SimplifiedLayerNormalization(*op.operands, **same)


RULES: tuple[Rule, ...] = (embed_layer_norm, skip_layer_norm, skip_rms_norm)
TWINS: tuple[Rule, ...] = (rms_norm,)


@dataclass(frozen=True)
class FuseNorms(Fusion):
    """Sums and the norms of them in one op; embeddings, too.

    layernorm(x + r, g, b)   -->   skiplayernorm(x, r, g, b)
    """

    def fusions(self) -> Sequence[Rule]:
        return RULES if self.most else [r for r in RULES if r is not embed_layer_norm]

    def twins(self) -> Sequence[Rule]:
        return TWINS
