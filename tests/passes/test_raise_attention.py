"""Attention recognised from its arithmetic, with what stands around it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from equations import (
    N,
    assert_sound,
    const,
    fires,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    rewritten,
)

from graphopt.driver import optimize
from graphopt.exporter import to_proto
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    And,
    Attention,
    Concat,
    Div,
    Expand,
    IsNaN,
    LessOrEqual,
    MatMul,
    Mul,
    Not,
    Range,
    Reshape,
    Shape,
    Slice,
    Softmax,
    Split,
    Squeeze,
    Tanh,
    Transpose,
    Unsqueeze,
    Where,
)
from graphopt.passes.raise_attention import (
    RULES,
    RaiseAttention,
    attention,
    causal,
    flat_heads,
    flat_heads_of_one,
    grouped_heads,
    modest_mask,
    past,
)
from graphopt.types import DType

OPSET = 24
BATCH, HEADS, QUERIES, KEYS, SIZE = 2, 4, 3, 5, 16
Q = param("q", BATCH, HEADS, QUERIES, SIZE)
K = param("k", BATCH, HEADS, KEYS, SIZE)
V = param("v", BATCH, HEADS, KEYS, 8)
ADDED = param("added", BATCH, 1, QUERIES, KEYS)
SEEN = param("seen", BATCH, 1, QUERIES, KEYS, dtype=DType.BOOL)


def turned(k: Value) -> Value:
    return Transpose(k, perm=(0, 1, 3, 2))


def spelled(scores: Value, v: Value = V) -> Value:
    return MatMul(Softmax(scores), v)


def guarded(scores: Value, v: Value = V) -> Value:
    weights = Softmax(scores)
    return MatMul(Where(IsNaN(weights), const(0.0), weights), v)


SCALES: list[Callable[[], Value]] = [
    lambda: Mul(MatMul(Q, turned(K)), const(0.25)),
    lambda: Div(MatMul(Q, turned(K)), const(4.0)),
    lambda: Mul(const(0.25), MatMul(Q, turned(K))),
    lambda: MatMul(Mul(Q, const(0.25)), turned(K)),
    lambda: MatMul(Div(Q, const(4.0)), turned(K)),
    lambda: MatMul(Q, Mul(turned(K), const(0.25))),
    lambda: MatMul(Mul(Q, const(0.5)), Mul(turned(K), const(0.5))),
    lambda: MatMul(Mul(Q, const(0.5)), turned(Mul(K, const(0.5)))),
]

MASKS: list[tuple[Callable[[Value], Value], Value]] = [
    (lambda s: Add(s, ADDED), ADDED),
    (lambda s: Add(ADDED, s), ADDED),
    (lambda s: Where(SEEN, s, const(-math.inf)), SEEN),
    (lambda s: Where(Not(SEEN), const(-math.inf), s), Not(Not(SEEN))),
    (lambda s: Add(s, Where(SEEN, const(0.0), const(-math.inf))), SEEN),
    (
        lambda s: Where(SEEN, s, const(-1e30)),
        Where(SEEN, const(0.0), const(-1e30)),
    ),
    (
        lambda s: Add(Add(s, ADDED), Where(SEEN, const(0.0), const(-1e30))),
        Add(ADDED, Where(SEEN, const(0.0), const(-1e30))),
    ),
    (
        lambda s: Where(SEEN, Add(s, ADDED), const(-math.inf)),
        Where(SEEN, ADDED, const(-math.inf)),
    ),
]


@pytest.mark.parametrize("way", range(len(SCALES)))
def test_every_place_of_the_scale(way: int) -> None:
    fires(attention, spelled(SCALES[way]()), Attention(Q, K, V), opset=OPSET)


@pytest.mark.parametrize(("scale", "mask"), list(product((0, 3, 6), range(len(MASKS)))))
def test_every_mask(scale: int, mask: int) -> None:
    """Rows that are hidden whole give zeros, as the guard makes of NaN."""
    apply, operand = MASKS[mask]
    before = guarded(apply(SCALES[scale]()))
    fires(attention, before, Attention(Q, K, V, operand), opset=OPSET)


def test_another_scale_and_none() -> None:
    scores = MatMul(Q, turned(K))
    fires(attention, spelled(scores), Attention(Q, K, V, scale=1.0), opset=OPSET)
    half = Mul(scores, const(0.5))
    fires(attention, spelled(half), Attention(Q, K, V, scale=0.5), opset=OPSET)


def test_a_soft_cap() -> None:
    scores = Mul(MatMul(Q, turned(K)), const(0.25))
    capped = Mul(Tanh(Div(scores, const(30.0))), const(30.0))
    after = Attention(Q, K, V, ADDED, softcap=30.0)
    fires(attention, spelled(Add(capped, ADDED)), after, opset=OPSET)


def test_keys_that_were_transposed_otherwise() -> None:
    rows = param("rows", BATCH, KEYS, HEADS, SIZE)
    scores = MatMul(Q, Transpose(rows, perm=(0, 2, 3, 1)))
    by_head = Transpose(rows, perm=(0, 2, 1, 3))
    after = Attention(Q, by_head, V, scale=1.0)
    fires(attention, spelled(scores), after, opset=OPSET)


def test_a_mask_of_zeros_is_none() -> None:
    scores = Add(Mul(MatMul(Q, turned(K)), const(0.25)), const(0.0))
    fires(attention, spelled(scores), Attention(Q, K, V), opset=OPSET)


def scores_of() -> Value:
    return Mul(MatMul(Q, turned(K)), const(0.25))


ROWS = param("rows", BATCH, 1, QUERIES, 1, dtype=DType.BOOL)

MISSED: list[tuple[Value | tuple[Value, ...], str]] = [
    (spelled(Mul(MatMul(Q, turned(K)), const(-0.25))), "scale is not positive"),
    (spelled(Mul(Add(scores_of(), ADDED), const(2.0))), "no scaled and masked product"),
    (spelled(Where(SEEN, scores_of(), const(-5.0))), "not known to be far below"),
    (spelled(Where(SEEN, scores_of(), const(5.0))), "no scaled and masked product"),
    (spelled(Add(scores_of(), const(1.0))), "broadcast over keys"),
    (spelled(Where(ROWS, scores_of(), const(-math.inf))), "broadcast over keys"),
    (spelled(Where(SEEN, scores_of(), const(-1e9))), "not known to be far below"),
    (spelled(Where(SEEN, scores_of(), ADDED)), "no scaled and masked product"),
    ((spelled(scores_of()), scores_of()), "no scaled and masked product"),
    (MatMul(Softmax(scores_of(), axis=1), V), ""),
    ((spelled(scores_of()), Softmax(scores_of())), ""),
    (spelled(Tanh(scores_of())), "no scaled and masked product"),
    (
        spelled(MatMul(param("one", 1, HEADS, QUERIES, SIZE), turned(K))),
        "batches or heads are broadcast",
    ),
]


@pytest.mark.parametrize("which", range(len(MISSED)))
def test_near_misses(which: int) -> None:
    before, reason = MISSED[which]
    misses(attention, before, reason, opset=OPSET)


def test_opsets_without_attention_keep_the_arithmetic() -> None:
    misses(attention, spelled(scores_of()), opset=22)


def test_double_arithmetic_stays_double() -> None:
    q, k, v = (param(name, 2, 2, 3, 4, dtype=DType.F64) for name in "qkv")
    misses(attention, spelled(MatMul(q, turned(k)), v), opset=OPSET)


# Heads among the batch


def merged(x: Value) -> Value:
    _, _, length, size = (d for d in x.shape or ())
    return Reshape(x, ints(BATCH * HEADS, length, size))


def bmm(q: Value, k: Value) -> Value:
    return MatMul(q, Transpose(k, perm=(0, 2, 1)))


def test_heads_that_are_merged_with_the_batch() -> None:
    """The mask is added after the scores are split by head again."""
    scores = Mul(bmm(merged(Q), merged(K)), const(0.25))
    weights = Softmax(Add(Reshape(scores, ints(BATCH, HEADS, QUERIES, KEYS)), ADDED))
    before = MatMul(Reshape(weights, ints(BATCH * HEADS, QUERIES, KEYS)), merged(V))
    done = rewritten(attention, before, opset=OPSET)
    assert kinds(done) == ["Attention", "Reshape"]
    assert done.ops[-1].operands[0] is Attention(Q, K, V, ADDED)


def test_keys_that_were_merged_after_they_were_transposed() -> None:
    k = Reshape(turned(K), ints(BATCH * HEADS, SIZE, KEYS))
    before = MatMul(Softmax(Mul(MatMul(merged(Q), k), const(0.25))), merged(V))
    done = rewritten(attention, before, opset=OPSET)
    assert kinds(done) == ["Attention", "Reshape"]


def test_a_batch_of_one_that_is_left_out() -> None:
    q, k, v = (param(n, N, HEADS, s) for n, s in (("q", 16), ("k", 16), ("v", 8)))
    turn = (1, 0, 2)
    left, values = Transpose(q, perm=turn), Transpose(v, perm=turn)
    scores = Mul(MatMul(left, Transpose(k, perm=(1, 2, 0))), const(0.25))
    mask = param("mask", HEADS, N, N)
    done = rewritten(attention, spelled(Add(scores, mask), values), opset=OPSET)
    found = [op for op in done.ops if isinstance(op, Attention)]
    assert found[0].q_num_heads == HEADS


def test_one_head() -> None:
    q, k, v = (param(n, N, 5, s) for n, s in (("q", 16), ("k", 16), ("v", 8)))
    mask = param("mask", 1, 5, 5)
    before = spelled(Add(Mul(bmm(q, k), const(0.25)), mask), v)
    after = Attention(
        *(q, k, v, Unsqueeze(mask, ints(1))), q_num_heads=1, kv_num_heads=1
    )
    fires(attention, before, after, opset=OPSET)


# What stands around it


def repeated(x: Value, times: int, spell: int = 0) -> Value:
    batch, few, length, size = (d for d in x.shape or ())
    column = Unsqueeze(x, ints(2))
    wide = Expand(column, ints(batch, few, times, length, size))
    if spell:
        wide = Expand(column, ints(1, 1, times, 1, 1))
    return Reshape(wide, ints(batch, few * times, length, size))


@pytest.mark.parametrize("spell", [0, 1])
def test_grouped_heads(spell: int) -> None:
    k, v = param("k", BATCH, 2, KEYS, SIZE), param("v", BATCH, 2, KEYS, 8)
    before = Attention(Q, repeated(k, 2, spell), repeated(v, 2, spell), ADDED)
    fires(grouped_heads, before, Attention(Q, k, v, ADDED), opset=OPSET)


def test_heads_that_are_repeated_in_another_order_are_not_grouped() -> None:
    k, v = param("k", BATCH, 2, KEYS, SIZE), param("v", BATCH, 2, KEYS, 8)

    def tiled(x: Value) -> Value:
        batch, few, length, size = (d for d in x.shape or ())
        wide = Expand(Unsqueeze(x, ints(1)), ints(batch, 2, few, length, size))
        return Reshape(wide, ints(batch, 2 * few, length, size))

    misses(grouped_heads, Attention(Q, tiled(k), tiled(v)), opset=OPSET)
    half = Attention(Q, repeated(k, 2), param("w", BATCH, HEADS, KEYS, 8))
    misses(grouped_heads, half, opset=OPSET)


def test_keys_and_values_of_the_past() -> None:
    old_k, old_v = param("pk", BATCH, HEADS, 7, SIZE), param("pv", BATCH, HEADS, 7, 8)
    k, v = Concat(old_k, K, axis=2), Concat(old_v, V, axis=-2)
    made = Attention(Q, K, V, None, old_k, old_v, outs=3)
    fires(past, (Attention(Q, k, v), k, v), made.results, opset=OPSET)


def test_what_counts_positions_or_reads_the_keys_keeps_its_past() -> None:
    old_k, old_v = param("pk", BATCH, HEADS, 7, SIZE), param("pv", BATCH, HEADS, 7, 8)
    k, v = Concat(old_k, K, axis=2), Concat(old_v, V, axis=2)
    for attrs in ({"is_causal": 1}, {"left_window_size": 1}, {"right_window_size": 1}):
        before = Attention(Q, k, v, **attrs)
        misses(past, before, "count from the past", opset=25)
    q = Slice(k, ints(2), ints(5), ints(2))
    misses(past, Attention(q, k, v), "made of keys", opset=OPSET)


def test_heads_are_not_grouped_where_the_keys_are_results() -> None:
    k, v = param("k", BATCH, 2, KEYS, SIZE), param("v", BATCH, 2, KEYS, 8)
    before = Attention(Q, repeated(k, 2), repeated(v, 2), outs=3).results
    misses(grouped_heads, before, opset=OPSET)


def test_a_negative_cap_is_its_size() -> None:
    scores = MatMul(Q, turned(K))
    capped = Mul(Tanh(Mul(scores, const(-0.25))), const(-2.0))
    after = Attention(Q, K, V, scale=0.5, softcap=2.0)
    fires(attention, spelled(capped), after, opset=OPSET)


@pytest.mark.parametrize("shape", [(6, 1, 5, 5), (2, 3, 5, 5), (3, 5, 5)])
def test_masks_of_other_batches_are_not_taken(shape: tuple[int, ...]) -> None:
    """Scores were reshaped before the mask was added."""
    q, k, v = (param(n, 6, 5, s) for n, s in (("q", 16), ("k", 16), ("v", 8)))
    scores = Reshape(bmm(q, k), ints(2, 3, 5, 5) if len(shape) == 3 else ints(*shape))
    masked = Add(scores, param("m", *shape))
    back = Reshape(masked, ints(6, 5, 5))
    graph = graph_of(spelled(back, v), opset=OPSET)
    done = RaiseAttention()(graph)
    if done is not graph:
        assert_sound(graph, done, exact=False)


def counted(length: Value, *axes: int) -> Value:
    zero, one = const(0, DType.I64), const(1, DType.I64)
    numbers = Range(zero, Squeeze(length), one)
    return Unsqueeze(numbers, ints(*axes))


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((1, 1)),
        np.ones((QUERIES, 1)),
        np.tri(1, KEYS),
        np.tri(QUERIES, KEYS - 1),
    ],
)
def test_conditions_that_are_broadcast_or_short_are_not_causal(mask: Any) -> None:
    done = graph_of(Attention(Q, K, V, const(mask, DType.BOOL)), opset=OPSET)
    assert RaiseAttention()(done) is done


def test_lengths_and_windows_keep_the_mask() -> None:
    tri = const(np.tri(QUERIES, KEYS), DType.BOOL)
    lengths = param("lengths", BATCH, dtype=DType.I64)
    with_lengths = Attention(Q, K, V, tri, None, None, lengths)
    misses(causal, with_lengths, "a past, lengths or a window", opset=25)
    window = Attention(Q, K, V, tri, left_window_size=1)
    misses(causal, window, "a past, lengths or a window", opset=25)


def test_the_causal_part_of_a_mask_is_an_attribute() -> None:
    q, k = (param(name, 2, HEADS, N, SIZE) for name in "qk")
    v = param("v", 2, HEADS, N, 8)
    length = Shape(q, start=2, end=3)
    lower = LessOrEqual(counted(length, 0, 1, 2), counted(length, 0, 1, 3))
    pad = param("pad", 2, 1, 1, N, dtype=DType.BOOL)
    after = Attention(q, k, v, pad, is_causal=1)
    fires(causal, Attention(q, k, v, And(lower, pad)), after, opset=OPSET)
    fires(causal, Attention(q, k, v, lower), Attention(q, k, v, is_causal=1), opset=24)


def by_head(x: Value, heads: int) -> Value:
    last = (x.shape or ())[-1]
    split = Reshape(x, ints(0, 0, heads, last // heads))
    return Transpose(split, perm=(0, 2, 1, 3))


def test_heads_of_one_dim() -> None:
    q, k, v = (param(name, BATCH, N, 64) for name in "qkv")
    core = Attention(*(by_head(x, HEADS) for x in (q, k, v)))
    before = Reshape(Transpose(core, perm=(0, 2, 1, 3)), ints(0, 0, 64))
    flat = Attention(q, k, v, q_num_heads=HEADS, kv_num_heads=HEADS)
    after = Reshape(Reshape(flat, ints(0, 0, HEADS, 16)), ints(0, 0, 64))
    fires(flat_heads, before, after, opset=OPSET)


def test_one_query_whose_heads_are_only_reshaped() -> None:
    q, k, v = (param(name, BATCH, 1, 64) for name in "qkv")
    old_k, old_v = (param(n, BATCH, HEADS, 7, 16) for n in ("pk", "pv"))
    split = [Reshape(x, ints(BATCH, HEADS, 1, 16)) for x in (q, k, v)]
    core = Attention(*split, None, old_k, old_v, outs=3).results
    before = (Reshape(core[0], ints(BATCH, 1, 64)), core[1], core[2])
    heads = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    after = Attention(q, k, v, None, old_k, old_v, outs=3, **heads)
    fires(flat_heads_of_one, before, after.results, opset=OPSET)


def test_packed_projections_and_other_results() -> None:
    packed = param("packed", BATCH, 5, 192)
    q, k, v = Split(packed, ints(64, 64, 64), axis=2, outs=3).results
    core = Attention(*(by_head(x, HEADS) for x in (q, k, v)), outs=3).results
    before = (Transpose(core[0], perm=(0, 2, 1, 3)), core[1], core[2])
    done = rewritten(flat_heads, before, opset=OPSET)
    assert kinds(done) == ["Split", "Attention", "Reshape"]


def test_heads_that_come_from_elsewhere_stay() -> None:
    q, k, v = (param(name, BATCH, HEADS, N, 16) for name in "qkv")
    before = Transpose(Attention(q, k, v), perm=(0, 2, 1, 3))
    misses(flat_heads, before, "do not come from one last dim", opset=OPSET)


def test_all_of_it_together() -> None:
    x, w = param("x", 2, N, 64), [const(np.eye(64)[::s], DType.F32) for s in (1, -1)]
    q, k, v = (by_head(MatMul(x, weight), HEADS) for weight in (*w, w[0]))
    scores = Div(MatMul(q, turned(k)), const(4.0))
    length = Shape(x, start=1, end=2)
    lower = LessOrEqual(counted(length, 0, 1, 2), counted(length, 0, 1, 3))
    hidden = Add(scores, Where(lower, const(0.0), const(-math.inf)))
    y = MatMul(Softmax(hidden), v)
    graph = graph_of(Transpose(y, perm=(0, 2, 1, 3)), opset=OPSET)
    done: Any = RaiseAttention()(graph)
    found = [op for op in done.ops if isinstance(op, Attention)]
    assert len(found) == 1
    assert found[0].is_causal
    assert found[0].q_num_heads == HEADS
    assert found[0].operand(3) is None
    rewritten(RULES, Transpose(y, perm=(0, 2, 1, 3)), opset=OPSET)


def test_masks_hold_no_number_that_runtimes_take_for_minus_infinity() -> None:
    lowest = float(np.finfo(np.float32).min)
    given = Attention(Q, K, V, Where(SEEN, const(0.0), const(lowest)))
    modest = Attention(Q, K, V, Where(SEEN, const(0.0), const(-1e30)))
    fires(modest_mask, given, modest, opset=OPSET)
    misses(modest_mask, modest, opset=OPSET)
    infinite = Attention(Q, K, V, Where(SEEN, const(0.0), const(-math.inf)))
    misses(modest_mask, infinite, opset=OPSET)
    misses(modest_mask, Attention(Q, K, V, ADDED), opset=OPSET)


@pytest.mark.runtime
def test_a_query_that_sees_nothing_attends_to_all_keys_alike_there() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    lowest = float(np.finfo(np.float32).min)
    masked = Add(scores_of(), Where(SEEN, const(0.0), const(lowest)))
    graph = graph_of(spelled(masked), opset=17)
    result = optimize(graph, "ort-cpu", check="off")
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {
        p.name: rng.normal(size=p.shape).astype(np.float32)
        for p in graph.inputs
        if p.dtype is DType.F32
    }
    feeds["seen"] = np.zeros((BATCH, 1, QUERIES, KEYS), bool)
    outs = [
        onnxruntime.InferenceSession(
            to_proto(g).SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, feeds)[0]
        for g in (graph, result.graph)
    ]
    assert any(op.kind == "Attention" for op in result.graph.ops)
    np.testing.assert_allclose(outs[1], outs[0], rtol=1e-5, atol=1e-5)


def test_heads_of_keys_or_values_alone() -> None:
    v = param("v", BATCH, 2, KEYS, 8)
    misses(grouped_heads, Attention(Q, K, repeated(v, 2)), opset=OPSET)
    k = param("k", BATCH, 2, KEYS, SIZE)
    wide = Expand(Unsqueeze(k, ints(-3)), ints(BATCH, 2, 2, KEYS, SIZE))
    spread = Reshape(wide, ints(BATCH, HEADS, KEYS, SIZE))
    before = Attention(Q, spread, repeated(v, 2))
    fires(grouped_heads, before, Attention(Q, k, v), opset=OPSET)
    last = Expand(Unsqueeze(k, ints(3)), ints(BATCH, 2, KEYS, 2, SIZE))
    other = Reshape(last, ints(BATCH, HEADS, KEYS, SIZE))
    misses(grouped_heads, Attention(Q, other, repeated(v, 2)), opset=OPSET)
