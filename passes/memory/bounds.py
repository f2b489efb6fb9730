"""What is before and after each task in any order, and bytes that no order avoids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, TypeAlias

import numpy as np

from .tasks import Order, Tasks

Bits: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Relations:
    """For each task, as bits of an int, what must come before it and after it."""

    above: tuple[int, ...]
    below: tuple[int, ...]


def relations(
    before: Sequence[Sequence[int] | frozenset[int]], order: Order
) -> Relations:
    """The transitive relations of tasks that directly need ``before``."""
    above = [0] * len(before)
    below = [0] * len(before)
    for i in order:
        above[i] = _union(above, before[i]) | _sum_of_bits(before[i])
    for i in reversed(order):
        mine = below[i] | 1 << i
        for j in before[i]:
            below[j] |= mine
    return Relations(tuple(above), tuple(below))


def cuts(known: Relations, order: Order) -> list[int]:
    """Where any order has passed the same tasks: 0, …, the number of tasks.

    All tasks that come later need all those that came before. Between two cuts is a
    part that can be ordered alone; a task that is comparable with all others is one.
    """
    passed = [0]
    for i in order:
        passed.append(passed[-1] | 1 << i)
    needed = passed[-1]
    found = [len(order)] if order else []
    for place in range(len(order) - 1, -1, -1):
        needed &= known.above[order[place]]
        if needed & passed[place] == passed[place]:
            found.append(place)
    return found[::-1] or [0]


def lower_bound(tasks: Tasks, known: Relations) -> int:
    """Bytes that the highest step of any order holds at least.

    At each step these are what the task makes, and what tasks above it made that it or
    tasks below it read, or that is kept; kept buffers are all live at the last one.
    """
    count = len(tasks.tasks)
    bound = np.array(_least_steps(tasks, known), np.int64)
    for buffer, size in enumerate(tasks.sizes):
        maker = tasks.maker[buffer]
        made = -1 if maker is None else known.below[maker]
        bound[_bits(made & _until(tasks, known, buffer), count)] += size
    ends = tasks.given, sum(tasks.sizes[b] for b in tasks.kept)
    return max(*ends, int(bound.max(initial=0)))


def branch_bound(tasks: Tasks, known: Relations) -> int:
    """Like `lower_bound`, by what runs last before a task, or first after one.

    Of all that is above a task, something runs last, and then all the rest has run; so
    too the first of all below one. It looks at all pairs of tasks and buffers.
    """
    count = len(tasks.tasks)
    sizes = np.array(tasks.sizes, np.int64)
    until = [_until(tasks, known, buffer) for buffer in range(len(sizes))]
    needed = _table(until, count).T
    read_below = _table(
        [
            -1 if buffer in tasks.kept else _union(known.above, readers)
            for buffer, readers in enumerate(tasks.readers)
        ],
        count,
    ).T
    makers = np.array([count if m is None else m for m in tasks.maker], np.intp)
    made = _table([bits | 1 << count for bits in known.above], count + 1)[:, makers]
    least = _least_steps(tasks, known)
    bound = 0
    for i in range(count):
        last = _ends(tasks.before[i], known.below)
        if len(last) > 1:
            each = (
                least[p] + _total(made[i] & needed[p] & (makers != p), sizes)
                for p in last
            )
            bound = max(bound, min(each))
        first = _ends(tasks.behind[i], known.above)
        if len(first) > 1:
            each = (
                least[p] + _total(made[p] & (needed[p] | read_below[i]), sizes)
                for p in first
            )
            bound = max(bound, min(each))
    return bound


def own_bound(tasks: Tasks) -> int:
    """What the highest step reads and makes itself: all that is known at once."""
    return max(
        sum(tasks.sizes[b] for b in task.reads)
        + tasks.at_step(i, task.reads - tasks.kept)
        for i, task in enumerate(tasks.tasks)
    )


def may_die_at(tasks: Tasks, known: Relations, task: int, buffer: int) -> bool:
    """True if some order may have the last reader of a buffer in this task."""
    if buffer in tasks.kept:
        return False
    below = known.below[task]
    return not any(below >> r & 1 for r in tasks.readers[buffer])


def must_die_at(tasks: Tasks, known: Relations, task: int, buffer: int) -> bool:
    """True if any order has the last reader of a buffer in this task."""
    if buffer in tasks.kept:
        return False
    done = known.above[task] | 1 << task
    return all(done >> r & 1 for r in tasks.readers[buffer])


def _least_steps(tasks: Tasks, known: Relations) -> list[int]:
    """What each step adds at least to the bytes live before it."""
    return [
        tasks.at_step(i, {b for b in task.reads if may_die_at(tasks, known, i, b)})
        for i, task in enumerate(tasks.tasks)
    ]


def _until(tasks: Tasks, known: Relations, buffer: int) -> int:
    """The tasks that read a buffer or are above one that does; all if it is kept."""
    if buffer in tasks.kept:
        return -1
    readers = tasks.readers[buffer]
    return _union(known.above, readers) | _sum_of_bits(readers)


def _union(sets: Sequence[int], places: Iterable[int]) -> int:
    return reduce(or_, (sets[i] for i in places), 0)


def _sum_of_bits(places: Iterable[int]) -> int:
    return reduce(or_, (1 << i for i in places), 0)


def _ends(places: Collection[int], beyond: Sequence[int]) -> list[int]:
    """Those of the places beyond which there is none of the others."""
    every = _sum_of_bits(places)
    return [i for i in sorted(places) if not beyond[i] & every]


def _total(chosen: Bits, sizes: np.ndarray[Any, np.dtype[np.int64]]) -> int:
    return int(sizes[chosen].sum())


def _bits(mask: int, count: int) -> Bits:
    """The lowest bits of an int as an array."""
    mask &= (1 << count) - 1
    raw = np.frombuffer(mask.to_bytes(count // 8 + 1, "little"), np.uint8)
    return np.unpackbits(raw, bitorder="little")[:count].astype(bool)


def _table(masks: Sequence[int], count: int) -> Bits:
    return np.array([_bits(mask, count) for mask in masks], bool).reshape(-1, count)
