"""What comes before and after each task in any order, and bytes that no order avoids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np

from .tasks import Order, Tasks


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
        above[i] = reduce(or_, (above[j] | 1 << j for j in before[i]), 0)
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


def lower_bounds(tasks: Tasks, known: Relations) -> list[int]:
    """For each task, bytes that are live at its step in any order.

    They are what it makes itself, and what tasks above it made that it or tasks below
    it read, or that is kept.
    """
    count = len(tasks.tasks)
    bound = np.zeros(count, np.int64)
    for i, task in enumerate(tasks.tasks):
        may_die = {b for b in task.reads if may_die_at(tasks, known, i, b)}
        bound[i] = tasks.at_step(i, may_die)
    everyone = (1 << count) - 1
    for buffer, size in enumerate(tasks.sizes):
        if not size:
            continue
        maker = tasks.maker[buffer]
        made = everyone if maker is None else known.below[maker]
        if buffer not in tasks.kept:
            readers = tasks.readers[buffer]
            made &= reduce(or_, (known.above[r] | 1 << r for r in readers), 0)
        if made:
            bound[_bits(made, count)] += size
    return [int(b) for b in bound]


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


def own_bounds(tasks: Tasks) -> list[int]:
    """For each task, what it reads and makes: all that is known without relations."""
    bounds = []
    for i, task in enumerate(tasks.tasks):
        read = sum(tasks.sizes[b] for b in task.reads)
        bounds.append(read + tasks.at_step(i, task.reads - tasks.kept))
    return bounds


def _bits(mask: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    raw = np.frombuffer(mask.to_bytes(count // 8 + 1, "little"), np.uint8)
    return np.unpackbits(raw, bitorder="little")[:count].astype(bool)
