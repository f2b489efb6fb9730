"""Branch and bound for offsets: runs of the tree, each in another order.

A run ends after a number of steps; the next decides other sections first, and tries
buffers in another order. A run that ends by itself has found a packing, or proved that
there is none. Runs know nothing of each other, so that one that lasts longer finds what
a shorter one would.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from .compiled import Advance, compiled
from .nodes import advance
from .sections import Sections
from .tree import (
    AT,
    CELLS,
    CHANGED,
    COUNT,
    DEPTH,
    DOWN,
    EXHAUSTED,
    FEWEST,
    FOCUS,
    FOUND,
    FULL,
    LEFT,
    LOWEST,
    RECORD,
    RUNNING,
    SLACK,
    STEPS,
    TIGHTEST,
    WORD,
    Problem,
    Row,
    Table,
    Tree,
)

LENGTH: Final = 1600
"""Steps of the first runs; each round of runs has a fifth more."""
PATIENCE: float = 3.0
"""Seconds after which it pays to load the compiled search; it finds the same."""
SLICE: Final = {False: 10, True: 5000}
"""Steps between two looks at the clock: plain, compiled."""
NOISE: Final = 0.3
"""By how much the measures of buffers are blurred after the first round."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Offsets in units, if found; whether there are none; the steps that were taken."""

    offsets: list[int] | None
    impossible: bool
    steps: int


def search(
    packed: Sections,
    capacity: int,
    steps: int,
    *,
    deadline: float = float("inf"),
    compile: bool = True,
) -> Outcome:
    """Pack into ``capacity`` units by at most ``steps`` nodes of the tree.

    Found is the same with and without numba, unless `time.monotonic` passes the
    deadline. With ``compile`` false numba is not asked for: it may take its time.
    """
    taken = 0
    patience = 0.0 if compiled.cache_info().currsize else PATIENCE
    compiling = time.monotonic() + patience if compile else float("inf")
    if max(packed.totals, default=0) > capacity:
        return Outcome(None, True, 0)
    for number in itertools.count():
        if taken >= steps or time.monotonic() >= deadline:
            break
        order, choice = RUNS[number % len(RUNS)]
        run = Run(packed, capacity, ranked(packed, order, number), choice)
        length = int(LENGTH * 1.2 ** (number // len(RUNS)))
        status = run.go(min(length, steps - taken), compiling, deadline)
        taken += run.steps
        if status == FOUND:
            return Outcome(run.offsets, False, taken)
        if status == EXHAUSTED:
            return Outcome(None, True, taken)
    return Outcome(None, False, taken)


class Run:
    """One run of the tree."""

    def __init__(
        self, packed: Sections, capacity: int, ranked: Sequence[int], choice: int
    ) -> None:
        self.choice = choice
        self.problem = _problem(packed, capacity, ranked)
        self.tree, self.room = _tree(packed, self.problem)

    @property
    def steps(self) -> int:
        return int(self.tree.registers[STEPS])

    @property
    def offsets(self) -> list[int]:
        return [int(at) for at in self.tree.cells[AT][: len(self.problem.sizes)]]

    def go(self, steps: int, compiling: float, deadline: float) -> int:
        """Visit so many nodes; from the moment ``compiling`` on by numba."""
        function: Advance = advance
        while self.steps < steps and (now := time.monotonic()) < deadline:
            if now >= compiling:
                function = self._compiled() or advance
            part = min(SLICE[function is not advance], steps - self.steps)
            status = function(self.problem, self.tree, self.room, self.choice, part)
            if status == FULL and not self._widen():
                return RUNNING
            if status in (FOUND, EXHAUSTED):
                return status
        return RUNNING

    def _compiled(self) -> Advance | None:
        """The compiled search, if there is one; it goes on with arrays."""
        function = compiled()
        if function is not None and isinstance(self.tree.registers, list):
            self.problem = Problem(self.problem[0], *map(_array, self.problem[1:]))
            self.tree = Tree(*map(_array, self.tree))
        return function

    def _widen(self) -> bool:
        """Make more room for trail and records; false if it is depth that lacks."""
        if self.tree.registers[DEPTH] + 1 >= len(self.tree.frames):
            return False
        trail, records = self.tree.trail, self.tree.records
        if self.tree.registers[CHANGED] + self.room > len(trail):
            trail = _longer(trail)
        else:
            records = _longer(records)
        self.tree = self.tree._replace(trail=trail, records=records)
        return True


def _array(values: Any) -> Any:
    return np.array(values, np.int64)


def _longer(rows: Any) -> Any:
    """Twice as many rows."""
    if not isinstance(rows, list):
        return np.concatenate([rows, np.zeros_like(rows)])
    if isinstance(rows[0], int):
        return rows + [0] * len(rows)
    return rows + _table(len(rows), len(rows[0]))


def _problem(packed: Sections, capacity: int, ranked: Sequence[int]) -> Problem:
    count = len(packed.sizes)
    members: list[list[int]] = [[] for _ in packed.totals]
    twins = [-1] * count
    latest: dict[tuple[int, int, int], int] = {}
    for b in ranked:
        same = packed.first[b], packed.last[b], packed.sizes[b]
        twins[b] = latest.get(same, -1)
        latest[same] = b
        for t in range(packed.first[b], packed.last[b]):
            members[t].append(b)
    return Problem(
        capacity,
        packed.first,
        packed.last,
        packed.sizes,
        *_flat(members),
        *_flat(packed.neighbors),
        twins,
    )


def _flat(rows: Sequence[Sequence[int]]) -> tuple[Row, Row]:
    """Where each row starts, and where the last one ends; all rows in one."""
    starts = [0, *itertools.accumulate(map(len, rows))]
    return starts, [value for row in rows for value in row]


def _tree(packed: Sections, problem: Problem) -> tuple[Tree, int]:
    """An empty tree, and by how much a node may lengthen its trail."""
    count, total = len(problem.sizes), len(packed.totals)
    live = [z - a for a, z in itertools.pairwise(problem.member_starts)]
    cells = [[0] * max(count, total) for _ in range(CELLS)]
    cells[SLACK][:total] = [problem.capacity - units for units in packed.totals]
    cells[LEFT][:total] = live
    cells[COUNT][:total] = live
    cells[AT][:count] = [-1] * count
    cells[RECORD][:count] = [-1] * count
    room = 3 * (6 * total + 2 * count + len(problem.members) + 8)
    depth = 2 * count + 64
    registers = [0] * 6
    registers[FOCUS] = -1
    registers[DOWN] = 1
    return Tree(
        registers,
        cells,
        trail=[0] * (4 * room),
        frames=_table(depth, 5),
        conflicts=_table(depth + 1, depth // WORD + 1),
        records=_table(8 * count, 3),
        weights=[1] * total,
        lifted=[0] * count,
        needs=[0] * count,
        queue=[0] * count,
        queued=[0] * count,
    ), room


def _table(rows: int, columns: int) -> Table:
    return [[0] * columns for _ in range(rows)]


def ranked(
    packed: Sections, order: Callable[[_Measures], tuple[float, ...]], number: int
) -> list[int]:
    """Buffers by falling measures, blurred after the first round."""
    count = len(packed.sizes)
    blur = random.Random(number) if number >= len(RUNS) else None
    keys: list[tuple[float, ...]] = []
    for b in range(count):
        a, z = packed.first[b], packed.last[b]
        life, size = z - a, packed.sizes[b]
        measures = _Measures(life, size, life * size, max(packed.totals[a:z]))
        key = order(measures)
        if blur is not None:
            key = tuple(value * (1 + NOISE * blur.random()) for value in key)
        keys.append(key)
    return sorted(range(count), key=lambda b: keys[b], reverse=True)


class _Measures(NamedTuple):
    """What buffers are ordered by."""

    life: int
    size: int
    area: int
    crowding: int


def _by_life(m: _Measures) -> tuple[float, ...]:
    return m.life, m.area, m.crowding


def _by_size(m: _Measures) -> tuple[float, ...]:
    return m.size, m.life


def _by_crowding(m: _Measures) -> tuple[float, ...]:
    return m.crowding, m.area, m.life


RUNS: Final[tuple[tuple[Callable[[_Measures], tuple[float, ...]], int], ...]] = (
    (_by_size, FEWEST),
    (_by_life, FEWEST),
    (_by_life, TIGHTEST),
    (_by_size, LOWEST),
    (_by_crowding, FEWEST),
    (_by_life, LOWEST),
    (_by_size, TIGHTEST),
    (_by_crowding, LOWEST),
    (_by_crowding, TIGHTEST),
)
"""In what order buffers are tried, and sections chosen: what finds most comes first."""
