"""Rotary embeddings recognised in every spelling, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from equations import N, const, fires, graph_of, ints, kinds, misses, param, rewritten
from rotary_spellings import (
    AFTER,
    ANGLES,
    BY_POSITION,
    IDS,
    INTERLEAVED,
    OTHER,
    SIN,
    TABLE,
    WIDE,
    C,
    D,
    H,
    S,
    X,
    by_head,
    const_i,
    cut,
    doubled,
    halves,
    neighbours,
    stacked,
    turned,
    twice,
    whole,
)

from graphopt.errors import TypeMismatch
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Cast,
    Concat,
    Cos,
    Expand,
    Gather,
    Mul,
    Neg,
    Range,
    Reshape,
    RotaryEmbedding,
    Shape as ShapeOf,
    Sin,
    Split,
    Sub,
    Transpose,
    Unsqueeze,
)
from graphopt.passes import raise_rotary as r
from graphopt.passes.raise_rotary import RaiseRotary
from graphopt.rewrite import rewrite
from graphopt.types import DType


@pytest.mark.parametrize("way", range(4))
def test_every_order(way: int) -> None:
    fires(r.rotary, whole(X, *WIDE, way), AFTER, opset=23)


@pytest.mark.parametrize("way", range(4))
@pytest.mark.parametrize("sign", range(5))
def test_every_way_to_turn(way: int, sign: int) -> None:
    cosine, sine = WIDE
    before = Add(Mul(X, cosine), Mul(turned(X, way, sign), sine))
    fires(r.rotary, before, AFTER, opset=23)


DOUBLED: list[Callable[[Any], tuple[Value, Value]]] = [
    lambda f: (Cos(twice(f, 1)), Sin(twice(f, 1))),
    lambda f: (twice(Cos(f)), twice(Sin(f))),
    lambda f: (twice(Cos(f), 1), twice(Sin(f))),
    lambda f: (Concat(C, Cos(f), axis=2), twice(Sin(f))),
    lambda f: (Mul(Cos(twice(f)), const(1.0)), Sin(twice(f))),
]


@pytest.mark.parametrize("way", range(len(DOUBLED)))
def test_every_way_to_double(way: int) -> None:
    cosine, sine = DOUBLED[way](ANGLES)
    done = rewritten(r.rotary, whole(X, by_head(cosine), by_head(sine)), opset=23)
    assert kinds(done).count("RotaryEmbedding") == 1
    assert not {"Concat", "Tile", "Add"} & set(kinds(done))


def test_tables_that_are_scaled_or_cast() -> None:
    scale = const(1.25)
    narrow = Mul(Cos(twice(ANGLES)), scale), Mul(Sin(twice(ANGLES)), scale)
    after = RotaryEmbedding(X, Mul(C, scale), Mul(SIN, scale))
    fires(r.rotary, whole(X, *map(by_head, narrow)), after, opset=23)
    angles = param("wide", N, S, D // 2, dtype=DType.F64)
    tables = [Cast(f(twice(angles)), to=DType.F32) for f in (Cos, Sin)]
    cast = [Cast(f(angles), to=DType.F32) for f in (Cos, Sin)]
    before = whole(X, by_head(tables[0]), by_head(tables[1]))
    fires(r.rotary, before, RotaryEmbedding(X, *cast), opset=23)


def test_the_sign_in_the_table() -> None:
    """x * c + swapped(x) * concat(-s, s)"""
    first, second = halves(X)
    swapped = Concat(second, first, axis=-1)
    sine: Value = Concat(Neg(SIN), SIN, axis=-1)
    before = Add(Mul(X, WIDE[0]), Mul(swapped, by_head(sine)))
    fires(r.rotary, before, AFTER, opset=23)
    half = np.random.default_rng(3).normal(size=(S, D // 2))
    sine = const(np.concatenate([-half, half], -1))
    before = Add(Mul(X, WIDE[0]), Mul(swapped, sine))
    after = RotaryEmbedding(X, C, Unsqueeze(const(half), ints(0)))
    fires(r.rotary, before, after, opset=23)


def test_the_other_direction() -> None:
    first, second = halves(X)
    back = Concat(second, Neg(first), axis=-1)
    before = Add(Mul(X, WIDE[0]), Mul(back, WIDE[1]))
    fires(r.rotary, before, RotaryEmbedding(X, C, Neg(SIN)), opset=23)


@pytest.mark.parametrize("way", range(4))
def test_halves_turned_by_themselves(way: int) -> None:
    a, b = halves(X, way)
    c, s = by_head(C), by_head(SIN)
    before = Concat(
        Sub(Mul(a, c), Mul(b, s)), Add(Mul(s, a), Mul(b, c)), axis=(-1, 3)[way % 2]
    )
    fires(r.rotary_halves, before, AFTER, opset=23)


def test_constant_tables() -> None:
    """Large constants intern by identity: their halves are compared by their bits."""
    rng = np.random.default_rng(0)
    angles = rng.normal(size=(1, 1, 700, 4))
    wide = [const(np.concatenate([f(angles)] * 2, -1)) for f in (np.cos, np.sin)]
    x = param("x", N, H, 700, D)
    done = rewritten(r.rotary, whole(x, *wide), opset=23)
    (op,) = [o for o in done.ops if isinstance(o, RotaryEmbedding)]
    assert op.operands[1].shape == (1, 700, 4)
    other = const(np.concatenate([np.cos(angles), np.cos(angles + 1)], -1))
    misses(r.rotary, whole(x, other, wide[1]), opset=23)


def test_positions_are_looked_up() -> None:
    tables = [Gather(Concat(t, t, axis=-1), IDS, axis=0) for t in (TABLE, OTHER)]
    before = whole(X, *map(by_head, tables))
    fires(r.rotary, before, RotaryEmbedding(X, TABLE, OTHER, IDS), opset=23)
    positions = Unsqueeze(Range(*map(const_i, (0, S, 1))), ints(0))
    tables = [Gather(Concat(t, t, axis=-1), positions, axis=0) for t in (TABLE, OTHER)]
    after = [Gather(t, positions, axis=0) for t in (TABLE, OTHER)]
    before = whole(X, *map(by_head, tables))
    fires(r.rotary, before, RotaryEmbedding(X, *after), opset=23)


@pytest.mark.parametrize("lead", [0, 1, 2])
def test_tables_of_every_rank(lead: int) -> None:
    angles = param("angles", *[1] * lead, S, D // 2)
    tables = [f(twice(angles)) for f in (Cos, Sin)]
    done = rewritten(r.rotary, whole(X, *tables), opset=23)
    (op,) = [o for o in done.ops if isinstance(o, RotaryEmbedding)]
    assert op.operands[1].shape == (1, S, D // 2)


def test_heads_after_positions() -> None:
    cosine, sine = (by_head(f(twice(ANGLES)), 2) for f in (Cos, Sin))
    flat = RotaryEmbedding(Reshape(BY_POSITION, ints(0, 0, H * D)), C, SIN, num_heads=H)
    after = Reshape(flat, ints(0, 0, H, D))
    fires(r.rotary, whole(BY_POSITION, cosine, sine), after, opset=23)


def test_without_heads() -> None:
    x = param("flat", N, S, D)
    tables = [f(twice(ANGLES)) for f in (Cos, Sin)]
    after = RotaryEmbedding(x, C, SIN, num_heads=1)
    fires(r.rotary, whole(x, *tables), after, opset=23)


def test_sections_of_three_angles() -> None:
    """Of times, rows and columns: each section of the last axis has its own angle."""
    angles = param("three", 3, N, S, D // 2)
    tables = []
    for f in (Cos, Sin):
        parts = Split(f(twice(angles)), ints(1, 2, 1, 1, 2, 1), axis=-1).results
        mixed = [Gather(part, const_i(i % 3), axis=0) for i, part in enumerate(parts)]
        tables.append(by_head(Concat(*mixed, axis=-1)))
    done = rewritten(r.rotary, whole(X, *tables), opset=23)
    (op,) = [o for o in done.ops if isinstance(o, RotaryEmbedding)]
    assert op.operands[1].shape == (N, S, D // 2)
    assert "Add" not in kinds(done)


# --- neighbours ---------------------------------------------------------------------


@pytest.mark.parametrize("way", range(4))
def test_neighbours_turned_by_themselves(way: int) -> None:
    a, b = neighbours(X, way)
    c, s = by_head(C), by_head(SIN)
    before = stacked(Sub(Mul(a, c), Mul(b, s)), Add(Mul(a, s), Mul(b, c)))
    fires(r.rotary_pairs, before, INTERLEAVED, opset=23)


@pytest.mark.parametrize("way", range(4))
@pytest.mark.parametrize("double", range(3))
def test_neighbours(way: int, double: int) -> None:
    a, b = neighbours(X, way)
    cosine, sine = (by_head(doubled(t, double)) for t in (C, SIN))
    before = Add(Mul(X, cosine), Mul(stacked(Neg(b), a), sine))
    fires(r.rotary, before, INTERLEAVED, opset=23)


def test_complex_numbers() -> None:
    """x is multiplied by cos + i sin, both as [..., half, 2]."""
    real, imaginary = neighbours(X, 2)
    c, s = by_head(C), by_head(SIN)
    made = [
        Unsqueeze(Sub(Mul(real, c), Mul(imaginary, s)), ints(4)),
        Unsqueeze(Add(Mul(imaginary, c), Mul(real, s)), ints(4)),
    ]
    before = Reshape(Concat(*made, axis=4), ints(0, H, S, -1))
    fires(r.rotary_pairs, before, INTERLEAVED, opset=23)


def test_pairs_that_stay_apart() -> None:
    """[..., half, 1] each: the last axis is of one element, and is glued to two."""
    pairs = Reshape(X, ints(0, 0, 0, D // 2, 2))
    a, b = Split(pairs, axis=-1, num_outputs=2).results
    c, s = (Unsqueeze(by_head(t), ints(-1)) for t in (C, SIN))
    both = Concat(Sub(Mul(a, c), Mul(b, s)), Add(Mul(b, c), Mul(a, s)), axis=-1)
    before = Reshape(both, ints(0, 0, 0, D))
    fires(r.rotary_pairs, before, INTERLEAVED, opset=23)


# --- a part of each head ------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("way", range(2))
def test_a_part(way: int, interleaved: int) -> None:
    x = param("long", N, H, S, D + 4)
    if way:
        head, tail = Split(x, ints(D, 4), axis=-1).results
    else:
        head, tail = cut(x, 0, D), cut(x, D, 1 << 40)
    before = Concat(
        RotaryEmbedding(head, C, SIN, interleaved=interleaved), tail, axis=3
    )
    after = RotaryEmbedding(x, C, SIN, interleaved=interleaved, rotary_embedding_dim=D)
    fires(r.rotary_part, before, after, opset=23)


def test_a_part_with_heads_after_positions() -> None:
    x = param("long", N, S, H, D + 4)
    cosine, sine = (by_head(f(twice(ANGLES)), 2) for f in (Cos, Sin))
    before = Concat(whole(cut(x, 0, D), cosine, sine), cut(x, D, D + 4), axis=-1)
    done = rewritten(r.RULES, before, opset=23)
    assert kinds(done).count("RotaryEmbedding") == 1
    assert not {"Slice", "Concat"} & set(kinds(done))


def test_a_part_cut_in_three() -> None:
    x = param("long", N, H, S, D + 4)
    a, b, tail = Split(x, ints(4, 4, 4), axis=-1).results
    c, s = by_head(C), by_head(SIN)
    before = Concat(Sub(Mul(a, c), Mul(b, s)), Add(Mul(b, c), Mul(a, s)), tail, axis=-1)
    done = rewritten(r.RULES, before, opset=23)
    after = RotaryEmbedding(x, C, SIN, rotary_embedding_dim=D)
    assert done.outputs == (after,)


def test_a_part_of_packed_heads() -> None:
    """Queries that are cut out of one tensor of queries, keys and values."""
    packed = param("packed", N, H, S, 3 * D)
    query = cut(packed, D, 2 * D)
    x, rest = cut(query, 0, 4), cut(query, 4, 8)
    half = param("half", N, S, 2)
    before = Concat(RotaryEmbedding(x, Cos(half), Sin(half)), rest, axis=-1)
    after = RotaryEmbedding(query, Cos(half), Sin(half), rotary_embedding_dim=4)
    fires(r.rotary_part, before, after, opset=23)


def test_another_rest() -> None:
    x = param("long", N, H, S, D + 4)
    head = RotaryEmbedding(cut(x, 0, D), C, SIN)
    misses(r.rotary_part, Concat(head, cut(x, 0, 4), axis=-1), "not of what", opset=23)
    other = param("other", N, H, S, 4)
    misses(r.rotary_part, Concat(head, other, axis=-1), "not of what", opset=23)
    misses(r.rotary_part, Concat(cut(x, D, D + 4), head, axis=-1), opset=23)
    late = RotaryEmbedding(cut(x, 4, D + 4), C, SIN)
    before = Concat(late, cut(x, 0, 4), axis=-1)
    misses(r.rotary_part, before, "not of what", opset=23)


# --- near misses --------------------------------------------------------------------

WRONG: list[Callable[[], Value]] = [
    # both halves turned the same way
    lambda: Add(Mul(X, WIDE[0]), Mul(Concat(*halves(X)[::-1], axis=-1), WIDE[1])),
    # halves that are not swapped
    lambda: Add(
        Mul(X, WIDE[0]), Mul(Concat(Neg(halves(X)[0]), halves(X)[1], axis=-1), WIDE[1])
    ),
    # cosines of the halves that differ
    lambda: whole(X, by_head(Concat(C, SIN, axis=-1)), WIDE[1]),
    lambda: whole(X, WIDE[0], by_head(Concat(SIN, Neg(SIN), axis=-1))),
    lambda: whole(X, by_head(param("free", N, S, D)), WIDE[1]),
    # another tensor is turned than what the cosines weigh
    lambda: Add(Mul(X, WIDE[0]), Mul(turned(param("x2", N, H, S, D)), WIDE[1])),
    # a third term
    lambda: Add(whole(X, *WIDE), X),
    # halves and neighbours mixed
    lambda: Add(
        Mul(X, WIDE[0]),
        Mul(stacked(Neg(neighbours(X, 0)[1]), neighbours(X, 0)[0]), WIDE[1]),
    ),
    # cuts that overlap
    lambda: Add(
        Mul(X, WIDE[0]), Mul(Concat(Neg(cut(X, 3, 7)), cut(X, 0, 4), axis=-1), WIDE[1])
    ),
]


@pytest.mark.parametrize("which", range(len(WRONG)))
def test_near_misses(which: int) -> None:
    graph = graph_of(WRONG[which](), opset=23)
    left = kinds(RaiseRotary()(graph)).count("RotaryEmbedding")
    assert left == (which == 6)  # the sum of three holds one


def test_reasons() -> None:
    varied = param("angles", N, H, S, D // 2)
    tables = [f(twice(varied)) for f in (Cos, Sin)]
    misses(r.rotary, whole(X, *tables), "do not go with", opset=23)
    once = param("once", N, 1, D // 2)
    tables = [by_head(f(twice(once))) for f in (Cos, Sin)]
    misses(r.rotary, whole(X, *tables), "do not go with", opset=23)
    for tables in ([param("c", S, 1), WIDE[1]], [param(n, S, 1) for n in "cs"]):
        misses(r.rotary, whole(X, *tables), "do not go with", opset=23)
    double = param("x", N, H, S, D, dtype=DType.F64)
    angles = param("angles", N, S, D // 2, dtype=DType.F64)
    tables = [by_head(f(twice(angles))) for f in (Cos, Sin)]
    misses(r.rotary, whole(double, *tables), "a type that the op", opset=23)
    deep = param("deep", N, 2, H, S, D)
    misses(r.rotary, whole(deep, Cos(twice(varied)), Sin(twice(varied))), opset=23)


def test_angles_are_half_as_many_as_what_is_turned() -> None:
    for few in (1, D):
        with pytest.raises(TypeMismatch, match=f"by 4 angles, not {few}"):
            RotaryEmbedding(X, C, param("sine", N, S, few))
    with pytest.raises(TypeMismatch, match="by 2 angles, not 4"):
        RotaryEmbedding(X, C, SIN, rotary_embedding_dim=4)
    flat = param("flat", N, S, H * D)
    with pytest.raises(TypeMismatch, match="by 12 angles, not 4"):
        RotaryEmbedding(flat, C, SIN, num_heads=1)
    unknown = param("sine", N, S, N)
    assert RotaryEmbedding(flat, C, unknown, num_heads=H).type == flat.type


def test_opset() -> None:
    misses(r.rotary, whole(X, *WIDE), opset=22)


def test_through_attention() -> None:
    """Heads are made, turned and exchanged: the flat op comes out."""
    flat = param("hidden", N, S, H * D)
    x = Transpose(Reshape(flat, ints(0, 0, H, D)), perm=(0, 2, 1, 3))
    done = rewritten(r.RULES, whole(x, *WIDE), opset=23)
    assert done.outputs == (RotaryEmbedding(x, C, SIN),)


# --- batches of angles --------------------------------------------------------------


def test_angles_of_one_batch_for_many() -> None:
    """ONNX wants as many batches of angles as of what is turned."""
    angles = param("angles", 1, S, D // 2)
    wide = Expand(Cos(angles), Concat(ShapeOf(X, start=0, end=1), ints(1, 1), axis=0))
    also = Expand(Sin(angles), Concat(ShapeOf(X, start=0, end=1), ints(1, 1), axis=0))
    before = RotaryEmbedding(X, Cos(angles), Sin(angles))
    done = rewrite(graph_of(before, opset=23), [r.rotary_batch])
    assert done.outputs == (RotaryEmbedding(X, wide, also),)
    places = param("places", 1, S, dtype=DType.I64)
    before = RotaryEmbedding(X, TABLE, OTHER, places)
    many = Expand(places, Concat(ShapeOf(X, start=0, end=1), ints(1), axis=0))
    done = rewrite(graph_of(before, opset=23), [r.rotary_batch])
    assert done.outputs == (RotaryEmbedding(X, TABLE, OTHER, many),)


def test_angles_of_as_many_batches() -> None:
    one = param("one", 1, H, S, D)
    angles = param("angles", 1, S, D // 2)
    misses(r.rotary_batch, RotaryEmbedding(one, Cos(angles), Sin(angles)), opset=23)
    misses(r.rotary_batch, RotaryEmbedding(X, C, SIN), opset=23)
    misses(r.rotary_batch, RotaryEmbedding(X, TABLE, OTHER, IDS), opset=23)


def test_tables_that_are_not_both_looked_up() -> None:
    cosine = Gather(TABLE, IDS, axis=0)
    assert r.looked_up(cosine, SIN, X, 1) == [cosine, SIN]
    assert r.looked_up(C, cosine, X, 1) == [C, cosine]
    by_heads = param("h", N, H, S, D // 2)
    assert r.placed(X, by_head(C), by_heads) is None
    assert r.placed(X, by_heads, by_head(C)) is None
    assert r.placed(X, by_head(C), by_head(SIN)) is not None
