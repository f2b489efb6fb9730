"""Offsets in one go: each buffer where it fits, in some order; the best order wins.

The orders and fits of what is in use: by size (TFLite, XLA), by life (XLA), by start
with the best fit (ONNX Runtime's memory pattern), by area, by crowding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .buffers import Buffer, peak_of

Ints = npt.NDArray[np.int64]


def greedy(buffers: Sequence[Buffer], goal: int) -> tuple[list[int], str]:
    """The best offsets of all orders and fits, and their name.

    The first ones whose peak is at most ``goal`` will do.
    """
    best: tuple[int, list[int], str] | None = None
    lives = _Lives(buffers)
    for name, order in _orders(lives):
        for fit in ("first fit", "best fit"):
            most = best[0] if best else None
            offsets = lives.placed(order, best=fit == "best fit", below=most)
            if offsets is None:
                continue
            best = peak_of(buffers, offsets), offsets, f"{name}, {fit}"
            if best[0] <= goal:
                return best[1:]
    assert best is not None
    return best[1:]


class _Lives:
    """Lives and sizes as arrays."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self.lower = np.array([b.lower for b in buffers], np.int64)
        self.upper = np.array([b.upper for b in buffers], np.int64)
        self.size = np.array([b.size for b in buffers], np.int64)

    def crowding(self) -> Ints:
        """The most bytes that are live at once within each life."""
        events = np.unique(np.concatenate([self.lower, self.upper]))
        first = np.searchsorted(events, self.lower)
        last = np.searchsorted(events, self.upper)
        changes = np.zeros(len(events), np.int64)
        np.add.at(changes, first, self.size)
        np.subtract.at(changes, last, self.size)
        live = np.cumsum(changes)
        ends = zip(first, last, strict=True)
        return np.array([live[a:z].max() for a, z in ends], np.int64)

    def placed(
        self, order: Ints, *, best: bool, below: int | None = None
    ) -> list[int] | None:
        """The offsets if buffers are placed in this order.

        Each goes into the lowest gap that holds it, or the tightest if ``best``; above
        what lives with it if none does. None once the peak is not ``below`` that.
        """
        count = len(order)
        # Those that are placed, by offset: offset, end, first step, last step.
        rows = np.zeros((4, count), np.int64)
        offsets = [0] * count
        for k, b in enumerate(order):
            low, top, lower, upper = rows[:, :k]
            size = self.size[b]
            live = (lower < self.upper[b]) & (upper > self.lower[b])
            floors = np.zeros(np.count_nonzero(live) + 1, np.int64)
            np.maximum.accumulate(top[live], out=floors[1:])
            room = low[live] - floors[:-1]
            fits = np.flatnonzero(room >= size)
            at = floors[-1]
            if fits.size:
                at = floors[fits[np.argmin(room[fits])] if best else fits[0]]
            if below is not None and at + size >= below:
                return None
            offsets[b] = int(at)
            place = np.searchsorted(low, at)
            rows[:, place + 1 : k + 1] = rows[:, place:k]
            rows[:, place] = at, at + size, self.lower[b], self.upper[b]
        return offsets


def _orders(lives: _Lives) -> Iterator[tuple[str, Ints]]:
    life = lives.upper - lives.lower
    for name, key in _KEYS:
        yield name, np.lexsort((-lives.size, -life, *key(lives, life)))


_KEYS: Final[tuple[tuple[str, Callable[[_Lives, Ints], tuple[Any, ...]]], ...]] = (
    ("size", lambda lives, life: (-lives.size,)),
    ("start", lambda lives, life: (lives.lower,)),
    ("life", lambda lives, life: (-life,)),
    ("area", lambda lives, life: (-life.astype(float) * lives.size,)),
    ("crowding", lambda lives, life: (-lives.size, -lives.crowding())),
    ("end", lambda lives, life: (-lives.upper,)),
)
"""Orders by name: the last key is the first to be sorted by."""
