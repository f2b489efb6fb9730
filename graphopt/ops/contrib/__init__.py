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
from .decoding import (
    DecoderMaskedMultiHeadAttention as DecoderMaskedMultiHeadAttention,
    GroupQueryAttention as GroupQueryAttention,
)
from .embedding import (
    EmbedLayerNormalization as EmbedLayerNormalization,
    RotaryEmbedding as RotaryEmbedding,
)
from .normalization import (
    SkipLayerNormalization as SkipLayerNormalization,
    SkipSimplifiedLayerNormalization as SkipSimplifiedLayerNormalization,
)
from .products import (
    FusedConv as FusedConv,
    FusedGemm as FusedGemm,
    FusedMatMul as FusedMatMul,
)
