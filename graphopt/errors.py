"""The errors that graphopt raises on purpose, and the exit code that each becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType


class GraphoptError(Exception):
    """Base of all: a clear message for the user, ``where`` names tensor, op or node."""

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where

    def __str__(self) -> str:
        return f"{self.message} [{self.where}]" if self.where else self.message


class UsageError(GraphoptError):
    """The request itself is wrong: unknown pass, impossible dim, output exists."""

    exit_code = 2


class InvalidModel(GraphoptError):
    """The model breaks ONNX's rules, or a limit that keeps untrusted input safe."""

    exit_code = 3


class UnsupportedModel(GraphoptError):
    """A legal model that this step or target cannot express."""

    exit_code = 3


class CheckFailed(GraphoptError):
    """The optimized graph computes something else than the original."""

    exit_code = 4


class BackendMissing(GraphoptError):
    """The target's runtime is not installed; the message holds the install line."""

    exit_code = 5


class NoReference(GraphoptError, NotImplementedError):
    """An op without a NumPy meaning was asked for its value; names the op."""

    exit_code = 3


class TypeMismatch(GraphoptError):
    """Operands do not fit the op: rank, dims or element types clash."""

    exit_code = 3


def nearest(
    word: str,
    words: Iterable[str],
    others: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """``; did you mean 'x'?`` with the closest known words, or else some of them.

    ``others`` are other words for them, and what is said of each that is close.
    """
    import difflib

    known = sorted(words)
    close = difflib.get_close_matches(word, [*known, *others], n=3)
    if close:
        said = dict.fromkeys(others.get(c, repr(c)) for c in close)
        return f"; did you mean {' or '.join(said)}?"
    some = known[:16] + ["…"] * (len(known) > 16)
    return f"; known: {', '.join(some)}" if known else ""
