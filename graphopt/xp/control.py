"""Branches, loops, and sequences of steps. Bodies are Python functions of arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from .foundation import Array, Foundation

Arrays = tuple[Array, ...]


class Control(Foundation):
    """On the host Python's own; traced, XLA's: bodies then keep types and shapes."""

    @abstractmethod
    def cond(
        self,
        predicate: Array,
        yes: Callable[..., Any],
        no: Callable[..., Any],
        *operands: Any,
    ) -> Any:
        """``yes(*operands)`` or ``no(*operands)``; ``predicate`` holds one bool."""

    @abstractmethod
    def while_loop(
        self,
        test: Callable[[Arrays], Array],
        body: Callable[[Arrays], Arrays],
        carried: Arrays,
    ) -> Arrays:
        """``carried = body(carried)`` for as long as ``test(carried)`` holds."""

    @abstractmethod
    def scan(
        self,
        body: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]],
        carried: Arrays,
        sequences: Sequence[Array],
        length: int | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Arrays, Arrays]:
        """One step of ``body(carried, slices) -> (carried, outputs)`` per element.

        Sequences are sliced along their first axis (``length`` says how many steps
        where there are none), and outputs are stacked along a new first axis; with
        ``reverse`` steps, not places, go from last to first.
        """
