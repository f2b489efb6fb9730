"""Attention whose keys devices share out: parts of a softmax, combined by its sums.

Each device attends to its keys alone, and knows the logarithm of the sum of its powers.
With that, parts weigh as their sums do::

    y = Σ over parts of exp(l_part - l) y_part,  l = log Σ over parts of exp(l_part)

which is associative, so that several mesh axes may follow each other. Results and
logarithms travel together, in one collective: an all-to-all where the result is split
(each device combines its rows), an all-gather where all devices want it. Milakov and
Gimelshein, "Online normalizer calculation for softmax", arXiv 1805.02867; Dao and
others, "Flash-Decoding for long-context inference" (2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, cast

import numpy as np

from graphopt.index import Affine, Domain, Split, State, Strategy
from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    And,
    Attention,
    Concat,
    Constant,
    Div,
    Equal,
    Exp,
    Log,
    MatMul,
    Max,
    Mul,
    ReduceMax,
    ReduceSum,
    Reshape,
    Slice,
    Sub,
    Tanh,
    Transpose,
    Unsqueeze,
    Where,
)
from graphopt.ops.attention import SWAPPED
from graphopt.ops.bodies import cast as cast_to, scalar, vector, widest
from graphopt.ops.mesh import AllGather, AllToAll
from graphopt.rewrite import Miss
from graphopt.types import DType

from .layout import REPLICATED
from .local import Local, Place, head_counts

KEYS: Final = "t"
"""The axis of the domain that the softmax runs along."""


def over_keys(op: Op, domain: Domain) -> Iterator[Strategy]:
    """The strategies that share out the keys; the result is split, or everywhere."""
    if not isinstance(op, Attention) or op.outs > 1 or op.operand(4) is not None:
        return
    mask = op.operand(3)
    if mask is not None and mask.rank and not _has(domain, 3, len(mask.shape or ())):
        return  # of other keys: those beyond it are hidden
    operands: list[State] = []
    for map_ in domain.maps.operands[: len(op.operands)]:
        at = [i for i, term in enumerate(map_ or ()) if term.axes == (KEYS,)]
        operands.append(Split(at[0]) if at else REPLICATED)
    left: list[State] = [REPLICATED, Split(1), Split(2)]
    for state in left:  # parts of the batch are shared out without such a detour
        if not isinstance(state, Split) or (op.shape or ())[state.dim] != 1:
            yield Strategy(KEYS, tuple(operands), (state,))


def _has(domain: Domain, operand: int, rank: int) -> bool:
    """True where the last dim of an operand is that of all keys."""
    term = (domain.maps.operands[operand] or ())[rank - 1]
    return isinstance(term, Affine) and term.plain == KEYS


class Rows(NamedTuple):
    """What a softmax over some keys gives: its result, and the logarithm of its sum.

    Both in the type that sums are made in, the sum with a last dim of 1.
    """

    made: Value
    logarithm: Value


def attended(
    op: Attention,
    operands: Sequence[Value | None],
    ways: Sequence[tuple[str, Strategy]],
    axes: Sequence[tuple[str, int]],
    local: Local,
) -> Value | Miss:
    """The op on every device, from parts of the keys."""
    obstacle = _order(ways)
    if obstacle is not None:
        return obstacle
    q, v = operands[0], operands[2]
    assert q is not None
    assert v is not None
    assert q.dtype is not None
    rows = _own(op, operands, local)
    flat = q.rank == 3
    for (form, strategy), axis in zip(ways, axes, strict=True):
        if form == "combined":
            (state,) = strategy.results
            dim = state.dim if isinstance(state, Split) else None
            if flat and dim:
                dim = 3 - dim  # heads and positions change places
            rows = _together(rows, dim, axis, q.dtype)
    made = cast_to(rows.made, q.dtype)
    if flat:
        made = Reshape(Transpose(made, perm=SWAPPED), vector(0, 0, -1))
    return made


def _order(ways: Sequence[tuple[str, Strategy]]) -> Miss | None:
    """A later axis may not split first what an earlier one splits at the end.

    Several axes that share keys out leave one state: more ways would be of no use.
    """
    if len({strategy.results for form, strategy in ways if form == "combined"}) > 1:
        return Miss("two mesh axes leave different states")
    for i, (form, strategy) in enumerate(ways):
        if form == "combined" and isinstance(strategy.results[0], Split):
            for other, later in ways[i + 1 :]:
                if other != "combined" and later.results == strategy.results:
                    return Miss("two mesh axes split one dim, the later one first")
    return None


def _together(rows: Rows, dim: int | None, axis: tuple[str, int], own: DType) -> Rows:
    """The rows of all devices along a mesh axis, combined; or a part of ``dim``."""
    name, ways = axis
    wide, width = rows.made.dtype, (rows.made.shape or ())[-1]
    assert wide is not None
    assert isinstance(width, int)
    each: Value = Unsqueeze(_packed(rows, own), vector(0))
    if dim is None:
        each = AllGather(each, dim=0, axis=name, ways=ways)
    else:
        each = AllToAll(each, dim=dim + 1, joined=0, axis=name, ways=ways)
    made, *parts = _pieces(cast_to(each, wide), width)
    logarithm = parts[0] if len(parts) == 1 else Add(*parts)
    top = _finite(ReduceMax(logarithm, vector(0), keepdims=1))
    powers = Exp(Sub(logarithm, top))
    total = ReduceSum(powers, vector(0), keepdims=0)
    summed = ReduceSum(Mul(powers, made), vector(0), keepdims=0)
    top = Reshape(top, vector(*cast("list[int]", list(total.shape or ()))))
    return Rows(Div(summed, _some(total)), Add(top, Log(total)))


def _packed(rows: Rows, own: DType) -> Value:
    """Rows and logarithms in one tensor.

    In bfloat16 a logarithm is two numbers, of which the second is what the first lacks.
    """
    if own is not DType.BF16:
        return Concat(rows.made, rows.logarithm, axis=-1)
    wide = rows.made.dtype
    assert wide is not None
    nothing = Equal(rows.logarithm, scalar(-math.inf, wide))
    least = scalar(float(np.finfo(np.float32).min) * (1 - 2**-7), wide)
    bounded = Where(nothing, rows.logarithm, Max(rows.logarithm, least))
    high = cast_to(bounded, own)
    rest = Sub(rows.logarithm, cast_to(high, wide))
    low = cast_to(Where(nothing, scalar(0, wide), rest), own)
    return Concat(cast_to(rows.made, own), high, low, axis=-1)


def _pieces(x: Value, width: int) -> list[Value]:
    """The last dim from 0 to ``width``, and each position behind."""
    last = (x.shape or ())[-1]
    assert isinstance(last, int)
    ends = [0, *range(width, last + 1)]
    return [Slice(x, vector(a), vector(b), vector(-1)) for a, b in pairwise(ends)]


def _finite(top: Value) -> Value:
    """0 for what nothing was seen of."""
    assert top.dtype is not None
    nothing = Equal(top, scalar(-math.inf, top.dtype))
    return Where(nothing, scalar(0, top.dtype), top)


def _some(total: Value) -> Value:
    """1 for a sum of nothing."""
    assert total.dtype is not None
    nothing = Equal(total, scalar(0, total.dtype))
    return Where(nothing, scalar(1, total.dtype), total)


# --- a device's own keys ------------------------------------------------------------


def _own(op: Attention, operands: Sequence[Value | None], local: Local) -> Rows:
    """Attention to the keys of this device."""
    given = [x for x in operands[:3] if x is not None]
    kinds = [x.dtype for x in given if x.dtype is not None]
    if op.softmax_precision is not None:
        kinds.append(DType(op.softmax_precision))
    wide = widest(DType.F32, *kinds)
    counts = head_counts(op, local) or {"q_num_heads": 0, "kv_num_heads": 0}
    q = op.by_head(given[0], counts["q_num_heads"])
    k, v = (op.by_head(x, counts["kv_num_heads"]) for x in given[1:])
    batch, heads, queries, size = cast("tuple[int, ...]", q.shape)
    _, groups, keys, width = cast("tuple[int, ...]", v.shape)
    scale = 1 / math.sqrt(size) if op.scale is None else op.scale
    root = scalar(math.sqrt(scale), wide)
    shared = (batch, groups, heads // groups * queries)  # more rows of one product
    left = Reshape(Mul(cast_to(q, wide), root), vector(*shared, size))
    right = Mul(Transpose(cast_to(k, wide), perm=(0, 1, 3, 2)), root)
    scores: Value = MatMul(left, right)
    scores = Reshape(scores, vector(batch, heads, queries, keys))
    if op.softcap > 0:
        cap = scalar(op.softcap, wide)
        scores = Mul(cap, Tanh(Div(scores, cap)))
    scores = _masked(op, scores, operands, local, wide)
    top = _finite(ReduceMax(scores, vector(-1), keepdims=1))
    powers = Exp(Sub(scores, top))
    total = ReduceSum(powers, vector(-1), keepdims=1)
    grouped = Reshape(powers, vector(*shared, keys))
    made = Reshape(
        MatMul(grouped, cast_to(v, wide)), vector(batch, heads, queries, width)
    )
    return Rows(Div(made, _some(total)), Add(top, Log(total)))


def _masked(
    op: Attention,
    scores: Value,
    operands: Sequence[Value | None],
    local: Local,
    wide: DType,
) -> Value:
    """The scores, -inf where a key is hidden."""
    given = [*operands, *[None] * (7 - len(operands))]
    mask, lengths = given[3], given[6]
    row: Value = Reshape(_positions(local, "s"), vector(-1, 1))
    if lengths is not None:
        whole = scalar(cast(int, local.domain.extents["s"]), DType.I64)
        row = Add(row, Unsqueeze(Sub(lengths, whole), vector(1, 2, 3)))
    seen = op.conditions(row, _positions(local, KEYS), lengths)
    if mask is not None and mask.dtype is DType.BOOL:
        seen.append(mask)
    elif mask is not None:
        scores = Add(scores, cast_to(mask, wide))
    if not seen:
        return scores
    together = seen[0]
    for each in seen[1:]:
        together = And(together, each)
    return Where(together, scores, scalar(-math.inf, wide))


def _positions(local: Local, name: str) -> Value:
    """The positions along an axis that this device has."""
    place: Place | None = local.places.get(name)
    if place is not None:
        return place.positions()
    return Constant(np.arange(cast(int, local.extents[name]), dtype=np.int64))
