"""Tasks that may as well run in one go.

Two tasks, the second being the next thing that the first is for, are put together where
any order can be changed into one that runs them in one go, and is no worse. Two such
changes are known, for an order … first, others, second …:

- The second moves up to the first. The others must not need more for it: the second
  never leaves more live than it found. Its own step is covered by the first's.
- The first moves down to the second. The first never leaves less than it found, and its
  own step is covered by the second's.

What a task leaves depends on which of its reads die at it. More do the more tasks ran
before, so there are bounds for any order: those that must, and those that may die.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .bounds import Relations, may_die_at, must_die_at, relations
from .tasks import Tasks, first_order, turned


@dataclass(frozen=True)
class Run:
    """Tasks that run in one go, with bounds over all orders.

    ``step`` is what they add to the bytes live before them, at most; ``growth`` what
    they leave.
    """

    members: tuple[int, ...]
    least_step: int
    most_step: int
    least_growth: int
    most_growth: int

    def then(self, other: Run) -> Run:
        """Both runs in one go."""
        return Run(
            self.members + other.members,
            max(self.least_step, self.least_growth + other.least_step),
            max(self.most_step, self.most_growth + other.most_step),
            self.least_growth + other.least_growth,
            self.most_growth + other.most_growth,
        )


def runs(tasks: Tasks, known: Relations) -> list[Run]:
    """The tasks in runs, in an order in which they can be run."""
    found = [_single(tasks, known, i) for i in tasks.file_order]
    while True:
        paired = _paired(tasks, found)
        if len(paired) == len(found):
            return found
        found = paired


def needed(tasks: Tasks, found: Sequence[Run]) -> list[frozenset[int]]:
    """For each run the places of the runs that it directly needs."""
    place = {i: at for at, run in enumerate(found) for i in run.members}
    return [
        frozenset(place[j] for i in run.members for j in tasks.before[i]) - {at}
        for at, run in enumerate(found)
    ]


def _single(tasks: Tasks, known: Relations, i: int) -> Run:
    reads = tasks.tasks[i].reads
    may = {b for b in reads if may_die_at(tasks, known, i, b)}
    must = {b for b in may if must_die_at(tasks, known, i, b)}
    made = tasks.lasting[i]
    return Run(
        (i,),
        tasks.at_step(i, may),
        tasks.at_step(i, must),
        made - sum(tasks.sizes[b] for b in may),
        made - sum(tasks.sizes[b] for b in must),
    )


def _paired(tasks: Tasks, found: list[Run]) -> list[Run]:
    """The runs, pairs of them put together wherever that is safe; each in one pair."""
    before = needed(tasks, found)
    behind = turned(before)
    known = relations(before, range(len(found)))
    taken: set[int] = set()
    merged: dict[int, Run] = {}
    for at, first in enumerate(found):
        if at in taken:
            continue
        merged[at] = first
        for other in behind[at]:
            if other not in taken and _fits(known, at, other, first, found[other]):
                merged[at] = first.then(found[other])
                taken.add(other)
                break
    paired = list(merged.values())
    return [paired[at] for at in first_order(needed(tasks, paired))]


def _fits(known: Relations, at: int, other: int, first: Run, second: Run) -> bool:
    """True if any order may as well run the two in one go."""
    if known.above[other] == known.above[at] | 1 << at:
        covered = first.most_growth + second.most_step <= first.least_step
        if covered and second.most_growth <= 0:
            return True
    if known.below[at] == known.below[other] | 1 << other:
        covered = first.most_step <= first.least_growth + second.least_step
        return covered and first.least_growth >= 0
    return False
