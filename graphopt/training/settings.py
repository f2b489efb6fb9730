"""The settings of a run, looked at before it starts."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import optax

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


_UNITS: Final = {
    "": 1,
    **{f"{letter}B": 1000**i for i, letter in enumerate(("", "k", "M", "G", "T"))},
    **{f"{letter}iB": 1024**i for i, letter in enumerate("KMGT", 1)},
}


def size_of(name: str, given: int | str) -> int:
    """Bytes, as a number or with a unit: "64MiB", "1.5 GB". Raises UsageError."""
    if not isinstance(given, str):
        return whole(name, given, 1)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", given)
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if found is None or found[2].lower() not in units:
        raise UsageError(
            f"{name}={given!r} is no size: give bytes, or a unit as in '64MiB'"
        )
    return whole(name, int(float(found[1]) * units[found[2].lower()]), 1)


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
