"""One of each op that is what its body is, without index maps of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt import ops
from graphopt.ir import Parameter, Value
from graphopt.ops.flattened import FLATTENED
from graphopt.ops.structured import Composite
from graphopt.reference import schedule
from graphopt.types import DType, TensorType


def x(*shape: Any, dtype: DType = DType.F32) -> Parameter:
    return Parameter(TensorType(dtype, shape), f"x{len(shape)}")


def weight(*shape: int, dtype: Any = np.float32) -> ops.Constant:
    return ops.Constant(np.zeros(shape, dtype))


def ints(*values: int) -> ops.Constant:
    return ops.Constant(np.array(values, np.int64))


def whole(*values: int) -> ops.Constant:
    return ops.Constant(np.array(values, np.int32))


def inner(op: Composite) -> list[Any]:
    """The ops of a body."""
    assert op.expansion is not None
    given = [value for value in op.operands if value is not None]
    return schedule(op.expansion[: op.outs], given)


def composites() -> list[Composite]:
    """One of each composite op that has no index maps of its own."""
    labels, weights = x(4, 5, dtype=DType.I64), x(3)
    facts: Mapping[str, Any] = {"ignore_index": 1}
    rotated = ops.RotaryEmbedding(x(2, 4, 6, 8), x(2, 6, 4), x(2, 6, 4))
    return [
        ops.CausalConvWithState(x(2, 3, 8), weight(3, 1, 4), weight(3), outs=2),
        rotated,
        ops.NegativeLogLikelihoodLoss(x(4, 3, 5), labels, weights, **facts),
        ops.SoftmaxCrossEntropyLoss(x(4, 3, 5), labels, weights, outs=2, **facts),
        *(kind(x(2, 3, 4), axis=1) for kind in FLATTENED.values()),
        ops.FlexAttention(*[x(2, 4, 6, 8) for _ in range(3)]),
        *optimizers(),
        *contrib_ops(),
    ]


def optimizers() -> list[Composite]:
    """A step of each for two tensors."""
    rate, steps = x(), x(dtype=DType.I64)
    tensors = [x(*shape) for _ in range(4) for shape in ((3, 4), (5,))]
    mixed: Mapping[str, Any] = {"alpha": 0.9, "beta": 1.0, "norm_coefficient": 0.1}
    return [
        ops.Adagrad(rate, steps, *tensors[:6]),
        ops.Adam(rate, steps, *tensors),
        ops.Momentum(rate, steps, *tensors[:6], mode="nesterov", **mixed),
    ]


def contrib_ops() -> list[Composite]:
    """One of each op of ONNX Runtime's own."""
    tokens, other, row, of = x(2, 4, 8), x(2, 4, 8), weight(8), ops.contrib
    return [
        of.Gelu(tokens),
        of.BiasGelu(tokens, row),
        of.FastGelu(tokens, row),
        of.SkipLayerNormalization(tokens, other, row, x(8)),
        of.SkipSimplifiedLayerNormalization(tokens, other, row),
        of.FusedMatMul(tokens, weight(2, 3, 8), transB=1),
        of.QuickGelu(tokens),
        of.FusedGemm(x(4, 8), weight(8, 3), activation="Relu"),
        of.FusedConv(x(1, 2, 5, 5), weight(4, 2, 3, 3), activation="Relu"),
        *contrib_attentions(),
        *contrib_quantized(),
        *contrib_others(),
    ]


def contrib_attentions() -> list[Composite]:
    tokens, heads, of = x(2, 4, 8), {"num_heads": 2}, ops.contrib
    ids, segments, mask = (x(2, 4, dtype=DType.I32) for _ in range(3))
    cache, places = (x(2, 2, 6, 4), x(2, 2, 6, 4)), x(1, 4, dtype=DType.I64)
    rows = (x(2, 4, 8), x(2, 4, 8), x(2, 4, 8))
    last, most = whole(5, 5), whole(6)
    step = (x(2, 1, 8), x(2, 1, 8), x(2, 1, 8))
    attrs: Mapping[str, Any] = {**heads, "kv_num_heads": 2}
    shared: Mapping[str, Any] = {**heads, "past_present_share_buffer": 1}
    tables = (weight(9, 8), weight(5, 8), weight(2, 8))
    return [
        of.Attention(tokens, weight(8, 24), weight(24), mask, **heads),
        of.MultiHeadAttention(*rows, weight(24), mask, **heads),
        of.GroupQueryAttention(*step, *cache, last, most, outs=3, **attrs),
        of.DecoderMaskedMultiHeadAttention(
            *(*step, None, None, *cache, whole(4)), outs=3, **shared
        ),
        of.EmbedLayerNormalization(ids, segments, *tables, x(8), x(8), mask),
        of.RotaryEmbedding(tokens, places, x(9, 2), x(9, 2), num_heads=2),
    ]


def contrib_quantized() -> list[Composite]:
    of, u8 = ops.contrib, DType.U8

    def facts(*shape: int) -> tuple[Value, ...]:
        """What is quantized, its scale and zero point."""
        return x(*shape, dtype=u8), x(), x(dtype=u8)

    def result() -> tuple[Value, ...]:
        return x(), x(dtype=u8)

    image = facts(1, 2, 5, 5)
    tokens = (x(2, 4, dtype=DType.I32), x(2, 4, dtype=DType.I32))
    tables = (facts(9, 8), facts(5, 8), facts(2, 8), facts(8), facts(8))
    arrays, scales, zeros = zip(*tables, strict=True)
    packed: Mapping[str, Any] = {"K": 32, "N": 3, "block_size": 16}
    by_axis = (x(4), x(4, dtype=u8))
    left, right = x(2, 3, 8, dtype=u8), x(8, 4, dtype=u8)
    return [
        of.QLinearSigmoid(*facts(2, 3), *result()),
        of.QLinearLeakyRelu(*facts(2, 3), *result()),
        of.QLinearSoftmax(*facts(2, 3), *result(), opset=13),
        of.QLinearReduceMean(*facts(2, 3), *result(), axes=[1], keepdims=1),
        of.QLinearGlobalAveragePool(*image, *result()),
        of.QLinearAveragePool(*image, *result(), kernel_shape=[2, 2]),
        of.QLinearAdd(*facts(2, 3), *facts(2, 3), *result()),
        of.QLinearMul(*facts(2, 3), *facts(2, 3), *result()),
        of.QLinearWhere(x(2, 3, dtype=DType.BOOL), *facts(2, 3), *facts(3), *result()),
        of.QLinearConcat(*result(), *facts(2, 3), *facts(2, 4), axis=1),
        of.QLinearConv(*image, *facts(4, 2, 3, 3), *result(), channels_last=0),
        of.MatMulIntegerToFloat(left, right, x(), x()),
        of.DynamicQuantizeMatMul(x(2, 3, 8), right, x()),
        of.QGemm(*facts(4, 8), *facts(8, 3), None, *result()),
        of.QuantizeLinear(x(2, 4), *by_axis),
        of.DequantizeLinear(x(2, 4, dtype=u8), *by_axis),
        of.QAttention(left, x(8, 24, dtype=u8), x(24), x(), x(), num_heads=2),
        of.QEmbedLayerNormalization(*tokens, *arrays, None, *scales, *zeros, outs=2),
        of.MatMulNBits(x(2, 32), x(3, 2, 8, dtype=u8), x(3, 2), **packed),
        of.GatherBlockQuantized(
            *(x(9, 16, dtype=u8), x(2, 3, dtype=DType.I64), x(9, 2)), block_size=16
        ),
    ]


def contrib_others() -> list[Composite]:
    tokens, other, row, of = x(2, 4, 8), x(2, 4, 8), weight(8), ops.contrib
    image, kernels, u8 = x(1, 5, 5, 2), weight(4, 2, 3, 3), DType.U8
    norm: Mapping[str, Any] = {"activation": 1, "groups": 2}
    channels = (x(1, 5, 5, 4), x(4), x(4))
    return [
        of.ScaledSiLU(tokens),
        of.BiasAdd(tokens, row, other),
        of.BiasSplitGelu(tokens, row),
        of.BiasSoftmax(tokens, x(2, 1, 8), axis=2, is_inner_broadcast=1),
        of.BiasDropout(tokens, row, other, outs=2),
        of.LayerNormalization(tokens, row),
        of.SimplifiedLayerNormalization(tokens, row, outs=2),
        of.TransposeMatMul(tokens, weight(2, 3, 8), transB=1),
        of.FusedMatMulActivation(tokens, weight(2, 8, 3), activation="Relu"),
        of.GemmFastGelu(tokens, weight(8, 3), weight(3)),
        of.NhwcConv(image, kernels),
        of.NhwcFusedConv(image, kernels, activation="Relu"),
        of.NhwcMaxPool(x(1, 5, 5, 2, dtype=u8), kernel_shape=[2, 2]),
        of.GroupNorm(*channels, **norm),
        of.SkipGroupNorm(*channels, x(1, 4), outs=2, **norm),
        of.Trilu(tokens),
        of.Pad(tokens, ints(0, 0, 1, 0, 0, 1)),
        of.GatherND(tokens, x(3, 1, dtype=DType.I32)),
        of.GridSample(x(1, 2, 4, 4), x(1, 3, 3, 2)),
        of.Range(ints(1), ints(5)),
        of.ExpandDims(tokens, whole(1)),
        of.Rfft(tokens),
        of.Irfft(x(2, 5, 2), signal_ndim=1),
        of.CDist(x(3, 4), x(5, 4)),
        of.QMoE(
            *(x(5, 8), x(5, 4), x(4, 16, 4, dtype=u8), x(4, 16), None),
            *(x(4, 8, 8, dtype=u8), x(4, 8)),
            normalize_routing_weights=1,
        ),
        of.MatMulBnb4(
            *(x(2, 16), x(24, dtype=u8), x(3)), K=16, N=3, block_size=16, quant_type=1
        ),
        of.LinearAttention(
            *(x(2, 3, 8), x(2, 3, 8), x(2, 3, 12)),
            q_num_heads=2,
            kv_num_heads=2,
            update_rule="linear",
            outs=2,
        ),
        of.CausalConvWithState(x(2, 4, 5), x(4, 1, 3), outs=2),
        of.GatedRMSNorm(tokens, weight(4), other),
        of.GatedAdd(tokens, other, x(2, 4, 1)),
        of.MRotaryEmbedding(
            *(tokens, x(3, 2, 4, dtype=DType.I64), x(9, 2), x(9, 2)),
            num_heads=2,
            mrope_section=[1, 1, 0],
        ),
        of.MoE(x(5, 8), x(5, 4), weight(4, 16, 8), x(4, 16), weight(4, 8, 16), k=2),
    ]
