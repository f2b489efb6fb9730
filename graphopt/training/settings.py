"""The settings of a run, looked at before it starts."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optax

from ..byte_sizes import parse_size
from ..errors import UsageError
from .losses import Measure


def refuse_no_optimizer(given: Any) -> None:
    """Raises UsageError for what only names an optimizer, or makes one."""
    if all(callable(getattr(given, name, None)) for name in ("init", "update")):
        return
    name = given if isinstance(given, str) else getattr(given, "__name__", "adam")
    if not callable(getattr(optax, name, None)):
        name = "adam"
    raise UsageError(
        f"optimizer={given!r} is no optimizer: pass one of optax's with its learning"
        f" rate, as in optax.{name}(1e-3)"
    )


def whole(name: str, given: Any, least: int) -> int:
    """A whole number. Raises UsageError for anything else, or less than ``least``."""
    try:
        number = operator.index(given)
    except TypeError:
        number = least - 1
    if number < least:
        raise UsageError(f"{name}={given!r}: it is a whole number from {least}")
    return number


def size_of(name: str, given: int | str) -> int:
    """Bytes, as a number or in words: "64MiB", "1.5 GB". Raises UsageError."""
    return parse_size(given) if isinstance(given, str) else whole(name, given, 1)


def refuse_checkpoint(folder: str | os.PathLike[str] | None, every: int | None) -> None:
    """Raises UsageError where no checkpoint could be written."""
    if every is not None:
        whole("checkpoint_every", every, 1)
        if folder is None:
            raise UsageError("checkpoint_every says how often: say where, checkpoint=")
    if folder is None:
        return
    path = Path(folder).absolute()
    for part in (path, *path.parents):
        if part.exists():
            if not part.is_dir():
                raise UsageError(f"checkpoint is a folder, but {part} is a file")
            break


def each_of(metrics: Sequence[str | Measure] | str | Measure) -> list[str | Measure]:
    """Metrics as a list; one may stand by itself."""
    if isinstance(metrics, str) or callable(metrics):
        return [metrics]
    return list(metrics)
