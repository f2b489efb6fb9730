"""Tasks that make and read buffers, and the bytes that an order of them holds.

A buffer is live from the step that makes it to its last reader's, both included; kept
buffers to the end. One that no task makes is given: it is live from the start, if it is
read or kept at all. One that is made, never read and not kept is live at its own step.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

Order: TypeAlias = Sequence[int]
"""Numbers of all tasks, each after those that it needs."""


@dataclass(frozen=True)
class Task:
    """What one task reads and makes, by numbers of buffers.

    It comes after the tasks in ``after``, and after those that make what it reads.
    ``workspace`` bytes are live at its step alone. ``over`` has pairs (made, read) that
    may share memory: where the buffer that is read dies at this step, the one that is
    made costs only what it is larger. See `in_place` for several pairs.
    """

    reads: frozenset[int]
    makes: frozenset[int]
    after: frozenset[int]
    workspace: int = 0
    over: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Tasks:
    """Tasks with the sizes of their buffers in bytes, and the buffers kept to the end.

    Raises ValueError where numbers are out of range, a buffer is made twice, sizes are
    negative, pairs are no (made, read), or tasks need one another in a circle.
    """

    tasks: tuple[Task, ...]
    sizes: tuple[int, ...]
    kept: frozenset[int]

    def __post_init__(self) -> None:
        _in_range(self.kept, len(self.sizes), "kept: no buffer")
        if min(self.sizes, default=0) < 0:
            raise ValueError(f"buffer {self.sizes.index(min(self.sizes))} is negative")
        made: set[int] = set()
        for i, task in enumerate(self.tasks):
            _in_range(task.reads | task.makes, len(self.sizes), f"task {i}: no buffer")
            _in_range(task.after, len(self.tasks), f"task {i}: after no task")
            if task.workspace < 0:
                raise ValueError(f"task {i}: the workspace is negative")
            if not made.isdisjoint(task.makes):
                raise ValueError(
                    f"task {i} makes buffer {min(made & task.makes)} again"
                )
            if not task.makes.isdisjoint(task.reads):
                raise ValueError(f"task {i} reads what it makes")
            for above, below in task.over:
                if above not in task.makes or below not in task.reads:
                    raise ValueError(f"task {i}: ({above}, {below}) is no (made, read)")
            made |= task.makes
        if len(self.file_order) < len(self.tasks):
            left = set(range(len(self.tasks))) - {*self.file_order}
            raise ValueError(f"tasks need one another in a circle, {min(left)} in it")

    @cached_property
    def maker(self) -> tuple[int | None, ...]:
        """The task that makes each buffer, None where it is given."""
        found: list[int | None] = [None] * len(self.sizes)
        for i, task in enumerate(self.tasks):
            for buffer in task.makes:
                found[buffer] = i
        return tuple(found)

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """The tasks that read each buffer."""
        found: list[list[int]] = [[] for _ in self.sizes]
        for i, task in enumerate(self.tasks):
            for buffer in task.reads:
                found[buffer].append(i)
        return tuple(map(tuple, found))

    @cached_property
    def before(self) -> tuple[frozenset[int], ...]:
        """The tasks that each task directly needs."""
        makers = self.maker
        return tuple(
            task.after
            | {m for buffer in task.reads if (m := makers[buffer]) is not None}
            for task in self.tasks
        )

    @cached_property
    def behind(self) -> tuple[tuple[int, ...], ...]:
        """The tasks that directly need each task, in rising order."""
        return turned(self.before)

    @cached_property
    def file_order(self) -> tuple[int, ...]:
        """0, 1, … where that is an order; else the next that can run, lowest first."""
        return first_order(self.before)

    @cached_property
    def lasting(self) -> tuple[int, ...]:
        """Bytes that each task makes and that outlive its step."""
        return tuple(
            sum(self.sizes[b] for b in task.makes if self.readers[b] or b in self.kept)
            for task in self.tasks
        )

    @cached_property
    def given(self) -> int:
        """Bytes that are live before the first step."""
        return sum(
            size
            for buffer, size in enumerate(self.sizes)
            if self.maker[buffer] is None
            and (self.readers[buffer] or buffer in self.kept)
        )

    def at_step(self, task: int, dying: Collection[int]) -> int:
        """What a step adds to the bytes live before it, if ``dying`` die at it."""
        each = self.tasks[task]
        made = sum(self.sizes[b] for b in each.makes)
        return made + each.workspace - self.saved(task, dying)

    def saved(self, task: int, dying: Collection[int]) -> int:
        """Bytes that are shared in place at a step."""
        return sum(self.saving(*pair) for pair in in_place(self, task, dying))

    def saving(self, made: int, read: int) -> int:
        """Bytes that a pair saves in place."""
        return min(self.sizes[made], self.sizes[read])


def turned(before: Sequence[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    """For each task those that need it, in rising order, from those that it needs."""
    found: list[list[int]] = [[] for _ in before]
    for i, needed in enumerate(before):
        for j in needed:
            found[j].append(i)
    return tuple(map(tuple, found))


def first_order(before: Sequence[Collection[int]]) -> tuple[int, ...]:
    """Always the lowest number of those that can come next; none of a circle."""
    behind = turned(before)
    waits = [len(needed) for needed in before]
    ready = [i for i, count in enumerate(waits) if not count]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in behind[i]:
            waits[j] -= 1
            if not waits[j]:
                heapq.heappush(ready, j)
    return tuple(order)


def in_place(tasks: Tasks, task: int, dying: Collection[int]) -> list[tuple[int, int]]:
    """The pairs (made, read) of a task that share memory, if ``dying`` die at its step.

    Those that save most are taken first, of equals the one stated first, each buffer in
    one pair at most. So more dying never saves less: what is made can but be offered
    more, as in stable marriages, and `down_sets` leans on it.
    """
    over = tasks.tasks[task].over
    if not over or not dying:
        return []
    taken: set[int] = set()
    pairs = []
    for made, read in sorted(over, key=lambda pair: -tasks.saving(*pair)):
        if read in dying and taken.isdisjoint((made, read)):
            taken |= {made, read}
            pairs.append((made, read))
    return pairs


def walk(tasks: Tasks, order: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(bytes at the step, bytes live after it) of each task of an order."""
    left = [len(readers) for readers in tasks.readers]
    live = tasks.given
    for i in order:
        dying = set()
        for buffer in tasks.tasks[i].reads:
            left[buffer] -= 1
            if not left[buffer] and buffer not in tasks.kept:
                dying.add(buffer)
        at_step = live + tasks.at_step(i, dying)
        live += tasks.lasting[i] - sum(tasks.sizes[b] for b in dying)
        yield at_step, live


def profile(tasks: Tasks, order: Order) -> list[int]:
    """The bytes at each step of an order. Raises ValueError if it is none."""
    check_order(tasks, order)
    return [at_step for at_step, _ in walk(tasks, order)]


def peak(tasks: Tasks, order: Order) -> int:
    """The most bytes at a step of an order. Raises ValueError if it is none."""
    return max(profile(tasks, order), default=0)


def check_order(tasks: Tasks, order: Order) -> None:
    """Raise ValueError unless each task is there once, after all that it needs."""
    if sorted(order) != list(range(len(tasks.tasks))):
        raise ValueError(
            f"no order of {len(tasks.tasks)} tasks: some lack or come twice"
        )
    done: set[int] = set()
    for i in order:
        if not tasks.before[i] <= done:
            raise ValueError(f"task {i} comes before {min(tasks.before[i] - done)}")
        done.add(i)


def part(tasks: Tasks, order: Order, start: int, stop: int, live: int) -> Tasks:
    """The tasks ``order[start:stop]`` as a problem of their own, numbered from 0.

    What comes before and after in the order stays where it is; ``live`` are the bytes
    live before the part. Its steps hold the same bytes as they do in the whole.
    """
    members = order[start:stop]
    place = {task: i for i, task in enumerate(members)}
    done = {*order[:start]}
    touched: dict[int, int] = {}
    for i in members:
        for buffer in sorted(tasks.tasks[i].reads | tasks.tasks[i].makes):
            touched.setdefault(buffer, len(touched))
    kept = set()
    for buffer, number in touched.items():
        if tasks.maker[buffer] not in place:
            live -= tasks.sizes[buffer]
        later = (r not in place and r not in done for r in tasks.readers[buffer])
        if buffer in tasks.kept or any(later):
            kept.add(number)
    kept.add(len(touched))  # all that the part leaves alone, as one buffer
    inner = [
        Task(
            frozenset(touched[b] for b in task.reads),
            frozenset(touched[b] for b in task.makes),
            frozenset(place[j] for j in tasks.before[i] if j in place),
            task.workspace,
            tuple((touched[made], touched[read]) for made, read in task.over),
        )
        for i in members
        for task in [tasks.tasks[i]]
    ]
    sizes = (*(tasks.sizes[b] for b in touched), live)
    return Tasks(tuple(inner), sizes, frozenset(kept))


def _in_range(numbers: Iterable[int], stop: int, what: str) -> None:
    for number in numbers:
        if not 0 <= number < stop:
            raise ValueError(f"{what} {number}")
