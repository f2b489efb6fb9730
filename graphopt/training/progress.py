"""What is going on: an event a step, and a line on a terminal."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

REDRAWN_AFTER: Final = 0.1
"""Seconds; a loss that is not looked at keeps the device busy."""

WIDTH: Final = 24


@dataclass(frozen=True)
class Event:
    """One step is done (``epoch`` counts from 1, ``step`` within it), or an epoch is:
    then ``row`` is its row of the history."""

    epoch: int
    epochs: int
    step: int
    steps: int | None
    measured: dict[str, Any] = field(repr=False)
    row: dict[str, float] | None = None

    @property
    def loss(self) -> float:
        """The step's loss; asking waits for it to be computed."""
        return float(self.measured["loss"])


class Bar:
    """A bar on a terminal that is overwritten; the row of every epoch stays."""

    def __init__(self) -> None:
        self.drawn = 0.0

    def __call__(self, event: Event) -> None:
        if event.row is not None:
            self._write(line_of(event) + "\n")
        elif time.monotonic() - self.drawn > REDRAWN_AFTER:
            done = f"{event.step}"
            if event.steps:
                full = WIDTH * event.step // event.steps
                bar = "█" * full + "·" * (WIDTH - full)
                done = f"{bar} {event.step}/{event.steps}"
            head = f"epoch {event.epoch}/{event.epochs}"
            self._write(f"{head}  {done}  loss {event.loss:.4g}")
            self.drawn = time.monotonic()

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def line_of(event: Event) -> str:
    """The line of an epoch that is done."""
    values = (event.row or {}).items()
    words = [f"{name} {value:.4g}" for name, value in values if name != "epoch"]
    return "  ".join([f"epoch {event.epoch}/{event.epochs}", *words])
