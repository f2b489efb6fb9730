"""Moves composed and cancelled: axes, symbolic dims, and what must stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import M, N, const, fires, ints, misses, param, random, rewritten
from moved_values import (
    DYNAMIC,
    EMPTY,
    FAR,
    FIRST,
    HIND,
    LAST,
    NOUGHT,
    ONE,
    ONES,
    PARTS,
    PICKED,
    ROW,
    TEXT,
    VAGUE,
    X2,
    D,
    X,
)

from graphopt.ops import (
    Add,
    Concat,
    Expand,
    Flatten,
    Gather,
    MatMul,
    Pad,
    PRelu,
    Relu,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Tile,
    Transpose,
    Unsqueeze,
    Where,
)
from graphopt.passes import movement as m

EQUATIONS: list[tuple[Any, Any, Any]] = [
    (m.transpose_nothing, Transpose(X, perm=(0, 1, 2)), X),
    (m.transpose_nothing, Transpose(ROW), ROW),
    (m.transpose_nothing, Transpose(param("s")), param),
    (
        m.transpose_transpose,
        Transpose(Transpose(X, perm=(1, 2, 0)), perm=(0, 2, 1)),
        Transpose(X, perm=(1, 0, 2)),
    ),
    (
        m.transpose_transpose,
        Transpose(Transpose(TEXT)),
        Transpose(TEXT, perm=(0, 1)),
    ),
    (
        m.transpose_ones,
        Transpose(Unsqueeze(DYNAMIC, ints(1)), perm=(1, 0, 2, 3)),
        Reshape(Unsqueeze(DYNAMIC, ints(1)), ints(1, -1, 3, 4)),
    ),
    (
        m.reshape_reshape,
        Reshape(Reshape(X, ints(6, 4)), ints(4, 6)),
        Reshape(X, ints(4, 6)),
    ),
    (m.reshape_reshape, Reshape(Reshape(X, ints(6, 4)), ints(2, 3, 4)), X),
    (
        m.reshape_ones_of_transpose,
        Reshape(Transpose(Reshape(X, ints(6, 4))), ints(1, 4, 1, 6)),
        Transpose(Reshape(Reshape(X, ints(6, 4)), ints(1, 1, 6, 4)), perm=(0, 3, 1, 2)),
    ),
    (
        m.reshape_ones_of_transpose,
        Reshape(Transpose(Unsqueeze(X, ints(0)), perm=(0, 3, 1, 2)), ints(4, 2, 3)),
        Transpose(Reshape(Unsqueeze(X, ints(0)), ints(2, 3, 4)), perm=(2, 0, 1)),
    ),
    (
        m.reshape_reshape,
        Reshape(Transpose(ONES, perm=(0, 1, 3, 2)), ints(3, 4)),
        Reshape(ONES, ints(3, 4)),
    ),
    (m.reshape_reshape, Squeeze(Unsqueeze(DYNAMIC, ints(0)), ints(0)), DYNAMIC),
    (m.reshape_reshape, Reshape(Flatten(DYNAMIC), ints(0, 3, 4)), DYNAMIC),
    (
        m.reshape_reshape,
        Unsqueeze(Unsqueeze(X, ints(1)), ints(0, -1)),
        Unsqueeze(X, ints(0, 2, 5)),
    ),
    (
        m.reshape_reshape,
        Squeeze(Squeeze(ONES, ints(0)), ints(-2)),
        Squeeze(ONES, ints(0, 2)),
    ),
    (
        m.reshape_reshape,
        Flatten(Reshape(DYNAMIC, ints(0, 12, 1)), axis=1),
        Reshape(DYNAMIC, ints(0, 12)),
    ),
    (
        m.reshape_transpose_reshape,
        Reshape(Transpose(Reshape(DYNAMIC, ints(0, 12)), perm=(1, 0)), ints(3, 4, -1)),
        Transpose(DYNAMIC, perm=(1, 2, 0)),
    ),
    (
        m.reshape_transpose_reshape,  # the last dim, of one, goes with those before it
        Reshape(
            Transpose(Reshape(LAST, ints(0, 12, 5)), perm=(1, 0, 2)),
            ints(3, 4, -1, 5, 1),
        ),
        Transpose(LAST, perm=(1, 2, 0, 3, 4)),
    ),
    (
        m.reshape_transpose_reshape,  # the first dim, of one, stays by itself
        Reshape(
            Transpose(Reshape(FIRST, ints(1, 6, 4)), perm=(1, 2, 0)), ints(2, 3, 4, 1)
        ),
        Transpose(FIRST, perm=(1, 2, 3, 0)),
    ),
    (m.reshape_like_nothing, Flatten(param("f", N, 4)), param),
    (m.reshape_like_nothing, Squeeze(X, ints()), X),
    (m.reshape_like_nothing, Unsqueeze(X, ints()), X),
    (m.expand_into_user, Add(Expand(ROW, ints(3, 4)), X), Add(ROW, X)),
    (m.expand_into_user, Add(X, Expand(ROW, ints(3, 4))), Add(X, ROW)),
    (
        m.expand_into_user,
        PRelu(X, Expand(ROW, ints(3, 4))),
        PRelu(X, ROW),
    ),
    (
        m.expand_into_user,
        Where(param("c", 2, 3, 4, dtype=D.BOOL), Expand(ROW, ints(3, 4)), X),
        None,
    ),
    (m.slice_nothing, Slice(DYNAMIC, ints(0), ints(FAR), ints(0)), DYNAMIC),
    (m.slice_nothing, Slice(X, ints(0), ints(4), ints(-1), ints(1)), X),
    (m.slice_nothing, Slice(X, ints(-9), ints(9), ints(1)), X),
    (m.slice_nothing, Slice(EMPTY, ints(0), ints(2), ints(0), ints(2)), EMPTY),
    (
        m.slice_of_concat,
        Slice(Concat(X, DYNAMIC, axis=0), ints(2), ints(FAR), ints(0)),
        DYNAMIC,
    ),
    (
        m.slice_of_concat,
        Slice(Concat(X, X, axis=-1), ints(-4), ints(FAR), ints(2)),
        X,
    ),
    (m.concat_one, Concat(X, axis=1), X),
    (
        m.concat_concat,
        Concat(X, Concat(X, DYNAMIC, axis=0), axis=-3),
        Concat(X, X, DYNAMIC, axis=0),
    ),
    (
        m.concat_constants,
        Concat(ROW, const([1, 2]), const([3]), ROW, axis=0),
        Concat(ROW, const([1, 2, 3]), ROW, axis=0),
    ),
    (
        m.concat_constants,
        Concat(const(["a"], D.STRING), const(["b"], D.STRING), axis=0),
        Concat(const(["a", "b"], D.STRING), axis=0),
    ),
    (
        m.concat_constants,
        Concat(const([1], D.BF16), const([2], D.BF16), axis=-1),
        Concat(const([1, 2], D.BF16), axis=0),
    ),
    (m.concat_empty, Concat(EMPTY, X2, axis=-2), Concat(X2, axis=0)),
    (m.concat_empty, Concat(X2, EMPTY, X2, axis=0), Concat(X2, X2, axis=0)),
    (m.concat_of_split, Concat(*PARTS, axis=-1), X),
    (m.split_one, Split(X, ints(3), axis=1), X),
    (m.split_one, Split(DYNAMIC, axis=0, num_outputs=1), DYNAMIC),
    (m.tile_nothing, Tile(X, ints(1, 1, 1)), X),
    (m.tile_nothing, Tile(param("s"), ints()), param),
    (m.pad_nothing, Pad(DYNAMIC, ints(0, 0, 0, 0, 0, 0), const(3.0)), DYNAMIC),
    (m.pad_nothing, Pad(X, ints(0, 0), None, ints(1)), X),
    (m.gather_all, Gather(X, ints(0, 1, 2), axis=1), X),
    (m.gather_all, Gather(X, ints(0, 1, 2, 3), axis=-1), X),
    (m.gather_all, Gather(EMPTY, ints(), axis=0), EMPTY),
    (m.gather_one, Gather(ONE, NOUGHT, axis=1), Squeeze(ONE, ints(1))),
    (m.gather_one, Gather(ONE, HIND, axis=-2), Squeeze(ONE, ints(1))),
    (
        m.unsqueeze_of_gather,
        Unsqueeze(Gather(X, const(2, D.I64), axis=1), ints(1)),
        Gather(X, ints(2), axis=1),
    ),
    (
        m.unsqueeze_of_gather,
        Unsqueeze(Gather(DYNAMIC, const(-1, D.I64), axis=-1), ints(-1)),
        Gather(DYNAMIC, ints(-1), axis=-1),
    ),
    (
        m.unsqueeze_of_gather,
        Unsqueeze(Gather(LAST, const(0, D.I64), axis=-1), ints(4)),
        LAST,
    ),
    (
        m.unsqueeze_of_gather,
        Unsqueeze(Gather(LAST, const(-1, D.I64), axis=-1), ints(4)),
        LAST,
    ),
]


@pytest.mark.parametrize(("rule", "before", "after"), EQUATIONS)
def test_equation(rule: Any, before: Any, after: Any) -> None:
    if after is param:  # the operand that is a parameter
        operands = before.op.operands
        after = next(v for v in reversed(operands) if v is not None and v.op is None)
    if after is None:
        rewritten(rule, before)
    else:
        fires(rule, before, after)


GUARDS: list[tuple[Any, Any, str | None]] = [
    (m.transpose_nothing, Transpose(X, perm=(0, 2, 1)), ""),
    (m.transpose_nothing, Transpose(VAGUE), ""),
    (
        m.transpose_transpose,
        Transpose(Transpose(VAGUE)),
        "its rank is not known",
    ),
    (m.transpose_ones, Transpose(ONES, perm=(1, 0, 2, 3)), ""),  # beside no reshape
    (m.transpose_ones, Transpose(Unsqueeze(X, ints(0)), perm=(0, 2, 1, 3)), ""),
    (
        m.transpose_ones,  # n could be 1, and could be more
        Transpose(Unsqueeze(DYNAMIC, ints(0)), perm=(0, 2, 1, 3)),
        "",
    ),
    (m.reshape_reshape, Reshape(X, ints(6, 4)), ""),
    (
        m.reshape_ones_of_transpose,
        Reshape(Transpose(Reshape(X, ints(6, 4))), ints(6, 4)),
        "more than dims of 1 changes",
    ),
    (m.reshape_ones_of_transpose, Reshape(Transpose(X), ints(1, 4, 3, 2)), ""),
    (m.reshape_reshape, Reshape(Transpose(X), ints(6, 4)), ""),
    (
        m.reshape_reshape,
        Flatten(Unsqueeze(param("p", N, M, 4), ints(0)), axis=2),
        "cannot be said by a constant",
    ),
    (
        m.reshape_reshape,
        Squeeze(Reshape(VAGUE, ints(1, -1)), ints(0)),
        "cannot be said by a constant",
    ),
    (
        m.reshape_reshape,  # a constant shape has no way to say 0 there
        Reshape(Reshape(EMPTY, ints(3, 0), allowzero=1), ints(0, 0)),
        "cannot be said by a constant",
    ),
    (
        m.reshape_transpose_reshape,
        Reshape(Transpose(Reshape(X, ints(6, 4)), perm=(1, 0)), ints(4, 3, 2)),
        "not split as they were",
    ),
    (
        m.reshape_transpose_reshape,  # one dim more
        Reshape(Transpose(Reshape(X, ints(6, 4)), perm=(1, 0)), ints(4, 2, 3, 1)),
        "not split as they were",
    ),
    (
        m.reshape_transpose_reshape,
        Reshape(Transpose(Reshape(X, ints(3, 8)), perm=(1, 0)), ints(4, 2, 3)),
        "not only merged",
    ),
    (m.reshape_transpose_reshape, Reshape(Transpose(X), ints(24)), ""),
    (m.reshape_like_nothing, Flatten(X), ""),
    (m.expand_into_user, Add(Expand(ROW, ints(3, 4)), ROW), ""),
    (m.expand_into_user, Add(Expand(ROW, ints(3, 4)), const(1.0)), ""),
    (
        m.expand_into_user,  # a slope must not be larger than what it weighs
        PRelu(Expand(param("one", 1), ints(4)), ROW),
        "",
    ),
    (
        m.expand_into_user,  # n may be 1: then the sum would be too small
        Add(Expand(ROW, ints(3, 4)), param("q", N, 4)),
        "",
    ),
    (m.expand_into_user, Relu(Expand(ROW, ints(3, 4))), ""),
    (m.expand_into_user, MatMul(Expand(ROW, ints(3, 4)), random(4, 4)), ""),
    (m.slice_nothing, Slice(X, ints(-1), ints(-FAR), ints(0), ints(-1)), ""),
    (m.slice_nothing, Slice(X, ints(1), ints(FAR), ints(0)), ""),
    (m.slice_nothing, Slice(DYNAMIC, ints(0), ints(2), ints(0)), ""),
    (m.slice_nothing, Slice(X, ints(0), ints(FAR), ints(2), ints(2)), ""),
    (
        m.slice_nothing,
        Slice(
            param("one", 1, 3), ints(0), ints(1), ints(0), param("k", 1, dtype=D.I64)
        ),
        "",
    ),
    (
        m.slice_of_concat,
        Slice(Concat(X, X, axis=0), ints(1), ints(3), ints(0)),
        "not just one of the parts",
    ),
    (
        m.slice_of_concat,  # backwards
        Slice(Concat(X, X, axis=0), ints(1), ints(-FAR), ints(0), ints(-1)),
        "not just one of the parts",
    ),
    (
        m.slice_of_concat,  # where the second begins hangs on n
        Slice(Concat(DYNAMIC, X, axis=0), ints(2), ints(4), ints(0)),
        "not just one of the parts",
    ),
    (
        m.slice_of_concat,  # another axis is cut, too
        Slice(Concat(X, X, axis=0), ints(0, 0), ints(2, 1), ints(0, 1)),
        "",
    ),
    (m.concat_one, Concat(X, X, axis=0), ""),
    (m.concat_concat, Concat(X, Concat(X, X, axis=1), axis=1), None),
    (m.concat_concat, Concat(Concat(X, X, axis=1), Concat(X, X, axis=1), axis=0), ""),
    (m.concat_concat, Concat(X, X, axis=-1), ""),
    (m.concat_constants, Concat(const([[1]]), const([[2]]), axis=0), ""),
    (m.concat_constants, Concat(const([1]), ROW, const([2]), axis=0), ""),
    (m.concat_constants, Concat(random(60), random(9), axis=0), ""),
    (m.concat_empty, Concat(EMPTY, EMPTY, axis=0), ""),
    (m.concat_empty, Concat(param("e", N, 3), param("f", M, 3), axis=0), ""),
    (
        m.concat_empty,
        Concat(param("e", 0, 3), param("f", 0, 3), axis=1),
        "",
    ),
    (
        m.concat_of_split,
        Concat(*Split(X, ints(1, 3), axis=2).results[::-1], axis=2),
        "",
    ),
    (
        m.concat_of_split,
        Concat(*Split(X, ints(1, 1, 2), axis=2).results[:2], axis=2),
        "",
    ),
    (
        m.concat_of_split,
        Concat(*Split(X, ints(2, 2), axis=2).results, axis=1),
        "",
    ),
    (
        m.concat_of_split,  # which axis -1 is hangs on the rank
        Concat(*Split(VAGUE, ints(1, 2), axis=0).results, axis=-1),
        "",
    ),
    (m.split_one, Split(X, ints(1, 2), axis=1).results, ""),
    (m.tile_nothing, Tile(X, ints(1, 2, 1)), ""),
    (m.tile_nothing, Tile(X, param("k", 3, dtype=D.I64)), ""),
    (m.pad_nothing, Pad(X, ints(0, 0, 0, 0, 0, 1)), ""),
    (m.pad_nothing, Pad(X, ints(1, 0, 0, -1, 0, 0)), ""),
    (m.pad_nothing, Pad(X, param("k", 6, dtype=D.I64)), ""),
    (m.gather_all, Gather(VAGUE, ints(0, 1), axis=0), ""),
    (m.gather_all, Gather(X, ints(0, 2, 1), axis=1), ""),
    (m.gather_all, Gather(X, ints(0, 1), axis=1), ""),
    (m.gather_all, Gather(DYNAMIC, ints(0, 1), axis=0), ""),
    (m.gather_all, Gather(X, const(np.arange(2).reshape(1, 2), D.I64), axis=0), ""),
    (m.gather_one, Gather(X, NOUGHT, axis=1), ""),
    (m.gather_one, Gather(DYNAMIC, NOUGHT, axis=0), ""),
    (m.gather_one, Gather(ONE, param("i", dtype=D.I64), axis=1), ""),
    (m.gather_one, Gather(ONE, ints(0), axis=1), ""),
    (
        m.unsqueeze_of_gather,
        Unsqueeze(Gather(X, const(2, D.I64), axis=1), ints(0)),
        "",
    ),
    (
        m.unsqueeze_of_gather,
        Unsqueeze(Gather(X, const(2, D.I64), axis=1), ints(0, 1)),
        "",
    ),
    (m.unsqueeze_of_gather, Unsqueeze(Gather(X, ints(2), axis=1), ints(1)), ""),
    (
        m.unsqueeze_of_gather,
        (Unsqueeze(PICKED, ints(1)), PICKED),
        "its result is read elsewhere too",
    ),
    (
        m.unsqueeze_of_gather,
        Unsqueeze(Gather(X, param("i", dtype=D.I64), axis=1), ints(1)),
        "",
    ),
    (
        m.unsqueeze_of_gather,
        Unsqueeze(Gather(VAGUE, const(0, D.I64), axis=0), ints(0)),
        "",
    ),
]


@pytest.mark.parametrize(("rule", "before", "reason"), GUARDS)
def test_guard(rule: Any, before: Any, reason: str | None) -> None:
    if reason is None:
        shared = before.operands[1]
        misses(rule, (before, shared))
    else:
        misses(rule, before, reason)
