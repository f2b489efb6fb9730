"""Run model files in ONNX Runtime, in a process that may die without taking us along.

The runtime parses what strangers wrote and compiles it: it can crash, or not come back.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import graphopt
from graphopt.errors import GraphoptError
from graphopt.types import DType

from . import Array

MODULE: Final = "graphopt.lowering.isolated"


@dataclass(frozen=True)
class Artifact:
    """A model file; ``folder`` is where its external data lies, if not beside it."""

    path: str
    folder: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The outputs by name, or why there are none."""

    outputs: Mapping[str, Array] | None
    error: str = ""


def run(
    artifacts: Sequence[Artifact], inputs: Mapping[str, Array], limit_s: float
) -> list[Outcome]:
    """What each model makes of the inputs; ``limit_s`` seconds for all together."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": search_path()},
    )
    late = False
    try:
        named = [(a.path, a.folder) for a in artifacts]
        said, _ = child.communicate(pickle.dumps((named, dict(inputs))), limit_s)
    except subprocess.TimeoutExpired:
        child.kill()
        said, _ = child.communicate()
        late = True
    except BaseException:  # whoever stops us stops the child
        child.kill()
        child.wait()
        raise
    outcomes = [Outcome(*answer) for answer in _read(said)]
    for _ in artifacts[len(outcomes) :]:
        late_said = f"ONNX Runtime was not done after {limit_s:g} s"
        outcomes.append(Outcome(None, late_said if late else ended(child.returncode)))
    return outcomes


def search_path() -> str:
    """Where the child finds this very graphopt."""
    home = str(Path(graphopt.__file__).parents[1])
    return os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])


def _read(said: bytes) -> Iterator[tuple[Mapping[str, Array] | None, str]]:
    """The answers, up to where the child died, or said what is none."""
    stream = io.BytesIO(said)
    with contextlib.suppress(Exception):  # what unpickling raises has no base
        while True:
            yield _Arrays(stream).load()


class _Arrays(pickle.Unpickler):
    """Reads arrays and nothing else: a model may have taken the child over."""

    def find_class(self, module: str, name: str) -> Any:
        known = module.split(".")[0] == "numpy" and name in _NUMPY
        if known or (module == "ml_dtypes" and name in _ML_DTYPES):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


_ML_DTYPES: Final = frozenset(
    d.numpy.name for d in DType if d.numpy.type.__module__ == "ml_dtypes"
)
_NUMPY: Final = ("ndarray", "dtype", "_reconstruct", "_frombuffer", "scalar")


def ended(code: int) -> str:
    """How a child ended that gave no answer, in words."""
    if code < 0:
        return f"ONNX Runtime died ({signal.Signals(-code).name})"
    return f"ONNX Runtime ended with exit code {code}"


def _serve(commands: BinaryIO, answers: BinaryIO) -> None:
    """Run the models that the parent names, one after the other."""
    from .ort.session import Session

    artifacts, inputs = pickle.load(commands)
    for path, folder in artifacts:
        outputs, error = None, ""
        try:
            model = path if folder is None else Path(path).read_bytes()
            outputs = Session(model, folder=folder).run(inputs)
        except GraphoptError as wrong:
            error = wrong.message
        pickle.dump((outputs, error), answers)
        answers.flush()


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what the runtime prints is not an answer
        _serve(sys.stdin.buffer, answers)
