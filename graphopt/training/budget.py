"""What to keep under a budget: the fewest FLOPs that are spent twice.

First cuts (`cuts`); then results that cost much for their bytes are kept while they
fit, and single ones exchanged. Segments nest (`nesting`) where nothing else fits; in
short passes also where that is cheaper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Final

from .cuts import frugal, piles
from .nesting import PLACES, nested
from .retention import Retention, Training

TRIES: Final = 400_000
"""Nodes that a search may walk over, unless it is told; some seconds' worth."""


@dataclass(frozen=True)
class Found:
    """What is kept, the bytes that this holds at once, and the FLOPs of a step."""

    plan: Retention
    peak: int
    flops: int


def retain(training: Training, budget: int, *, tries: int = TRIES) -> Found | None:
    """What to keep so that a step fits into ``budget`` bytes, at few FLOPs.

    None where nothing was found that fits. ``tries`` bounds the search; what comes out
    depends on nothing else.
    """
    search = _Search(training, budget, tries)
    for kept in (*piles(training), *frugal(training, budget)):
        search.fill(kept)
    search.exchange()
    if search.best is None or len(training.steps) <= PLACES:
        for plan in nested(training, budget):
            search.take(plan)
        search.descend()
    return search.best and search.merged(search.best)


def least(training: Training) -> Found:
    """The plan of the lowest peak that the walk over segments finds; none is nested."""
    search = _Search(training, 0, TRIES)
    return min(map(search.flat, piles(training)), key=_by_peak)


def lowest(training: Training) -> Found:
    """The plan of the lowest peak that is found, with nested segments."""
    flat = least(training)
    search = _Search(training, 0, TRIES)
    found = map(search.measured, nested(training, flat.peak))
    return min(flat, *found, key=_by_peak)


class _Search:
    """The best plan so far, and how much may still be tried."""

    def __init__(self, training: Training, budget: int, tries: int) -> None:
        self.training, self.budget, self.left = training, budget, tries
        self.best: Found | None = None
        self.seen: dict[frozenset[int], Found] = {}

    def flat(self, kept: frozenset[int]) -> Found:
        """A plan by what it keeps, in as many segments as there can be."""
        known = self.seen.get(kept)
        if known is None:
            known = self.measured(Retention(kept, self.training.starts(kept)))
            self.seen[kept] = known
        return known

    def measured(self, plan: Retention) -> Found:
        order = self.training.sequence(plan)
        self.left -= len(order)
        return Found(plan, self.training.peak(order), self.training.cost(plan))

    def take(self, plan: Retention | frozenset[int]) -> bool:
        """True for a plan that fits; it may be the best."""
        found = self.flat(plan) if isinstance(plan, frozenset) else self.measured(plan)
        if found.peak > self.budget:
            return False
        if self.best is None or (found.flops, found.peak) < _rank(self.best):
            self.best = found
        return True

    def fill(self, kept: frozenset[int]) -> None:
        """Keep more while it fits, what spares most FLOPs for its bytes first."""
        if not self.take(kept):
            return
        for i in self._dear(self.flat(kept).plan):
            if self.left <= 0:
                return
            if self.take(kept | {i}):
                kept |= {i}

    def _dear(self, plan: Retention) -> list[int]:
        """The steps that run again, by FLOPs for a byte."""
        spent: dict[int, int] = {}
        for i in self.training.again(plan):
            spent[i] = spent.get(i, 0) + self.training.steps[i].flops
        steps = self.training.steps
        return sorted(spent, key=lambda i: -spent[i] / max(1, steps[i].bytes))

    def exchange(self) -> None:
        """Keep one result less, then fill again, until nothing gets better."""
        before = None
        while self.best is not None and self.best is not before and self.left > 0:
            before = self.best
            for i in sorted(before.plan.kept):
                if self.left <= 0:
                    break
                self.fill(before.plan.kept - {i})

    def descend(self) -> None:
        """From the best plan to ones in which cuts lie deeper, while it gets better."""
        before = None
        while self.best is not None and self.best is not before and self.left > 0:
            before = self.best
            for plan in (before.plan, *_deeper(before.plan, len(self.training.steps))):
                self.deepen(plan)

    def deepen(self, plan: Retention) -> None:
        """Keep more while it fits, as far out as it does."""
        for i in self._dear(plan):
            for level in range(plan.depth):
                if self.left <= 0:
                    return
                more = _keeping(plan, i, level, len(self.training.steps))
                if more == plan:
                    break
                if self.take(more):
                    plan = more
                    break

    def merged(self, found: Found) -> Found:
        """The same in fewer segments, as each parts what XLA could fuse."""
        plan = self._merged(found.plan, lambda plan: plan)
        return found if plan == found.plan else self.measured(plan)

    def _merged(
        self, plan: Retention, whole: Callable[[Retention], Retention]
    ) -> Retention:
        """A plan, alone or inside of the ``whole``, in as few segments as fit."""
        begun = {part.starts[0] for part in plan.nested}
        for start in plan.starts[1:]:
            place = plan.starts.index(start)
            if not begun.isdisjoint(plan.starts[place - 1 : place + 1]):
                continue
            starts = (*plan.starts[:place], *plan.starts[place + 1 :])
            fewer = replace(plan, starts=starts)
            if self.measured(whole(fewer)).peak <= self.budget:
                plan = fewer
        for number, part in enumerate(plan.nested):
            around = partial(_within, whole, plan, number)
            plan = _with_part(plan, number, self._merged(part, around))
        return plan


def _with_part(plan: Retention, number: int, part: Retention) -> Retention:
    nested = (*plan.nested[:number], part, *plan.nested[number + 1 :])
    return replace(plan, nested=nested)


def _within(
    whole: Callable[[Retention], Retention],
    plan: Retention,
    number: int,
    part: Retention,
) -> Retention:
    return whole(_with_part(plan, number, part))


def _keeping(plan: Retention, step: int, level: int, stop: int) -> Retention:
    """A plan that also keeps a step's result, so many levels inside; or the same."""
    if step in plan.kept:
        return plan
    if not level:
        return replace(plan, kept=plan.kept | {step})
    parts = {
        part: _keeping(part, step, level - 1, end)
        for start, end, part in plan.spans(stop)
        if part is not None and start <= step < end
    }
    return replace(plan, nested=tuple([parts.get(p, p) for p in plan.nested]))


def _deeper(plan: Retention, stop: int) -> Iterator[Retention]:
    """Plans in which two neighbours are one segment, parted only where it is remade."""
    spans = [*plan.spans(stop)]
    for (first, middle, left), (_, end, right) in pairwise(spans):
        starts = tuple([start for start in plan.starts if start != middle])
        others = [part for part in plan.nested if not first <= part.starts[0] < end]
        inside = tuple([part for part in (left,) if part])
        across = frozenset(i for i in plan.kept if first <= i < middle)
        if right is None:
            joined = Retention(across, (first, middle), inside)
        else:
            nested = (*inside, *right.nested)
            joined = Retention(across | right.kept, (first, *right.starts), nested)
        some = sorted([*others, joined], key=lambda part: part.starts[0])
        yield replace(plan, kept=plan.kept - across, starts=starts, nested=tuple(some))
    ends = [end for _, end, part in spans if part is not None]
    for number, (part, end) in enumerate(zip(plan.nested, ends, strict=True)):
        for deeper in _deeper(part, end):
            yield _with_part(plan, number, deeper)


def _rank(found: Found) -> tuple[int, int]:
    return found.flops, found.peak


def _by_peak(found: Found) -> int:
    return found.peak
