"""Random numbers: from a seed, the same on both sides; or from a key of JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from .foundation import Array, Foundation

Size: TypeAlias = "Sequence[int] | None"


class Generator(Protocol):
    """Draws float64 numbers; arguments are NumPy's."""

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Size = None) -> Array:
        """Even over [low, high)."""
        ...

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: Size = None) -> Array:
        """Of a normal distribution."""
        ...

    def gumbel(self, loc: float = 0.0, scale: float = 1.0, size: Size = None) -> Array:
        """Of a Gumbel distribution."""
        ...


class Drawing(Foundation):
    """`generator`."""

    def generator(self, seed: int, *, stated: bool) -> Generator:
        """A generator at its start, whose stream is the same in every NumPy.

        ``stated``: the seed is the model's own word, not a number for one of its ops.
        """
        generator: Any = np.random.RandomState(seed)
        return generator  # type: ignore[no-any-return]
