"""A process that tries mutants: one forked child each, so that none sees another.

What does not know of passes is loaded before the fork; only the mutant, what imports
it, and the tests are loaded in the child. A line of JSON in (module, source and the
rounds of test files), a line out (what failed first, or null for a survivor).
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SECONDS = 150
MEMORY = 8 << 30
SHARED = (
    *("hypothesis", "scipy.special", "onnx.checker", "onnx.reference"),
    *("graphopt", "graphopt.check", "graphopt.exporter", "graphopt.importer"),
    *("graphopt.text", "graphopt.verify", "graphopt.pipeline", "graphopt.ops"),
    *("graphopt.testing.strategies", "graphopt.testing.passes"),
)


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module of passes in a text instead of its file."""

    def __init__(self, module: str, source: str) -> None:
        self.name = f"graphopt.passes.{module}"
        self.source = source

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, f"<mutant of {self.name}>", "exec"), module.__dict__)


class First:
    """Remembers what failed first."""

    failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = f"import of {report.nodeid}"


def failure(rounds: Sequence[Sequence[str]]) -> str | None:
    """What failed first in the first round of test files that fails."""
    for files in rounds:
        first = First()
        options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider"]
        code = pytest.main([*options, *files], plugins=[first])
        if first.failed:
            return first.failed
        if code != pytest.ExitCode.OK:
            raise RuntimeError(f"pytest ended with {code} on {files}")
    return None


def child(order: dict[str, Any], write: int) -> None:
    """Try one mutant and say what came of it; never returns."""
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    try:
        if order["module"]:
            sys.meta_path.insert(0, Mutated(order["module"], order["source"]))
        said = json.dumps({"failed": failure(order["rounds"])})
    except BaseException as error:
        said = json.dumps({"error": f"{type(error).__name__}: {error}"})
    os.write(write, said.encode())
    os._exit(0)


def attempt(order: dict[str, Any]) -> str:
    """What the child says; one that dies or takes too long has noticed something."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        child(order, write)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        said = answer.read().decode()
    _, status = os.waitpid(process, 0)
    if said:
        return said
    code = os.waitstatus_to_exitcode(status)
    late = code == -signal.SIGALRM
    return json.dumps({"failed": "the time limit" if late else f"exit code {code}"})


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, not another
    for name in SHARED:
        importlib.import_module(name)
    early = [name for name in sys.modules if name.startswith("graphopt.passes")]
    assert not early, f"loaded before any mutant: {early}"
    for line in sys.stdin:
        print(attempt(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
