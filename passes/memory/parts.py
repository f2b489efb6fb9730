"""A part of an order between two cuts, made better step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from .bounds import Relations, branch_bound, lower_bound, relations
from .chains import runs
from .down_sets import Meter, search
from .states import States
from .tasks import Tasks, part, peak, walk

FIRST_WIDTH: Final = 2
"""States of one size that the first search follows."""

WIDER: Final = 6
"""How many times more each further search does."""

CLOSE: Final = 200
"""Where not all states were followed, gains below this part of the peak are left."""

SMALL: Final = 64
"""Tasks of a part that is searched as a whole alone; windows are of at most as many."""

BRANCHES: Final = 2_000
"""Tasks of which all pairs with buffers are looked at for a bound."""

WINDOWS: Final = (16, 32, SMALL)
"""Tasks that are ordered anew around a peak, the fewest first."""

WALK: Final = 10
"""Tasks that are walked over in the time in which a step is costed."""

WINDOW_STEPS: Final = 20_000
"""Steps that one window may cost."""


@dataclass
class Part:
    """Tasks of their own, the best order known of them, and what no order is below."""

    tasks: Tasks
    order: tuple[int, ...]
    bound: int
    method: str
    width: int = FIRST_WIDTH
    peak: int = field(init=False)

    def __post_init__(self) -> None:
        self.peak = peak(self.tasks, self.order)

    @cached_property
    def known(self) -> Relations:
        return relations(self.tasks.before, self.tasks.file_order)

    @cached_property
    def space(self) -> States:
        return States(self.tasks, runs(self.tasks, self.known))

    @cached_property
    def unit(self) -> int:
        """What all numbers of bytes are multiples of."""
        workspaces = (task.workspace for task in self.tasks.tasks)
        return math.gcd(*self.tasks.sizes, *workspaces) or 1

    def improve(self, floor: int, meter: Meter) -> None:
        """Search once, wider than last time; peaks up to ``floor`` are good enough."""
        if self.width == FIRST_WIDTH and len(self.tasks.tasks) <= BRANCHES:
            self.bound = max(self.bound, branch_bound(self.tasks, self.known))
        self.search(floor, meter)
        if len(self.tasks.tasks) > SMALL and self.peak > max(floor, self.bound):
            self.windows(floor, meter)
        self.width *= WIDER

    def search(self, floor: int, meter: Meter) -> None:
        """Bisect for the least budget for which an order is found at this width."""
        low = budget = max(floor, self.bound)
        while low < self.peak and meter.spend(0):
            share = meter.share((meter.steps - meter.spent) // 2)
            found = search(self.space, budget, self.width, share)
            meter.spend(share.spent)
            if found.order is not None:
                self._take(found.order, "search over down-sets")
            elif found.complete:
                self.bound = found.over
                low = max(low, self.bound)
            else:
                low = budget + self.unit
                if (self.peak - low) * CLOSE < self.peak and share.spent > SMALL:
                    low = max(low, self.peak - self.unit)
            middle = (low + self.peak - self.unit) // 2
            budget = max(low, middle // self.unit * self.unit)

    def windows(self, floor: int, meter: Meter) -> None:
        """Order anew what lies around the highest step, until that is of no use."""
        size = 0
        while size < len(WINDOWS) and self.peak > max(floor, self.bound):
            if not meter.spend(0):
                return
            if not any(
                self._window(start, start + WINDOWS[size], floor, meter)
                for start in self._starts(WINDOWS[size])
            ):
                size += 1

    def _starts(self, size: int) -> list[int]:
        """Where windows over the first of the highest steps begin."""
        steps = [at_step for at_step, _ in walk(self.tasks, self.order)]
        at = steps.index(max(steps))
        last = len(steps) - size
        wanted = (at - size // 2, at - size // 4, at - 3 * size // 4)
        return list(dict.fromkeys(max(0, min(last, start)) for start in wanted))

    def _window(self, start: int, stop: int, floor: int, meter: Meter) -> bool:
        """Order anew a window in which the peak is; true if that fell."""
        lives = [self.tasks.given, *(live for _, live in walk(self.tasks, self.order))]
        inner = part(self.tasks, self.order, start, stop, lives[start])
        window = Part(inner, tuple(range(len(inner.tasks))), 0, "")
        window.bound = lower_bound(inner, window.known)
        before = window.peak
        share = meter.share(WINDOW_STEPS)
        while window.peak == before and window.bound < before and share.spend(0):
            window.search(floor, share)
            window.width *= WIDER
        meter.spend(share.spent + len(self.order) // WALK)
        if window.peak == before:
            return False
        members = self.order[start:stop]
        mine = tuple(members[i] for i in window.order)
        self._take(self.order[:start] + mine + self.order[stop:], "windows")
        return True

    def _take(self, order: tuple[int, ...], method: str) -> None:
        self.order, self.method = order, method
        self.peak = peak(self.tasks, order)
