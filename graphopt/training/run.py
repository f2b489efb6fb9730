"""A run of training: step after step, what they measure, and checkpoints of it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np

from ..errors import UsageError
from ..ir import Graph
from ..lowering.xla.function import Function, tensor_of
from .batches import Array, Batch, Batches
from .checkpoint import Checkpoints
from .intake import Intake
from .outcome import Outcome, refuse_weights
from .progress import Event
from .steps import Measured, Params, Steps
from .weights import MASTER, Frozen, kept, refuse_none
from .within import Activations, within

Row = dict[str, float]

VALIDATION: Final = "validation_"


@dataclass(frozen=True)
class Step:
    """What a step was given, and what it is about to give."""

    number: int
    batch: Batch
    measured: Measured
    spread: Measured

    @property
    def is_there(self) -> bool:
        return bool(self.measured["loss"].is_ready())


class Run:
    """A run on its way: weights, state, the place in the data, the curve so far."""

    def __init__(
        self,
        graph: Graph,
        steps: Steps,
        data: Batches,
        validation: Batches | None,
        intake: Intake,
        outcome: Outcome,
        epochs: int,
        seed: int,
        tell: Callable[[Event], None],
        budget: int | None = None,
    ) -> None:
        self.graph = graph
        self.steps = steps
        self.data = data
        self.validation = validation
        self.intake = intake
        self.outcome = outcome
        self.epochs = epochs
        self.seed = seed
        self.tell = tell
        self.budget = budget
        self.program: Any = None  # of a step; made with the first batch
        self.activations: Activations | None = None
        self.checkpoints: Checkpoints | None = None
        self.checkpoint_every: int | None = None
        self.epoch = 0
        self.done = 0  # steps of this epoch
        self.total = 0
        self.pending: deque[Step] = deque()  # perhaps not computed yet
        self.last: Batch | None = None  # of the last step that was looked at
        self.measured: list[Row] = []  # of this epoch, where it was looked at
        self.losses: list[float] = []
        self.history: list[Row] = []

    def start(self, frozen: Frozen) -> None:
        """Put weights on the devices: those that are trained, and the others."""
        self.weights = Function(self.graph).weights
        self.untrained = kept(self.graph, self.weights, frozen)
        everywhere = self.steps.everywhere
        trained: Params = {}
        others: Params = {}
        for name, value in self.weights.items():
            tensor = tensor_of(value)
            if name in self.untrained:
                others[name] = tensor.array()
            else:
                master = MASTER.get(tensor.dtype, tensor.dtype)
                trained[name] = tensor.array().astype(master.numpy)
        if not trained:
            refuse_none(self.graph, self.untrained)
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
                    self._settle()
                    self._save()
                self.intake.check(batch, self._place(self.done + 1))
                placed = self.steps.place(batch)
                self.trained, self.state, (measured, spread) = self.steps.done(
                    self._step(
                        self.trained, self.state, self.others, placed, self._key()
                    )
                )
                self.done += 1
                self.total += 1
                self.pending.append(Step(self.done, batch, measured, spread))
                self.tell(self._event(measured))
                while self.pending and self.pending[0].is_there:
                    self._look()
            if not self.done:
                raise UsageError(
                    "an epoch without a batch: there is no data, or drop_last leaves"
                    " nothing of it"
                )
            self._end_epoch()

    def _step(self, *arguments: Any) -> Any:
        """A step of training; the first one decides what steps keep in memory."""
        if self.program is None:
            self.program = self.steps.train
            if self.budget is not None:
                self.program, self.activations = within(
                    self.steps, self.budget, *arguments
                )
        return self.program(*arguments)

    def _place(self, step: int) -> str:
        return f"in step {step} of epoch {self.epoch + 1}"

    def _look(self) -> None:
        """Wait for the first step that is pending, and check what it gave."""
        step = self.pending.popleft()
        place = self._place(step.number)
        self.outcome.check_spread(step.spread, place)
        measured = _floats(step.measured)
        self.outcome.check_loss(measured["loss"], step.batch, place, self.last)
        self.last = step.batch
        self.measured.append(measured)

    def _settle(self) -> None:
        """Wait for all steps. Raises NotFinite, also where weights no longer are.

        Weights that never were, such as a mask that is added, may stay so.
        """
        while self.pending:
            self._look()
        finite = self.steps.finite(self.trained)
        odd = [
            name
            for name, good in finite.items()
            if not good and np.isfinite(tensor_of(self.weights[name]).array()).all()
        ]
        place = f"after step {self.done} of epoch {self.epoch + 1}"
        refuse_weights(odd, place, self.last)

    def _key(self) -> Array:
        """What a step draws its random numbers from; the same after a resume."""
        return jax.random.fold_in(jax.random.key(self.seed), self.total)

    def _end_epoch(self) -> None:
        self._settle()
        measured = self.measured
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
        measured: list[Row] = []
        for i, batch in enumerate(self.validation.epoch(self.epoch)):
            place = f"in batch {i} of the validation after epoch {self.epoch + 1}"
            self.intake.check(batch, place)
            found = _floats(
                self.steps.evaluate(
                    self.trained, self.others, self.steps.place(batch), self._key()
                )
            )
            self.outcome.check_loss(found["loss"], batch, place)
            measured.append(found)
        if not measured:
            raise UsageError("an epoch without a batch: there is no validation data")
        return _means(measured)

    def _event(self, measured: dict[str, Any], row: Row | None = None) -> Event:
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

    @property
    def params(self) -> dict[str, np.ndarray[Any, Any]]:
        """The weights that are trained, in the types of the model."""
        return {
            name: np.asarray(array).astype(tensor_of(self.weights[name]).dtype.numpy)
            for name, array in self.trained.items()
        }


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
