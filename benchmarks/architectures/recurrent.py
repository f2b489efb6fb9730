"""Models whose state does not grow: written out in primitive ops for a fixed length."""

import transformers as hf

from .build import VOCABULARY, Build, text_build


def mamba() -> Build:
    """A selective state space, one step after another."""
    config = hf.MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=4,
        state_size=16,
        use_cache=False,
    )
    return text_build(hf.MambaForCausalLM(config), ("logits",), 32, False)


def mamba2() -> Build:
    """State spaces with one decay for each head, in chunks."""
    config = hf.Mamba2Config(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=4,
        num_heads=12,
        head_dim=64,
        state_size=64,
        n_groups=1,
        chunk_size=32,
        use_cache=False,
    )
    return text_build(hf.Mamba2ForCausalLM(config), ("logits",), 128, False)


def gated_delta() -> Build:
    """Qwen3-Next without experts: a gated delta rule in chunks, then attention."""
    config = hf.Qwen3NextConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=1024,
        linear_num_key_heads=4,
        linear_num_value_heads=8,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        num_experts=0,
        mlp_only_layers=[0, 1, 2, 3],
        use_cache=False,
    )
    return text_build(hf.Qwen3NextForCausalLM(config), ("logits",), 128, False)


BUILDS = {"mamba": mamba, "mamba2": mamba2, "gated_delta": gated_delta}
