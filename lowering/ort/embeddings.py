"""Embeddings that are looked up, summed and normalized, as one op of ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.dims import equal, minimum
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Cast,
    ConstantOfShape,
    Expand,
    Flatten,
    Gather,
    LayerNormalization,
    Range,
    Reshape,
    Slice,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from graphopt.ops.bodies import cast, vector
from graphopt.ops.contrib import EmbedLayerNormalization
from graphopt.passes.match import axis_of, is_row, is_uniform
from graphopt.passes.positions import positions_of
from graphopt.rewrite import Outcome, Scene, miss, rule
from graphopt.types import DType

_AS_THEY_ARE = (Cast, Expand, Flatten, Reshape, Slice, Squeeze, Transpose, Unsqueeze)
"""What moves ids, or makes them wider."""

_UNSIGNED = (DType.BOOL, DType.U8, DType.U16)


@dataclass(frozen=True)
class Lookup:
    """Rows of a table of rank 2; ``ids`` is None for rows 0, 1, ... in order."""

    table: Value
    ids: Value | None
    gather: Gather | None = None


@rule(exact=False)
def embed_layer_norm(op: LayerNormalization, scene: Scene) -> Outcome:
    """layernorm(w[i] + s[j] + p, g, b) = embedlayernorm(i, j, w, p, s, g, b)

    The op takes int32 and no negative ids, which Gather counts from the end: ids must
    be proved not to be negative, or be inputs of the model, which are taken for tokens.
    So it is made only if all fusions are asked for, where it saves more ops than the
    casts that it needs, even if one sum could be the skip of the norm.
    """
    total = op.operands[0]
    if not isinstance(total, Add) or total.rank != 3 or op.operand(2) is None:
        return None
    terms = _terms(total, scene)
    if not 2 <= len(terms) <= 3 or axis_of(op.axis, 3) != 2:
        return None
    if any(scene.uses(result) for result in op.results[1:]):
        return miss("its mean or spread is read", op)
    assigned = _assigned(total, terms)
    if assigned is None:
        return None
    words, places, segments = assigned
    if not all(is_row(v, total) for v in op.operands[1:] if v is not None):
        return miss("the gain or bias is no vector as long as the rows", op)
    if op.stash_type != DType.F32.value:
        return miss("it computes in another type", op)
    lookups = [x for x in assigned if x is not None]
    given = {x.ids for x in lookups if x.ids is not None}
    for ids in given:
        if not _never_negative(ids, scene):
            return miss("ids may be negative", ids)
    casts = sum(x.dtype is not DType.I32 and x.constant is None for x in given)
    gathers = sum(x.gather is not None and scene.single(x.gather) for x in lookups)
    if gathers + len(terms) - 2 <= casts:
        return miss("the casts of its ids are as many as what it saves", op)
    made = EmbedLayerNormalization(
        _narrow(words.ids),
        None if segments is None else _narrow(segments.ids),
        words.table,
        places.table,
        None if segments is None else segments.table,
        *op.operands[1:],
        None,
        _narrow(places.ids),
        epsilon=op.epsilon,
        outs=2 if scene.single(total) else 3,  # the second result must have a name
    )
    first, *rest = op.results
    news = {first: made.results[0], **{value: value for value in rest}}
    return news if made.outs == 2 else {**news, total: made.results[2]}


def _narrow(ids: Value | None) -> Value | None:
    return None if ids is None else cast(ids, DType.I32)


def _terms(total: Add, scene: Scene) -> list[Value]:
    """What is summed: values, or sums that others read, too."""
    found: list[Value] = []
    pending = [v for v in total.operands if v is not None]
    while pending:
        value = pending.pop()
        if isinstance(value, Add) and scene.single(value):
            pending.extend([v for v in value.operands if v is not None])
        else:
            found.append(value)
    return found


def _assigned(
    total: Add, terms: Sequence[Value]
) -> tuple[Lookup, Lookup, Lookup | None] | None:
    """Words, positions, and segments if there are three; None where they do not fit.

    Words and segments have ids of the first two dims of the sum.
    """
    assert total.shape is not None
    whole = total.shape[:2]
    places: list[Lookup] = []
    others: list[Lookup] = []
    for term in terms:
        found = _lookup(term, total)
        if found is None:
            return None
        ids = found.ids
        full = ids is not None and ids.shape is not None and _same(ids.shape, whole)
        (others if full else places).append(found)
    if len(places) > 1:
        return None
    if not places:  # any of them may be the positions
        places = [others.pop(0)]
    if not others:
        return None
    # What is added last stands last: words first, as models have it.
    words, segments = others[-1], others[0] if len(others) > 1 else None
    if words.ids is None or (segments is not None and segments.ids is None):
        return None
    return words, places[0], segments


def _same(a: Sequence[object], b: Sequence[object]) -> bool:
    return len(a) == len(b) and all(map(equal, a, b))  # type: ignore[arg-type]


def _lookup(term: Value, total: Value) -> Lookup | None:
    """A term of a sum ``[batch, row, width]`` as rows of a table."""
    assert total.shape is not None
    rows, width = total.shape[1:]
    if isinstance(term, Gather):
        table, ids = term.operands
        if table is None or ids is None or term.axis or table.rank != 2:
            return None
        if not table.shape or not equal(table.shape[1], width) or not ids.shape:
            return None
        counted = ids.shape[-1]
        # Where there are more rows than positions, neither works.
        bounds = (rows, minimum(rows, table.shape[0]))
        if any(equal(counted, dim) for dim in bounds) and _is_counting(ids):
            return Lookup(table, None, term)
        if len(ids.shape) != 2 or not equal(counted, rows):
            return None
        if ids.shape[0] != 1 and not equal(ids.shape[0], total.shape[0]):
            return None
        return Lookup(table, ids, term)
    if term.constant is None or term.shape is None or len(term.shape) < 2:
        return None
    *batch, places, own = term.shape
    if batch not in ([], [1]) or not equal(places, rows) or not equal(own, width):
        return None
    return Lookup(Reshape(term, vector(*term.constant.shape[-2:])), None)


def _never_negative(ids: Value, scene: Scene) -> bool:
    """True for ids that are proved to be 0 or more, and for inputs of the model."""
    while scene.outer is not None:
        scene = scene.outer
    value: Value | None = ids
    while value is not None:
        if value.constant is not None:
            return bool(np.all(value.constant.array() >= 0))
        if value.dtype in _UNSIGNED:
            return True
        if value in scene.graph.inputs:
            return value.dtype in (DType.I32, DType.I64)
        found = positions_of(value)
        if found is not None and found.fits and found.never_negative:
            return True
        if isinstance(value, ConstantOfShape):
            return bool(np.all(value.filling().array() >= 0))
        if not isinstance(value, _AS_THEY_ARE):
            return False
        value = value.operands[0]
    return False


def _is_counting(value: Value | None) -> bool:
    """True for 0, 1, 2, ... along the last axis, which is the only one."""
    while value is not None and value.shape is not None:
        if any(dim != 1 for dim in value.shape[:-1]):
            return False
        if value.constant is not None:
            numbers = value.constant.array().reshape(-1)
            return bool(np.array_equal(numbers, np.arange(numbers.size)))
        if isinstance(value, Range):
            start, _, step = value.operands
            return is_uniform(start, 0) and is_uniform(step, 1)
        if isinstance(value, Slice):
            starts, axes, steps = (value.operand(i) for i in (1, 3, 4))
            given = [None if v is None else v.ints for v in (starts, axes)]
            last = len(value.shape) - 1
            if given not in ([(0,), (last,)], [(0,), (-1,)]):
                return False
            if steps is not None and steps.ints != (1,):
                return False
        elif isinstance(value, Reshape | Unsqueeze | Expand):
            inner = value.operands[0]
            if inner is None or not inner.shape:
                return False
            if not equal(inner.shape[-1], value.shape[-1]):
                return False
        elif not isinstance(value, Cast):
            return False
        value = value.operands[0]
    return False
