"""The memory that a model really takes in ONNX Runtime: measured, not guessed.

The smallest arena in which a model still runs is found by trying. What the runtime's
own books say is where the search begins; the growth of the process is a second meter.
Trying goes on in a child, which may die without taking us along.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from graphopt.errors import BackendMissing, GraphoptError

from ..isolated import ended, search_path
from .arena import ALIGNMENT, UNLIMITED, one_block, rounded
from .books import books
from .recipe import Recipe
from .session import Session, runtime

MODULE: Final = "graphopt.lowering.ort.meter"

RUNS: Final = 2
"""How often a model must run: the second run may take more than the first."""

RESOLUTION: Final = 0.001
"""The share of the result within which it is the smallest."""


@dataclass(frozen=True)
class Realised:
    """Bytes that a model takes in ONNX Runtime on the CPU.

    ``peak`` is the smallest arena in which it runs, weights and inputs apart, outputs
    not; less by `RESOLUTION` does not do. ``in_use`` is the most that the runtime says
    was in use of it. ``resident`` are weights that it copied or packed anew.
    ``growth`` is by how much the process grows at most while the model runs in that
    arena, None where the system does not say.
    """

    peak: int
    in_use: int
    resident: int
    growth: int | None


class MeterFailed(GraphoptError):
    """The model cannot be measured: it does not run, or takes too long."""

    exit_code = 3


def realised_peak(
    model: str | os.PathLike[str] | bytes,
    inputs: Mapping[str, Any],
    *,
    folder: str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    threads: int = 1,
    limit_s: float = 300.0,
) -> Realised:
    """What a model takes with these inputs, opened as ``recipe`` says.

    The arena is the meter's own: one block that is split to measure, so that the
    result is what a session takes that has such an arena (`arena.one_block`). Raises
    MeterFailed, and BackendMissing where the runtime is none or too old.
    """
    recipe = recipe or Recipe()
    asked = _Asked(model, folder, replace(recipe, arena={}), threads, inputs)
    peak, in_use, resident = asked.of("peak", limit_s)
    own = replace(recipe, arena=one_block(peak, resident))
    (growth,) = replace(asked, recipe=own).of("growth", limit_s)
    return Realised(peak, in_use, resident, growth)


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
        fields = {
            "model": self.model
            if isinstance(self.model, bytes)
            else os.fspath(self.model),
            "folder": None if self.folder is None else os.fspath(self.folder),
            "recipe": json.dumps(self.recipe.to_json()),
            "threads": self.threads,
            "inputs": dict(self.inputs),
        }
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", MODULE],
                input=pickle.dumps((what, fields)),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": search_path()},
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MeterFailed(f"memory was not measured after {limit_s:g} s") from None
        try:
            said = json.loads(done.stdout)
        except ValueError:
            raise MeterFailed(ended(done.returncode)) from None
        if "missing" in said:
            raise BackendMissing(said["missing"])
        if "error" in said:
            raise MeterFailed(said["error"])
        found: list[Any] = said["found"]
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
        resident = runs[0][0].before
        in_use = rounded(runs[-1][-1].peak - resident)
        return [self.smallest(in_use, resident), in_use, resident]

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
        before = _resident("VmRSS")
        if before is None or not _forget_peak():
            return [None]
        for _ in range(RUNS):
            session(self.inputs)
        after = _resident("VmHWM")
        return [None if after is None else max(after - before, 0)]

    def opened(self, arena: Mapping[str, Any]) -> Session:
        recipe = replace(self.recipe, arena=arena)
        return Session(
            self.model, folder=self.folder, recipe=recipe, threads=self.threads
        )


_SHORT: Final = "is smaller than requested bytes of"
"""What the arena says where it has too little left."""


def _resident(name: str) -> int | None:
    """Bytes of this process that are in memory, or were at most; by Linux's name."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return None


def _forget_peak() -> bool:
    """Let ``VmHWM`` begin anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _serve() -> dict[str, Any]:
    what, fields = pickle.load(sys.stdin.buffer)
    meter = _Meter(**fields | {"recipe": Recipe.from_json(fields["recipe"])})
    try:
        return {"found": meter.peak() if what == "peak" else meter.growth()}
    except BackendMissing as error:
        return {"missing": error.message}
    except GraphoptError as error:
        return {"error": error.message}


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what the runtime prints is not an answer
        json.dump(_serve(), answers)
