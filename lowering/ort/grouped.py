"""Attention with its rotary embeddings and its cache, as ONNX Runtime's decoders do it.

GroupQueryAttention turns queries and keys by tables of cosines and sines, a row for
each position, appends to the past, and attends. All instances are as long as each
other here: what is padding is in the mask, which the op adds to its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from graphopt.dims import Dim, add, equal
from graphopt.ir import Value
from graphopt.ops import (
    Attention,
    Cast,
    Constant,
    Expand,
    Gather,
    RotaryEmbedding,
    Shape,
    Split,
    Squeeze,
    Sub,
)
from graphopt.ops.bodies import scalar, vector
from graphopt.ops.contrib import GroupQueryAttention
from graphopt.ops.elementwise import Add
from graphopt.passes.causal import band_of, window_of
from graphopt.passes.positions import positions_of
from graphopt.passes.raise_attention import has_window
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .attention import added_mask
from .gate import GatedPass
from .kernels import Kernels

OPEN: Final = (1, 32)
"""The first release whose op has the attribute ``causal``, as far as was tried."""


def _release() -> tuple[int, ...]:
    return tuple(map(int, Kernels.of("cpu").version.split(".")[:2]))


@rule(exact=False)
def grouped(op: Attention, scene: Scene) -> Outcome:
    """attention(rotary(q, c), rotary(k, c), v, past) = gqa(q, k, v, past, c)"""
    q, k, v = op.operands[:3]
    if op.rank != 3 or q is None or k is None or v is None:
        return miss("heads are not in the last dim", op)
    if not isinstance(q, RotaryEmbedding) or not isinstance(k, RotaryEmbedding):
        return miss("queries and keys are not turned: there is nothing to gain", op)
    if has_window(op) or op.operand(6) is not None or op.outs > 3:
        return miss("it has a window by attributes, lengths, or other results", op)
    if not scene.single(q) or not scene.single(k):
        return miss("what is turned is read elsewhere too", op)
    past, shape = op.operand(4), q.shape
    if shape is None or k.shape is None or not equal(shape[1], k.shape[1]):
        return miss("there are not as many keys as queries", op)
    if past is not None and not (equal(shape[0], 1) or equal(shape[1], 1)):
        return miss("steps of several queries have a past in one instance only", op)
    window = _window(op, shape[1], past)
    mask = added_mask(op) if window is None else None
    if mask is None and op.operand(3) is not None and window is None:
        return miss("the mask may hide all keys of a query", op.operand(3))
    causal = int(op.is_causal or window is not None)
    if not causal and _release() < OPEN:
        return miss("this runtime knows causal attention alone", op)
    tables = _tables(q, k, shape[1], past)
    if tables is None:
        return miss("the angles are not rows of a table, one for each position", q)
    lengths, total = _lengths(q, past)
    return GroupQueryAttention(
        *(q.operands[0], k.operands[0], v, past, op.operand(5)),
        *(lengths, total, *tables, None, mask),
        num_heads=op.q_num_heads,
        kv_num_heads=op.kv_num_heads,
        causal=causal,
        local_window_size=-1 if window is None else window,
        do_rotary=1,
        rotary_interleaved=q.interleaved or None,
        scale=op.scale,
        softcap=op.softcap or None,
        outs=op.outs,
    ).results


def _window(op: Attention, queries: Dim, past: Value | None) -> int | None:
    """How many keys each query sees, if a mask says just that, and what is causal."""
    mask = op.operand(3)
    begin: Dim = 0
    if mask is None or mask.dtype is not DType.BOOL:
        return None
    if past is None:
        width = band_of(mask, queries, queries)
        if width is not None:
            return width
    elif past.shape is not None:
        begin = past.shape[2]
    keys = add(begin, queries)
    return window_of(mask, queries, keys, begin) if op.is_causal else None


def _tables(
    q: RotaryEmbedding, k: RotaryEmbedding, queries: Dim, past: Value | None
) -> tuple[Value, Value] | None:
    """Cosines and sines by position, where both are turned by the same ones."""
    if q.operands[1:] != k.operands[1:] or q.interleaved != k.interleaved:
        return None
    _, cosine, sine, *places = q.operands
    if places and places[0] is not None:
        return (
            None  # which `looked_up_angles` has for look-ups, if they may be negative
        )
    found = [_table(x, queries, past) for x in (cosine, sine)]
    first, second = found
    return None if first is None or second is None else (first, second)


def _table(x: Value | None, queries: Dim, past: Value | None) -> Value | None:
    while isinstance(x, Expand) and _by_instance(x):
        x = x.operands[0]
    if x is None or x.shape is None or len(x.shape) != 3:
        return None
    if isinstance(x, Gather):
        table, places = x.operands
        if table is None or table.rank != 2 or x.axis not in (0, -2):
            return None
        found = positions_of(places)
        held: Dim = 0 if past is None or not past.shape else past.shape[2]
        if found is not None and equal(found.offset, held):
            *lead, step = found.steps
            if not any(lead) and (step == 1 or equal(queries, 1)):
                return table
    if past is not None or not equal(x.shape[0], 1) or not equal(x.shape[1], queries):
        return None
    return Squeeze(x, vector(0))


def _by_instance(op: Expand) -> bool:
    """True where only the first dim grows."""
    x = op.operands[0]
    if x is None or not x.shape or op.shape is None or x.rank != op.rank:
        return False
    return all(map(equal, x.shape[1:], op.shape[1:]))


def _lengths(q: Value, past: Value | None) -> tuple[Value, Value]:
    """The last position of each instance, and how many positions there are."""
    batch, queries = (q.shape or (None, None))[:2]
    total = add(queries, 0 if past is None or not past.shape else past.shape[2])
    if isinstance(batch, int) and isinstance(total, int):
        last = np.full(batch, total - 1, np.int32)
        return Constant(last), scalar(total, DType.I32)
    count: Value = Shape(q, start=1, end=2)
    if past is not None:
        count = Add(count, Shape(past, start=2, end=3))
    count = Cast(count, to=DType.I32)
    each = Expand(Sub(count, scalar(1, DType.I32)), Shape(q, start=0, end=1))
    return each, count


@rule
def packed_heads(op: GroupQueryAttention, scene: Scene) -> Outcome:
    """gqa(q, k, v, …) = gqa([q k v], …) where they are the parts of one split"""
    q, k, v, *others = op.operands
    split = None if q is None else q.op
    if not isinstance(split, Split) or split.results != (q, k, v):
        return None
    if not all(x is not None and scene.single(x) for x in (q, k, v)):
        return miss("q, k or v are read elsewhere too", op)
    if split.axis not in (-1, 2) or op.rank != 3:
        return miss("it splits something else", split)
    return op.with_operands([split.operands[0], None, None, *others]).results


@dataclass(frozen=True)
class FuseGrouped(GatedPass):
    """Attention of decoders in one op: angles, cache, masks and shared heads.

    attention(rotary(q), rotary(k), v)   -->   groupqueryattention(q, k, v)
    """

    def equations(self) -> Sequence[Rule]:
        return (grouped, packed_heads)
