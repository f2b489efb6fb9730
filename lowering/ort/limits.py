"""What the kernels of ONNX Runtime want beyond element types: ranks, above all.

Only of ops that graphopt may make. The ranks are those of microsoft/onnxruntime in the
files named, tried on the CPU with version 1.32.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from graphopt.dims import Shape, add, equal
from graphopt.ir import Op, Value
from graphopt.ops.contrib import DOMAIN

Beyond: TypeAlias = Callable[[str, Op], str | None]
"""What else there is to say against an op, for a provider, once its ranks fit."""


@dataclass(frozen=True)
class Limit:
    """The ranks that operands may have, by position, and which file says so."""

    ranks: Mapping[int, tuple[int, ...]]
    source: str
    beyond: Beyond | None = None


def out_of_limits(provider: str, domain: str, kind: str, op: Op) -> str | None:
    """Why a kernel would refuse an op while it runs; None where it would not."""
    limit = LIMITS.get((domain, kind))
    if limit is None:
        return None
    for i, allowed in limit.ranks.items():
        operand = _operand(op, i)
        if operand is None:
            continue
        if operand.rank is None:
            return f"the rank of operand {i} of {kind} is not known"
        if operand.rank not in allowed:
            ranks = " or ".join(map(str, allowed))
            return f"operand {i} of {kind} has rank {operand.rank}, not {ranks}"
    return limit.beyond(provider, op) if limit.beyond is not None else None


def _operand(op: Op, index: int) -> Value | None:
    return op.operands[index] if index < len(op.operands) else None


def _dims(value: Value | None) -> Shape:
    return () if value is None or value.shape is None else value.shape


def _skip(provider: str, op: Op) -> str | None:
    x, skip = _dims(_operand(op, 0)), _dims(_operand(op, 1))
    if x[-2:] != skip[-2:] or None in x[-2:]:
        return f"the last two dims of {op.kind}'s operands are not known to be equal"
    return None


def _bias(provider: str, op: Op) -> str | None:
    x, bias = _dims(_operand(op, 0)), _dims(_operand(op, 1))
    if bias and (not x or bias[0] != x[-1] or bias[0] is None):
        return f"the bias of {op.kind} is not known to be as long as its rows"
    return None


def _attention(provider: str, op: Op) -> str | None:
    q, k, v = (_dims(_operand(op, i)) for i in range(3))
    if not len(q) == len(k) == len(v):
        return "queries, keys and values of Attention differ in rank"
    mask, past = _dims(_operand(op, 3)), _operand(op, 4)
    if not mask:
        return None
    if mask[-2] is None or mask[-2] != q[-2]:
        return "the mask of Attention is not known to have a row for each query"
    if past is None and (mask[-1] is None or mask[-1] != k[-2]):
        return "the mask of Attention is not known to have a column for each key"
    return None


def _heads(provider: str, op: Op) -> str | None:
    packed = _operand(op, 1) is None or _operand(op, 2) is None
    if provider == "cpu" and packed:
        return "MultiHeadAttention takes no packed keys and values on the CPU"
    return None


def _grouped(provider: str, op: Op) -> str | None:
    attrs = dict(op.attrs)
    heads, groups = (attrs.get(n) for n in ("num_heads", "kv_num_heads"))
    width = _dims(_operand(op, 0))[-1:]
    if _operand(op, 1) is None and isinstance(groups, int) and isinstance(heads, int):
        heads += 2 * groups
    if not isinstance(heads, int) or not width or not isinstance(width[0], int):
        return "the size of GroupQueryAttention's heads is not known"
    if width[0] % (16 * heads):
        return "heads of GroupQueryAttention are of a multiple of 16"
    angles = _dims(_operand(op, 7))[-1:]
    if angles and (not isinstance(angles[0], int) or angles[0] % 8):
        return "GroupQueryAttention turns a multiple of 16 numbers of each head"
    if not attrs.get("causal", 1) and provider != "cpu":
        return "GroupQueryAttention is causal here"
    mask, past = _dims(_operand(op, 10)), _dims(_operand(op, 3))
    queries = _dims(_operand(op, 0))[1]
    keys = add(queries, past[2] if past else 0)
    if mask and not (equal(mask[2], queries) and equal(mask[3], keys)):
        return "the mask of GroupQueryAttention has no row for each query, or column"
    return None


_CONV_ACTIVATIONS: Final = {
    "cpu": (
        *("", "Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSigmoid"),
        "HardSwish",
    ),
    "cuda": ("Relu",),
}
_GEMM_ACTIVATIONS: Final = (
    *("Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid", "Elu", "Selu"),
    *("Softplus", "Softsign", "ThresholdedRelu"),
)


def _conv(provider: str, op: Op) -> str | None:
    wanted = dict(op.attrs).get("activation", "")
    known = _CONV_ACTIVATIONS[provider]
    if wanted not in known:
        return f"FusedConv has no activation {wanted!r} here, only {', '.join(known)}"
    return None


def _gemm(provider: str, op: Op) -> str | None:
    wanted = dict(op.attrs).get("activation", "")
    if wanted not in _GEMM_ACTIVATIONS:
        return f"FusedGemm has no activation {wanted!r}"
    return None


def _product(provider: str, op: Op) -> str | None:
    attrs = dict(op.attrs)
    if not (attrs.get("transBatchA") or attrs.get("transBatchB")):
        return None
    a, b = (_dims(_operand(op, i)) for i in range(2))
    if len(a) != len(b) or len(a) < 3:
        return "FusedMatMul moves batches only of operands of one rank, 3 or more"
    return None


_CONTRIB: Final = "onnxruntime/contrib_ops/cpu/"
_SKIP: Final = Limit(
    {0: (2, 3), 1: (2, 3), 2: (1,), 3: (1,), 4: (1,)},
    _CONTRIB + "skip_layer_norm_helper.h",
    _skip,
)
_GELU: Final = Limit(
    {0: tuple(range(1, 9)), 1: (1,)}, _CONTRIB + "bert/bias_gelu_helper.cc", _bias
)
_CONVOLUTION: Final = Limit(
    {0: (3, 4, 5), 1: (3, 4, 5)}, "onnxruntime/contrib_ops/cuda/fused_conv.cc", _conv
)
_IMAGES: Final = Limit({0: (4,)}, "onnxruntime/contrib_ops/cuda/diffusion")

LIMITS: Final[Mapping[tuple[str, str], Limit]] = {
    ("", "Attention"): Limit(
        {0: (3, 4), 1: (3, 4), 2: (3, 4), 3: (2, 3, 4), 4: (4,), 5: (4,)},
        "onnxruntime/core/providers/cpu/llm/attention_helper.h",
        _attention,
    ),
    (DOMAIN, "Attention"): Limit(
        {0: (3,), 1: (2,), 2: (1,)}, _CONTRIB + "bert/attention_base.cc"
    ),
    (DOMAIN, "MultiHeadAttention"): Limit(
        {0: (3, 5), 1: (3, 4, 5), 2: (3, 4), 3: (1,), 5: (4,), 6: (4,), 7: (4,)},
        _CONTRIB + "bert/multihead_attention_helper.h",
        _heads,
    ),
    (DOMAIN, "GroupQueryAttention"): Limit(
        {0: (3,), 1: (3,), 2: (3,), 3: (4,), 4: (4,), 10: (4,)},
        _CONTRIB + "bert/group_query_attention_helper.h",
        _grouped,
    ),
    (DOMAIN, "RotaryEmbedding"): Limit(
        {0: (3, 4), 2: (2,), 3: (2,)}, _CONTRIB + "bert/rotary_embedding_helper.h"
    ),
    (DOMAIN, "EmbedLayerNormalization"): Limit(
        {0: (2,), 1: (2,), 2: (2,), 3: (2,), 4: (2,), 5: (1,), 6: (1,)},
        _CONTRIB + "bert/embed_layer_norm_helper.cc",
    ),
    (DOMAIN, "SkipLayerNormalization"): _SKIP,
    (DOMAIN, "SkipSimplifiedLayerNormalization"): Limit(
        {0: (2, 3), 1: (2, 3), 2: (1,), 3: (1,)}, _SKIP.source, _skip
    ),
    (DOMAIN, "BiasGelu"): _GELU,
    (DOMAIN, "FastGelu"): _GELU,
    (DOMAIN, "BiasAdd"): Limit({0: (3,), 1: (1,), 2: (3,)}, _IMAGES.source),
    (DOMAIN, "BiasSplitGelu"): Limit({0: (3,), 1: (1,)}, _IMAGES.source),
    (DOMAIN, "GroupNorm"): _IMAGES,
    (DOMAIN, "SkipGroupNorm"): _IMAGES,
    (DOMAIN, "NhwcConv"): _IMAGES,
    (DOMAIN, "FusedConv"): _CONVOLUTION,
    (DOMAIN, "FusedGemm"): Limit(
        {0: (2,), 1: (2,), 2: (0, 1, 2)}, _CONTRIB + "fused_gemm.cc", _gemm
    ),
    (DOMAIN, "FusedMatMul"): Limit(
        {}, "onnxruntime/core/providers/cpu/math/matmul_helper.h", _product
    ),
}
