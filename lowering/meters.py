"""Measure in a child, which may die without taking us along, and starts small."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

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


ENDS_S: Final = 5.0
"""A child that is asked nothing more ends by then, or is ended."""


ANSWER: Final = b"answer: "
"""Begins the lines that are answers."""


class MeterFailed(GraphoptError):
    """The model cannot be measured: it does not run, or takes too long."""

    exit_code = 3


def ask(
    module: str,
    asked: Any,
    limit_s: float,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """What a child of its own says to one question: see `Child`."""
    with Child(module, environment) as child:
        return child.ask(asked, limit_s)


class Child:
    """A process of a module whose last statement is `answer`: it answers questions.

    It starts with the first one, and ends with the context, if nobody has forked this
    process since; then it is ended after `ENDS_S`. Where a question is its end, the
    next one has a process of its own. Ask it for nothing that hangs on what a process
    took before. ``environment`` is set in the child alone.
    """

    def __init__(
        self, module: str, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.module = module
        self._environment = {**environment, "PYTHONPATH": search_path()}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, asked: Any, limit_s: float) -> Any:
        """The answer, after so many seconds at most, those of its start included.

        ``asked`` is what can be pickled.

        Raises MeterFailed, BackendMissing.
        """
        process = self._process = self._process or self._started()
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(limit_s, stop)
        timer.daemon = True
        timer.start()
        try:
            said = _answered(process, pickle.dumps(asked))
        except BaseException:  # whoever stops us stops the child
            process.kill()
            self.end()
            raise
        finally:
            timer.cancel()
            timer.join()
        if said is None or late.is_set():
            code = self.end()
            if late.is_set():
                raise MeterFailed(f"memory was not measured after {limit_s:g} s")
            raise MeterFailed(ended(code))
        if "missing" in said:
            raise BackendMissing(said["missing"])
        if "error" in said:
            raise MeterFailed(said["error"])
        return said["found"]

    def end(self) -> int:
        """End the process, if there is one; its exit code. The next one is another."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with process:  # which closes its pipes
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                with suppress(OSError):  # what was not read by the child
                    stream.close()
            try:
                return process.wait(ENDS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self._environment},
        )


def _answered(process: subprocess.Popen[bytes], asked: bytes) -> Any:
    """What a child says; None where it ended, or says what is none."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(asked)
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith(ANSWER):  # not what modules print as they are imported
                return json.loads(line.removeprefix(ANSWER))
    except (OSError, ValueError):
        pass
    return None


def answer(found: Callable[[Any], Any]) -> None:
    """In the child: say what ``found`` makes of each question, as a line of JSON."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what the runtime prints is not an answer
        while True:
            try:
                asked = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            said: dict[str, Any]
            try:
                said = {"found": found(asked)}
            except BackendMissing as error:
                said = {"missing": error.message}
            except GraphoptError as error:
                said = {"error": error.message}
            print(ANSWER.decode() + json.dumps(said), file=answers, flush=True)
