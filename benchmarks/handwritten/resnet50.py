"""ResNet-50 for images, as `transformers.ResNetForImageClassification` computes it.

Channels are the last axis of values, and of weights all but the first two: XLA on CPUs
convolves in that layout, and transposes what comes in another. Norms are folded.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import onnx

from .weights import Weights

BLOCKS = (3, 4, 6, 3)

Array = Any
Params = dict[str, Any]


def params(model: onnx.ModelProto) -> Params:
    """The weights of an exported model, its convolutions being in program order."""
    weights = Weights(model)
    convolutions = iter(weights.convolutions())
    stem = next(convolutions)

    def block(first: bool) -> Params:
        made = {name: next(convolutions) for name in ("reduce", "spatial", "expand")}
        if first:
            made["shortcut"] = next(convolutions)
        return made

    stages = [[block(index == 0) for index in range(count)] for count in BLOCKS]
    head = weights.linear("model.classifier.1")
    return {"stem": stem, "stages": stages, "head": head}


def apply(params: Params, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Logits (batch, 1000) of `pixel_values` (batch, 3, height, width)."""
    x = inputs["pixel_values"].transpose(0, 2, 3, 1)
    x = max_pool(jax.nn.relu(convolution(params["stem"], x, stride=2)))
    for index, stage in enumerate(params["stages"]):
        for number, block in enumerate(stage):
            x = bottleneck(block, x, stride=2 if index and not number else 1)
    head = params["head"]
    return {"logits": x.mean((1, 2)) @ head["w"] + head["b"]}


def bottleneck(params: Params, x: Array, stride: int) -> Array:
    """Three convolutions around a shortcut; the middle one has the stride."""
    y = jax.nn.relu(convolution(params["reduce"], x))
    y = jax.nn.relu(convolution(params["spatial"], y, stride))
    y = convolution(params["expand"], y)
    if "shortcut" in params:
        x = convolution(params["shortcut"], x, stride)
    return jax.nn.relu(y + x)


def convolution(params: Params, x: Array, stride: int = 1) -> Array:
    """A convolution that is padded to keep the extent, but for the stride.

    Of single points it is a matrix product, and XLA is faster if it is told so.
    """
    weight = params["w"]
    if weight.shape[:2] == (1, 1):
        return x[:, ::stride, ::stride] @ weight[0, 0] + params["b"]
    around = weight.shape[0] // 2
    y = jax.lax.conv_general_dilated(
        x,
        weight,
        window_strides=(stride, stride),
        padding=[(around, around)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + params["b"]


def max_pool(x: Array) -> Array:
    """The maxima of 3 x 3 windows, two apart; rows first, which saves half the work."""
    for axis in (1, 2):
        window, strides, padding = [1] * 4, [1] * 4, [(0, 0)] * 4
        window[axis], strides[axis], padding[axis] = 3, 2, (1, 1)
        x = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, tuple(window), tuple(strides), padding
        )
    return x
