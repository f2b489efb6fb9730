"""Raise: scaled dot-product attention from the products and softmax that spell it.

The core is found first, on ``[batch, head, position, size]``; then it takes in, one
rule each, what stands around it: repeated heads, keys and values of the past, causal
masks, and the transpositions by head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from graphopt.dims import equal, mul
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    And,
    Attention,
    Concat,
    Div,
    Expand,
    IsNaN,
    MatMul,
    Mul,
    Not,
    Reshape,
    RotaryEmbedding,
    Softmax,
    Tanh,
    Tile,
    Transpose,
    Unsqueeze,
    Where,
)
from graphopt.ops.bodies import scalar, vector
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .causal import split_causal
from .match import axis_of, is_zero, perm_of, same_shape, uniform
from .raise_gelu import plus

_FLOATS = (DType.F32, DType.F16, DType.BF16)

SWAPPED = (0, 2, 1, 3)
"""Heads and positions exchanged."""

HIDING = -1e9
"""Numbers at most this hide a score: beside them it is nothing."""


@dataclass(frozen=True)
class Scores:
    """``softcap(scale * product) + masks``; bool masks hide where they are False."""

    product: MatMul
    scale: float = 1.0
    softcap: float = 0.0
    masks: tuple[Value, ...] = ()


def read_scores(value: Value, scene: Scene) -> Scores | None:
    """How scores come from one product; None where they do not, or are read twice."""
    if not scene.single(value):
        return None
    for x, mask in _masked(value):
        inner = read_scores(x, scene)
        if inner is not None:
            return replace(inner, masks=(*inner.masks, mask))
    outer = scaled_by(value)
    if outer is not None and isinstance(outer[0], Tanh) and scene.single(outer[0]):
        inner = _scaled(outer[0].operands[0], scene)
        cap = outer[1]
        return inner and replace(inner, scale=inner.scale * cap, softcap=cap)
    return _scaled(value, scene)


def _scaled(value: Value | None, scene: Scene) -> Scores | None:
    scale = 1.0
    while value is not None and scene.single(value):
        if isinstance(value, MatMul):
            return Scores(value, scale)
        found = scaled_by(value)
        if found is None:
            return None
        value, scale = found[0], scale * found[1]
    return None


def scaled_by(value: Value) -> tuple[Value, float] | None:
    """x and c, where ``value`` is c * x, or x / (1 / c), for a number c."""
    if isinstance(value, Mul):
        pairs = [value.operands, value.operands[::-1]]
    else:
        pairs = [value.operands] if isinstance(value, Div) else []
    for x, number in pairs:
        factor = uniform(number)
        if factor and x is not None and same_shape(x, value):
            return x, 1 / float(factor) if isinstance(value, Div) else float(factor)
    return None


def _unscaled(value: Value) -> tuple[Value, float]:
    """x and c, where ``value`` is c * x."""
    scale = 1.0
    while (found := scaled_by(value)) is not None:
        value, scale = found[0], scale * found[1]
    return value, scale


def _masked(value: Value) -> Iterator[tuple[Value, Value]]:
    """Pairs of x and a mask whose sum, or choice, ``value`` is."""
    if isinstance(value, Where):
        condition, *branches = value.operands
        for x, number in (branches, branches[::-1]):
            hidden = uniform(number)
            if hidden is None or hidden > HIDING or condition is None or x is None:
                continue
            if not same_shape(x, value) or x.dtype is None:
                continue
            seen = condition if x is branches[0] else Not(condition)
            if hidden != -math.inf:
                seen = Where(seen, scalar(0, x.dtype), number)
            yield x, seen
    for x, mask in plus(value):
        if same_shape(x, value):
            yield x, mask


def joined_mask(masks: Sequence[Value], dtype: DType) -> Value | None:
    """One mask for all of them; None for nothing to hide or add."""
    seen: Value | None = None
    added: Value | None = None
    for mask in masks:
        if mask.dtype is DType.BOOL:
            seen = mask if seen is None else And(seen, mask)
        elif not is_zero(mask):
            added = mask if added is None else Add(added, mask)
    if seen is None and added is not None:
        seen = _condition(added)
        return added if seen is None else seen
    if seen is None or added is None:
        return seen
    return Where(seen, added, scalar(-math.inf, dtype))


def _condition(mask: Value) -> Value | None:
    """The condition c, where a mask is 0 where c holds, and else -inf."""
    if not isinstance(mask, Where):
        return None
    condition, none, hidden = mask.operands
    if condition is None or condition.rank != mask.rank:
        return None
    if is_zero(none) and uniform(hidden) == -math.inf:
        return condition
    if is_zero(hidden) and uniform(none) == -math.inf:
        return Not(condition)
    return None


def _softmax(weights: Value, scene: Scene) -> Softmax | None:
    """The softmax over keys, also where NaN, of a query without keys, become 0."""
    uses = 1
    if isinstance(weights, Where):
        test, zero, weights_ = weights.operands
        if not isinstance(test, IsNaN) or not is_zero(zero) or weights_ is None:
            return None
        if test.operands[0] is not weights_ or not scene.single(weights):
            return None
        weights, uses = weights_, 2
    if not isinstance(weights, Softmax) or scene.uses(weights) > uses:
        return None
    rank = weights.rank
    if rank is None or axis_of(weights.axis, rank) != rank - 1:
        return None
    return weights


def _transposed(value: Value) -> Value:
    """``value`` with its last two dims exchanged."""
    rank = value.rank or 0
    swap = [*range(rank - 2), rank - 1, rank - 2]
    if isinstance(value, Transpose) and value.operands[0] is not None:
        perm = perm_of(rank, value.perm)
        perm = tuple(perm[i] for i in swap)
        inner = value.operands[0]
        return inner if perm == tuple(range(rank)) else Transpose(inner, perm=perm)
    return Transpose(value, perm=tuple(swap))


@rule(exact=False)
def attention(op: MatMul, scene: Scene) -> Outcome:
    """softmax(c * q k' + m) v = attention(q, k, v, m)

    Of a query that no key is left for, NaN become 0.
    """
    if not scene.has(Attention) or op.rank != 4 or op.dtype not in _FLOATS:
        return None
    weights, v = op.operands
    assert weights is not None
    softmax = _softmax(weights, scene)
    if softmax is None or softmax.operands[0] is None or v is None:
        return None
    scores = read_scores(softmax.operands[0], scene)
    if scores is None:
        return miss("the scores are no scaled and masked product", softmax)
    left, right = scores.product.operands
    if left is None or right is None or left.rank != 4 or right.rank != 4:
        return miss("queries or keys are not of rank 4", scores.product)
    left, before = _unscaled(left)
    right, inside = _unscaled(right)
    k, under = _unscaled(_transposed(right))
    scale = scores.scale * before * inside * under
    assert left.shape is not None
    assert k.shape is not None
    assert v.shape is not None
    leads = zip(left.shape[:2], k.shape[:2], v.shape[:2], strict=True)
    if not all(equal(a, b) and equal(a, c) for a, b, c in leads):
        return miss("batches or heads are broadcast", scores.product)
    if not scale > 0 or math.isinf(scale):
        return miss("the scale is not positive", scores.product)
    mask = joined_mask(scores.masks, op.dtype)
    if mask is not None and (mask.rank is None or mask.rank < 2):
        if mask.rank is None:
            return miss("the rank of the mask is not known", mask)
        mask = Unsqueeze(mask, vector(*range(2 - mask.rank)))
    size = left.shape[3]
    usual = isinstance(size, int) and math.isclose(scale, size**-0.5, rel_tol=1e-6)
    return Attention(
        *(left, k, v, mask),
        scale=None if usual else scale,
        softcap=scores.softcap,
    )


@rule
def grouped_heads(op: Attention) -> Outcome:
    """attention(q, repeat(k), repeat(v)) = attention(q, k, v), of fewer heads"""
    q, k, v, *others = op.operands
    if op.rank != 4 or q is None or k is None or v is None or op.operand(4):
        return None
    few = [_unrepeated(x) for x in (k, v)]
    if few[0] is None or few[1] is None:
        return None
    if few[0].shape is None or few[1].shape is None:
        return None
    if not equal(few[0].shape[1], few[1].shape[1]):
        return miss("keys and values are repeated differently", op)
    return op.with_operands([q, *few, *others])


def _unrepeated(value: Value) -> Value | None:
    """x, where each head of x stands several times in a row in ``value``."""
    if not isinstance(value, Reshape):
        return None
    wide = value.operands[0]
    if not isinstance(wide, Expand | Tile) or wide.rank != 5:
        return None
    column = wide.operands[0]
    if not isinstance(column, Unsqueeze) or column.rank != 5:
        return None
    x, axes = column.operands[0], column.operand(1)
    if x is None or axes is None or axes.ints not in {(2,), (-3,)}:
        return None
    shapes = (x.shape, wide.shape, value.shape)
    if any(shape is None for shape in shapes):
        return None
    few, spread, many = ([*(shape or ())] for shape in shapes)
    kept = [*spread[:2], *spread[3:]]
    if not all(map(equal, kept, few)):
        return None
    heads = mul(spread[1], spread[2])
    merged = [spread[0], heads, *spread[3:]]
    return x if all(map(equal, merged, many)) else None


@rule
def past(op: Attention, scene: Scene) -> Outcome:
    """attention(q, concat(pk, k), concat(pv, v)) = attention(q, k, v, pk, pv)"""
    q, k, v = op.operands[:3]
    if op.outs > 1 or op.operand(4) or op.operand(6) or op.is_causal:
        return None
    if not isinstance(k, Concat) or not isinstance(v, Concat) or op.rank != 4:
        return None
    if any(len(x.operands) != 2 or axis_of(x.axis, 4) != 2 for x in (k, v)):
        return None
    (past_k, new_k), (past_v, new_v) = k.operands, v.operands
    made = op.copy(
        operands=(q, new_k, new_v, op.operand(3), past_k, past_v), outs=3
    ).results
    return {op.results[0]: made[0], k: made[1], v: made[2]}


@rule
def causal(op: Attention) -> Outcome:
    """attention(q, k, v, m and column <= row) = attention(q, k, v, m, is_causal)"""
    mask, q, k = op.operand(3), op.operands[0], op.operands[1]
    if mask is None or mask.dtype is not DType.BOOL or op.is_causal or op.operand(4):
        return None
    found = split_causal(mask)
    if found is None or q is None or k is None:
        return None
    operands = list(op.operands)
    operands[3] = found.rest
    return op.copy(operands=operands, is_causal=1)


@rule
def flat_heads(op: Transpose, scene: Scene) -> Outcome:
    """by_position(attention(split(q), split(k), split(v))) = split(attention(q, k, v))

    Where split makes heads, and rows of them, of the last dim.
    """
    inner = op.operands[0]
    core = None if inner is None else inner.op
    if not isinstance(core, Attention) or inner is not core.results[0]:
        return None
    if core.rank != 4 or perm_of(4, op.perm) != SWAPPED or not scene.single(inner):
        return None
    q, k = core.operands[:2]
    counts = [x.shape[1] if x is not None and x.shape else None for x in (q, k)]
    heads = [count for count in counts if isinstance(count, int) and count]
    flat = [_flat(x) for x in core.operands[:3]]
    if any(x is None for x in flat):
        return miss("q, k or v do not come from one last dim", inner)
    if len(heads) < 2:
        return miss("the number of heads is not known", inner)
    made = core.copy(
        operands=(*flat, *core.operands[3:]),
        q_num_heads=heads[0],
        kv_num_heads=heads[1],
    ).results
    size = op.shape[3] if op.shape is not None else None
    split = (0, 0, heads[0], size if isinstance(size, int) else -1)
    by_head = Reshape(made[0], vector(*split))
    return {op: by_head, **dict(zip(core.results[1:], made[1:], strict=True))}


def _flat(value: Value | None) -> Value | None:
    """x of ``[batch, position, head * size]``, of which ``value`` is the heads."""
    if isinstance(value, RotaryEmbedding) and value.rank == 4:
        x = _flat(value.operands[0])
        heads = value.shape[1] if value.shape is not None else None
        if x is None or not isinstance(heads, int):
            return None
        return value.copy(operands=(x, *value.operands[1:]), num_heads=heads)
    if not isinstance(value, Transpose) or perm_of(4, value.perm) != SWAPPED:
        return None
    split = value.operands[0]
    if split is None or split.shape is None or len(split.shape) != 4:
        return None
    x = split.operands[0] if isinstance(split, Reshape) else None
    if x is not None and x.shape is not None and len(x.shape) == 3:
        whole = (*split.shape[:2], mul(split.shape[2], split.shape[3]))
        if all(map(equal, x.shape, whole)):
            return x
    last = mul(split.shape[2], split.shape[3])
    return Reshape(split, vector(0, 0, last if isinstance(last, int) else -1))


RULES: tuple[Rule, ...] = (attention, grouped_heads, past, causal, flat_heads)


@dataclass(frozen=True)
class RaiseAttention(RulePass):
    """Recognise Attention (opset 23), with masks, grouped heads and the past.

    softmax(c * q k' + m) v   -->   attention(q, k, v, m)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
