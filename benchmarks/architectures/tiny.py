"""Many more architectures of transformers, two layers small: what was never tuned for.

Sizes are set by the names that configurations use for them; a name that one does not
know is left out. Attention is the fused one of torch, where the model has that.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers as hf

from .build import Axes, Build, Calls

WORDS, LENGTH, SHORTER = 512, 16, 8
TEXT: Axes = {0: "batch", 1: "seq"}
TARGET: Axes = {0: "batch", 1: "tgt"}
BATCH: Axes = {0: "batch"}

SIZES: dict[str, Any] = {
    "pad_token_id": 0,
    "use_cache": False,
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
READS: dict[str, Any] = {**SIZES, "vocab_size": WORDS, "max_position_embeddings": 64}
SEES: dict[str, Any] = {**SIZES, "image_size": 64, "patch_size": 16, "num_labels": 10}
HEARS: dict[str, Any] = {
    **SIZES,
    "vocab_size": 32,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
TRANSLATES: dict[str, Any] = {
    "vocab_size": WORDS,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "use_cache": False,
    "d_model": 64,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 128),
}
PYRAMID: dict[str, Any] = {"hidden_sizes": [16, 32, 64, 64], "depths": [1] * 4}
GROWING: dict[str, Any] = {**PYRAMID, "num_attention_heads": [1, 2, 2, 4]}


def built(kind: str, sizes: dict[str, Any], inputs: Callable[[], Any]) -> Build:
    """A model of a class of transformers, of these sizes."""
    make = getattr(hf, kind)
    config = configured(make.config_class, sizes)
    try:
        model = make(config)
    except ValueError:  # it has no fused attention
        config._attn_implementation = "eager"
        model = make(config)
    arrays, axes = inputs()
    names = list(arrays)

    def call(model: torch.nn.Module, *args: torch.Tensor) -> list[torch.Tensor]:
        result = model(**dict(zip(names, args, strict=True)))
        return [result.logits if hasattr(result, "logits") else result[0]]

    return Build(Calls(model, call), arrays, ("out",), axes)


def configured(kind: Any, sizes: dict[str, Any]) -> Any:
    """A configuration with those of the sizes that it knows."""
    known = set(inspect.signature(kind.__init__).parameters)
    known |= set(getattr(kind, "attribute_map", {}))
    if dataclasses.is_dataclass(kind):
        known |= {field.name for field in dataclasses.fields(kind)}
    config = kind(**{name: size for name, size in sizes.items() if name in known})
    config._attn_implementation = "sdpa"
    return config


def ids(length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, WORDS - 12, (1, length))


def words() -> Any:
    arrays = {"input_ids": ids(), "attention_mask": torch.ones_like(ids())}
    return arrays, dict.fromkeys(arrays, TEXT)


def sentences() -> Any:
    arrays = {"input_ids": ids(), "decoder_input_ids": ids(SHORTER)}
    return arrays, {"input_ids": TEXT, "decoder_input_ids": TARGET}


def pixels() -> Any:
    return {"pixel_values": torch.randn(1, 3, 64, 64)}, {"pixel_values": BATCH}


def waves() -> Any:
    return {"input_values": torch.randn(1, 8000)}, {"input_values": BATCH}


def reads(kind: str, **more: Any) -> Callable[[], Build]:
    return partial(built, kind, {**READS, **more}, words)


def sees(kind: str, **more: Any) -> Callable[[], Build]:
    return partial(built, kind, {**SEES, **more}, pixels)


def hears(kind: str, **more: Any) -> Callable[[], Build]:
    return partial(built, kind, {**HEARS, **more}, waves)


def translates(kind: str) -> Callable[[], Build]:
    return partial(built, kind, TRANSLATES, sentences)


BUILDS: dict[str, Callable[[], Build]] = {
    "tiny_albert": reads("AlbertModel", embedding_size=32),
    "tiny_bloom": reads("BloomForCausalLM", n_layer=2, n_head=4),
    "tiny_deberta": reads(
        *("DebertaV2Model",),
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["c2p", "p2c"],
        share_att_key=True,
    ),
    "tiny_falcon": reads("FalconForCausalLM", alibi=False, multi_query=True),
    "tiny_granite": reads("GraniteForCausalLM"),
    "tiny_lfm2": reads("Lfm2ForCausalLM", layer_types=["conv", "full_attention"]),
    "tiny_mistral": reads("MistralForCausalLM", sliding_window=8),
    "tiny_mobilebert": reads(
        *("MobileBertModel",),
        embedding_size=32,
        intra_bottleneck_size=32,
        true_hidden_size=32,
    ),
    "tiny_modernbert": reads(
        "ModernBertModel", global_attn_every_n_layers=2, local_attention=8
    ),
    "tiny_opt": reads("OPTForCausalLM", ffn_dim=128, word_embed_proj_dim=64),
    "tiny_persimmon": reads("PersimmonForCausalLM"),
    "tiny_qwen3": reads("Qwen3ForCausalLM"),
    "tiny_stablelm": reads("StableLmForCausalLM"),
    "tiny_starcoder2": reads("Starcoder2ForCausalLM"),
    "tiny_marian": translates("MarianMTModel"),
    "tiny_pegasus": translates("PegasusForConditionalGeneration"),
    "tiny_beit": sees("BeitForImageClassification", use_relative_position_bias=True),
    "tiny_dinov2": sees("Dinov2ForImageClassification"),
    "tiny_efficientnet": sees(
        *("EfficientNetForImageClassification",),
        width_coefficient=0.5,
        depth_coefficient=0.3,
        hidden_dim=640,
    ),
    "tiny_levit": sees(
        *("LevitForImageClassification",),
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        key_dim=[8] * 3,
        depths=[1] * 3,
    ),
    "tiny_poolformer": sees("PoolFormerForImageClassification", **PYRAMID),
    "tiny_pvt": sees("PvtForImageClassification", **GROWING),
    "tiny_segformer": sees(
        "SegformerForSemanticSegmentation", decoder_hidden_size=32, **GROWING
    ),
    "tiny_hubert": hears(
        "HubertModel", feat_extract_norm="layer", do_stable_layer_norm=True
    ),
    "tiny_wav2vec2": hears("Wav2Vec2ForCTC"),
}
