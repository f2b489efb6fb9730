"""Sets of tasks that ran, and what the next of them cost; made ready for a search.

Sets are bits of an int. What dies at a step in any order is put in once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import TypeAlias

from .bounds import Relations, relations
from .chains import Run, needed
from .tasks import Tasks, first_order, turned

Waits: TypeAlias = tuple[tuple[int, int], ...]
"""(bits of runs, bytes): the bytes die at a step if all these runs are done."""

Pairs: TypeAlias = tuple[tuple[int, int, int, int], ...]
"""(bytes saved, made, read, bits of runs): in place if all these runs are done."""

Step: TypeAlias = tuple[int, int, Waits, Pairs]
"""(bytes added at the step, bytes added after it, what more may die, in place)."""

State: TypeAlias = tuple[int, int, int]
"""(bits of the runs that are done, bytes live then, bits of those that can run)."""


class States:
    """The down-sets of tasks in runs, made for the search.

    ``weight`` says how many steps of a meter one costs: sets of more than 64 runs are
    long numbers.
    """

    def __init__(self, tasks: Tasks, runs: Sequence[Run]) -> None:
        self.runs = runs
        before = needed(tasks, runs)
        known = relations(before, first_order(before))
        self.below = known.below
        self.steps = _steps(tasks, runs, known)
        self.before = [sum(1 << j for j in each) for each in before]
        self.behind = [[*each] for each in turned(before)]
        for i, j in _alike(self.before, self.behind, self.steps):
            self.before[j] |= 1 << i
            self.behind[i].append(j)
        self.fixed = [_fixed(steps) for steps in self.steps]
        self.last = [_needed(steps) | 1 << i for i, steps in enumerate(self.steps)]
        self.fellows = _together(self.last)
        self.near = [sum(1 << j for j in each) for each in self.behind]
        for i, steps in enumerate(self.steps):
            for _, _, waits, pairs in steps:
                for bits in [*(w[0] for w in waits), *(p[3] for p in pairs)]:
                    while bits:
                        low = bits & -bits
                        self.near[low.bit_length() - 1] |= 1 << i
                        bits ^= low
        self.given = tasks.given
        self.weight = max(1, len(runs).bit_length() - 6)

    def cost(self, done: int, live: int, run: int) -> tuple[int, int]:
        """(most bytes at a step of the run, bytes live after it)."""
        fixed = self.fixed[run]
        if fixed is not None:
            return live + fixed[0], live + fixed[1]
        most = 0
        for step, growth, waits, pairs in self.steps[run]:
            here = live + step
            if pairs:
                here -= _saved(pairs, done)
            if here > most:
                most = here
            live += growth
            for bits, size in waits:
                if bits & done == bits:
                    live -= size
        return most, live

    def after(self, done: int, ready: int, run: int) -> tuple[int, int]:
        """What is done and can come next after one more run."""
        bit = 1 << run
        done |= bit
        ready ^= bit
        for j in self.behind[run]:
            wants = self.before[j]
            if wants & done == wants:
                ready |= 1 << j
        return done, ready

    def settle(
        self, state: State, candidates: int, budget: int, path: list[int]
    ) -> State:
        """Run at once what fits and leaves no more live; add it to the path.

        Of runs that do so only as the last of some, none does while two are left.
        """
        done, live, ready = state
        while candidates:
            bit = candidates & -candidates
            candidates ^= bit
            run = bit.bit_length() - 1
            if self.last[run] & ~done != bit:
                candidates &= ~self.fellows[run]
                continue
            most, left = self.cost(done, live, run)
            if left > live or most > budget:
                continue
            path.append(run)
            done, ready = self.after(done, ready, run)
            candidates = ready if left < live else ready & (candidates | self.near[run])
            live = left
        return done, live, ready

    def order(self, came: dict[int, tuple[int, list[int]]], done: int) -> list[int]:
        """The tasks on the way to a state."""
        paths = []
        while True:
            earlier, path = came[done]
            paths.append(path)
            if earlier == done:
                break
            done = earlier
        return [
            i for path in reversed(paths) for r in path for i in self.runs[r].members
        ]


def _steps(tasks: Tasks, runs: Sequence[Run], known: Relations) -> list[list[Step]]:
    """The steps of each run, with what is known of deaths in any order put in."""
    place = {i: at for at, run in enumerate(runs) for i in run.members}
    found = []
    for at, run in enumerate(runs):
        steps = []
        read_later: set[int] = set()
        for i in reversed(run.members):
            reads = tasks.tasks[i].reads
            deaths = {}
            for buffer in reads - tasks.kept - read_later:
                others = sum({1 << place[r] for r in tasks.readers[buffer]}) & ~(
                    1 << at
                )
                if not others & known.below[at]:
                    deaths[buffer] = others & ~known.above[at]
            steps.append(_step(tasks, i, deaths))
            read_later |= reads
        found.append(steps[::-1])
    return found


def _step(tasks: Tasks, i: int, deaths: dict[int, int]) -> Step:
    """A step at which buffers die if the runs of their bits are done."""
    sure = {buffer for buffer, bits in deaths.items() if not bits}
    waits: dict[int, int] = {}
    for buffer in sorted(deaths.keys() - sure):
        bits = deaths[buffer]
        waits[bits] = waits.get(bits, 0) + tasks.sizes[buffer]
    growth = tasks.lasting[i] - sum(tasks.sizes[b] for b in sure)
    pairs = [
        (tasks.saving(made, read), made, read, deaths[read])
        for made, read in tasks.tasks[i].over
        if read in deaths
    ]
    if not any(bits for *_, bits in pairs):
        return tasks.at_step(i, sure), growth, tuple(waits.items()), ()
    pairs.sort(key=lambda pair: -pair[0])
    return tasks.at_step(i, ()), growth, tuple(waits.items()), tuple(pairs)


def _alike(
    before: Sequence[int], behind: Sequence[Sequence[int]], steps: Sequence[list[Step]]
) -> list[tuple[int, int]]:
    """Pairs of runs that can change places in any order; one may as well come first.

    They need the same, are needed by the same, and read what dies with the same others.
    """
    last: dict[object, int] = {}
    pairs = []
    for i, mine in enumerate(steps):
        if any(in_place for *_, in_place in mine):
            continue
        bit = 1 << i
        shared = tuple(
            (step, growth, frozenset((bits | bit, size) for bits, size in waits))
            for step, growth, waits, _ in mine
        )
        key = before[i], tuple(behind[i]), shared
        if key in last:
            pairs.append((last[key], i))
        last[key] = i
    return pairs


def _saved(pairs: Pairs, done: int) -> int:
    """What `tasks.in_place` saves where these runs are done."""
    taken: list[int] = []
    saved = 0
    for saving, made, read, bits in pairs:
        if bits & done == bits and made not in taken and read not in taken:
            taken += made, read
            saved += saving
    return saved


def _needed(steps: Sequence[Step]) -> int:
    """The bits of runs that must be done so that steps leave no more live."""
    waits = [wait for _, _, waits, _ in steps for wait in waits]
    least = sum(step[1] for step in steps) - sum(size for _, size in waits)
    return reduce(or_, (bits for bits, size in waits if least + size > 0), 0)


def _together(sets: Sequence[int]) -> list[int]:
    """For each run the bits of all that have the same set."""
    found = dict.fromkeys(sets, 0)
    for i, bits in enumerate(sets):
        found[bits] |= 1 << i
    return [found[bits] for bits in sets]


def _fixed(steps: Sequence[Step]) -> tuple[int, int] | None:
    """(most bytes at a step, bytes left) of steps where nothing is to be looked up."""
    most = growth = 0
    for step, left, waits, pairs in steps:
        if waits or pairs:
            return None
        most = max(most, growth + step)
        growth += left
    return most, growth
