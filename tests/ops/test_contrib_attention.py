"""The attentions of ONNX Runtime and its embeddings, against its kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from contrib_single import (
    Array,
    Case,
    faults_of_keeping,
    faults_of_meaning,
    faults_of_types,
)

import graphopt
from graphopt import dims
from graphopt.ir import Parameter
from graphopt.types import DType, TensorType

BATCH, STEPS, HEADS, SIZE = 2, 3, 2, 8
WIDTH = HEADS * SIZE
_random = np.random.default_rng(0)


def real(*shape: int) -> Array:
    return _random.normal(size=shape).astype(np.float32)


def ints(*values: Any) -> Array:
    return np.array(values, np.int32)


def places(*values: Any) -> Array:
    return np.array(values, np.int64)


def some_of(*shape: int) -> Array:
    """A mask of zeros and ones that leaves the first key to everybody."""
    mask = _random.integers(0, 2, shape).astype(np.int32)
    mask[..., 0] = 1
    return mask


def query(steps: int = STEPS, width: int = WIDTH) -> Array:
    return real(BATCH, steps, width)


def keys(length: int = 4) -> Array:
    """Keys or values by head."""
    return real(BATCH, HEADS, length, SIZE)


# --- cases --------------------------------------------------------------------------


def separate() -> list[Case]:
    """Queries, keys and values that are operands."""

    def case(*operands: Array | None, outs: int = 1, **attrs: Any) -> Case:
        attrs = {"num_heads": HEADS} | attrs
        return Case("MultiHeadAttention", operands, attrs, outs)

    q, k, v = query(), query(), query()
    bias = real(3 * WIDTH)
    past = (keys(), keys())
    return [
        case(q, k, v),
        case(q, k, v, scale=0.9),
        case(q, k, v, unidirectional=1),
        case(q, k, v, bias),
        case(q, query(5), query(5, 12), outs=3),
        case(q, keys(5), keys(5)),
        case(q, keys(5), keys(5), bias),
        case(q, k, v, None, ints(2, 3)),
        case(q, k, v, None, some_of(2, 3)),
        case(q, k, v, None, some_of(2, 3), mask_filter_value=-3.0),
        case(q, k, v, None, some_of(2, 3, 3), unidirectional=1),
        case(q, k, v, None, some_of(2, 3), real(1, HEADS, 3, 3)),
        case(q, k, v, None, None, real(BATCH, 1, 3, 3)),
        case(q, k, v, bias, some_of(2, 7), real(1, 1, 3, 7), *past, outs=3),
        case(q, k, v, None, None, None, *past, outs=3, unidirectional=1),
    ]


def hidden() -> list[Case]:
    """Queries whose scores are all -inf, or all but those of later keys."""
    x, weights = real(BATCH, STEPS, 6), real(6, 3 * WIDTH)
    q, k, v = query(), query(), query()
    one, some, none = (
        real(BATCH, HEADS, 3, 3),
        real(1, 1, 3, 3),
        ints([0, 1, 1], [0] * 3),
    )
    one[1, 0, 2], some[..., 1, :2] = -math.inf, -math.inf
    infinite = {"num_heads": HEADS, "mask_filter_value": -math.inf}
    cases = []
    for causal in (0, 1):
        attrs = {"num_heads": HEADS, "unidirectional": causal}
        for added in (one, some):
            given = (q, k, v, None, None, added)
            cases.append(Case("MultiHeadAttention", given, attrs))
            given = (x, weights, None, some_of(2, 3), None, added)
            cases.append(Case("Attention", given, attrs))
        attrs = infinite | {"unidirectional": causal}
        cases.append(Case("MultiHeadAttention", (q, k, v, None, none), attrs))
        cases.append(Case("Attention", (x, weights, None, none), attrs))
    longer = real(1, 1, 3, 7)
    longer[..., 1, :6] = -math.inf
    given = (q, k, v, None, None, longer, keys(), keys())
    attrs = {"num_heads": HEADS, "unidirectional": 1}
    return [*cases, Case("MultiHeadAttention", given, attrs, 3)]


def projected() -> list[Case]:
    """Queries, keys and values that are one product."""
    x, weights, bias = real(BATCH, STEPS, 6), real(6, 3 * WIDTH), real(3 * WIDTH)

    def case(*operands: Array | None, outs: int = 1, **attrs: Any) -> Case:
        attrs = {"num_heads": HEADS} | attrs
        return Case("Attention", (x, *operands), attrs, outs)

    past = real(2, BATCH, HEADS, 4, SIZE)
    narrow = (real(6, 2 * WIDTH + 12), real(2 * WIDTH + 12))
    return [
        case(weights, bias),
        case(weights, None, some_of(2, 3)),
        case(weights, bias, ints(2, 3)),
        case(weights, bias, ints(3, 2, 0, 1), outs=2),
        case(weights, bias, ints(3, 2, 0, 3, 6, 0, 3, 6), outs=2),
        case(weights, bias, ints([0], [0])),
        case(weights, bias, some_of(2, 3, 3)),
        case(weights, bias, some_of(2, 7), past, outs=2, unidirectional=1),
        case(*narrow, None, None, real(1, 1, 3, 3), qkv_hidden_sizes=[16, 16, 12]),
        case(weights, bias, some_of(2, 3), scale=0.5, mask_filter_value=-50.0),
    ]


def cached(
    steps: int,
    held: int | None,
    last: tuple[int, ...],
    *,
    most: int,
    heads: int = 1,
    size: int = 16,
    packed: bool = False,
    angles: int = 0,
    more: tuple[Array | None, ...] = (),
    **attrs: Any,
) -> Case:
    """A step of queries that share key heads, after a cache."""
    batch = len(last)
    q, k, v = (real(batch, steps, n * size) for n in (HEADS, heads, heads))
    given = [real(batch, steps, (HEADS + 2 * heads) * size), None, None]
    cache = [None if held is None else real(batch, heads, held, size) for _ in range(2)]
    turns = [real(32, angles) if angles else None for _ in range(2)]
    operands = [*(given if packed else (q, k, v)), *cache]
    operands += [ints(*last), np.array(most, np.int32), *turns, *more]
    attrs = {"num_heads": HEADS, "kv_num_heads": heads} | attrs
    if angles:
        attrs["do_rotary"] = 1
    return Case("GroupQueryAttention", operands, attrs, 3)


def decoding() -> list[Case]:
    one, two = (3, None, (2, 2)), (3, 4, (6,))
    score, sink = real(1, 1, 3, 7), (None, None, real(HEADS))
    given = places([1, 9, 2], [3, 4, 5])
    return [
        cached(*one, most=3),
        cached(*one, most=3, angles=8, more=(given,)),
        cached(3, 0, (2, 1), most=3, angles=8),
        cached(3, 8, (2, 1), most=3, angles=8),
        cached(1, 4, (4, 3), most=5, angles=8),
        cached(1, 8, (4, 3), most=5, angles=8),
        cached(1, 4, (4, 3), most=5, angles=8, size=32),
        cached(1, 4, (4, 3), most=5, angles=8, heads=2, packed=True),
        cached(1, 4, (4, 3), most=5, angles=8, rotary_interleaved=1),
        cached(*two, most=7, angles=8, more=(given[:1],)),
        cached(*two, most=7, local_window_size=2),
        cached(*two, most=7, softcap=0.5),
        cached(*two, most=7, scale=0.5),
        cached(*two, most=7, causal=0),
        cached(*two, most=7, smooth_softmax=1),
        cached(*two, most=7, more=sink, softcap=0.5, local_window_size=2),
        cached(*two, most=7, more=(None, score), softcap=0.5),
        cached(*two, most=7, more=(None, real(1, HEADS, 3, 7), real(HEADS))),
    ]


def one_query() -> list[Case]:
    def case(*operands: Array | None, outs: int = 3, shared: int = 1) -> Case:
        attrs = {"num_heads": HEADS, "past_present_share_buffer": shared}
        return Case("DecoderMaskedMultiHeadAttention", operands, attrs, outs)

    q, k, v, bias = query(1), query(1), query(1), real(3 * WIDTH)
    cache = (keys(8), keys(8), ints(4))
    return [
        case(q, keys(5), keys(5), outs=1, shared=0),
        case(q, k, v, some_of(2, 5), None, *cache),
        case(q, k, v, None, real(1, HEADS, 1, 5), *cache, None, None, bias),
    ]


def embedding() -> list[Case]:
    x, four = query(), real(BATCH, HEADS, STEPS, SIZE)
    each = places([1, 2, 3], [0, 5, 2])
    turns, half = (real(9, 4), real(9, 4)), (real(9, 2), real(9, 2))
    tokens = _random.integers(0, 7, (2, 4)).astype(np.int32)
    segments = _random.integers(0, 2, (2, 4)).astype(np.int32)
    tables = (real(7, 6), real(9, 6))
    weights = (real(6), real(6))
    whole = (tokens, segments, *tables, real(2, 6), *weights)
    some = {"num_heads": HEADS, "rotary_embedding_dim": 4}
    lookup = "EmbedLayerNormalization"
    return [
        Case("RotaryEmbedding", (x, places(1), *turns)),
        Case("RotaryEmbedding", (x, each, *turns), {"interleaved": 1}),
        Case("RotaryEmbedding", (x, each, *half), some),
        Case("RotaryEmbedding", (four, each, *turns)),
        Case("RotaryEmbedding", (four, places(3), *turns)),
        Case(lookup, whole, outs=3),
        Case(lookup, (*whole, some_of(2, 4)), {"epsilon": 1e-3}, outs=2),
        Case(lookup, (*whole, None, ints([3, 2, 1, 0])), outs=2),
        Case(lookup, (tokens, None, *tables, None, *weights), outs=2),
    ]


CASES = [*separate(), *projected(), *decoding(), *one_query(), *embedding(), *hidden()]


@pytest.mark.runtime
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bodies_mean_what_the_kernels_compute(case: Case) -> None:
    pytest.importorskip("onnxruntime")
    assert faults_of_meaning(case) == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_types_follow_from_the_body(case: Case) -> None:
    assert faults_of_types(case) == []


@pytest.mark.runtime
@pytest.mark.parametrize("case", CASES, ids=str)
def test_they_stay_what_they_are(case: Case) -> None:
    assert faults_of_keeping(case) == []


# --- what the kernels for CPUs do not have ------------------------------------------


def run(kind: str, *operands: Array | None, **attrs: Any) -> Array:
    case = Case(kind, operands, {"num_heads": HEADS} | attrs)
    (made,) = graphopt.run_model(case.model(), case.inputs())
    return made


def test_tensors_in_one_are_those_apart() -> None:
    q, k, v = query(), query(), query()
    heads = [x.reshape(BATCH, STEPS, HEADS, SIZE) for x in (q, k, v)]
    bias, kind = real(3 * WIDTH), "MultiHeadAttention"
    apart = run(kind, q, k, v, bias)
    np.testing.assert_allclose(run(kind, np.stack(heads, 3), None, None, bias), apart)
    both = np.stack(heads[1:], 3)
    np.testing.assert_allclose(run(kind, q, both, None, bias), apart)


def test_a_mask_of_all_pairs_is_read_where_the_queries_are() -> None:
    x, weights, bias = real(BATCH, STEPS, 6), real(6, 3 * WIDTH), real(3 * WIDTH)
    past = real(2, BATCH, HEADS, 4, SIZE)
    pairs = some_of(BATCH, 1, 9, 9)
    rows = np.ascontiguousarray(pairs[:, 0, 4:7, :7])
    np.testing.assert_array_equal(
        run("Attention", x, weights, bias, pairs, past),
        run("Attention", x, weights, bias, rows, past),
    )


def test_heads_are_normalized_before_they_are_turned() -> None:
    case = cached(1, 4, (4, 3), most=5, angles=8)
    weight = real(16)

    def normed(x: Array) -> Array:
        heads = x.reshape(*x.shape[:2], -1, 16).astype(np.float64)
        scale = np.sqrt(np.mean(np.square(heads), -1, keepdims=True) + 1e-6)
        return (heads / scale * weight).reshape(x.shape).astype(np.float32)

    q, k, *others = case.operands
    assert q is not None
    assert k is not None
    more = (*(None,) * 5, weight, weight)
    (inside, *_) = outputs(Case(case.kind, (q, k, *others, *more), case.attrs, 3))
    (outside, *_) = outputs(
        Case(case.kind, (normed(q), normed(k), *others), case.attrs, 3)
    )
    np.testing.assert_allclose(inside, outside, rtol=1e-5, atol=1e-6)


def outputs(case: Case) -> list[Array]:
    return graphopt.run_model(case.model(), case.inputs())


@pytest.mark.parametrize(
    "case",
    [
        cached(1, 4, (4, 3), most=5, sliding_window_cache=1, local_window_size=2),
        cached(1, 4, (4, 3), most=5, more=(*(None,) * 7, ints(1, 1))),
        Case("Attention", (query(), real(16, 48)), {"num_heads": 2, "do_rotary": 1}),
        Case(
            "MultiHeadAttention",
            (query(), query(), query(), None, None, None, keys(), keys()),
            {"num_heads": HEADS},
        ),
    ],
    ids=str,
)
def test_forms_that_are_not_understood_are_carried(case: Case) -> None:
    result = graphopt.optimize(graphopt.load(case.model(copied=True)))
    assert result.report.check is not None
    assert result.report.check.lost == tuple(f"output z{i}" for i in range(case.outs))


ALL_NAMED = [decoding()[-1], separate()[-1], embedding()[5]]


@pytest.mark.parametrize("case", ALL_NAMED, ids=str)
def test_results_that_nobody_reads_keep_their_names(case: Case) -> None:
    """Without them kernels would not read the past, or fail."""
    model = case.model(copied=True)
    del model.graph.output[1:]
    made = graphopt.optimize_model(model)
    assert len(made.graph.output) == 1
    (node,) = made.graph.node
    assert len(list(filter(None, node.output))) == 3


def test_what_is_not_understood_has_types_all_the_same() -> None:
    facts: dict[str, Any] = {"local_window_size": 2, "sliding_window_cache": 1}
    case = cached(1, 4, (4, 3), most=5, **facts)
    y, keys, values = graphopt.load(case.model()).outputs
    assert y.shape == (2, 1, 32)
    assert keys.shape == values.shape == (2, 1, 4, 16)
    case = cached(1, 4, (4, 3), most=5, v_quant_type="PER_TENSOR")
    _, keys, _ = graphopt.load(case.model()).outputs
    assert keys.shape == (2, 1, None, 16)


def test_types_of_symbols() -> None:
    """A cache is as long as it was, or as all that its sizes say there is."""
    of, b, s, p = graphopt.ops.contrib, *map(dims.symbol, "bsp")
    total = dims.symbol("total")
    tokens = Parameter(TensorType(DType.F32, (b, s, 16)))
    past = Parameter(TensorType(DType.F32, (b, 2, p, 8)))
    mask = Parameter(TensorType(DType.I64, (b, total)))
    grown = of.MultiHeadAttention(
        *(tokens, tokens, tokens, None, None, None, past, past), num_heads=2, outs=3
    )
    assert grown.types[0].shape == (b, s, 16)
    assert grown.types[1].shape == (b, 2, dims.add(p, s), 8)
    last = Parameter(TensorType(DType.I32, (b,)))
    most = graphopt.ops.Cast(graphopt.ops.Shape(mask, start=1, end=2), to=DType.I32)
    step = of.GroupQueryAttention(
        *(tokens, tokens, tokens, past, past, last, most),
        num_heads=2,
        kv_num_heads=2,
        outs=3,
    )
    assert step.types[0].shape == (b, s, 16)
    assert step.types[1].shape == (b, 2, dims.maximum(p, total), 8)
