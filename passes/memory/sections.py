"""Lives in compressed time: only steps count in which as much lives as can.

The live buffers of such a step are a maximal clique of the interval graph: two buffers
overlap if, and only if, some section holds both.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from .buffers import Buffer

PAIRS: int = 2_000_000
"""Overlapping pairs that a search is tried on at most."""


@dataclass(frozen=True, slots=True)
class Sections:
    """Buffers by number: each lives in the sections [first, last).

    Sizes are in units of ``unit`` bytes. ``totals`` are the live units of each section,
    ``neighbors`` the buffers that share a section with each.
    """

    first: list[int]
    last: list[int]
    sizes: list[int]
    unit: int
    totals: list[int]
    neighbors: list[list[int]]


def sections(buffers: Sequence[Buffer]) -> Sections | None:
    """The buffers in compressed time; None if more than `PAIRS` pairs overlap."""
    ends = {b.upper for b in buffers}
    moments: list[int] = []
    start: int | None = None
    starts = {b.lower for b in buffers}
    for step in sorted(starts | ends):
        if step in ends and start is not None:
            moments.append(start)
            start = None
        if step in starts:
            start = step
    first = [bisect_left(moments, b.lower) for b in buffers]
    last = [bisect_left(moments, b.upper) for b in buffers]
    unit = math.gcd(*(b.size for b in buffers))
    sizes = [b.size // unit for b in buffers]
    totals = [0] * len(moments)
    for a, z, size in zip(first, last, sizes, strict=True):
        for t in range(a, z):
            totals[t] += size
    neighbors = _neighbors(first, last)
    if neighbors is None:
        return None
    return Sections(first, last, sizes, unit, totals, neighbors)


def _neighbors(first: Sequence[int], last: Sequence[int]) -> list[list[int]] | None:
    found: list[list[int]] = [[] for _ in first]
    live: list[int] = []
    pairs = 0
    for b in sorted(range(len(first)), key=lambda b: (first[b], b)):
        live = [c for c in live if last[c] > first[b]]
        pairs += len(live)
        if pairs > PAIRS:
            return None
        for c in live:
            found[c].append(b)
        found[b].extend(live)
        live.append(b)
    return found
