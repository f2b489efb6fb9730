"""Transformers over text that keep no state between calls."""

import torch
import transformers as hf

from .build import VOCABULARY, Build, Calls, keyword_build, text_build, tokens

LENGTH = {0: "batch", 1: "seq"}
SOURCE = {0: "batch", 1: "source"}


def roberta() -> Build:
    """Positions counted from the padding."""
    config = hf.RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=1536,
    )
    return text_build(hf.RobertaModel(config, add_pooling_layer=False))


def distilbert() -> Build:
    """BERT without segments."""
    config = hf.DistilBertConfig(
        vocab_size=VOCABULARY, dim=384, n_layers=6, n_heads=6, hidden_dim=1536
    )
    config._attn_implementation = "eager"
    return text_build(hf.DistilBertModel(config))


def clip_text() -> Build:
    """The text side of CLIP: causal, quick GELU, pooled where the end token stands."""
    config = hf.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=1536,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=VOCABULARY - 1,
    )
    model = hf.CLIPTextModel(config)
    return text_build(model, ("last_hidden_state", "pooler_output"), 77, False)


def gemma() -> Build:
    """Gemma 2: GeGLU, norms scaled by 1 + w, capped scores and logits, windows."""
    config = hf.Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=1536,
        sliding_window=64,
        use_cache=False,
        attn_implementation="eager",
    )
    return text_build(hf.Gemma2ForCausalLM(config), ("logits",))


def phi() -> Build:
    """Attention and feed-forward side by side, half of each head rotated."""
    config = hf.PhiConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=1536,
        use_cache=False,
    )
    return text_build(hf.PhiForCausalLM(config), ("logits",))


def gptneox() -> Build:
    """One product for query, key and value; a quarter of each head rotated."""
    config = hf.GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=1536,
        use_cache=False,
    )
    return text_build(hf.GPTNeoXForCausalLM(config), ("logits",))


def gptj() -> Build:
    """Interleaved rotation of the first part of each head."""
    config = hf.GPTJConfig(
        vocab_size=VOCABULARY,
        n_embd=384,
        n_layer=6,
        n_head=6,
        rotary_dim=32,
        n_positions=256,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    return text_build(hf.GPTJForCausalLM(config), ("logits",))


def _t5_config(**more: object) -> hf.T5Config:
    return hf.T5Config(
        vocab_size=VOCABULARY,
        d_model=384,
        d_kv=64,
        d_ff=1024,
        num_layers=6,
        num_heads=6,
        use_cache=False,
        **more,
    )


def t5() -> Build:
    """The encoder, with relative position bias and without scaled scores."""
    return text_build(hf.T5EncoderModel(_t5_config()))


def t5_decoder() -> Build:
    """The decoder with gated GELU, over states of the encoder and their mask."""
    config = _t5_config(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model = hf.T5ForConditionalGeneration(config)
    model.encoder = torch.nn.Identity()
    inputs = {
        "decoder_input_ids": tokens(),
        "encoder_hidden_states": torch.randn(1, 128, 384),
        "encoder_attention_mask": torch.ones(1, 128, dtype=torch.int64),
    }
    axes = dict.fromkeys(inputs, SOURCE) | {"decoder_input_ids": LENGTH}

    def call(
        model: hf.T5ForConditionalGeneration,
        ids: torch.Tensor,
        states: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor]:
        result = model(
            decoder_input_ids=ids, encoder_outputs=(states,), attention_mask=mask
        )
        return (result.logits,)

    return Build(Calls(model, call), inputs, ("logits",), axes)


def bart() -> Build:
    """Encoder and decoder in one graph."""
    config = hf.BartConfig(
        vocab_size=VOCABULARY,
        d_model=384,
        encoder_layers=3,
        decoder_layers=3,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        max_position_embeddings=256,
        use_cache=False,
    )
    ids = tokens()
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "decoder_input_ids": tokens(),
    }
    axes = dict.fromkeys(inputs, SOURCE) | {"decoder_input_ids": LENGTH}
    model = hf.BartForConditionalGeneration(config)
    return keyword_build(model, inputs, ("logits",), axes)


BUILDS = {
    build.__name__: build
    for build in (
        *(roberta, distilbert, clip_text, gemma, phi, gptneox, gptj),
        *(t5, t5_decoder, bart),
    )
}
