"""Dims that a file leaves without a name go by their place.

Axis 1 of the input ``x`` is ``?x:1``. Where sizes must be known that is a symbol as
others are, which is written as no name.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from .dims import Dim, symbols

_PLACE: Final = re.compile(r"\?.*:(?:\d+|rank)", re.DOTALL)


def by_place(name: str, axis: int | Literal["rank"]) -> str:
    """The name inside of an axis of an input, or of its rank."""
    return f"?{name}:{axis}"


def shown(name: str) -> str:
    """A name inside as it is told, and written in ``--dim`` and ``--memory-sizes``."""
    return name[1:] if _PLACE.fullmatch(name) else name


def is_unnamed(dim: Dim) -> bool:
    """True where a symbol of the dim is a place, so that no file can say the dim."""
    return any(shown(name) != name for name in symbols(dim))
