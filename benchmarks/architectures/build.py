"""What an export needs of an architecture, and modules that are plain functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Axes = Mapping[int, str]
VOCABULARY = 5000


@dataclass(frozen=True)
class Build:
    """A module that takes `inputs` by position and returns a tuple of `outputs`.

    `axes` names the dynamic axes of inputs for the exporter that traces; the other one
    exports the shapes of the example.
    """

    module: torch.nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: Sequence[str]
    axes: dict[str, Axes] = field(default_factory=dict)


class Calls(torch.nn.Module):
    """A function of a model and of tensors as a module without keyword arguments."""

    def __init__(self, model: torch.nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensors that `call` returns."""
        return tuple(self.call(self.model, *args))


def tokens(batch: int = 1, length: int = 128) -> torch.Tensor:
    """Random token numbers; the first two are left to padding and the like."""
    return torch.randint(2, VOCABULARY, (batch, length))


def keyword_build(
    model: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: Sequence[str],
    axes: dict[str, Axes],
) -> Build:
    """The model called with keyword arguments, returning attributes of its result."""
    names = list(inputs)

    def call(model: torch.nn.Module, *args: torch.Tensor) -> list[torch.Tensor]:
        result = model(**dict(zip(names, args, strict=True)), return_dict=True)
        return [getattr(result, name) for name in outputs]

    return Build(Calls(model, call), inputs, outputs, axes)


def text_build(
    model: torch.nn.Module,
    outputs: Sequence[str] = ("last_hidden_state",),
    length: int = 128,
    dynamic_length: bool = True,
) -> Build:
    """A model of token numbers and their mask."""
    ids = tokens(length=length)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes: Axes = {0: "batch", 1: "seq"} if dynamic_length else {0: "batch"}
    return keyword_build(model, inputs, outputs, dict.fromkeys(inputs, axes))


def randomize_constants(module: torch.nn.Module) -> None:
    """Values for norms and biases, which are ones and zeros in a fresh model."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() == 1 and name.endswith("bias"):
                weight.normal_(0, 0.05)
            elif weight.dim() == 1 and name.endswith("weight"):
                weight.add_(torch.empty_like(weight).uniform_(-0.5, 0.5))
        for part in module.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
