"""Start a command in several processes on this machine, as parts of one program.

graphopt launch --processes 2 -- run model.onnx --mesh data=2,model=4 -o out.npz

Each process has its share of the mesh's devices. What the first prints is the result;
what others print, and all messages, go to stderr with the number of their process.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Final

from ..errors import UsageError
from ..lowering.xla.environment import COORDINATOR, PROCESSES, RANK

_GRACE: Final = 10.0
"""Seconds that processes have to end by themselves when one has failed."""

_POLL: Final = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument(
        "-n",
        "--processes",
        type=int,
        default=2,
        metavar="N",
        help="how many to start (default 2)",
    )
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND …",
        help="a command of graphopt with its arguments",
    )


def run(options: argparse.Namespace) -> int:
    """Start the processes; the exit code of the first that failed, or 0."""
    words: list[str] = options.command
    if words[:1] == ["--"]:
        words = words[1:]
    if not words:
        raise UsageError("no command to start; write it after --, as -- run MODEL …")
    if words[0] == "launch":
        raise UsageError("launch does not start itself")
    if options.processes > 1 and not shares(words):
        sys.stderr.write(
            f"graphopt: each of the {options.processes} processes does all of this"
            f" {words[0]}: only run with --mesh shares its work out\n"
        )
    return launch([sys.executable, "-m", "graphopt.cli", *words], options.processes)


def shares(words: Sequence[str]) -> bool:
    """True for a command whose processes do one thing together."""
    return words[0] == "run" and any(w.partition("=")[0] == "--mesh" for w in words)


def launch(command: Sequence[str], count: int) -> int:
    """Run a command ``count`` times side by side, each told its rank and where to meet.

    The exit code of the first that failed, 128 and the signal where one ended it, or 0.
    None outlives the call. Raises UsageError.
    """
    if count < 1:
        raise UsageError(f"{count} processes cannot run anything")
    address = f"127.0.0.1:{_free_port()}"
    started: list[subprocess.Popen[bytes]] = []
    readers: list[threading.Thread] = []
    try:
        for rank in range(count):
            told = {COORDINATOR: address, PROCESSES: str(count), RANK: str(rank)}
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=None if rank == 0 else subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | told,
            )
            started.append(process)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    reader = threading.Thread(target=_prefixed, args=(stream, rank))
                    reader.start()
                    readers.append(reader)
        return _first_failure(started)
    finally:
        _end(started)
        for reader in readers:
            reader.join(_GRACE)


def _first_failure(started: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended, or one has failed and the others had their time."""
    until = float("inf")
    failed = 0
    while True:
        codes = [process.poll() for process in started]
        if not failed:
            failed = next(filter(None, codes), 0)
            until = time.monotonic() + _GRACE if failed else until
        if None not in codes or time.monotonic() > until:
            return 128 - failed if failed < 0 else failed
        time.sleep(_POLL)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs: asked first, then not."""
    for process in started:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + _GRACE / 2
    for process in started:
        try:
            process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _prefixed(stream: IO[bytes], rank: int) -> None:
    """Hand lines of a process on to stderr, with its number before each."""
    with stream:
        for line in stream:
            text = line.decode(errors="replace").rstrip("\n")
            sys.stderr.write(f"[{rank}] {text}\n")
            sys.stderr.flush()


def _free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
