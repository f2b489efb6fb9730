"""Attention in ONNX Runtime: what its kernels ask for, and those that do more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.dims import equal
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Attention,
    Cast,
    Concat,
    Constant,
    Expand,
    MatMul,
    Shape,
    Split,
    Unsqueeze,
)
from graphopt.ops.bodies import vector
from graphopt.ops.contrib.attention import Attention as Projected, MultiHeadAttention
from graphopt.passes.raise_attention import has_window
from graphopt.passes.scores import MASK_OPS
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .gate import GatedPass


@rule
def whole_mask(op: Attention) -> Outcome:
    """attention(q, k, v, m) = attention(q, k, v, expand(m)), of all queries

    The kernel broadcasts a mask over batches and heads only.
    """
    q, mask = op.operands[0], op.operand(3)
    if mask is None or mask.shape is None or q is None or q.shape is None:
        return None
    axis = 2 if op.rank == 4 else 1
    dim = q.shape[axis]
    if equal(mask.shape[-2], dim):
        return None
    rows = vector(dim) if isinstance(dim, int) else Shape(q, start=axis, end=axis + 1)
    wide = Expand(mask, Concat(rows, vector(1), axis=0))
    if wide.shape is None or not equal(wide.shape[-2], dim):
        return miss("whether the mask has one row or all is not known", mask)
    return op.with_operands((*op.operands[:3], wide, *op.operands[4:])).results


@dataclass(frozen=True)
class LowerAttention(RulePass):
    """Give ONNX Runtime's kernel of Attention the masks that it takes.

    attention(q, k, v, m)   -->   attention(q, k, v, expand(m))
    """

    def rules(self) -> Sequence[Rule]:
        return (whole_mask,)


@dataclass(frozen=True)
class Projection:
    """``x @ weight + bias``, by constants."""

    x: Value
    weight: Value
    bias: Value | None


def projection(value: Value | None) -> Projection | None:
    """How a value is projected from another; None where it is not."""
    bias: Value | None = None
    if isinstance(value, Add):
        value, bias = value.operands
        if not isinstance(value, MatMul):
            value, bias = bias, value
        if bias is None or bias.constant is None or bias.rank != 1:
            return None
    if not isinstance(value, MatMul):
        return None
    x, weight = value.operands
    if x is None or weight is None or weight.constant is None or weight.rank != 2:
        return None
    if bias is not None and not equal(bias.shape[0], weight.shape[1]):  # type: ignore[index]
        return None
    return Projection(x, weight, bias)


def unfit(op: Attention) -> Outcome | None:
    """Why an attention is none that the runtime's own ops do; None where it is."""
    if op.rank != 3 or op.dtype is None:
        return miss("heads are not in the last dim", op)
    if op.q_num_heads != op.kv_num_heads:
        return miss("heads are shared", op)
    if op.softcap or op.operand(6) is not None or op.outs > 1:
        return miss("it has a soft cap, lengths, or other results", op)
    if has_window(op):
        return miss("it has a window", op)
    if op.operand(4) is not None:
        return miss("it has a past", op)
    q, k = (x.shape if x is not None else None for x in op.operands[:2])
    if op.is_causal and not (q and k and equal(q[1], k[1])):
        return miss("these kernels take as many causal queries as keys", op)
    mask = op.operand(3)
    if mask is not None and not (mask.shape and k and equal(mask.shape[-1], k[1])):
        return miss("the mask does not have all keys", mask)
    return None


def added_mask(op: Attention) -> Value | None:
    """The mask as what is added to scores, ``[batch, head, query, key]``.

    None where it may hide all keys of a query: these kernels give NaN then.
    """
    mask = op.operand(3)
    if mask is None or mask.rank is None or op.dtype is None:
        return None
    if mask.dtype is DType.BOOL:
        tensor = mask.constant
        if tensor is None or mask.rank < 2:
            return None
        seen = tensor.array()
        if op.is_causal:
            seen = seen & (np.tri(*seen.shape[-2:]) > 0)
        if not seen.any(axis=-1).all():
            return None
        lowest = float(np.finfo(np.float32).min) if op.dtype is DType.F32 else -6e4
        added = np.where(tensor.array(), 0, lowest)
        mask = Constant(added.astype(op.dtype.numpy))
    elif not is_finite(mask):
        return None
    lead = 4 - (mask.rank or 0)
    return Unsqueeze(mask, vector(*range(lead))) if lead else mask


def is_finite(mask: Value) -> bool:
    """True where a mask is made of conditions, whole numbers and finite constants."""
    pending, seen = [mask], {mask}
    while pending:
        value = pending.pop()
        if value.dtype is not None and not value.dtype.is_float:
            continue
        tensor = value.constant
        if tensor is not None:
            if not np.isfinite(tensor.array().astype(np.float64)).all():
                return False
        elif isinstance(value, Cast):
            pending.extend(v for v in value.operands if v is not None)
        elif isinstance(value, MASK_OPS) and len(seen) < 100:
            fresh = {v for v in value.operands if v is not None} - seen
            seen |= fresh
            pending.extend(fresh)
        else:
            return False
    return True


@rule(exact=False)
def projected(op: Attention, scene: Scene) -> Outcome:
    """attention(x @ u + a, x @ v + b, x @ w + c) = attention(x, [u v w], [a b c])"""
    why = unfit(op)
    if why is not None:
        return why
    found = _packed(op, scene)
    if found is None:
        return miss("q, k and v are no projections of one operand", op)
    parts, widths = found
    mask = added_mask(op)
    if mask is None and op.operand(3) is not None:
        return miss("the mask may hide all keys of a query", op.operand(3))
    if widths[0] != widths[1]:
        return miss("queries and keys differ in size", op)
    weights = [part.weight for part in parts]
    biases = [part.bias for part in parts]
    bias: Value | None = None
    if any(b is not None for b in biases):
        assert op.dtype is not None
        bias = _joined(
            [
                Constant(np.zeros(w.shape[1], op.dtype.numpy)) if b is None else b  # type: ignore[index]
                for b, w in zip(biases, weights, strict=True)
            ]
        )
    same = len(set(widths)) == 1
    return Projected(
        *(parts[0].x, _joined(weights), bias, None, None, mask),
        num_heads=op.q_num_heads,
        unidirectional=op.is_causal,
        scale=op.scale,
        qkv_hidden_sizes=None if same else widths,
    )


def _joined(values: Sequence[Value]) -> Value:
    """Values beside each other in the last dim."""
    return values[0] if len(values) == 1 else Concat(*values, axis=-1)


def _packed(
    op: Attention, scene: Scene
) -> tuple[list[Projection], tuple[int, ...]] | None:
    """The projections of q, k and v of one operand, or the one for all; the widths."""
    operands = op.operands[:3]
    if any(v is None or not scene.single(v) for v in operands):
        return None
    widths = tuple([v.shape[-1] for v in operands if v is not None and v.shape])
    if len(widths) < 3 or not all(isinstance(w, int) for w in widths):
        return None
    first = operands[0].op if operands[0] is not None else None
    if isinstance(first, Split) and first.results == tuple(operands):
        whole = projection(first.operands[0])
        return None if whole is None else ([whole], widths)
    parts = [projection(v) for v in operands]
    found = [part for part in parts if part is not None]
    if len(found) < 3 or any(part.x is not found[0].x for part in found):
        return None
    return found, widths


def by_heads(
    op: Attention, sources: Sequence[Value | None], bias: Value | None = None
) -> Outcome:
    """The attention of other q, k and v and a bias, in the kernel that keeps no scores.

    A miss where that kernel does not do the same.
    """
    why = unfit(op)
    if why is not None:
        return why
    mask = added_mask(op)
    if mask is None and op.operand(3) is not None:
        return miss("the mask may hide all keys of a query", op.operand(3))
    return MultiHeadAttention(
        *(*sources, bias, None, mask),
        num_heads=op.q_num_heads,
        unidirectional=op.is_causal,
        scale=op.scale,
    )


@rule(exact=False)
def multi_head(op: Attention, scene: Scene) -> Outcome:
    """attention(q + a, k + b, v + c) = attention(q, k, v, [a b c])"""
    parts = [projection(v) for v in op.operands[:3]]
    biases = [part.bias for part in parts if part is not None]
    if len(biases) < 3 or any(b is None for b in biases):
        return miss("not each of q, k and v has a bias", op)
    if any(v is None or not scene.single(v) for v in op.operands[:3]):
        return miss("q, k or v are read elsewhere too", op)
    products = [MatMul(part.x, part.weight) for part in parts if part is not None]
    return by_heads(op, products, Concat(*biases, axis=0))


@dataclass(frozen=True)
class FuseAttention(GatedPass):
    """Attention with its projections, or with what is added to q, k and v, in one op.

    attention(x @ u, x @ v, x @ w)   -->   attention(x, [u v w])
    """

    def equations(self) -> Sequence[Rule]:
        return (projected, multi_head)
