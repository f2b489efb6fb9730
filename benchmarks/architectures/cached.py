"""Decoders that take keys and values of the tokens before, and return all of them."""

import torch
import transformers as hf

from .build import VOCABULARY, Build, Calls, tokens

LAYERS = 6
HEAD = 64
PAST = 128
PAST_AXES = {0: "batch", 2: "past"}
SOURCE_AXES = {0: "batch", 2: "source"}


def _state(kind: str, side: str = "") -> list[str]:
    """Names of keys and values as exporters of language models give them."""
    return [
        f"{kind}.{layer}.{side}{part}"
        for layer in range(LAYERS)
        for part in ("key", "value")
    ]


def _caches(parts: tuple[torch.Tensor, ...]) -> hf.DynamicCache:
    return hf.DynamicCache(list(zip(parts[::2], parts[1::2], strict=True)))


def _parts(cache: hf.DynamicCache) -> list[torch.Tensor]:
    return [part for layer in cache.layers for part in (layer.keys, layer.values)]


def llama_past() -> Build:
    """One step of Llama with grouped queries."""
    heads = 2
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=heads,
        intermediate_size=1408,
    )
    past = _state("past_key_values")
    inputs = {
        "input_ids": tokens(length=1),
        "attention_mask": torch.ones(1, PAST + 1, dtype=torch.int64),
        "position_ids": torch.full((1, 1), PAST),
    }
    inputs |= {name: torch.randn(1, heads, PAST, HEAD) for name in past}
    axes = {
        "input_ids": {0: "batch", 1: "seq"},
        "attention_mask": {0: "batch", 1: "past + seq"},
        "position_ids": {0: "batch", 1: "seq"},
    }

    def call(
        model: hf.LlamaForCausalLM,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        *past: torch.Tensor,
    ) -> list[torch.Tensor]:
        cache = _caches(past)
        result = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
        )
        return [result.logits, *_parts(cache)]

    return Build(
        Calls(hf.LlamaForCausalLM(config), call),
        inputs,
        ["logits", *_state("present")],
        axes | dict.fromkeys(past, PAST_AXES),
    )


def whisper_decoder_past() -> Build:
    """One step of Whisper's decoder, what the encoder said being cached too."""
    heads, source = 6, 256
    config = hf.WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=heads * HEAD,
        encoder_layers=1,
        decoder_layers=LAYERS,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        decoder_ffn_dim=1536,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=1,
    )
    own = _state("past_key_values", "decoder.")
    other = _state("past_key_values", "encoder.")
    inputs = {"input_ids": tokens(length=1)}
    inputs |= {name: torch.randn(1, heads, PAST, HEAD) for name in own}
    inputs |= {name: torch.randn(1, heads, source, HEAD) for name in other}
    axes = {"input_ids": {0: "batch"}} | dict.fromkeys(own, PAST_AXES)
    axes |= dict.fromkeys(other, SOURCE_AXES)

    def call(
        model: hf.WhisperForConditionalGeneration,
        ids: torch.Tensor,
        *past: torch.Tensor,
    ) -> list[torch.Tensor]:
        cache = _caches(past[: 2 * LAYERS])
        result = model.model.decoder(
            input_ids=ids,
            # only asked whether it is there: keys and values come from the cache
            encoder_hidden_states=torch.zeros(1, 1, heads * HEAD),
            cache=hf.EncoderDecoderCache(cache, _caches(past[2 * LAYERS :])),
            use_cache=True,
        )
        return [model.proj_out(result.last_hidden_state), *_parts(cache)]

    model = hf.WhisperForConditionalGeneration(config)
    model.model.encoder = torch.nn.Identity()
    outputs = ["logits", *_state("present", "decoder.")]
    return Build(Calls(model, call), inputs, outputs, axes)


BUILDS = {"llama_past": llama_past, "whisper_decoder_past": whisper_decoder_past}
