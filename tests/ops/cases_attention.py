"""Cases of attention, rotary embedding and linear attention."""

from __future__ import annotations

from typing import Any

import numpy as np
from single import Case, normal, sweep

from graphopt.types import DType

Q, K, V = (2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 6)
FLAT = ((2, 3, 32), (2, 5, 16), (2, 5, 12))
HEADS = {"q_num_heads": 4, "kv_num_heads": 2}
SAME = ((2, 4, 3, 8), (2, 4, 5, 8), (2, 4, 5, 6))
PAST = ((2, 2, 4, 8), (2, 2, 4, 6))


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        options.setdefault("ulps", 32)
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    few = [DType.F32, DType.F16]
    add("Attention", [SAME, (Q, K, V)], [{}, {"is_causal": 1}, {"scale": 0.5}])
    add("Attention", [FLAT], [HEADS, {**HEADS, "softcap": 2.0}], dtypes=few)
    masks = [(3, 5), (2, 1, 3, 5), (1, 4, 3, 5), (3, 3)]
    add("Attention", [(Q, K, V, mask) for mask in masks], dtypes=few)
    add(
        "Attention",
        [(Q, K, V, _bools(*mask)) for mask in masks],
        [{}, {"is_causal": 1}],
        dtypes=few,
    )
    modes = [{"qk_matmul_output_mode": mode, "softcap": 1.5} for mode in range(4)]
    add(
        "Attention",
        [(Q, K, V, (3, 9), *PAST)],
        [{**m, "is_causal": 1} for m in modes],
        dtypes=[DType.F32],
        outs=4,
    )
    add("Attention", [(*FLAT, None, *PAST)], [HEADS], dtypes=[DType.F32], outs=3)
    lengths = np.array([2, 5])
    windows = [
        {"is_causal": 1},
        {"left_window_size": 1},
        {"left_window_size": 2, "right_window_size": 0},
        {"right_window_size": 1, "is_causal": 1, "left_window_size": 0},
        {},
    ]
    add("Attention", [(Q, K, V, None, None, None, lengths)], windows, dtypes=few)
    add("Attention", [(Q, K, V)], windows, dtypes=few)
    add("Attention", [(Q, K, V)], [{"softmax_precision": 1}], dtypes=few)

    flat = {"num_heads": 2}
    add(
        "RotaryEmbedding",
        [((2, 3, 4, 8), (2, 4, 4), (2, 4, 4))],
        [{}, {"interleaved": 1}],
    )
    add(
        "RotaryEmbedding",
        [((2, 3, 4, 8), (50, 4), (50, 4), _positions)],
        [{}, {"interleaved": 1}],
    )
    add(
        "RotaryEmbedding",
        [((2, 4, 16), (50, 2), (50, 2), _positions)],
        [
            {**flat, "rotary_embedding_dim": 4},
            {**flat, "rotary_embedding_dim": 4, "interleaved": 1},
        ],
    )
    add("RotaryEmbedding", [((2, 4, 16), (2, 4, 4), (2, 4, 4))], [flat])

    sizes = {"q_num_heads": 4, "kv_num_heads": 2}
    q, k, v, state = (2, 5, 24), (2, 5, 12), (2, 5, 8), (2, 2, 6, 4)
    decay, beta = _below(2, 5, 12), _below(2, 5, 2)
    for rule, *rest in (
        ("linear",),
        ("gated", decay),
        ("delta", None, beta),
        ("gated_delta", decay, beta),
        ("gated_delta", _below(2, 5, 2), _below(2, 5, 1)),
    ):
        attrs = [{**sizes, "update_rule": rule}]
        add("LinearAttention", [(q, k, v, state, *rest)], attrs, outs=2, values=small)
        shapes = [(q, k, v, None, *rest)] if rest else [(q, k, v)]
        add("LinearAttention", shapes, attrs, outs=2, values=small, dtypes=[DType.F32])
    return made


def small(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    return normal(rng, shape, dtype) * dtype.numpy.type(0.25)


def _bools(*shape: int) -> Any:
    def mask(rng: np.random.Generator, _: DType) -> Any:
        return rng.random(shape) < 0.6

    mask.__name__ = "bool" + "x".join(map(str, shape))
    return mask


def _below(*shape: int) -> Any:
    def below(rng: np.random.Generator, dtype: DType) -> Any:
        return -np.abs(normal(rng, shape, dtype)) * dtype.numpy.type(0.25)

    return below


def _positions(rng: np.random.Generator, _: DType) -> Any:
    return rng.integers(0, 50, (2, 4))
