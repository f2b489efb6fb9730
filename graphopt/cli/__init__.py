"""The command line: ``graphopt COMMAND …``. One module a command.

Results go to stdout, all else to stderr; with ``--json``, stdout gets one object,
also for an error. Exit codes are those of `graphopt.errors`.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .. import __version__
from ..errors import GraphoptError, UsageError, nearest
from .arguments import Parser, add_common

if TYPE_CHECKING:
    import argparse

COMMANDS: Final = {
    "optimize": "make a model better, and prove that it computes the same",
    "inspect": "ops, parameters, operations, bytes, memory of a model",
    "check": "compare two models numerically",
    "run": "run a model on arrays",
    "bench": "time models against each other",
    "launch": "start a command in several processes, for a mesh of devices",
    "extract": "cut a part out of a model",
    "passes": "list the passes, their options and their rules",
    "kernels": "list what ONNX Runtime has kernels for",
    "doctor": "find what is broken in the installation",
    "explain": "say what was not done to a model, and why",
    "bisect": "find the pass, rule and op that break a model",
}

INTERRUPTED: Final = 130
TERMINATED: Final = 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. ``argv`` is without the program's name."""
    argv = list(sys.argv[1:] if argv is None else argv)
    gc.set_threshold(200_000)  # graphs are many small objects, and all of them live
    as_json, verbose = "--json" in argv, any(a.startswith("-v") for a in argv)
    try:
        with _cleaning_up(), warnings.catch_warnings():
            warnings.showwarning = _warned
            return _command(argv)
    except GraphoptError as error:
        return _failed(error, error.exit_code, as_json)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        said = f"cannot read {error.filename}: {error.strerror}"
        unread = UsageError(said + _inside(error.filename))
        return _failed(unread, unread.exit_code, as_json)
    except KeyboardInterrupt:
        print("graphopt: interrupted", file=sys.stderr)
        return INTERRUPTED
    except _Terminated:
        print("graphopt: terminated", file=sys.stderr)
        return TERMINATED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a bug of ours: one line, the rest on request
        if verbose:
            raise
        wrong = GraphoptError(
            f"internal error: {type(error).__name__}: {_line(error)}; please report it"
            " (-v shows where it happened)",
            where=_notes(error) or None,
        )
        return _failed(wrong, 1, as_json)


def _warned(message: Warning | str, *where: object, **more: object) -> None:
    """A warning in one line, as errors are; where it was raised is ours to know."""
    print(f"graphopt: warning: {message}", file=sys.stderr)


def _inside(name: object) -> str:
    """What could have been meant by a folder."""
    from .run import is_staged

    folder = Path(str(name))
    if is_staged(folder):
        return "; of a folder of stages graphopt run takes all, other commands one file"
    found = sorted(folder.glob("*.onnx")) if folder.is_dir() else []
    return f"; did you mean {found[0]}?" if found else ""


class _Terminated(BaseException):
    """SIGTERM: raised, so that half-written files are removed on the way out."""


@contextmanager
def _cleaning_up() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _command(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"graphopt {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise UsageError(f"no command is called {name!r}{nearest(name, COMMANDS)}")
    module = import_module(f".{name}", __name__)
    parser = Parser(prog=f"graphopt {name}", description=module.__doc__)
    module.add_arguments(parser)
    add_common(parser)
    options: argparse.Namespace = parser.parse_args(rest)
    if not options.verbose:
        code: int = module.run(options)
        return code
    from ..debug import debug

    with debug(options.verbose):
        code = module.run(options)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {n:{width}}  {text}" for n, text in COMMANDS.items())
    return (
        "usage: graphopt COMMAND …\n\n"
        "A compiler for ONNX models that proves each result.\n\n"
        f"{commands}\n\n"
        "graphopt COMMAND --help explains a command; graphopt --version."
    )


def _failed(error: GraphoptError, code: int, as_json: bool) -> int:
    """Say what is wrong, to people or as JSON."""
    if as_json:
        import json

        from ..report import SCHEMA

        members = {
            "code": code,
            "message": error.message,
            "where": error.where or _notes(error) or None,
            **getattr(error, "details", {}),
        }
        print(json.dumps({"schema": SCHEMA, "error": members}))
    else:
        print(f"graphopt: {error} {_notes(error)}".rstrip(), file=sys.stderr)
    return code


def _notes(error: Exception) -> str:
    """Which rule and pass it is of."""
    notes = getattr(error, "__notes__", ())
    return " ".join(note for note in notes if not note.startswith("---"))  # JAX's own


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
