"""BERT, post-norm with exact GELU, as `transformers.BertModel` computes it.

Six layers of 512 features in heads of 64; the numbers are read off the weights.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx

from .weights import Weights

HEAD = 64
EPSILON = 1e-12

Array = Any
Params = dict[str, Any]


def params(model: onnx.ModelProto) -> Params:
    """The weights of an exported model; query, key and value are one projection."""
    weights = Weights(model)

    def layer(prefix: str) -> Params:
        parts = [
            weights.linear(f"{prefix}.attention.self.{part}")
            for part in ("query", "key", "value")
        ]
        return {
            "qkv": {k: np.concatenate([p[k] for p in parts], axis=-1) for k in "wb"},
            "out": weights.linear(f"{prefix}.attention.output.dense"),
            "attention_norm": weights.norm(f"{prefix}.attention.output.LayerNorm"),
            "up": weights.linear(f"{prefix}.intermediate.dense"),
            "down": weights.linear(f"{prefix}.output.dense"),
            "norm": weights.norm(f"{prefix}.output.LayerNorm"),
        }

    layers: list[Params] = []
    while f"{_prefix(len(layers))}.output.dense.bias" in weights:
        layers.append(layer(_prefix(len(layers))))
    tables = {
        name: weights[f"model.embeddings.{name}_embeddings.weight"]
        for name in ("word", "position", "token_type")
    }
    return {
        "embeddings": tables,
        "embeddings_norm": weights.norm("model.embeddings.LayerNorm"),
        "layers": layers,
        "pooler": weights.linear("model.pooler.dense"),
    }


def _prefix(layer: int) -> str:
    return f"model.encoder.layer.{layer}"


def apply(params: Params, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Hidden states and the pooled first token: (batch, tokens, 512) and (batch, 512).

    Inputs are `input_ids`, `token_type_ids` and `attention_mask`, each (batch, tokens).
    """
    tables = params["embeddings"]
    ids = inputs["input_ids"]
    x = tables["word"][ids] + tables["token_type"][inputs["token_type_ids"]]
    x = layer_norm(params["embeddings_norm"], x + tables["position"][: ids.shape[1]])
    mask = (inputs["attention_mask"] != 0)[:, None, None, :]
    for layer in params["layers"]:
        mixed = attention(dense(layer["qkv"], x), mask)
        x = layer_norm(layer["attention_norm"], dense(layer["out"], mixed) + x)
        hidden = gelu(dense(layer["up"], x))
        x = layer_norm(layer["norm"], dense(layer["down"], hidden) + x)
    pooled = jnp.tanh(dense(params["pooler"], x[:, 0]))
    return {"last_hidden_state": x, "pooler_output": pooled}


def dense(params: Params, x: Array) -> Array:
    """An affine map of the last axis."""
    return x @ params["w"] + params["b"]


def layer_norm(params: Params, x: Array) -> Array:
    """Zero mean and unit variance over the last axis, then scale and bias."""
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + EPSILON)
    return normal * params["scale"] + params["bias"]


def attention(qkv: Array, mask: Array) -> Array:
    """Each head's values, averaged by softmax over the tokens that are not masked."""
    batch, tokens, _ = qkv.shape

    def heads(x: Array) -> Array:
        return x.reshape(batch, tokens, -1, HEAD).transpose(0, 2, 1, 3)

    query, key, value = map(heads, jnp.split(qkv, 3, axis=-1))
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(HEAD)
    shares = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
    mixed = jnp.einsum("bhqk,bhkd->bhqd", shares, value)
    return mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, -1)


def gelu(x: Array) -> Array:
    """The exact GELU; `jax.nn.gelu` takes `erfc`, which costs twice as much here."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))
