"""Raise: scaled dot-product attention from the products and softmax that spell it.

The core is found first, on ``[batch, head, position, size]``; then it takes in, one
rule each, what stands around it: repeated heads, keys and values of the past, causal
masks, and the transpositions by head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphopt.dims import equal, mul
from graphopt.ir import Op, Value
from graphopt.ops import (
    Attention,
    Concat,
    Expand,
    MatMul,
    Reshape,
    RotaryEmbedding,
    Tile,
    Transpose,
    Unsqueeze,
    Where,
)
from graphopt.ops.attention import SWAPPED
from graphopt.ops.bodies import vector
from graphopt.pipeline import RulePass
from graphopt.rewrite import Miss, Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .causal import split_causal
from .heads import by_head, transposed
from .match import axis_of, perm_of, uniform
from .scores import (
    HIDDEN,
    joined_mask,
    read_scores,
    softened,
    softmax_of,
    unscaled,
)

DEEPEST = 10_000
"""Ops that are looked at to see whether one is made of another."""

_FLOATS = (DType.F32, DType.F16, DType.BF16)


@rule(exact=False)
def attention(op: MatMul, scene: Scene) -> Outcome:
    """softmax(c * q k' + m) v = attention(q, k, v, m)

    Of a query that no key is left for, NaN become 0.
    """
    if not scene.has(Attention) or op.rank not in (3, 4) or op.dtype not in _FLOATS:
        return None
    weights, v = op.operands
    assert weights is not None
    softmax = softmax_of(weights, scene)
    if softmax is None or softmax.operands[0] is None or v is None:
        return None
    scores = read_scores(softmax.operands[0], scene)
    if scores is None:
        return miss("the scores are no scaled and masked product", softmax)
    scores = scores.settled()
    if scores is None:
        return miss("what hides scores is not known to be far below all of them", op)
    left, right = scores.product.operands
    if left is None or right is None or {left.rank, right.rank, v.rank} != {op.rank}:
        return miss("queries, keys and values differ in rank", scores.product)
    q, before = unscaled(left)
    right, inside = unscaled(right)
    k, under = unscaled(transposed(right))
    scale = scores.scale * before * inside * under
    if not scale > 0 or math.isinf(scale):
        return miss("the scale is not positive", scores.product)
    parts = by_head(q, k, v, scores.masks)
    if parts is None:
        return miss("batches or heads are broadcast", scores.product)
    mask = joined_mask(parts.masks, op.dtype)
    if mask is not None:
        keys = k.shape[-2] if k.shape is not None else None
        if not mask.shape or not equal(mask.shape[-1], keys):
            return miss("the mask is broadcast over keys, or of unknown rank", mask)
        if len(mask.shape) < 2:
            mask = Unsqueeze(mask, vector(0))
    size = q.shape[-1] if q.shape is not None else None
    usual = isinstance(size, int) and math.isclose(scale, size**-0.5, rel_tol=1e-6)
    made = Attention(
        *(parts.q, parts.k, parts.v, mask),
        scale=None if usual else scale,
        softcap=scores.softcap,
        **parts.heads,
    )
    return parts.restored(made)


@rule
def grouped_heads(op: Attention) -> Outcome:
    """attention(q, repeat(k), repeat(v)) = attention(q, k, v), of fewer heads"""
    q, k, v, *others = op.operands
    if op.rank != 4 or op.outs > 1 or q is None or k is None or v is None:
        return None
    if op.operand(4) is not None:
        return None
    few = [_unrepeated(x) for x in (k, v)]
    if few[0] is None or few[1] is None:
        return None
    if few[0].shape is None or few[1].shape is None:
        return None
    if not equal(few[0].shape[1], few[1].shape[1]):
        return miss("keys and values are repeated differently", op)
    return op.with_operands([q, *few, *others]).results


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
    if not isinstance(k, Concat) or not isinstance(v, Concat) or op.rank != 4:
        return None
    if any(len(x.operands) != 2 or axis_of(x.axis, 4) != 2 for x in (k, v)):
        return None
    if op.outs > 1 or op.operand(4) is not None:
        return None
    if op.is_causal or op.operand(6) is not None or has_window(op):
        return miss("positions would count from the past", op)
    (past_k, new_k), (past_v, new_v) = k.operands, v.operands
    operands = (q, new_k, new_v, op.operand(3), past_k, past_v)
    if scene.uses(k) + scene.uses(v) > 2 and _reads(operands, (k, v)):
        return miss("what it reads is made of keys and values with the past", op)
    made = op.copy(operands=operands, outs=3).results
    return {op.results[0]: made[0], k: made[1], v: made[2]}


def has_window(op: Attention) -> bool:
    """True where distant keys are hidden."""
    return bool(op.left_window_size >= 0 or op.right_window_size >= 0)


def _reads(values: Iterable[Value | None], others: tuple[Value, ...]) -> bool:
    """True where values are made of others; also where that takes long to tell."""
    pending = [v for v in values if v is not None]
    seen: set[Op] = set()
    while pending:
        value = pending.pop()
        if value in others or len(seen) > DEEPEST:
            return True
        if value.op is not None and value.op not in seen:
            seen.add(value.op)
            pending.extend(v for v in value.op.operands if v is not None)
    return False


@rule
def causal(op: Attention) -> Outcome:
    """attention(q, k, v, m and column <= row) = attention(q, k, v, m, is_causal)

    So is ``where(m and column <= row, added, -inf)``, with what is left of it.
    """
    mask, q, k = op.operand(3), op.operands[0], op.operands[1]
    if mask is None or op.is_causal:
        return None
    added = hidden = None
    if isinstance(mask, Where) and uniform(mask.operands[2]) == -math.inf:
        mask, added, hidden = mask.operands
    if mask is None or mask.dtype is not DType.BOOL:
        return None
    if q is None or k is None or not q.shape or not k.shape or not mask.shape:
        return None
    if any(value is not None for value in op.operands[4:]) or has_window(op):
        return miss("it has a past, lengths or a window", op)
    axis = 2 if op.rank == 4 else 1
    queries, keys = q.shape[axis], k.shape[axis]
    if not equal(mask.shape[-1], keys):
        return miss("the mask does not have all keys", mask)
    found = split_causal(mask, queries, keys)
    if found is None:
        return None
    if found.rest is not None and not equal(found.rest.shape[-1], keys):  # type: ignore[index]
        return miss("the rest of the mask is broadcast over keys", mask)
    rest = found.rest
    if added is not None:
        if not added.shape or len(added.shape) < 2 or not equal(added.shape[-1], keys):
            return miss("what is added is broadcast over keys", added)
        rest = added if rest is None else Where(rest, added, hidden)
    operands = list(op.operands)
    operands[3] = rest
    return op.copy(operands=operands, is_causal=1).results


@rule
def flat_heads(op: Transpose, scene: Scene) -> Outcome:
    """by_position(attention(split(q), split(k), split(v))) = split(attention(q, k, v))

    Where split makes heads, and rows of them, of the last dim.
    """
    if perm_of(op.rank or 0, op.perm) != SWAPPED or op.shape is None:
        return None
    heads, size = op.shape[2:]
    made = _flattened(op.operands[0], scene)
    if made is None or isinstance(made, Miss):
        return made
    split = vector(0, 0, heads, size if isinstance(size, int) else -1)
    return {**made.others, op: Reshape(made.result, split)}


@rule
def flat_heads_of_one(op: Reshape, scene: Scene) -> Outcome:
    """merge(attention(split(q), split(k), split(v))) = attention(q, k, v), of one query

    Of one query, to transpose heads and positions is to do nothing.
    """
    x = op.operands[0]
    if x is None or x.shape is None or op.shape is None or len(op.shape) != 3:
        return None
    if len(x.shape) != 4 or x.shape[2] != 1:
        return None
    if not all(map(equal, op.shape, (x.shape[0], 1, mul(x.shape[1], x.shape[3])))):
        return None
    made = _flattened(x, scene)
    if made is None or isinstance(made, Miss):
        return made
    return {**made.others, op: made.result}


@dataclass(frozen=True)
class _Flat:
    """An attention on operands of rank 3: its result, and what its others replace."""

    result: Value
    others: Mapping[Value, Value]


def _flattened(inner: Value | None, scene: Scene) -> _Flat | Miss | None:
    """The attention that gives ``inner``, by operands that it takes heads from."""
    core = None if inner is None else inner.op
    if not isinstance(core, Attention) or inner is not core.results[0]:
        return None
    if core.rank != 4 or not scene.single(inner):
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
    return _Flat(made[0], dict(zip(core.results[1:], made[1:], strict=True)))


def _flat(value: Value | None) -> Value | None:
    """x of ``[batch, position, head * size]``, of which ``value`` is the heads."""
    if isinstance(value, RotaryEmbedding) and value.rank == 4:
        x = _flat(value.operands[0])
        heads = value.shape[1] if value.shape is not None else None
        if x is None or not isinstance(heads, int):
            return None
        return value.copy(operands=(x, *value.operands[1:]), num_heads=heads)
    if isinstance(value, Reshape) and value.shape is not None and len(value.shape) == 4:
        x, (batch, head, length, size) = value.operands[0], value.shape
        own = x.shape if x is not None else None
        whole = (batch, 1, mul(head, size))
        if length == 1 and own and len(own) == 3 and all(map(equal, own, whole)):
            return x
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


@rule(exact=False)
def modest_mask(op: Attention) -> Outcome:
    """attention(q, k, v, m) = attention(q, k, v, m), of no numbers like -3.4e38

    ONNX Runtime takes a query whose mask is the lowest number everywhere for one that
    sees nothing; ONNX, and what the mask came from, have it attend to all keys alike.
    """
    mask = op.operand(3)
    if mask is None or mask.dtype not in HIDDEN:
        return None
    made = softened(mask)
    if made is mask:
        return None
    operands = list(op.operands)
    operands[3] = made
    return op.with_operands(operands).results


RULES: tuple[Rule, ...] = (
    attention,
    modest_mask,
    grouped_heads,
    past,
    causal,
    flat_heads,
    flat_heads_of_one,
)


@dataclass(frozen=True)
class RaiseAttention(RulePass):
    """Recognise Attention (opset 23), with masks, grouped heads and the past.

    softmax(c * q k' + m) v   -->   attention(q, k, v, m)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
