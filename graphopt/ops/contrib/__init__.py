"""ONNX Runtime's own ops (com.microsoft), by their bodies: those that models hold."""

from .activation import (
    BiasGelu as BiasGelu,
    FastGelu as FastGelu,
    Gelu as Gelu,
    QuickGelu as QuickGelu,
)
from .attention import (
    Attention as Attention,
    MultiHeadAttention as MultiHeadAttention,
)
from .base import DOMAIN as DOMAIN, Contrib as Contrib
from .blocks import (
    GatherBlockQuantized as GatherBlockQuantized,
    MatMulNBits as MatMulNBits,
)
from .decoding import (
    DecoderMaskedMultiHeadAttention as DecoderMaskedMultiHeadAttention,
    GroupQueryAttention as GroupQueryAttention,
)
from .embedding import (
    EmbedLayerNormalization as EmbedLayerNormalization,
    RotaryEmbedding as RotaryEmbedding,
)
from .normalization import (
    LayerNormalization as LayerNormalization,
    SimplifiedLayerNormalization as SimplifiedLayerNormalization,
    SkipLayerNormalization as SkipLayerNormalization,
    SkipSimplifiedLayerNormalization as SkipSimplifiedLayerNormalization,
)
from .products import (
    FusedConv as FusedConv,
    FusedGemm as FusedGemm,
    FusedMatMul as FusedMatMul,
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
    DynamicQuantizeMatMul as DynamicQuantizeMatMul,
    MatMulIntegerToFloat as MatMulIntegerToFloat,
    QAttention as QAttention,
    QEmbedLayerNormalization as QEmbedLayerNormalization,
    QGemm as QGemm,
    QuantizeLinear as QuantizeLinear,
)
