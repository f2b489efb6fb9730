"""Offsets for buffers: greedy, then a search, then a solver, until the bound is met."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from . import constraint
from .buffers import Buffer, Packing, components, lower_bound, peak_of, refuse_too_large
from .greedy import greedy
from .search import search
from .sections import Sections, sections

STEPS: Final = 20_000
"""Nodes of the search tree that are visited at most, unless said otherwise."""

SHARE: Final = 4
"""One part in so many of what is left goes into each try for a lower peak."""

COMPILING: Final = 20.0
"""Seconds that must be left for numba, as it may have to compile the search first."""

Method: TypeAlias = Literal["search", "constraint"]


METHODS: Final[tuple[Method, ...]] = ("search", "constraint")
"""What follows where greedy is above the bound: branch and bound; CP-SAT."""


def allocate(
    buffers: Iterable[Buffer],
    capacity: int | None = None,
    seconds: float = 60.0,
    steps: int = STEPS,
    alignment: int = 1,
) -> dict[Hashable, int] | None:
    """Offsets at which no two buffers overlap, with the smallest peak that was found.

    With a ``capacity`` any peak up to that will do, and None says that none was found
    within ``steps`` and ``seconds``. That there is none is proved only where the
    `Packing.lower_bound` that `pack` gives is above the capacity.
    Otherwise as `pack`.
    """
    packing = pack(buffers, capacity, seconds=seconds, steps=steps, alignment=alignment)
    if capacity is not None and packing.peak > capacity:
        return None
    return dict(packing.offsets)


def pack(
    buffers: Iterable[Buffer],
    capacity: int | None = None,
    *,
    seconds: float = 60.0,
    steps: int = STEPS,
    alignment: int = 1,
    methods: Collection[Method] = METHODS,
) -> Packing:
    """Pack buffers as low as can be found, or to ``capacity``, and say what is proved.

    Offsets and sizes are rounded up to ``alignment``. A buffer of size 0 takes no
    place; its offset is 0. The result is the same for the same ``steps``, with and
    without numba, unless ``seconds`` end the search before; OR-Tools may find more.
    Raises ValueError where two buffers have one id, for an alignment below 1 and a
    negative capacity.
    """
    given = list(buffers)
    if alignment < 1:
        raise ValueError(f"an alignment is at least 1, not {alignment}")
    if capacity is not None and capacity < 0:
        raise ValueError(f"a capacity is at least 0, not {capacity}")
    offsets: dict[Hashable, int] = {buffer.id: 0 for buffer in given}
    if len(offsets) < len(given):
        raise ValueError("two buffers have the same id")
    budget = _Budget(steps, time.monotonic() + seconds)
    refuse_too_large([buffer.size + alignment for buffer in given])
    sized = [
        replace(b, size=-(-b.size // alignment) * alignment) for b in given if b.size
    ]
    bound = lower_bound(sized)
    goal = bound if capacity is None else max(bound, capacity)
    parts = [_Part(part, goal) for part in components(sized)]
    if capacity is None or bound <= capacity:
        for part in sorted(parts, key=lambda part: -part.peak):
            part.improve(goal, budget, methods, least=capacity is None)
            if capacity is None:
                goal = max(goal, part.bound)
    for part in parts:
        offsets.update(zip((b.id for b in part.buffers), part.offsets, strict=True))
    highest = max(parts, key=lambda part: part.peak, default=None)
    return Packing(
        offsets,
        peak=highest.peak if highest else 0,
        lower_bound=max((part.bound for part in parts), default=0),
        method=highest.method if highest else "nothing to place",
        steps=steps - budget.steps,
    )


class _Budget:
    """Nodes of search trees that are left, and time; a solver has steps of its own."""

    def __init__(self, steps: int, deadline: float) -> None:
        self.given = self.steps = steps
        self.deadline = deadline

    @property
    def seconds(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    @property
    def spent(self) -> bool:
        return self.steps <= 0 or self.seconds <= 0


class _Part:
    """Buffers that share no step with others."""

    def __init__(self, buffers: Sequence[Buffer], goal: int) -> None:
        self.buffers = buffers
        self.bound = lower_bound(buffers)
        self.offsets, self.method = greedy(buffers, goal)
        self.peak = peak_of(buffers, self.offsets)

    def improve(
        self, goal: int, budget: _Budget, methods: Collection[Method], *, least: bool
    ) -> None:
        """Lower the peak to the goal; with ``least`` every bit on the way counts."""
        if self.peak <= goal or not methods:
            return
        packed = sections(self.buffers)
        if packed is None:
            return
        low = -(-goal // packed.unit) if least else goal // packed.unit
        if "search" in methods:
            low = self._search(packed, low, budget, least)
        if "constraint" in methods and self.peak > low * packed.unit:
            self._solve(packed, low, budget, least)

    def _search(self, packed: Sections, low: int, budget: _Budget, least: bool) -> int:
        """Search at the goal, then halfway to the peak; the goal as it is proved."""
        untried = target = low
        while untried < self.peak // packed.unit and not budget.spent:
            steps, seconds = budget.steps, budget.seconds
            if least:
                steps, seconds = -(-steps // SHARE), seconds / SHARE
            until = time.monotonic() + seconds
            compile = budget.seconds >= COMPILING
            outcome = search(packed, target, steps, deadline=until, compile=compile)
            budget.steps -= outcome.steps
            if outcome.offsets is not None:
                self._take(packed, outcome.offsets, "search")
            else:
                untried = target + 1
                if outcome.impossible:
                    self.bound = max(self.bound, untried * packed.unit)
                    low = max(low, untried) if least else low
            if not least:
                break
            target = (untried + self.peak // packed.unit - 1) // 2
        return low

    def _solve(self, packed: Sections, low: int, budget: _Budget, least: bool) -> None:
        """Let the solver go on from the best offsets."""
        if budget.seconds <= 0 or self.bound > low * packed.unit:
            return
        if not constraint.available():
            return
        hint = [at // packed.unit for at in self.offsets]
        highest = self.peak // packed.unit - 1 if least else low
        solved = constraint.solve(
            packed,
            -(-self.bound // packed.unit),
            highest,
            hint,
            seconds=budget.seconds,
            steps=budget.given,
            least=least,
        )
        self.bound = max(self.bound, solved.bound * packed.unit)
        if solved.offsets is not None:
            self._take(packed, solved.offsets, "constraint")

    def _take(self, packed: Sections, units: Sequence[int], method: str) -> None:
        self.offsets = [at * packed.unit for at in units]
        self.peak = peak_of(self.buffers, self.offsets)
        self.method = method
