"""The best plan of a problem: by messages, until few options are left to the solver.

A plan with an option that costs more above the bound than the best plan does is no
better, so that the option is left out. A limit of memory leaves a gap between bound and
plan, as half of one plan and half of another would just fit; there the options of the
weight in which these two differ most are parted, and each part is bounded for itself.

Plans are made better window by window: what the best one chooses in some blocks is
free, all else stays. Shaw, "Using constraint programming and local search methods to
solve vehicle routing problems", CP 1998.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from .columns import Columns
from .messages import Messages, Moved, Picks
from .problem import UNIT
from .search import NO_PLAN, NoPlan, clock, search
from .shrink import Shrunk

ROUNDS: Final = 40
"""Sweeps forth and back in which prices are found."""
_AGAIN: Final = 12  # of a part, which starts from what its whole has found
_LONG: Final = 160  # without a limit
_STALE: Final = 2e-5  # by which so many rounds have to raise a bound, relatively
_SHORT: Final = 10
_WORK: Final = 40  # parts to bound and programs to solve, until no gap is worth it
_LARGE: Final = 8  # how much of that other programs count
_FEW: Final = 6000  # columns that are left to the solver at once
_MANY: Final = 30_000  # columns of which no relaxation is solved
_NEAR: Final = (800, 400, 200, 100)  # options besides the best ones, to try first
_EARLY: Final = 1e-4  # by which a refused plan is cheaper, to end the search
_FINE: Final = 1e-6  # the gap of what small programs find
_RECENT: Final = 60  # plans of which parts are put together
_ROUGH: Final = 1e-3  # the gap of a plan among these
_WINDOW: Final = 4000  # options that are free at once
_WIDER: Final = 1.6  # times as many, where a round makes little better
_SLIGHT: Final = 5e-4
_WIDEST: Final = 16_000
_SPARE: Final = 5e-3  # of a limit, the most that is left for copies
_BRIEF: Final = 3.0  # seconds for a window
_HALF: Final = 0.5  # of the time that is left, for windows


@dataclass(frozen=True)
class Found:
    """The best plan, and a bound that none is below; in `UNIT`.

    ``refused`` is a plan that costs less and was refused. Where all were, it is the
    best one that was.
    """

    chosen: tuple[int, ...]
    value: float
    bound: float
    refused: tuple[int, ...] | None = None
    early: bool = False
    """That the search ended as soon as one was refused."""


@dataclass
class _Part:
    """Some options of each block, and what is known of them."""

    allowed: Sequence[Any]
    moved: Moved
    bound: float
    base: float
    """What the excess of options is above."""
    excess: Sequence[Any]
    over: Picks | None = None
    under: Picks | None = None


class Narrowing:
    """One search, for so many seconds at most and a relative gap.

    ``over`` says what a plan takes beyond the limits that these do not tell, for copies
    in other layouts: 0 is accepted; inf where it is not copies, so that a row would
    tell. A plan that is accepted may be ``known``. What does not cost less than
    ``below`` is no plan.
    """

    def __init__(
        self,
        shrunk: Shrunk,
        seconds: float,
        gap: float,
        over: Callable[[tuple[int, ...]], float],
        known: tuple[int, ...] | None = None,
        below: float = math.inf,
    ) -> None:
        self.shrunk = shrunk
        self.problem = shrunk.problem
        self.deadline = clock() + seconds
        self.gap = gap
        self.value = below
        self.chosen: tuple[int, ...] | None = None
        self._seen: set[tuple[int, ...]] = set()
        self._recent: deque[tuple[int, ...]] = deque(maxlen=_RECENT)
        self.columns = 0
        self.rows = 0
        self._over = over
        self._refused: tuple[float, tuple[int, ...]] = math.inf, ()
        self._passed: tuple[float, tuple[int, ...]] = math.inf, ()
        self._spare = 0.0
        """What is left of each limit for copies, where plans are looked for."""
        if known is not None:
            self.value, self.chosen = self.problem.seconds(known) / UNIT, known

    def run(self) -> Found:
        """Raises NoPlan where no plan keeps the limits, or none was found."""
        allowed = {k: np.ones(len(b), bool) for k, b in self.shrunk.blocks.items()}
        if not self.shrunk.has_room(allowed):
            raise NoPlan(NO_PLAN)
        messages = self.messages = Messages(self.shrunk)
        messages.allowed = [allowed[key] for key in messages.keys]
        messages.reprice(messages.prices)
        root = self._bounded(0.0, ROUNDS)
        if not self._is_small(root):
            self._fit(root)
            self._mix()
            self._try_near(root)
            self._mix()
        if self._is_refused():
            return self._found(root.bound, early=True)
        if not self._is_small(root):
            self._improve(root)
            if self._is_refused():
                return self._found(root.bound, early=True)
            messages.restore(root.moved, root.allowed)
            root = self._bounded(root.bound, ROUNDS)
        number = itertools.count()
        pending = [(root.bound, next(number), root)]
        done, work = math.inf, 0
        while pending:
            low, _, part = heapq.heappop(pending)
            near = low >= self._enough()
            if low >= self.value * (1 - _FINE) or self._late() or work >= _WORK:
                done = min(done, low)  # all others are higher
                break
            program = self._program(part, self.value)
            if program is None:  # rounding put the best plan below its bound
                done = min(done, self.value)
                continue
            few = program.count <= _FEW
            if near and not few:
                done = min(done, low)
                break
            pair = None if few or work >= _WORK - _LARGE else self._halves(part)
            if pair is None:
                work += 1 if few else _LARGE
                if program.count <= _MANY or self.chosen is None:
                    low = self._solved(program, low, _FINE if few else self.gap)
                done = min(done, low)
                continue
            for half in pair:
                work += 1
                messages.restore(part.moved, half)
                inner = self._bounded(low, _AGAIN)
                heapq.heappush(pending, (inner.bound, next(number), inner))
            self._mix()
        return self._found(done)

    def _found(self, bound: float, *, early: bool = False) -> Found:
        value, refused = self._refused if self._refused[1] else self._passed
        if self.chosen is not None:
            cheaper = refused if self._refused[0] < self._enough() else None
            bound = min(bound, self.value)
            return Found(self.chosen, self.value, bound, cheaper, early)
        if refused:
            return Found(refused, value, min(bound, value), refused, early)
        none = bound == math.inf
        raise NoPlan(NO_PLAN if none else "no plan was found in time")

    def _is_refused(self) -> bool:
        """True where a plan was refused that is cheaper by what is worth to know."""
        return self._refused[0] < self.value * (1 - _EARLY)

    def _is_small(self, part: _Part) -> bool:
        """True where the solver can have at once what is left of a part."""
        if self.value == math.inf:
            return False
        pairs = zip(part.allowed, part.excess, strict=True)
        most = self.value - part.base
        if sum(np.count_nonzero(ok & (each <= most)) for ok, each in pairs) > _FEW:
            return False
        program = self._program(part, self.value)
        return program is None or program.count <= _FEW

    def _late(self) -> bool:
        return clock() > self.deadline

    def _enough(self) -> float:
        """A bound at which the best plan is good enough."""
        return self.value * (1 - self.gap)

    # --- bounds

    def _bounded(self, low: float, rounds: int) -> _Part:
        """What sweeps prove of the allowed options, and plans on the way."""
        messages = self.messages
        free = not len(messages.prices)
        step = np.full(len(messages.prices), 0.02 if low == 0 else 0.005)
        step *= low or max(messages.bound(), 1.0)
        best, kept, over, under = -math.inf, messages.moved(), None, None
        before, history = np.zeros(len(step)), [-math.inf]
        for _ in range(_LONG if free else rounds):
            messages.sweep()
            messages.sweep(back=True)
            bound = messages.bound()
            if bound > best:
                best, kept = bound, messages.moved()
            if best >= self._enough() or self._late():
                break
            history.append(best)
            stale = len(history) > _SHORT and best - history[-_SHORT] < _STALE * best
            plan = messages.decoded()
            self._recent.append(tuple(plan.picks))
            if (plan.shares <= 1).all():
                under = plan
                self._offer(messages.chosen(plan.picks))
            else:
                over = plan
            if free:
                if stale:
                    break
                continue
            way = np.sign(plan.shares - 1)
            step *= np.select([way * before > 0, way * before < 0], [1.6, 0.4], 1.0)
            before = way
            messages.reprice(messages.prices + step * way)
        messages.restore(kept, messages.allowed)
        excess = messages.sweep()
        bound = max(low, best)
        return _Part(
            messages.allowed, messages.moved(), bound, best, excess, over, under
        )

    def _fit(self, root: _Part) -> None:
        """A first plan that keeps the limits: at higher prices, where none did."""
        messages = self.messages
        prices = messages.prices + 1e-3 * root.bound
        for _ in range(24):
            if self.chosen is not None or self._refused[1]:
                break
            messages.reprice(prices)
            messages.sweep()
            plan = messages.decoded()
            root.under = plan
            self._offer(messages.chosen(plan.picks))
            prices = 2 * prices
        messages.restore(root.moved, root.allowed)

    def _offer(self, chosen: tuple[int, ...]) -> None:
        if chosen in self._seen:
            return
        self._seen.add(chosen)
        value = self.problem.seconds(chosen) / UNIT
        if value >= self.value or not self.problem.keeps(chosen):
            return
        over = self._over(chosen)
        if not over:
            self.value, self.chosen = value, chosen
        elif over == math.inf:
            self._refused = min(self._refused, (value, chosen))
        else:
            self._passed = min(self._passed, (value, chosen))
            most = _SPARE * self.problem.limit
            self._spare = max(self._spare, min(2 * over, most))

    def _halves(self, part: _Part) -> tuple[Sequence[Any], Sequence[Any]] | None:
        """The options of the block in which a plan that fits and one that does not
        differ most, parted by what they take."""
        if part.over is None or part.under is None:
            return None
        messages = self.messages
        row = int((part.over.shares - 1).argmax())
        most, found = 0.0, None
        for i, pair in enumerate(zip(part.over.picks, part.under.picks, strict=True)):
            shares = messages.share(i, row)
            more, less = (float(shares[pick]) for pick in pair)
            if more - less > most:
                most, found = more - less, (i, shares > (more + less) / 2)
        if found is None:
            return None
        block, large = found
        halves = []
        for mask in (large, ~large):
            allowed = {
                key: each.copy()
                for key, each in zip(messages.keys, part.allowed, strict=True)
            }
            allowed[messages.keys[block]] &= mask
            if self.shrunk.has_room(allowed):
                halves.append([allowed[key] for key in messages.keys])
        return tuple(halves) if halves else None  # type: ignore[return-value]

    # --- programs

    def _program(
        self, part: _Part, most: float, window: Collection[int] | None = None
    ) -> Columns | None:
        """Columns of what may be in a plan that costs at most so much; None without.

        Outside of a ``window`` of blocks the best plan's options are the only ones.
        """
        messages = self.messages
        messages.restore(part.moved, part.allowed)
        keep = {
            key: np.flatnonzero(ok & (excess <= most - part.base + 1e-6))
            for key, ok, excess in zip(
                messages.keys, part.allowed, part.excess, strict=True
            )
        }
        if window is not None:
            assert self.chosen is not None
            for i, pick in enumerate(messages.picks(self.chosen)):
                key = messages.keys[i]
                kept = [keep[key]] if i in window else []
                keep[key] = np.unique([*np.concatenate([*kept, [pick]])]).astype(int)
        if not all(len(each) for each in keep.values()):
            return None
        allowance = most - messages.bound()
        rest = [messages.rest(i) for i in range(len(messages.keys))]
        rest = [each - each.min() for each in rest]

        def pays(number: int, layouts: list[Any], costs: Any) -> Any:
            tree = messages.whole.get(number)
            if tree is None:
                return costs < np.inf
            total, met = costs - tree.low, set[int]()
            for axis, (port, some) in enumerate(zip(tree.ports, layouts, strict=True)):
                lost = port.moved
                if port.block not in met:  # what its options cost counts once
                    lost = lost + port.least(rest[port.block])
                met.add(port.block)
                lost = lost[np.searchsorted(port.layouts, some)]
                total = total + np.expand_dims(
                    lost, [a for a in range(len(layouts)) if a != axis]
                )
            return (total <= allowance + 1e-6) & np.isfinite(costs)

        shrunk = self.shrunk if window is None else self._tighter()
        return Columns(shrunk.only(keep), pays)

    def _tighter(self) -> Shrunk:
        """With room for copies."""
        if not self._spare:
            return self.shrunk
        found, problem, less = copy(self.shrunk), self.problem, self._spare
        rows = [replace(row, limit=row.limit - less) for row in problem.rows]
        found.problem = replace(problem, limit=problem.limit - less, rows=tuple(rows))
        return found

    # --- better plans

    def _mix(self) -> None:
        """A plan of what recent ones and the best one choose here and there."""
        messages = self.messages
        rows = set(self._recent)
        if self.chosen is not None:
            rows.add(messages.picks(self.chosen))
        if not rows:
            return
        some = np.asarray(sorted(rows)).T
        keep = {
            key: np.unique(each) for key, each in zip(messages.keys, some, strict=True)
        }
        tighter = self._tighter().only(keep)
        program = Columns(tighter, lambda _, __, costs: costs < np.inf)
        if program.count <= _FEW:
            self._solved(program, 0.0, max(self.gap, _ROUGH))

    def _try_near(self, root: _Part) -> None:
        """A plan among the options that are next to the best ones."""
        every = np.sort(np.concatenate(root.excess)[np.concatenate(root.allowed)])
        for many in _NEAR:
            at = min(len(every) - 1, len(root.excess) + many)
            most = root.base + float(every[at])
            program = self._program(root, min(most, self.value))
            if program is not None and program.count <= _FEW:
                self._solved(program, root.bound, max(self.gap, _ROUGH))
                break

    def _improve(self, root: _Part) -> None:
        """The best plan, made better in one window after the other, until none helps.

        Or half of the time that is left is over, or a plan is refused.
        """
        end, most = clock() + _HALF * (self.deadline - clock()), _WINDOW
        sizes = [int(ok.sum()) for ok in root.allowed]
        while self.chosen is not None:
            before = self.value
            for window in (*windows(sizes, most), *pairs(sizes, most)):
                if clock() > end or self._is_refused():
                    return
                program = self._program(root, self.value, window)
                if program is not None:
                    self._solved(program, 0.0, self.gap, _BRIEF)
            if root.bound >= self._enough() or self._is_small(root):
                return
            if before - self.value < _SLIGHT * before:
                if most > min(_WIDEST, sum(sizes)):
                    return
                most = int(_WIDER * most)

    def _solved(
        self, program: Columns, low: float, gap: float, most: float = math.inf
    ) -> float:
        """The least of what is left out, and what the solver proves of a program.

        It takes ``most`` seconds.
        """
        seconds = min(self.deadline - clock(), most)
        found = search(program, seconds, gap, self.value)
        if found.x is not None:
            self._offer(program.chosen(found.x))
        self.columns = max(self.columns, program.count)
        self.rows = max(self.rows, program.rows)
        return max(low, min(found.bound, self.value))


def windows(sizes: Sequence[int], most: int) -> Iterator[range]:
    """Runs of blocks with as many options as that, each half over the one before.

    One block may have more. ``sizes`` are the options of each.
    """
    ends = np.cumsum(sizes)
    first, last = 0, 0
    while last < len(sizes):
        before = int(ends[first]) - sizes[first]
        end = max(first + 1, int(np.searchsorted(ends, before + most, "right")))
        if end > last:
            yield range(first, end)
            last = end
        half = int(np.searchsorted(ends, before + most // 2, "right"))
        first = min(max(first + 1, half), last)


def pairs(sizes: Sequence[int], most: int) -> Iterator[frozenset[int]]:
    """Two windows that lie far apart: what one takes of a limit, the other may need."""
    half = [*windows(sizes, most // 2)]
    apart = len(half) // 2
    for i in range(apart):
        yield frozenset([*half[i], *half[i + apart]])
