"""The memory that a model really takes in ONNX Runtime: measured, not guessed.

The smallest arena in which a model still runs is found by trying. What the runtime's
own books say is where the search begins; the growth of the process is a second meter.
Trying goes on in a child, which may die without taking us along.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from graphopt.errors import GraphoptError

from ..meters import Footprint, MeterFailed, answer, ask
from ..resident import RUNS, growth_of
from .arena import ALIGNMENT, UNLIMITED, one_block, rounded
from .books import books
from .recipe import Recipe
from .session import Session, runtime

MODULE: Final = "graphopt.lowering.ort.meter"

RESOLUTION: Final = 0.001
"""The share of the result within which it is the smallest."""


def realised_peak(
    model: str | os.PathLike[str] | bytes,
    inputs: Mapping[str, Any],
    *,
    folder: str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    threads: int = 1,
    growing: bool = True,
    limit_s: float = 300.0,
) -> Footprint:
    """What a model takes with these inputs, opened as ``recipe`` says.

    Its ``peak`` is the smallest arena in which it runs twice; less by `RESOLUTION` does
    not do. The arena is the meter's own, one block that is split to measure: what a
    session takes that has such an arena (`arena.one_block`); ``growth`` is None where
    it does not run in that a third time, or is not ``growing``: to see that takes a
    child of its own. Raises MeterFailed, and BackendMissing where the runtime is none
    or too old.
    """
    recipe = recipe or Recipe()
    asked = _Asked(model, folder, replace(recipe, arena={}), threads, inputs)
    peak, counted, resident = asked.of("peak", limit_s)
    if not growing:
        return Footprint("ort-cpu", peak, counted, resident, None)
    arena = one_block(peak, resident) if peak else {}  # no node runs: all is copied
    own = replace(recipe, arena=arena)
    try:
        (grown,) = replace(asked, recipe=own).of("growth", limit_s)
    except MeterFailed:  # in a process of its own pieces may fall otherwise
        grown = None
    return Footprint("ort-cpu", peak, counted, resident, grown)


def growth(
    model: str | os.PathLike[str] | bytes,
    inputs: Mapping[str, Any],
    *,
    folder: str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    threads: int = 1,
    limit_s: float = 300.0,
) -> int | None:
    """By how many bytes a process grows at most while the model runs twice.

    None where the system does not say. Raises as `realised_peak`.
    """
    asked = _Asked(model, folder, recipe or Recipe(), threads, inputs)
    found: int | None = asked.of("growth", limit_s)[0]
    return found


@dataclass(frozen=True)
class _Asked:
    """A model that a child is asked about."""

    model: str | os.PathLike[str] | bytes
    folder: str | os.PathLike[str] | None
    recipe: Recipe
    threads: int
    inputs: Mapping[str, Any]

    def of(self, what: str, limit_s: float) -> list[Any]:
        """The child's answer. Raises MeterFailed, BackendMissing."""
        runtime()
        model, folder = self.model, self.folder
        fields = {
            "model": model if isinstance(model, bytes) else os.fspath(model),
            "folder": None if folder is None else os.fspath(folder),
            "recipe": json.dumps(self.recipe.to_json()),
            "threads": self.threads,
            "inputs": dict(self.inputs),
        }
        found: list[Any] = ask(MODULE, (what, fields), limit_s)
        return found


# --- in the child -------------------------------------------------------------------


@dataclass(frozen=True)
class _Meter:
    """A model that is opened again and again."""

    model: str | bytes
    folder: str | None
    recipe: Recipe
    threads: int
    inputs: Mapping[str, Any]

    def peak(self) -> list[int]:
        """The smallest arena, what of one is in use, and the weights beside it."""
        free = replace(self.recipe, arena=UNLIMITED)
        runs = books(
            self.model,
            self.inputs,
            folder=self.folder,
            recipe=free,
            threads=self.threads,
            runs=RUNS,
        )
        if not runs[0]:  # nothing is left to run
            return [0, 0, 0]
        first, last = runs[0][0], runs[-1][-1]
        least = most = last.peak
        if most == first.peak:  # opening may have taken more than any node
            held = [(max(e.before, e.after), e.workspace) for run in runs for e in run]
            least = max(kept for kept, _ in held)
            most = min(most, max(kept + own for kept, own in held))
        least, most = (rounded(size - first.before) for size in (least, most))
        return [self.smallest(least, first.before), most, first.before]

    def smallest(self, least: int, resident: int) -> int:
        """The smallest arena that does, which has ``least`` bytes or more."""
        most = max(least, ALIGNMENT)
        fails = most - ALIGNMENT
        while not self.runs(most, resident):
            fails, most = most, rounded(most + max(most // 8, ALIGNMENT))
        while most - fails > max(ALIGNMENT, int(most * RESOLUTION)):
            middle = rounded((fails + most) // 2)
            if self.runs(middle, resident):
                most = middle
            else:
                fails = middle
        return most

    def runs(self, size: int, resident: int) -> bool:
        """Whether the model runs in an arena of that size."""
        try:
            session = self.opened(one_block(size, resident))
            for _ in range(RUNS):
                session(self.inputs)
        except GraphoptError as error:
            if _SHORT in str(error.__context__):  # the runtime's own words, whole
                return False
            raise
        return True

    def growth(self) -> list[int | None]:
        """By how many bytes the process grows at most while the model runs."""
        session = self.opened(self.recipe.arena)
        return [growth_of(lambda: session(self.inputs))]

    def opened(self, arena: Mapping[str, Any]) -> Session:
        recipe = replace(self.recipe, arena=arena)
        return Session(
            self.model, folder=self.folder, recipe=recipe, threads=self.threads
        )


_SHORT: Final = "is smaller than requested bytes of"
"""What the arena says where it has too little left."""


def _found(asked: tuple[str, dict[str, Any]]) -> list[Any]:
    what, fields = asked
    meter = _Meter(**fields | {"recipe": Recipe.from_json(fields["recipe"])})
    return meter.peak() if what == "peak" else meter.growth()


if __name__ == "__main__":
    answer(_found)
