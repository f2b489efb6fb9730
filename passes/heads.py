"""Queries, keys and values by head, where heads are part of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.dims import Dim, equal, mul
from graphopt.ir import Value
from graphopt.ops import Concat, Reshape, Shape as ShapeOf, Transpose, Unsqueeze
from graphopt.ops.bodies import vector

from .match import perm_of
from .scores import same_rows


@dataclass(frozen=True)
class Parts:
    """What attention is given, and how its result becomes what was there before.

    ``heads`` are attributes, for operands with heads and sizes in one dim.
    """

    q: Value
    k: Value
    v: Value
    masks: Sequence[Value]
    restored: Callable[[Value], Value] = lambda y: y
    heads: Mapping[str, Any] = field(default_factory=dict)


def by_head(q: Value, k: Value, v: Value, masks: Sequence[Value]) -> Parts | None:
    """Operands of rank 4, or of rank 3 with heads among the batch, for attention."""
    if q.rank == 4:
        leads = (q.shape or ())[:2]
        fit = _share(q, k, v, 2) or (_share(q, k, v, 1) and _one_head(k, v))
        fit = fit and all(_broadcasts(mask, leads) for mask in masks)
        return Parts(q, k, v, masks) if fit else None
    if not _share(q, k, v, (q.rank or 0) - 2):
        return None
    return (
        _split_batch(q, k, v, masks) or _turned(q, k, v, masks) or _one(q, k, v, masks)
    )


def _share(q: Value, k: Value, v: Value, dims: int) -> bool:
    """True where the first ``dims`` dims of all three are equal."""
    if q.shape is None or k.shape is None or v.shape is None:
        return False
    leads = zip(q.shape[:dims], k.shape[:dims], v.shape[:dims], strict=True)
    return all(equal(a, b) and equal(a, c) for a, b, c in leads)


def _one_head(k: Value, v: Value) -> bool:
    """True where all queries share one head of keys and values."""
    return all(x.shape is not None and x.shape[1] == 1 for x in (k, v))


def _split_batch(q: Value, k: Value, v: Value, masks: Sequence[Value]) -> Parts | None:
    """Where ``[batch, head]`` were merged into one dim."""
    found = [_unmerged(x) for x in (q, k, v)]
    if found[0] is None or found[1] is None or found[2] is None:
        return None
    if not _share(found[0], found[1], found[2], 2):
        return None
    leads = (found[0].shape or ())[:2]
    masks = [_split_mask(mask, leads) for mask in masks]
    if not all(_broadcasts(mask, leads) for mask in masks):
        return None
    rows, size = q.shape[1] if q.shape else None, v.shape[2] if v.shape else None
    if not isinstance(size, int):
        return None
    target: Value = vector(-1, rows if isinstance(rows, int) else 0, size)
    if not isinstance(rows, int):
        count = ShapeOf(q, start=1, end=2)
        target = Concat(vector(-1), count, vector(size), axis=0)
    return Parts(
        *(found[0], found[1], found[2], masks),
        restored=lambda y: Reshape(y, target),
    )


def _split_mask(mask: Value, leads: Sequence[Dim]) -> Value:
    """A mask of the merged dim, if it has that, of both dims."""
    heads = leads[1]
    if mask.rank != 3 or not isinstance(heads, int) or mask.shape is None:
        return mask
    if mask.shape[0] == 1 or not equal(mask.shape[0], mul(leads[0], heads)):
        return mask
    target = Concat(vector(-1, heads), ShapeOf(mask, start=1), axis=0)
    return Reshape(mask, target)


def _unmerged(x: Value) -> Value | None:
    """The value of rank 4 whose first two dims are merged in x."""
    if isinstance(x, Transpose) and perm_of(3, x.perm) == (0, 2, 1):
        inner = None if x.operands[0] is None else _unmerged(x.operands[0])
        return None if inner is None else transposed(inner)
    source = same_rows(x)
    return source if source is not None and source.rank == 4 else None


def _turned(q: Value, k: Value, v: Value, masks: Sequence[Value]) -> Parts | None:
    """Where a batch of one is left out: ``[position, head, size]``, transposed."""
    found = [
        x.operands[0]
        for x in (q, k, v)
        if isinstance(x, Transpose) and perm_of(3, x.perm) == (1, 0, 2)
    ]
    dims = [x.shape[1:] for x in found if x is not None and x.shape]
    known = [d for pair in dims for d in pair if isinstance(d, int) and d]
    if len(known) < 6:
        return None
    heads, sizes = known[0], known[1::2]
    raised = [Unsqueeze(m, vector(0)) if m.rank == 3 else m for m in masks]
    if not all(_broadcasts(mask, (1, heads)) for mask in raised):
        return None
    flat = [
        Reshape(x, vector(1, -1, heads * size))
        for x, size in zip(found, sizes, strict=True)
    ]
    return Parts(
        *(flat[0], flat[1], flat[2]),
        raised,
        lambda y: Transpose(Reshape(y, vector(-1, heads, sizes[2])), perm=(1, 0, 2)),
        {"q_num_heads": heads, "kv_num_heads": heads},
    )


def _one(q: Value, k: Value, v: Value, masks: Sequence[Value]) -> Parts | None:
    """One head for each of the batch."""
    if any(mask.rank is None or mask.rank > 3 for mask in masks):
        return None
    raised = [Unsqueeze(m, vector(1)) if m.rank == 3 else m for m in masks]
    if not all(_broadcasts(mask, ((q.shape or ())[0], 1)) for mask in raised):
        return None
    return Parts(q, k, v, raised, heads={"q_num_heads": 1, "kv_num_heads": 1})


def _broadcasts(mask: Value, leads: Sequence[Dim]) -> bool:
    """True for a mask whose leading dims are the last of these, or 1."""
    if mask.shape is None or len(mask.shape) - 2 > len(leads):
        return False
    lead = mask.shape[:-2]
    own = leads[len(leads) - len(lead) :]
    return all(d == 1 or equal(d, whole) for d, whole in zip(lead, own, strict=True))


def transposed(value: Value) -> Value:
    """``value`` with its last two dims exchanged."""
    rank = value.rank or 0
    swap = [*range(rank - 2), rank - 1, rank - 2]
    if isinstance(value, Transpose) and value.operands[0] is not None:
        perm = perm_of(rank, value.perm)
        perm = tuple(perm[i] for i in swap)
        inner = value.operands[0]
        return inner if perm == tuple(range(rank)) else Transpose(inner, perm=perm)
    return Transpose(value, perm=tuple(swap))
