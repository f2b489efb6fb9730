"""What a model is fed with, held against it on the host before a step takes it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UsageError
from ..ir import Graph, Parameter, Value
from .batches import Array, Batch
from .weights import behind

_UNEVEN: Final = 0.05
"""How far the sums of probabilities may miss 1."""


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
        whole = array == np.floor(array) if array.dtype.kind == "f" else True
        within = (array >= 0) & whole
        if self.classes is not None:
            within &= array < self.classes
        if self.ignored is not None:
            within |= array == self.ignored
        if within.all():
            return
        what = "the targets" if self.input is None else f"input {self.input!r}"
        known = "labels are whole numbers from 0"
        if self.classes is not None:
            known = f"there are {self.classes} classes, 0 to {self.classes - 1}"
        if self.ignored is not None:
            known += f", and {self.ignored} to be ignored"
        raise UsageError(f"{what} hold the label {array[~within][0]} {place}: {known}")

    def warn_of_rows(self, array: Array) -> bool:
        """Warns where rows are no probabilities; rows of zeros count for nothing."""
        array = np.asarray(array)
        if self.rank is None or array.ndim != self.rank + 1:
            return False
        if array.shape[1] != (self.classes or array.shape[1]):
            return False
        sums = array.sum(1, dtype=np.float64)
        odd = (np.abs(sums - 1) > _UNEVEN) & (array != 0).any(1)
        if odd.any():
            warnings.warn(
                "targets with the axes of the prediction are probabilities, but rows"
                f" (along axis 1) of them sum to {sums[odd].flat[0]:.4g}, not 1",
                stacklevel=2,
            )
        return bool(odd.any())


@dataclass(frozen=True)
class Places:
    """Rows of a table that an input names: the first is 0, or -``rows``."""

    input: str
    op: str
    rows: int

    def check(self, array: Array, place: str) -> None:
        """Raises UsageError for a row that the table lacks; XLA reads another."""
        array = np.asarray(array)
        if array.dtype.kind not in "iu":
            return
        beyond = (array < -self.rows) | (array >= self.rows)
        if beyond.any():
            raise UsageError(
                f"input {self.input!r} holds {array[beyond][0]} {place}, but the table"
                f" that it indexes ({self.op}) has {self.rows} rows, 0 to"
                f" {self.rows - 1}"
            )


@dataclass(frozen=True)
class Intake:
    """The checks of a run. ``sizes`` are the first axes that the model fixes."""

    sizes: Mapping[str, int]
    labels: tuple[Labels, ...]
    places: tuple[Places, ...] = ()
    warned: set[str] = field(default_factory=set)

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
        return cls(sizes, tuple(labels), tuple(_indexing(graph)))

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
                if "rows" not in self.warned and labels.warn_of_rows(batch.targets):
                    self.warned.add("rows")
            elif labels.input in batch.inputs:
                labels.check(batch.inputs[labels.input], place)
        for places in self.places:
            if places.input in batch.inputs:
                places.check(batch.inputs[places.input], place)


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


def _indexing(graph: Graph) -> Iterator[Places]:
    """Inputs that name rows of a table whose extent is known."""
    for _, op in graph.walk():
        if op.kind != "Gather":
            continue
        table, indices = op.operands
        assert table is not None
        assert indices is not None
        source = behind(indices)
        if not isinstance(source, Parameter) or source not in graph.inputs:
            continue
        axis: Any = op.attrs.get("axis", 0)
        rows = table.shape[axis] if table.shape else None
        if isinstance(rows, int):
            yield Places(source.name, f"{op.label} {graph.names.get(op, '')!r}", rows)


def _classes(scores: Value) -> int | None:
    shape = scores.shape or ()
    return shape[1] if len(shape) > 1 and isinstance(shape[1], int) else None
