"""What is going on, on stderr, while somebody waits."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

PATIENCE: Final = 5.0
"""Seconds until `Slow` says something."""


class Progress:
    """One line on a terminal that says what is going on; nothing elsewhere."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.shown = sys.stderr.isatty() and not (options.quiet or options.verbose)

    def __call__(self, text: str) -> None:
        if self.shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self("")


class Slow:
    """A line for what takes longer than `PATIENCE`, written once, also to a file."""

    def __init__(self, options: argparse.Namespace, text: str) -> None:
        self.timer = threading.Timer(PATIENCE, self._say, [text])
        self.timer.daemon = True
        self.shown = not options.quiet

    def _say(self, text: str) -> None:
        if self.shown:
            print(f"graphopt: {text}", file=sys.stderr, flush=True)

    def __enter__(self) -> None:
        self.timer.start()

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()
