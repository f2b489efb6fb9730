"""What a model is fed with, held against it on the host before a step takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UsageError
from ..ir import Graph, Parameter, Value
from .batches import Array, Batch
from .weights import behind


@dataclass(frozen=True)
class Labels:
    """Numbers of classes: in an input of the model, or (None) the targets.

    ``classes`` is None where that is not known beforehand; ``ignored`` is no class, but
    what the loss does not look at. ``rank`` is that of labels: of more axes, targets
    are probabilities.
    """

    input: str | None
    classes: int | None
    rank: int | None
    ignored: int | None = None

    def check(self, array: Array, place: str) -> None:
        """Raises UsageError for a label that no class has."""
        array = np.asarray(array)
        if self.rank is not None and array.ndim != self.rank:
            return
        within = array >= 0
        if self.classes is not None:
            within &= array < self.classes
        if self.ignored is not None:
            within |= array == self.ignored
        if within.all():
            return
        what = "the targets" if self.input is None else f"input {self.input!r}"
        known = "labels are not below 0"
        if self.classes is not None:
            known = f"there are {self.classes} classes, 0 to {self.classes - 1}"
        if self.ignored is not None:
            known += f", and {self.ignored} to be ignored"
        raise UsageError(f"{what} hold the label {array[~within][0]} {place}: {known}")


@dataclass(frozen=True)
class Intake:
    """The checks of a run. ``sizes`` are the first axes that the model fixes."""

    sizes: Mapping[str, int]
    labels: tuple[Labels, ...]

    @classmethod
    def of(cls, graph: Graph, predicted: Value | None) -> Intake:
        """``predicted`` has the scores of classes whose numbers are the targets."""
        sizes = {
            p.name: p.shape[0]
            for p in graph.inputs
            if p.default is None and p.shape and isinstance(p.shape[0], int)
        }
        labels = list(_held(graph))
        if predicted is not None and predicted.shape is not None:
            labels.append(Labels(None, _classes(predicted), len(predicted.shape) - 1))
        return cls(sizes, tuple(labels))

    def check(self, batch: Batch, place: str) -> None:
        """Raises UsageError for a batch that the model does not take."""
        count = len(batch.weights)
        for name, size in self.sizes.items():
            if name in batch.inputs and size != count:
                raise UsageError(
                    f"a batch has {count} examples, but input {name!r} of the model is"
                    f" for {size}: say batch_size={size}, or make the dim symbolic"
                    f" (graphopt optimize MODEL --dim {name}:0=batch)"
                )
        for labels in self.labels:
            if labels.input is None:
                labels.check(batch.targets, place)
            elif labels.input in batch.inputs:
                labels.check(batch.inputs[labels.input], place)


def odd_numbers(batch: Batch) -> str:
    """Where NaN or infinity is in a batch; "" if nowhere."""
    named = [(f"input {name!r}", array) for name, array in batch.inputs.items()]
    named += [("the targets", array) for array in jax.tree.leaves(batch.targets)]
    floats = [(n, a) for n, a in named if jnp.issubdtype(a.dtype, jnp.inexact)]
    for what, are in (("NaN", np.isnan), ("infinity", np.isinf)):
        places = [name for name, array in floats if are(array).any()]
        if places:
            return f"there is {what} in {', '.join(places)}"
    return ""


def _held(graph: Graph) -> Iterator[Labels]:
    """Labels that losses of the model itself read from its inputs."""
    for _, op in graph.walk():
        if op.kind in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"):
            scores, given, *_ = op.operands
            assert scores is not None
            assert given is not None
            source = behind(given)
            if isinstance(source, Parameter) and source in graph.inputs:
                ignored: Any = op.attrs.get("ignore_index")
                yield Labels(source.name, _classes(scores), None, ignored)


def _classes(scores: Value) -> int | None:
    shape = scores.shape or ()
    return shape[1] if len(shape) > 1 and isinstance(shape[1], int) else None
