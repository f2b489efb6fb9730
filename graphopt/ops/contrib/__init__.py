"""ONNX Runtime's own ops (com.microsoft), by their bodies: those that models hold."""

from .activation import (
    BiasAdd as BiasAdd,
    BiasDropout as BiasDropout,
    BiasGelu as BiasGelu,
    BiasSoftmax as BiasSoftmax,
    BiasSplitGelu as BiasSplitGelu,
    FastGelu as FastGelu,
    GatedAdd as GatedAdd,
    Gelu as Gelu,
    QuickGelu as QuickGelu,
    ScaledSiLU as ScaledSiLU,
)
from .attention import (
    Attention as Attention,
    MultiHeadAttention as MultiHeadAttention,
)
from .base import (
    DOMAIN as DOMAIN,
    Contrib as Contrib,
    Declared as Declared,
)
from .blocks import (
    GatherBlockQuantized as GatherBlockQuantized,
    MatMulBnb4 as MatMulBnb4,
    MatMulNBits as MatMulNBits,
)
from .decoding import (
    DecoderMaskedMultiHeadAttention as DecoderMaskedMultiHeadAttention,
    GroupQueryAttention as GroupQueryAttention,
)
from .embedding import (
    EmbedLayerNormalization as EmbedLayerNormalization,
    MRotaryEmbedding as MRotaryEmbedding,
    RotaryEmbedding as RotaryEmbedding,
)
from .experts import (
    MoE as MoE,
    QMoE as QMoE,
)
from .images import (
    GroupNorm as GroupNorm,
    NhwcConv as NhwcConv,
    NhwcFusedConv as NhwcFusedConv,
    NhwcMaxPool as NhwcMaxPool,
    SkipGroupNorm as SkipGroupNorm,
)
from .normalization import (
    GatedRMSNorm as GatedRMSNorm,
    LayerNormalization as LayerNormalization,
    SimplifiedLayerNormalization as SimplifiedLayerNormalization,
    SkipLayerNormalization as SkipLayerNormalization,
    SkipSimplifiedLayerNormalization as SkipSimplifiedLayerNormalization,
)
from .products import (
    FusedConv as FusedConv,
    FusedGemm as FusedGemm,
    FusedMatMul as FusedMatMul,
    FusedMatMulActivation as FusedMatMulActivation,
    GemmFastGelu as GemmFastGelu,
    TransposeMatMul as TransposeMatMul,
)
from .quantized import (
    QLinearAdd as QLinearAdd,
    QLinearAveragePool as QLinearAveragePool,
    QLinearConcat as QLinearConcat,
    QLinearConv as QLinearConv,
    QLinearGlobalAveragePool as QLinearGlobalAveragePool,
    QLinearLeakyRelu as QLinearLeakyRelu,
    QLinearMul as QLinearMul,
    QLinearReduceMean as QLinearReduceMean,
    QLinearSigmoid as QLinearSigmoid,
    QLinearSoftmax as QLinearSoftmax,
    QLinearWhere as QLinearWhere,
)
from .scaled import (
    DequantizeLinear as DequantizeLinear,
    DynamicQuantizeLSTM as DynamicQuantizeLSTM,
    DynamicQuantizeMatMul as DynamicQuantizeMatMul,
    MatMulIntegerToFloat as MatMulIntegerToFloat,
    QAttention as QAttention,
    QEmbedLayerNormalization as QEmbedLayerNormalization,
    QGemm as QGemm,
    QuantizeLinear as QuantizeLinear,
)
from .twins import (
    CausalConvWithState as CausalConvWithState,
    CDist as CDist,
    ExpandDims as ExpandDims,
    GatherND as GatherND,
    GridSample as GridSample,
    Inverse as Inverse,
    Irfft as Irfft,
    LinearAttention as LinearAttention,
    Pad as Pad,
    Range as Range,
    Rfft as Rfft,
    Trilu as Trilu,
    Unique as Unique,
)
