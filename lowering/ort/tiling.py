"""Causal attention by tiles of queries, each with the keys that it can see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt import dims
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    And,
    Attention,
    Concat,
    Constant,
    Div,
    Gather,
    Less,
    LessOrEqual,
    Min,
    Mul,
    Range,
    Reshape,
    Shape,
    Slice,
    Sub,
    Where,
)
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

OPEN_TILES = 4
"""The same of a length that only a run tells, which may be short."""


def tile_size(queries: int) -> int:
    """Queries of one tile, a multiple of 64."""
    return max(64, -(-queries // TILES // 64) * 64)


@rule(exact=False)
def causal_tiles(op: Attention) -> Outcome:
    """attention(q, k, v, causal) = concat of attention(q[i:j], k[:j], v[:j], mask)

    No query sees later keys: a kernel that computes all scores does half in vain.
    """
    return _tiles(op, {})


def causal_tiles_at(sizes: Mapping[str, int]) -> Rule:
    """The rule for lengths, too, that only a run tells, usually these."""

    @rule(exact=False)
    def open_causal_tiles(op: Attention) -> Outcome:
        """The same where the j are shares of n"""
        return _tiles(op, sizes)

    return open_causal_tiles


def _tiles(op: Attention, sizes: Mapping[str, int]) -> Outcome:
    q, k, v, mask, *others = (*op.operands, None)
    if not op.is_causal or q is None or k is None or v is None:
        return None
    if any(x is not None for x in others) or op.outs > 1 or has_window(op):
        return miss("it has a past, lengths, a window, or other results", op)
    axis = 2 if op.rank == 4 else 1
    if q.shape is None or k.shape is None:
        return None
    queries, keys = q.shape[axis], k.shape[axis]
    usual = dims.substitute(queries, sizes)
    if not isinstance(usual, int) or not dims.equal(queries, keys):
        return miss("how many queries and keys there are is not known", op)
    if usual < SHORTEST:
        return miss("it is too short to gain", op)
    if mask is not None:
        if mask.shape is None or mask.shape[-1] != keys:
            return miss("the mask is broadcast over keys", mask)
        if not (mask.shape[-2] == 1 or dims.equal(mask.shape[-2], queries)):
            return miss("it is not known whether the mask has rows of its own", mask)
    tiles = _fixed(queries) if isinstance(queries, int) else _open(q, axis)
    parts = []
    for tile in tiles:
        seen: Value = LessOrEqual(tile.keys, Reshape(tile.queries, vector(-1, 1)))
        if mask is not None:
            rows = mask if mask.shape[-2] == 1 else _cut(mask, tile.queries, -2)  # type: ignore[index]
            seen = _both(seen, _cut(rows, tile.keys, -1))
        parts.append(
            op.copy(
                operands=(
                    _cut(q, tile.queries, axis),
                    _cut(k, tile.keys, axis),
                    _cut(v, tile.keys, axis),
                    seen,
                ),
                is_causal=0,
            )
        )
    joined = Concat(*parts, axis=axis)
    return joined if isinstance(queries, int) else _once(joined, q, axis)


@dataclass(frozen=True)
class _Tile:
    """The positions of some queries, and of the keys that they see, as vectors."""

    queries: Value
    keys: Value


def _fixed(queries: int) -> list[_Tile]:
    """Tiles side by side."""
    size = tile_size(queries)
    starts = range(0, queries, size)
    ends = [*starts[1:], queries]
    return [
        _Tile(_numbers(start, end), _numbers(0, end))
        for start, end in zip(starts, ends, strict=True)
    ]


def _numbers(start: int, end: int) -> Value:
    return Constant(np.arange(start, end, dtype=np.int32))


def _open(q: Value, axis: int) -> list[_Tile]:
    """`OPEN_TILES` equal tiles of n queries, s = ceil(n / `OPEN_TILES`) in each.

    Tile i begins at min(i * s, n - s), so that none is empty, whatever n is: kernels
    refuse no queries. The last ones may lie over others.
    """
    extent, size = _lengths(q, axis)
    last = Sub(extent, size)
    starts = [Min(Mul(size, _int(i)), last) for i in range(1, OPEN_TILES - 1)]
    inside = Range(_int(0), size, _int(1))
    tiles = [_Tile(inside, inside)]
    for start in starts:
        keys = Range(_int(0), Add(start, size), _int(1))
        tiles.append(_Tile(Add(inside, start), keys))
    return [*tiles, _Tile(Add(inside, last), Range(_int(0), extent, _int(1)))]


def _once(tiles: Value, q: Value, axis: int) -> Value:
    """Equal tiles with each position once: the last one is right, and those before."""
    extent, size = _lengths(q, axis)
    place = Range(_int(0), extent, _int(1))
    more = Sub(Mul(size, _int(OPEN_TILES)), extent)
    behind = Less(place, Sub(extent, size))
    return Gather(tiles, Add(place, Where(behind, _int(0), more)), axis=axis)


def _lengths(q: Value, axis: int) -> tuple[Value, Value]:
    """How many queries there are, and in each of equal tiles, as a run finds them."""
    extent = Gather(Shape(q), _int(axis))
    return extent, Div(Add(extent, _int(OPEN_TILES - 1)), _int(OPEN_TILES))


def _int(number: int) -> Value:
    return scalar(number, DType.I64)


def _both(seen: Value, mask: Value) -> Value:
    if mask.dtype is DType.BOOL:
        return And(seen, mask)
    assert mask.dtype is not None
    return Where(seen, mask, scalar(-np.inf, mask.dtype))


def _cut(x: Value, places: Value, axis: int) -> Value:
    """The part of a value at positions in a row.

    ONNX forgets all dims of a slice to a position that it does not know, and then finds
    no heads in it; of places that are looked up it knows the others.
    """
    assert x.shape is not None
    assert places.shape is not None
    known = places.constant
    if known is None:
        return Gather(x, places, axis=axis)
    start, end = known.array()[0], known.array()[-1] + 1
    if start == 0 and x.shape[axis] == end:
        return x
    return Slice(x, vector(start), vector(end), vector(axis))


@dataclass(frozen=True)
class TileCausal(GatedPass):
    """Split causal attention over long sequences, so that hidden scores cost nothing.

    ``sizes`` are those of symbolic dims that a run usually has.

    attention(q, k, v, causal)   -->   concat(attention(q[i:j], k[:j], v[:j], mask) ...)
    """

    unrolls = True
    sizes: tuple[tuple[str, int], ...] = ()

    def equations(self) -> Sequence[Rule]:
        return (causal_tiles_at(dict(self.sizes)) if self.sizes else causal_tiles,)
