"""Attention in ONNX Runtime: what its kernels ask for, and those that do more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.dims import add, equal
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Attention,
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
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .gate import GatedPass


@rule
def whole_mask(op: Attention) -> Outcome:
    """attention(q, k, v, m) = attention(q, k, v, expand(m)), of all queries and keys

    The kernel broadcasts a mask over batches and heads only.
    """
    q, k, mask, past = (op.operand(i) for i in (0, 1, 3, 4))
    if mask is None or mask.shape is None or q is None or k is None:
        return None
    axis = 2 if op.rank == 4 else 1
    if q.shape is None or k.shape is None:
        return None
    keys = k.shape[axis]
    if past is not None:
        keys = None if past.shape is None else add(past.shape[2], keys)
    lacks = [not equal(mask.shape[-2], q.shape[axis]), mask.shape[-1] == 1 != keys]
    if not any(lacks):
        return None
    if lacks[1] and past is not None:
        return None
    sizes = [
        _size(x, axis) if lack else vector(1)
        for x, lack in zip((q, k), lacks, strict=True)
    ]
    operands = list(op.operands)
    operands[3] = Expand(mask, Concat(*sizes, axis=0))
    return op.with_operands(operands).results


def _size(x: Value, axis: int) -> Value:
    dim = x.shape[axis] if x.shape is not None else None
    return vector(dim) if isinstance(dim, int) else Shape(x, start=axis, end=axis + 1)


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


def _of_heads(op: Attention, scene: Scene) -> Outcome | None:
    """Why an attention is none that the runtime's own ops do; None where it is."""
    if op.rank != 3 or op.dtype is None:
        return miss("heads are not in the last dim", op)
    if op.q_num_heads != op.kv_num_heads:
        return miss("heads are shared", op)
    if op.softcap or op.operand(6) is not None or op.outs > 1:
        return miss("it has a soft cap, lengths, or other results", op)
    if op.left_window_size >= 0 or op.right_window_size >= 0:
        return miss("it has a window", op)
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
        if tensor is None or not tensor.array().any(axis=-1).all():
            return None
        lowest = float(np.finfo(np.float32).min) if op.dtype is DType.F32 else -6e4
        added = np.where(tensor.array(), 0, lowest)
        mask = Constant(added.astype(op.dtype.numpy))
    lead = 4 - (mask.rank or 0)
    return Unsqueeze(mask, vector(*range(lead))) if lead else mask


@rule(exact=False)
def projected(op: Attention, scene: Scene) -> Outcome:
    """attention(x @ u + a, x @ v + b, x @ w + c) = attention(x, [u v w], [a b c])"""
    why = _of_heads(op, scene)
    if why is not None or op.operand(4) is not None:
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


@rule(exact=False)
def multi_head(op: Attention, scene: Scene) -> Outcome:
    """attention(q + a, k + b, v + c) = attention(q, k, v, [a b c])"""
    why = _of_heads(op, scene)
    if why is not None or op.operand(4) is not None:
        return why
    parts = [projection(v) for v in op.operands[:3]]
    biases = [part.bias for part in parts if part is not None]
    if len(biases) < 3 or any(b is None for b in biases):
        return miss("not each of q, k and v has a bias", op)
    if any(v is None or not scene.single(v) for v in op.operands[:3]):
        return miss("q, k or v are read elsewhere too", op)
    mask = added_mask(op)
    if mask is None and op.operand(3) is not None:
        return miss("the mask may hide all keys of a query", op.operand(3))
    products = [MatMul(part.x, part.weight) for part in parts if part is not None]
    return MultiHeadAttention(
        *(*products, Concat(*biases, axis=0), None, mask),
        num_heads=op.q_num_heads,
        unidirectional=op.is_causal,
        scale=op.scale,
    )


@dataclass(frozen=True)
class FuseAttention(GatedPass):
    """Attention with its projections, or with what is added to q, k and v, in one op.

    attention(x @ u, x @ v, x @ w)   -->   attention(x, [u v w])
    """

    def equations(self) -> Sequence[Rule]:
        return (projected, multi_head)
