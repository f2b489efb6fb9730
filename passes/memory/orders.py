"""Orders that are found at once: ONNX Runtime's, and greedy ones."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final, TypeAlias

from .tasks import Tasks

Key: TypeAlias = tuple[int, ...]

Rank: TypeAlias = Callable[[int, int, int], Key]
"""Of (bytes that a step adds, bytes that it leaves, when it became ready)."""

RANKS: Final[dict[str, Rank]] = {
    "least growth": lambda step, growth, ready: (growth, step),
    "least step": lambda step, growth, ready: (step, growth),
    "latest ready": lambda step, growth, ready: (-ready, growth, step),
    "shrinking, then latest": lambda step, growth, ready: (
        (0, growth, step) if growth <= 0 else (1, -ready, growth)
    ),
}
"""Greedy rules: of the tasks that can run, the one that ranks lowest does."""


def greedy(tasks: Tasks, rank: Rank) -> tuple[int, ...]:
    """The order in which the task of lowest rank comes next; of equals, the first.

    Time grows with the number of reads, and with the readers of each buffer once.
    """
    waits = [len(needed) for needed in tasks.before]
    left = [{*readers} for readers in tasks.readers]
    ready_at = [0] * len(tasks.tasks)
    version = [0] * len(tasks.tasks)
    heap: list[tuple[Key, int, int]] = []

    def offer(i: int) -> None:
        reads = tasks.tasks[i].reads - tasks.kept
        dying = {b for b in reads if len(left[b]) == 1}
        growth = tasks.lasting[i] - sum(tasks.sizes[b] for b in dying)
        key = rank(tasks.at_step(i, dying), growth, ready_at[i])
        version[i] += 1
        heapq.heappush(heap, (key, i, version[i]))

    for i, count in enumerate(waits):
        if not count:
            offer(i)
    order: list[int] = []
    while heap:
        _, i, when = heapq.heappop(heap)
        if when != version[i]:
            continue
        version[i] = -1
        order.append(i)
        for buffer in tasks.tasks[i].reads:
            left[buffer].discard(i)
            if len(left[buffer]) == 1:
                (last,) = left[buffer]
                if version[last]:  # it can run already, and is worth more now
                    offer(last)
        for j in tasks.behind[i]:
            waits[j] -= 1
            if not waits[j]:
                ready_at[j] = len(order)
                offer(j)
    return tuple(order)


def reverse_depth_first(tasks: Tasks) -> tuple[int, ...]:
    """The order in which ONNX Runtime runs nodes, unless told to heed their numbers.

    Depth first from the tasks that nobody needs, against the edges, each task put down
    after all that it needs; of several the one of the highest number first
    (`GraphViewer`, `Graph::ReverseDFSFrom`).
    """
    stack = [(i, False) for i, behind in enumerate(tasks.behind) if not behind]
    seen: set[int] = set()
    order = []
    while stack:
        i, leaving = stack.pop()
        if leaving:
            order.append(i)
        elif i not in seen:
            seen.add(i)
            stack.append((i, True))
            stack += [(j, False) for j in sorted(tasks.before[i]) if j not in seen]
    return tuple(order)
