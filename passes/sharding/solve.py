"""The best options for the nodes of a problem, and what is proved of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from .narrow import Narrowing
from .problem import UNIT, Problem
from .search import NoPlan as NoPlan, clock
from .shrink import Shrunk

SECONDS: Final = 60.0
"""How long the solver may take, of CPU time."""
GAP: Final = 1e-4
"""The relative gap at which an optimum is taken for proved."""


@dataclass(frozen=True)
class Solution:
    """An option for each node, and what is proved of it.

    No choice costs less than ``bound`` seconds. ``columns`` and ``rows`` are those of
    the largest program that was solved, 0 where none was.
    """

    chosen: tuple[int, ...]
    seconds: float
    bound: float
    proved: bool
    columns: int = 0
    rows: int = 0
    built: float = 0.0
    """Seconds that it took to write the program down."""
    solved: float = 0.0
    """Seconds that the solver took."""
    refused: tuple[int, ...] | None = None
    """A cheaper choice that was refused; what was chosen, where all were."""
    early: bool = False
    """That it was refused at once, and little was tried."""

    @property
    def gap(self) -> float:
        """How much dearer than the bound it is, relative to itself."""
        return max(0.0, 1 - self.bound / self.seconds) if self.seconds else 0.0


def solve(
    problem: Problem,
    *,
    allowed: Mapping[int, Iterable[int]] | None = None,
    seconds: float = SECONDS,
    gap: float = GAP,
    over: Callable[[tuple[int, ...]], float] = lambda _: 0.0,
    known: tuple[int, ...] | None = None,
    below: float = math.inf,
    shrink: bool = True,
) -> Solution:
    """The cheapest options for all nodes.

    ``allowed`` restricts those of some; ``over`` says of a choice what it takes too
    much, as `Narrowing` has it, and one that fits may be ``known``. ``shrink`` is off
    only to see what it does. Raises NoPlan where none keeps the limits, none costs less
    than ``below``, or none was found in ``seconds`` of CPU time.
    """
    start = clock()
    for number, some in (allowed or {}).items():
        if not list(some):
            raise NoPlan(f"no option is left for {problem.nodes[number].name}")
    shrunk = Shrunk(problem, allowed)
    if shrink:
        shrunk.shrink()
    built = clock() - start
    narrowing = Narrowing(shrunk, seconds - built, gap, over, known, below / UNIT)
    optimum = narrowing.run()
    found = problem.seconds(optimum.chosen)
    return Solution(
        optimum.chosen,
        found,
        min(optimum.bound * UNIT, found),
        optimum.value - optimum.bound <= gap * abs(optimum.value) * (1 + 1e-9),
        narrowing.columns,
        narrowing.rows,
        built,
        clock() - start - built,
        optimum.refused,
        optimum.early,
    )
