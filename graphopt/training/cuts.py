"""Where to cut a forward pass into segments, and what is kept across the cuts.

For each bound on what one segment makes again, the cuts across which least is kept
(shortest paths); and the cheapest way to keep some segments wholly and make others
again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from .retention import Training

PLACES: Final = 160
"""Where a long pass may be cut: so many places, the ones that least is read across."""

BOUNDS: Final = 24
"""How many bounds on the bytes of a segment are tried."""

SHARES: Final = (1.0, 0.95, 0.85, 0.7, 0.5)
"""Of a budget, for what is kept and made again; slopes have the rest."""

LABELS: Final = 16
"""How many ways to a place are followed."""


def piles(training: Training) -> Iterator[frozenset[int]]:
    """Results to keep: all, then what is read across cuts, for bounds on segments."""
    count = len(training.steps)
    yield frozenset(range(count))
    places = places_of(training)
    weight = [0, *accumulate(s.bytes + s.inner for s in training.steps)]
    made = [weight[b] - weight[a] for a, b in pairwise(places)]
    low, high = max(made, default=0), weight[-1]
    seen: set[frozenset[int]] = set()
    for number in range(BOUNDS + 1):
        bound = int(low * (high / max(1, low)) ** (number / BOUNDS)) + 1
        kept = _path(training, places, weight, bound)
        if kept not in seen:
            seen.add(kept)
            yield kept


def places_of(training: Training, most: int = PLACES) -> list[int]:
    """Where to cut: everywhere, or where least is read across, spread evenly."""
    count = len(training.steps)
    if count <= most:
        return [*range(count + 1)]
    across = [0] * (count + 1)
    for i, last in enumerate(training.last_read):
        across[i + 1] += training.steps[i].bytes
        across[last + 1 if last < count - 1 else count] -= training.steps[i].bytes
    live = [*accumulate(across)]
    edges = [count * k // most for k in range(most + 1)]
    found = {
        min(range(a, b), key=lambda place: (live[place], place))
        for a, b in pairwise(edges[1:])
    }
    return sorted({0, count, *found})


def _path(
    training: Training, places: list[int], weight: list[int], bound: int
) -> frozenset[int]:
    """What is kept for the cuts across which least is, no segment over ``bound``."""
    steps, last = training.steps, training.last_read
    best = [0.0, *[float("inf")] * (len(places) - 1)]
    before = [0] * len(places)
    for b in range(1, len(places)):
        stop = places[b]
        crossing = [i for i in range(stop) if last[i] >= stop]
        total = [0, *accumulate(steps[i].bytes for i in crossing)]
        for a in range(b - 1, -1, -1):
            start = places[a]
            if weight[stop] - weight[start] > bound and a < b - 1:
                break
            kept = total[-1] - total[bisect_left(crossing, start)]
            if best[a] + kept < best[b]:
                best[b], before[b] = best[a] + kept, a
    cuts, at = [], len(places) - 1
    while at:
        at = before[at]
        cuts.append(places[at])
    return frozenset(_across(training, cuts))


class _Way(NamedTuple):
    """A way to a place: FLOPs spent twice, bytes kept, and the last leg of it."""

    flops: int
    kept: int
    start: int
    before: int
    wholly: bool


def frugal(training: Training, budget: int) -> Iterator[frozenset[int]]:
    """What is kept where segments are either kept wholly or made again.

    What was kept before a segment and what it makes again are there together.
    """
    places = places_of(training)
    for share in SHARES:
        ways = _ways(training, places, int(share * budget))
        if not ways[-1]:
            continue
        kept: set[int] = set()
        b, at = len(places) - 1, 0
        while b:
            way = ways[b][at]
            span = range(places[way.start], places[b])
            if way.wholly:
                kept.update(span)
            else:
                kept.update(i for i in span if training.last_read[i] >= places[b])
            b, at = way.start, way.before
        yield frozenset(kept)


def _ways(training: Training, places: list[int], budget: int) -> list[list[_Way]]:
    """For each place, ways to it none of which is better in both, cheapest first."""
    steps, last = training.steps, training.last_read
    weight = [0, *accumulate(step.bytes + step.inner for step in steps)]
    flops = [0, *accumulate(step.flops for step in steps)]
    wanted = {read for step in steps for read in step.needs}
    needed = [
        0,
        *accumulate(s.bytes if i in wanted else 0 for i, s in enumerate(steps)),
    ]
    ways: list[list[_Way]] = [[_Way(0, 0, 0, 0, True)]]
    for b in range(1, len(places)):
        stop = places[b]
        crossing = [i for i in range(stop) if last[i] >= stop]
        total = [0, *accumulate(steps[i].bytes for i in crossing)]
        found = []
        for a in range(b - 1, -1, -1):
            start = places[a]
            pile = weight[stop] - weight[start]
            across = total[-1] - total[bisect_left(crossing, start)]
            for number, way in enumerate(ways[a]):
                if way.kept + pile <= budget:
                    spent = way.flops + flops[stop] - flops[start]
                    found.append(_Way(spent, way.kept + across, a, number, False))
                kept = way.kept + max(needed[stop] - needed[start], across)
                if a == b - 1 and kept <= budget:
                    found.append(_Way(way.flops, kept, a, number, True))
            if pile > budget:
                break
        ways.append(_thinned(found))
    return ways


def _thinned(ways: list[_Way]) -> list[_Way]:
    """Those that no other beats, and of many some."""
    best: list[_Way] = []
    for way in sorted(ways):
        if not best or way.kept < best[-1].kept:
            best.append(way)
    if len(best) <= LABELS:
        return best
    return [best[k * (len(best) - 1) // (LABELS - 1)] for k in range(LABELS)]


def _across(training: Training, cuts: Iterable[int]) -> Iterator[int]:
    """The results that are read across one of the cuts."""
    ordered = sorted(cuts)
    for i, last in enumerate(training.last_read):
        place = bisect_left(ordered, i + 1)
        if place < len(ordered) and ordered[place] <= last:
            yield i
