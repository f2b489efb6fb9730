"""Where to cut a line of work into stages that run one after the other."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from graphopt.errors import GraphoptError

Array: TypeAlias = np.ndarray[Any, Any]


class NoCut(GraphoptError):
    """No cut into that many stages keeps to the memory of a device."""

    exit_code = 6


@dataclass(frozen=True)
class Cut:
    """A line of work in stages; ``cuts`` are where those after the first begin.

    ``stages`` are the seconds of each for one micro-batch, what it sends on included,
    and ``seconds`` those of a whole step: see `step_seconds`.
    """

    cuts: tuple[int, ...]
    stages: tuple[float, ...]
    seconds: float


def step_seconds(stages: Sequence[float], micro_batches: int) -> float:
    """The seconds until the last of some equal micro-batches has left the last stage.

    A stage takes the next micro-batch as soon as it is free and the stage before is
    done with it: the pipeline fills, runs at the pace of its slowest stage, and drains.
    For ``s`` equal stages these are the ``m + s - 1`` ticks of GPipe. Huang et al.,
    "GPipe: efficient training of giant neural networks using pipeline parallelism",
    NeurIPS 2019.
    """
    return sum(stages) + (micro_batches - 1) * max(stages, default=0.0)


def cut(
    costs: Sequence[float],
    sends: Sequence[float],
    count: int,
    micro_batches: int = 1,
    earliest: Sequence[int] | None = None,
) -> Cut:
    """The cut into at most ``count`` stages with the shortest step. Exact.

    ``costs`` are the seconds of each item; ``sends[k]`` are those in which a stage that
    ends with item ``k`` sends on what later ones need, infinite where no cut may be. A
    stage that ends before item ``j`` begins at item ``earliest[j]`` or later, for its
    device holds no more. Of equal cuts that with fewer stages. Raises NoCut.

    For a bound on the slowest stage, dynamic programming finds the least total of the
    sends, in O(L^2 P) for L items and P stages; bounds are searched by branch and
    bound, as in Zheng et al., "Alpa: automating inter- and intra-operator parallelism
    for distributed deep learning", OSDI 2022.
    """
    if count < 1 or micro_batches < 1:
        raise ValueError(f"{count} stages and {micro_batches} micro-batches")
    if len(sends) != max(len(costs) - 1, 0):
        raise ValueError(f"{len(sends)} sends between {len(costs)} items")
    if not costs:
        return Cut((), (0.0,), 0.0)
    return _Search(costs, sends, count, micro_batches, earliest).best()


class _Search:
    def __init__(
        self,
        costs: Sequence[float],
        sends: Sequence[float],
        count: int,
        micro_batches: int,
        earliest: Sequence[int] | None,
    ) -> None:
        self.length = len(costs)
        self.count = min(count, self.length)
        self.micro_batches = micro_batches
        self.before = np.concatenate([[0.0], np.cumsum(costs)])
        self.sent = np.array([0.0, *sends, 0.0])  # by a stage that ends before an item
        self.earliest = [0] * (self.length + 1) if earliest is None else list(earliest)

    def best(self) -> Cut:
        """Branch and bound over the time of the slowest stage.

        Below a limit, sends take no less than below a higher one, and the slowest stage
        no less than the least time that may be it.
        """
        times = self._times()
        first = self._cut(times[-1]) if times.size else None
        if first is None:
            raise NoCut(
                f"no cut of {self.length} items into {self.count} stages fits; allow"
                " more stages or more memory"
            )
        found, work = first, float(self.before[-1])

        def bound(low: int, sends: float) -> float:
            return work + sends + (self.micro_batches - 1) * float(times[low])

        def below(low: int, made: Cut) -> None:
            high = int(np.searchsorted(times, max(made.stages))) - 1
            if low <= high:
                sends = sum(made.stages) - work
                heapq.heappush(pending, (bound(low, sends), low, high, sends))

        pending: list[tuple[float, int, int, float]] = []
        below(0, first)
        while pending:
            least, low, high, sends = heapq.heappop(pending)
            if least >= found.seconds:
                break
            middle = (low + high) // 2
            made = self._cut(times[middle])
            if made is not None:
                if made.seconds < found.seconds:
                    found = made
                below(low, made)
            if middle < high:
                rest = (bound(middle + 1, sends), middle + 1, high, sends)
                heapq.heappush(pending, rest)
        return found

    def _stage_times(self, end: int) -> Array:
        """Of the stages that end before an item, from the earliest that may be."""
        start = self.earliest[end]
        times: Array = self.before[end] - self.before[start:end] + self.sent[end]
        return times

    def _times(self) -> Array:
        """What the slowest stage may take, in order."""
        rows = [self._stage_times(end) for end in range(1, self.length + 1)]
        times = np.unique(np.concatenate(rows))
        least = self.before[-1] / self.count * (1 - 1e-9)
        wanted: Array = times[np.isfinite(times) & (times >= least)]
        return wanted

    def _cut(self, limit: float) -> Cut | None:
        """The cut with the least sends whose stages all keep to a limit."""
        total = np.full((self.count + 1, self.length + 1), np.inf)
        total[0, 0] = 0.0
        begun = np.zeros((self.count + 1, self.length + 1), np.int64)
        rows = np.arange(self.count)
        for end in range(1, self.length + 1):
            slow = int(np.count_nonzero(self._stage_times(end) > limit))
            start = self.earliest[end] + slow
            if start >= end:
                continue
            window = total[:-1, start:end]
            found = window.argmin(axis=1)
            total[1:, end] = window[rows, found] + self.sent[end]
            begun[1:, end] = start + found
        stages = int(total[:, -1].argmin())
        if not np.isfinite(total[stages, -1]):
            return None
        ends = [self.length]
        for stage in range(stages, 0, -1):
            ends.append(int(begun[stage, ends[-1]]))
        return self._made(tuple(ends[-2:0:-1]))

    def _made(self, cuts: tuple[int, ...]) -> Cut:
        starts, ends = (0, *cuts), (*cuts, self.length)
        times = tuple(
            float(self.before[end] - self.before[start] + self.sent[end])
            for start, end in zip(starts, ends, strict=True)
        )
        return Cut(cuts, times, step_seconds(times, self.micro_batches))
