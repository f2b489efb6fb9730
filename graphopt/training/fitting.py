"""`fit`: batches in, a model with other weights out."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
import optax

from ..errors import UsageError, nearest
from ..exporter import Wanted, save
from ..exporter.storage import Weights
from ..importer import load
from ..ir import Graph
from ..lowering import Model
from ..lowering.xla.function import Function, tensor_of, with_params
from ..output import check_destination, data_files
from .batches import Array, Batches, Data
from .checkpoint import Checkpoints
from .losses import LOSSES, METRICS, Measure, measure_of, name_of
from .progress import Bar, Event
from .steps import Measured, Params, Steps, mesh_of
from .structure import structure
from .weights import MASTER, Frozen, kept, refuse_stated

Row = dict[str, float]

VALIDATION: Final = "validation_"


@dataclass(frozen=True)
class Result:
    """A trained model, and how it came about.

    ``graph`` has the interface of the model and its new weights, which ``params`` has
    by name. ``history`` has a row an epoch (means over the examples that it saw, while
    the weights changed; then ``validation_…`` after it), ``losses`` a number a step.
    ``untrained`` says of each weight that is as before why. ``origin`` is the file that
    the model came from, ``data`` are the files that its weights lay in.
    """

    graph: Graph
    params: dict[str, np.ndarray[Any, Any]]
    history: list[Row]
    losses: list[float]
    untrained: dict[str, str]
    origin: Path | None = None
    data: frozenset[Path] = frozenset()

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        opset: Wanted = None,
        weights: Weights = "auto",
        overwrite: bool = False,
    ) -> None:
        """Write the model, whole or not at all; raises as `graphopt.exporter.save`.

        "auto" ``weights`` go into a data file where those of the model were in one.
        Raises UsageError also where ``path`` or its data file belongs to the model that
        was trained, or exists, unless ``overwrite`` is given.
        """
        path = Path(path)
        check_destination(path, self.origin, overwrite=overwrite, inputs=self.data)
        if weights == "auto" and self.data:
            weights = "external"
        save(self.graph, path, opset=opset, weights=weights)


def fit(
    model: Model | Graph,
    data: Data,
    *,
    optimizer: optax.GradientTransformation,
    loss: str | Measure,
    metrics: Sequence[str | Measure] = (),
    output: str | None = None,
    batch_size: int = 32,
    epochs: int = 1,
    shuffle: bool = True,
    drop_last: bool = False,
    validation: Data | None = None,
    frozen: Frozen = (),
    mesh: jax.sharding.Mesh | int | None = None,
    mixed_precision: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    seed: int = 0,
    progress: Callable[[Event], None] | bool | None = None,
) -> Result:
    """Train the float weights of a model on ``data``, as ``(inputs, targets)``.

    ``loss`` and ``metrics`` are names (`LOSSES`, `METRICS`) or functions ``(prediction,
    target)`` that give a number an example; the prediction is the ``output`` of that
    name, the only one, or a dict of all. A ``mesh`` (or a number of devices) splits
    each batch. ``mixed_precision`` takes products in bfloat16, of float32 weights. With
    ``checkpoint``, a folder, a run that was killed goes on where the last of its
    checkpoints was made (every epoch, or so many steps), with the same numbers as if
    nothing had happened. ``frozen`` weights stay as they are, and so do statistics of
    batch normalizations, scales of quantization, and whatever is not float.
    ``progress`` is called at each step and epoch; by default a bar is drawn where
    stderr is a terminal.

    Raises UsageError, InvalidModel, UnsupportedModel; DataDependent where a shape
    depends on data.
    """
    graph = model if isinstance(model, Graph) else load(model, apart=True)
    origin = Path(model) if isinstance(model, str | os.PathLike) else None
    refuse_stated(graph)
    if output is not None and output not in graph.output_names:
        known = nearest(output, graph.output_names)
        raise UsageError(f"no output is called {output!r}{known}")
    if isinstance(loss, str) and output is None and len(graph.outputs) > 1:
        listed = ", ".join(map(repr, graph.output_names))
        raise UsageError(f"the model has the outputs {listed}: say which by output=")
    names = [p.name for p in graph.inputs if p.default is None]
    order = seed if shuffle else None
    tell = _teller(progress)
    with ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        run = _Run(
            graph=graph,
            steps=Steps(
                graph,
                optimizer,
                {
                    "loss": measure_of(loss, LOSSES),
                    **{name_of(m): measure_of(m, METRICS) for m in metrics},
                },
                output,
                mesh_of(mesh),
                "bfloat16" if mixed_precision else "fp32",
            ),
            data=Batches(data, names, batch_size, order, drop_last),
            validation=None
            if validation is None
            else Batches(validation, names, batch_size, None),
            epochs=epochs,
            seed=seed,
            tell=tell,
        )
        run.start(frozen)
        if checkpoint is not None:
            about = {
                "graph": structure(graph, Function(graph).weights),
                "trained": sorted(run.trained),
                "weights": run.digest(),
                "output": output,
                "loss": name_of(loss),
                "metrics": [name_of(m) for m in metrics],
                "examples": run.data.examples,
                "batch_size": batch_size,
                "seed": order,
                "drop_last": drop_last,
                "mixed_precision": mixed_precision,
            }
            run.checkpoints = Checkpoints(checkpoint, about)
            stack.callback(run.checkpoints.close)
            run.checkpoint_every = checkpoint_every
            run.resume()
        run.train()
        return run.result(origin)


class _Run:
    """A run on its way: weights, state, the place in the data, the curve so far."""

    def __init__(
        self,
        graph: Graph,
        steps: Steps,
        data: Batches,
        validation: Batches | None,
        epochs: int,
        seed: int,
        tell: Callable[[Event], None],
    ) -> None:
        self.graph = graph
        self.steps = steps
        self.data = data
        self.validation = validation
        self.epochs = epochs
        self.seed = seed
        self.tell = tell
        self.checkpoints: Checkpoints | None = None
        self.checkpoint_every: int | None = None
        self.epoch = 0
        self.done = 0  # steps of this epoch
        self.total = 0
        self.measured: list[Measured] = []  # of this epoch, perhaps not computed yet
        self.losses: list[float] = []
        self.history: list[Row] = []

    def start(self, frozen: Frozen) -> None:
        """Put weights on the devices: those that are trained, and the others."""
        function = Function(self.graph)
        self.untrained = kept(self.graph, function.weights, frozen)
        everywhere = self.steps.everywhere
        trained: Params = {}
        others: Params = {}
        for name, value in function.weights.items():
            tensor = tensor_of(value)
            if name in self.untrained:
                others[name] = tensor.array()
            else:
                master = MASTER.get(tensor.dtype, tensor.dtype)
                trained[name] = tensor.array().astype(master.numpy)
        if not trained:
            raise UsageError(
                "no weight is left to train: "
                + "; ".join(f"{n} is {why}" for n, why in self.untrained.items())
            )
        self.trained = jax.device_put(trained, everywhere)
        self.others = jax.device_put(others, everywhere)
        self.state = jax.device_put(self.steps.optimizer.init(self.trained), everywhere)

    def digest(self) -> str:
        """Of names, types and bits of all weights at the start."""
        made = hashlib.sha256()
        for name, array in sorted({**self.trained, **self.others}.items()):
            held = np.asarray(array)
            made.update(f"{name}:{held.dtype}{held.shape};".encode())
            made.update(held.tobytes())
        return made.hexdigest()

    # The loop

    def train(self) -> None:
        while self.epoch < self.epochs:
            for batch in self.data.epoch(self.epoch, self.done):
                if self._is_due():
                    self._save()
                placed = self.steps.place(batch)
                self.trained, self.state, measured = self.steps.done(
                    self.steps.train(
                        self.trained, self.state, self.others, placed, self._key()
                    )
                )
                self.measured.append(measured)
                self.done += 1
                self.total += 1
                self.tell(self._event(measured))
            if not self.measured:
                raise UsageError(
                    "an epoch without a batch: there is no data, or drop_last leaves"
                    " nothing of it"
                )
            self._end_epoch()

    def _key(self) -> Array:
        """What a step draws its random numbers from; the same after a resume."""
        return jax.random.fold_in(jax.random.key(self.seed), self.total)

    def _end_epoch(self) -> None:
        measured = [_floats(m) for m in self.measured]
        row: Row = {"epoch": self.epoch + 1, **_means(measured)}
        if self.validation is not None:
            row |= {VALIDATION + k: v for k, v in self._evaluated().items()}
        self.history.append(row)
        self.losses += [m["loss"] for m in measured]
        event = self._event(measured[-1], row)
        self.measured, self.done = [], 0
        self.epoch += 1
        self._save()
        self.tell(event)

    def _evaluated(self) -> Row:
        assert self.validation is not None
        measured = [
            _floats(
                self.steps.evaluate(
                    self.trained, self.others, self.steps.place(batch), self._key()
                )
            )
            for batch in self.validation.epoch(self.epoch)
        ]
        if not measured:
            raise UsageError("an epoch without a batch: there is no validation data")
        return _means(measured)

    def _event(self, measured: Measured, row: Row | None = None) -> Event:
        place = (self.epoch + 1, self.epochs, self.done, self.data.steps)
        return Event(*place, measured, row)

    # Checkpoints

    def _is_due(self) -> bool:
        """Asked before the next step: the last of an epoch is saved with its end."""
        every = self.checkpoint_every
        return bool(every and self.done and self.total % every == 0)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        self.measured = [_floats(m) for m in self.measured]
        curve = {
            "epoch": self.epoch,
            "done": self.done,
            "measured": self.measured,
            "losses": self.losses,
            "history": self.history,
        }
        self.checkpoints.save(self.total, (self.trained, self.state), curve)

    def resume(self) -> None:
        """Go on from the newest checkpoint, where there is one. Raises UsageError."""
        assert self.checkpoints is not None
        found = self.checkpoints.newest((self.trained, self.state))
        if found is None:
            return
        self.total, held, curve = found
        self.trained, self.state = jax.device_put(held, self.steps.everywhere)
        self.epoch, self.done = curve["epoch"], curve["done"]
        self.measured, self.losses = curve["measured"], curve["losses"]
        self.history = curve["history"]

    def result(self, origin: Path | None) -> Result:
        weights = Function(self.graph).weights
        params = {
            name: np.asarray(array).astype(tensor_of(weights[name]).dtype.numpy)
            for name, array in self.trained.items()
        }
        return Result(
            with_params(self.graph, params),
            {**params, **{n: np.asarray(a) for n, a in self.others.items()}},
            self.history,
            self.losses,
            self.untrained,
            origin,
            frozenset(data_files(self.graph)),
        )


def _floats(measured: Mapping[str, Array]) -> dict[str, float]:
    """What was computed, the loss first."""
    names = sorted(measured, key=lambda name: (name != "loss", name))
    return {name: float(measured[name]) for name in names}


def _means(measured: Sequence[Mapping[str, float]]) -> Row:
    """Means over examples, of what was measured of batches."""
    total = sum(m["weight"] for m in measured)
    return {
        name: sum(m[name] * m["weight"] for m in measured) / total
        for name in measured[0]
        if name != "weight"
    }


def _teller(progress: Callable[[Event], None] | bool | None) -> Callable[[Event], None]:
    if callable(progress):
        return progress
    shown = sys.stderr.isatty() if progress is None else progress
    return Bar() if shown else lambda event: None
