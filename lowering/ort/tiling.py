"""Causal attention by tiles of queries, each with the keys that it can see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir import Value
from graphopt.ops import And, Attention, Concat, Constant, LessOrEqual, Slice, Where
from graphopt.ops.bodies import scalar, vector
from graphopt.passes.raise_attention import has_window
from graphopt.rewrite import Outcome, Rule, miss, rule
from graphopt.types import DType

from .gate import GatedPass

SHORTEST = 512
"""Fewer queries are one tile: there the kernel is bound by its calls.

On one thread of a CPU, 8 heads of 64, tiles take 0.59 of the whole at 512 queries, 0.60
at 1,024 and 0.53 at 2,048 (0.75 at 256; measured with version 1.32.0).
"""

TILES = 8
"""With n tiles the kernel does (n + 1) / 2n of the work; more tiles gain little."""


def tile_size(queries: int) -> int:
    """Queries of one tile, a multiple of 64."""
    return max(64, -(-queries // TILES // 64) * 64)


@rule(exact=False)
def causal_tiles(op: Attention) -> Outcome:
    """attention(q, k, v, causal) = concat of attention(q[i:j], k[:j], v[:j], mask)

    No query sees later keys: a kernel that computes all scores does half in vain.
    """
    q, k, v, mask, *others = (*op.operands, None)
    if not op.is_causal or q is None or k is None or v is None:
        return None
    if any(x is not None for x in others) or op.outs > 1 or has_window(op):
        return miss("it has a past, lengths, a window, or other results", op)
    axis = 2 if op.rank == 4 else 1
    if q.shape is None or k.shape is None:
        return None
    queries, keys = q.shape[axis], k.shape[axis]
    if not isinstance(queries, int) or queries != keys:
        return miss("how many queries and keys there are is not known", op)
    if queries < SHORTEST:
        return miss("it is too short to gain", op)
    if mask is not None and (mask.shape is None or mask.shape[-1] != keys):
        return miss("the mask is broadcast over keys", mask)
    size = tile_size(queries)
    parts = []
    for start in range(0, queries, size):
        end = min(start + size, queries)
        seen = _seen(start, end)
        if mask is not None:
            rows = mask if mask.shape[-2] == 1 else _cut(mask, start, end, -2)  # type: ignore[index]
            seen = _both(seen, _cut(rows, 0, end, -1))
        parts.append(
            op.copy(
                operands=(
                    _cut(q, start, end, axis),
                    _cut(k, 0, end, axis),
                    _cut(v, 0, end, axis),
                    seen,
                ),
                is_causal=0,
            )
        )
    return Concat(*parts, axis=axis)


def _seen(start: int, end: int) -> Value:
    """Which keys before ``end`` the queries from ``start`` on see."""
    column = Constant(np.arange(end, dtype=np.int32).reshape(1, -1))
    row = Constant(np.arange(start, end, dtype=np.int32).reshape(-1, 1))
    return LessOrEqual(column, row)


def _both(seen: Value, mask: Value) -> Value:
    if mask.dtype is DType.BOOL:
        return And(seen, mask)
    assert mask.dtype is not None
    return Where(seen, mask, scalar(-np.inf, mask.dtype))


def _cut(x: Value, start: int, end: int, axis: int) -> Value:
    assert x.shape is not None
    if start == 0 and x.shape[axis] == end:
        return x
    return Slice(x, vector(start), vector(end), vector(axis))


@dataclass(frozen=True)
class TileCausal(GatedPass):
    """Split causal attention over long sequences, so that hidden scores cost nothing.

    attention(q, k, v, causal)   -->   concat(attention(q[i:j], k[:j], v[:j], mask) ...)
    """

    unrolls = True

    def equations(self) -> Sequence[Rule]:
        return (causal_tiles,)
