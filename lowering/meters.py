"""Measure in a child, which may die without taking us along, and starts small."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from graphopt.errors import BackendMissing, GraphoptError

from .isolated import ended, search_path


@dataclass(frozen=True)
class Footprint:
    """Bytes that a run takes in a target, weights and inputs apart, outputs not.

    ``peak`` is what it needs, ``counted`` the most that the runtime or its compiler
    says is in use: they differ by what is lost between pieces, and by what nobody
    counts. ``resident`` are weights as the runtime keeps them, where it copies them.
    ``growth`` is by how much a process grows at most while it runs, None where that is
    not measured; ``foreseen`` is that before it runs, where somebody says.
    """

    target: str
    peak: int
    counted: int
    resident: int
    growth: int | None
    foreseen: int | None = None


class MeterFailed(GraphoptError):
    """The model cannot be measured: it does not run, or takes too long."""

    exit_code = 3


def ask(
    module: str,
    asked: Any,
    limit_s: float,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """What a module that ends with `answer` says; ``asked`` is what can be pickled.

    ``environment`` is set in the child alone. Raises MeterFailed, BackendMissing.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", module],
            input=pickle.dumps(asked),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment, "PYTHONPATH": search_path()},
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
    return said["found"]


def answer(found: Callable[[Any], Any]) -> None:
    """In the child: say what ``found`` makes of what was asked, as JSON."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what the runtime prints is not an answer
        said: dict[str, Any]
        try:
            said = {"found": found(pickle.load(sys.stdin.buffer))}
        except BackendMissing as error:
            said = {"missing": error.message}
        except GraphoptError as error:
            said = {"error": error.message}
        json.dump(said, answers)
