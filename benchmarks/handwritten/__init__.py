"""Architectures written by hand in plain `jax.numpy`, to hold XLA lowerings against.

Each module is one architecture. `apply(params, inputs)` is a pure function of arrays by
name; `params(model)` reads the weights of an export, by either of torch's exporters.
`PROGRAMS` has both by the name of the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from . import bert, resnet50

Inputs = Mapping[str, Any]
Outputs = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """A function of parameters and inputs, and where its parameters come from."""

    apply: Callable[[Any, Inputs], Outputs]
    params: Callable[[onnx.ModelProto], Any]


PROGRAMS = {
    "bert": Program(bert.apply, bert.params),
    "resnet50": Program(resnet50.apply, resnet50.params),
}
