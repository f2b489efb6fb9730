"""Losses and metrics: one number an example, from a prediction and its target.

Classes lie along axis 1, as ONNX's own losses have them; targets are their numbers, or
a row of probabilities (one-hot or soft) of the prediction's shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UsageError, nearest

Array: TypeAlias = Any
Measure: TypeAlias = Callable[[Any, Any], Array]
"""``measure(prediction, target)``: one number an example (the first axis), or one."""


def categorical_crossentropy(p: Array, target: Array) -> Array:
    """-log of the probability that the prediction gives to the target."""
    return _chosen(jnp.log(_positive(p)), target)


def categorical_crossentropy_logits(x: Array, target: Array) -> Array:
    """`categorical_crossentropy` of the scores' softmax."""
    return _chosen(jax.nn.log_softmax(x, axis=1), target)


def binary_crossentropy(p: Array, target: Array) -> Array:
    """-log of the probability of the target, 0 or 1 (or between), by element."""
    y = _like(target, p)
    return -(y * jnp.log(_positive(p)) + (1 - y) * jnp.log(_positive(1 - p)))


def binary_crossentropy_logits(x: Array, target: Array) -> Array:
    """`binary_crossentropy` of the scores' sigmoid."""
    return jax.nn.softplus(x) - _like(target, x) * x


def mse(x: Array, target: Array) -> Array:
    """The squared error."""
    return jnp.square(x - _like(target, x))


def mae(x: Array, target: Array) -> Array:
    """The absolute error."""
    return jnp.abs(x - _like(target, x))


def accuracy(x: Array, target: Array) -> Array:
    """1 where the largest class is the target's."""
    if target.ndim == x.ndim:
        target = target.argmax(1)
    return x.argmax(1) == target


def binary_accuracy(p: Array, target: Array) -> Array:
    """1 where probability and target are on one side of a half."""
    return (p > 0.5) == (_like(target, p) > 0.5)


LOSSES: Final[Mapping[str, Measure]] = {
    measure.__name__: measure
    for measure in (
        categorical_crossentropy,
        categorical_crossentropy_logits,
        binary_crossentropy,
        binary_crossentropy_logits,
        mse,
        mae,
    )
}
SCORES: Final[Mapping[str, str]] = {
    name: f"{name}_logits"
    for name in ("categorical_crossentropy", "binary_crossentropy")
}
"""The losses of probabilities, and their likes of scores."""

CATEGORICAL: Final = ("categorical_crossentropy", "categorical_crossentropy_logits")
"""The losses whose targets may be numbers of classes."""

METRICS: Final[Mapping[str, Measure]] = {
    **LOSSES,
    "accuracy": accuracy,
    "binary_accuracy": binary_accuracy,
}


def measure_of(wanted: str | Measure, known: Mapping[str, Measure]) -> Measure:
    """A measure by its name, or itself. Raises UsageError."""
    if callable(wanted):
        return wanted
    if not isinstance(wanted, str):
        raise UsageError(
            f"{wanted!r} is no measure: give a name ({', '.join(known)}), or a function"
            " of prediction and target"
        )
    if wanted not in known:
        raise UsageError(f"no measure is called {wanted!r}{nearest(wanted, known)}")
    return known[wanted]


def name_of(wanted: str | Measure) -> str:
    """What a measure is called in a history."""
    if isinstance(wanted, str):
        return wanted
    return getattr(wanted, "__name__", type(wanted).__name__)


def known_name(wanted: str | Measure) -> str | None:
    """The name of one of `LOSSES`; None of any other function."""
    name = name_of(wanted)
    measure = wanted if callable(wanted) else LOSSES.get(name)
    return name if name in LOSSES and LOSSES[name] is measure else None


def by_example(measure: Measure, measured: Array, count: int, *, loss: bool) -> Array:
    """One float an example: the mean over its other axes, in measures of `METRICS`.

    A scalar stays one. Raises UsageError where the first axis does not count examples,
    for more axes in others' measures, and for a loss that can have no gradient.
    """
    name = name_of(measure)
    if not isinstance(measured, jax.Array):
        raise UsageError(
            f"{name!r} gave {_kind(measured)}, not an array of JAX made of the"
            " prediction"
        )
    if loss and not jnp.issubdtype(measured.dtype, jnp.floating):
        raise UsageError(
            f"the loss {name!r} gave {measured.dtype}, which has no gradient: a loss is"
            " of floats"
        )
    if measured.dtype.itemsize < 4 or measured.dtype.kind != "f":
        measured = measured.astype(jnp.float32)
    if measured.ndim == 0:
        return measured
    own = measure not in METRICS.values()
    if measured.shape[0] != count or (own and measured.ndim > 1):
        mean = (
            "; take the mean over the other axes" if measured.shape[0] == count else ""
        )
        raise UsageError(
            f"{name!r} gave the shape {measured.shape} for {count} examples: a loss or"
            f" metric gives one number for each, or one for all{mean}"
        )
    return measured.reshape(count, -1).mean(1)


def _kind(given: Any) -> str:
    scalar = isinstance(given, bool | int | float)
    return f"the number {given!r}" if scalar else f"a {type(given).__name__}"


def _chosen(logarithm: Array, target: Array) -> Array:
    if target.ndim == logarithm.ndim:
        return -(_like(target, logarithm) * logarithm).sum(1)
    chosen = jnp.expand_dims(target.astype(jnp.int32), 1)
    return -jnp.take_along_axis(logarithm, chosen, axis=1).squeeze(1)


def _positive(p: Array) -> Array:
    """Kept from zero, where a logarithm ends."""
    return jnp.maximum(p, np.finfo(p.dtype).tiny)


def _like(target: Array, x: Array) -> Array:
    """The target in the type of the prediction. Raises UsageError for other shapes."""
    if target.shape != x.shape:
        raise UsageError(
            f"the target has the shape {target.shape}, the prediction {x.shape}"
        )
    return target.astype(x.dtype)
