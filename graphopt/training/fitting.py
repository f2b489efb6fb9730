"""`fit`: batches in, a model with other weights out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from ..errors import UsageError, nearest
from ..exporter import Wanted, save
from ..exporter.storage import Weights
from ..files import file_named
from ..ir import Graph
from ..lowering import Holder, Model, graph_of
from ..lowering.xla.function import with_params
from ..output import check_destination, data_files
from .batches import Batches, Data
from .checkpoint import Checkpoints
from .intake import Intake
from .losses import (
    CATEGORICAL,
    LOSSES,
    METRICS,
    Measure,
    known_name,
    measure_of,
    name_of,
)
from .outcome import Outcome
from .progress import Bar, Event
from .run import Row, Run
from .settings import (
    each_of,
    refuse_checkpoint,
    refuse_no_optimizer,
    size_of,
    whole,
)
from .steps import Steps, mesh_of
from .structure import structure
from .weights import Frozen, refuse_stated
from .within import Activations


@dataclass(frozen=True, repr=False)
class Result:
    """A trained model, and how it came about.

    ``graph`` has the interface of the model and its new weights, which ``params`` has
    by name. ``history`` has a row an epoch (means over the examples that it saw, while
    the weights changed; then ``validation_…`` after it), ``losses`` a number a step.
    ``untrained`` says of each weight that is as before why, ``activations`` what their
    budget cost, where there was one. ``origin`` is the file that
    the model came from, ``data`` are the files that its weights lay in.
    """

    graph: Graph
    params: dict[str, np.ndarray[Any, Any]]
    history: list[Row]
    losses: list[float]
    untrained: dict[str, str]
    activations: Activations | None = None
    origin: Path | None = None
    data: frozenset[Path] = frozenset()

    def __repr__(self) -> str:
        trained = len(self.params) - len(self.untrained)
        loss = f", loss {self.history[-1]['loss']:.4g}" if self.history else ""
        return (
            f"<trained {self.graph.name or '?'}: {len(self.history)} epochs{loss},"
            f" {trained} of {len(self.params)} weights>"
        )

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
        path = file_named(path)
        check_destination(path, self.origin, overwrite=overwrite, inputs=self.data)
        if weights == "auto" and self.data:
            weights = "external"
        save(self.graph, path, opset=opset, weights=weights)


def fit(
    model: Model | Graph | Holder,
    data: Data,
    *,
    optimizer: optax.GradientTransformation,
    loss: str | Measure,
    metrics: Sequence[str | Measure] | str | Measure = (),
    output: str | None = None,
    batch_size: int = 32,
    epochs: int = 1,
    shuffle: bool = True,
    drop_last: bool = False,
    validation: Data | None = None,
    frozen: Frozen = (),
    mesh: jax.sharding.Mesh | int | None = None,
    mixed_precision: bool = False,
    max_activations: int | str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    seed: int = 0,
    progress: Callable[[Event], None] | bool | None = None,
) -> Result:
    """Train the float weights of a model on ``data``, as ``(inputs, targets)``.

    ``loss`` and ``metrics`` are names (`LOSSES`, `METRICS`) or functions ``(prediction,
    target)`` that give a number an example; the prediction is the ``output`` of that
    name, the only one, or a dict of all. A ``mesh`` (or a number of devices) splits
    each batch. ``mixed_precision`` takes products in bfloat16, of float32 weights.
    ``max_activations`` (bytes, or "64MiB") bounds what a step needs beside weights and
    batch, on each device: what does not fit is made again in the backward pass. With
    ``checkpoint``, a folder, a run that was killed goes on where the last of its
    checkpoints was made (every epoch, or so many steps), with the same numbers as if
    nothing had happened. ``frozen`` weights stay as they are, and so do statistics of
    batch normalizations, scales of quantization, and whatever is not float.
    ``progress`` is called at each step and epoch; by default a bar is drawn where
    stderr is a terminal.

    A loss that is NaN or infinite stops the run, as soon as its step is computed and
    before anything is kept of it; weights are looked at before each checkpoint and at
    the end of each epoch. A step never waits for that.

    Raises OutOfBudget where no step fits; UsageError, also for labels that no class has
    and for indices beyond a table; NotFinite; InvalidModel, UnsupportedModel;
    DataDependent where a shape depends on data. Warns where probabilities seem to be
    taken for scores, or the other way round, where rows of targets do not sum to 1, and
    where all gradients are 0 at the start.
    """
    refuse_no_optimizer(optimizer)
    batch_size, epochs = whole("batch_size", batch_size, 1), whole("epochs", epochs, 0)
    seed = whole("seed", seed, 0)
    refuse_checkpoint(checkpoint, checkpoint_every)
    budget = None
    if max_activations is not None:
        budget = size_of("max_activations", max_activations)
    measures = {
        "loss": measure_of(loss, LOSSES),
        **{name_of(m): measure_of(m, METRICS) for m in each_of(metrics)},
    }
    graph = graph_of(model)
    origin = Path(model).absolute() if isinstance(model, str | os.PathLike) else None
    refuse_stated(graph)
    if output is not None and output not in graph.output_names:
        close = nearest(output, graph.output_names)
        raise UsageError(f"no output is called {output!r}{close}")
    if isinstance(loss, str) and output is None and len(graph.outputs) > 1:
        listed = ", ".join(map(repr, graph.output_names))
        raise UsageError(f"the model has the outputs {listed}: say which by output=")
    one = output is not None or len(graph.outputs) == 1
    known = known_name(loss) if one else None
    names = [p.name for p in graph.inputs if p.default is None]
    predicted = output or graph.output_names[0]
    value = graph.outputs[graph.output_names.index(predicted)]
    outcome = Outcome(name_of(loss), known, predicted)
    outcome.check_graph(value)
    order = seed if shuffle else None
    tell = _teller(progress)
    with ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        run = Run(
            graph=graph,
            steps=Steps(
                graph,
                optimizer,
                measures,
                outcome.spread,
                output,
                mesh_of(mesh),
                "bfloat16" if mixed_precision else "fp32",
            ),
            data=Batches(data, names, batch_size, order, drop_last),
            validation=None
            if validation is None
            else Batches(validation, names, batch_size, None, what="validation"),
            intake=Intake.of(graph, value if known in CATEGORICAL else None),
            outcome=outcome,
            epochs=epochs,
            seed=seed,
            tell=tell,
            budget=budget,
        )
        run.data.refuse_no_pair()
        if run.validation is not None:
            run.validation.refuse_no_pair()
        run.start(frozen)
        if checkpoint is not None:
            about = {
                "graph": structure(graph, run.weights),
                "trained": sorted(run.trained),
                "weights": run.digest(),
                "output": output,
                "loss": name_of(loss),
                "metrics": [name for name in measures if name != "loss"],
                "examples": run.data.examples,
                "batch_size": batch_size,
                "seed": seed,
                "shuffle": shuffle,
                "drop_last": drop_last,
                "mixed_precision": mixed_precision,
            }
            run.checkpoints = Checkpoints(checkpoint, about)
            stack.callback(run.checkpoints.close)
            run.checkpoint_every = checkpoint_every
            run.resume()
        run.train()
        params = run.params
        others = {name: np.asarray(array) for name, array in run.others.items()}
        return Result(
            with_params(graph, params),
            {**params, **others},
            run.history,
            run.losses,
            run.untrained,
            run.activations,
            origin,
            frozenset(data_files(graph)),
        )


def _teller(progress: Callable[[Event], None] | bool | None) -> Callable[[Event], None]:
    if callable(progress):
        return progress
    shown = sys.stderr.isatty() if progress is None else progress
    return Bar() if shown else lambda event: None
