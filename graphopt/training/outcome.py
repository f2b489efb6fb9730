"""What comes out of a step, held against what the loss takes: probabilities, scores,
and numbers at all."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import jax.numpy as jnp

from ..errors import GraphoptError, UsageError
from ..ir import Op, Value
from .batches import Array, Batch
from .intake import odd_numbers
from .losses import SCORES
from .weights import behind

_NORMAL: Final = ("Softmax", "FlatSoftmax", "Sigmoid")
"""Kinds whose results are probabilities."""

_LOGARITHMS: Final = ("LogSoftmax", "FlatLogSoftmax")

_BEYOND: Final = 0.01
_UNEVEN: Final = 0.05
"""How far probabilities, and the sums of their rows, may miss: bfloat16 rounds them."""

MOVING: Final = "moving"
"""Whether any gradient of a step is not zero, among what shows of a prediction."""

_EXACT: Final = 1e-3
"""Rows of scores never sum to one so exactly."""


class NotFinite(GraphoptError):
    """A loss or a weight became NaN or infinite while a model was trained."""


@dataclass
class Outcome:
    """The checks of a run whose loss has this name.

    ``known`` is the name where it is a loss of `LOSSES`, of the ``output``.
    """

    name: str
    known: str | None
    output: str
    warned: bool = field(default=False, init=False)
    begun: bool = field(default=False, init=False)

    def check_graph(self, value: Value) -> None:
        """Raises UsageError, or warns, where the op behind an output shows enough."""
        source = behind(value)
        kind = source.kind if isinstance(source, Op) else ""
        if self.known in SCORES and kind in _LOGARITHMS:
            raise self._refused(f"is a {kind}, never above 0")
        normal = kind in _NORMAL
        if self.known == "binary_crossentropy_logits":
            normal |= kind in _LOGARITHMS
        if self.known in SCORES.values() and normal:
            self._warn(f"is a {kind}")

    def spread(self, prediction: Array) -> dict[str, Array]:
        """What `check_spread` needs to know of a prediction; traced with the step."""
        if self.known not in (*SCORES, "categorical_crossentropy_logits"):
            return {}
        found = {"low": prediction.min(), "high": prediction.max()}
        if self.known != "binary_crossentropy" and prediction.ndim > 1:
            found["uneven"] = jnp.abs(prediction.sum(1) - 1).max()
        return found

    def check_spread(self, spread: Mapping[str, Array], place: str) -> None:
        """Raises UsageError for what cannot be probabilities; warns of what is odd."""
        found = {name: float(array) for name, array in spread.items()}
        if not found.pop(MOVING) and not self.begun:
            warnings.warn(
                f"all gradients are 0 {place}, so no weight learns: does the loss"
                f" {self.name!r} see the prediction through something without a slope,"
                " such as argmax, a comparison or rounding?",
                stacklevel=2,
            )
        self.begun = True
        if not found:
            return
        low, high, uneven = found["low"], found["high"], found.get("uneven", 0)
        if self.known in SCORES:
            if low < -_BEYOND or high > 1 + _BEYOND:
                raise self._refused(f"reaches from {low:.4g} to {high:.4g} {place}")
            if uneven > _UNEVEN:
                self._warn(
                    f"has rows (along axis 1) that miss the sum 1 by {uneven:.3g}"
                )
        elif low >= 0 and high <= 1 and uneven < _EXACT:
            self._warn("has rows (along axis 1) that sum to 1")

    def check_loss(
        self, loss: float, batch: Batch, place: str, before: Batch | None = None
    ) -> None:
        """Raises NotFinite for NaN or infinity. ``before`` is the batch before it."""
        if not math.isfinite(loss):
            raise NotFinite(
                f"the loss {self.name!r} is {loss} {place}: {_cause(batch, before)}"
            )

    def _refused(self, what: str) -> UsageError:
        assert self.known is not None
        return UsageError(
            f"the output {self.output!r} {what}, but {self.known!r} takes"
            f" probabilities: use {SCORES[self.known]!r}, which takes scores"
        )

    def _warn(self, what: str) -> None:
        """Once in a run."""
        if self.warned:
            return
        self.warned = True
        taken, other = "probabilities", f"{self.known}_logits"
        if self.known not in SCORES:
            taken, other = "scores", str(self.known).removesuffix("_logits")
        warnings.warn(
            f"the output {self.output!r} {what}, but {self.known!r} takes {taken}: is"
            f" {other!r} meant?",
            stacklevel=2,
        )


def refuse_weights(odd: Collection[str], place: str, last: Batch | None) -> None:
    """Raises NotFinite where these weights are NaN or infinite after a batch."""
    if odd:
        name = min(odd)
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise NotFinite(
            f"there is NaN or infinity in the weight {name!r}{more} {place}:"
            f" {_cause(None, last)}"
        )


def _cause(batch: Batch | None, before: Batch | None) -> str:
    """Why numbers are no longer finite, and what to do."""
    if batch is not None and (found := odd_numbers(batch)):
        return found
    if before is not None and (found := odd_numbers(before)):
        return f"{found} of the step that changed the weights last"
    return (
        "inputs and targets are finite. Take a smaller learning rate, clip gradients"
        " (optax.clip_by_global_norm), or a loss of scores, not of probabilities"
        " (…_logits)"
    )
