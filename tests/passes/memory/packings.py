"""Instances to pack, made and real, and what a packing must be, by other means."""

from __future__ import annotations

import csv
import itertools
import os
import random
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import pytest

from graphopt.passes.memory import Buffer

_BESIDE = Path(__file__).parents[4] / "shared" / "bench" / "minimalloc"


def instances() -> list[Path]:
    """Files NAME.CAPACITY.csv, in $GRAPHOPT_PACKINGS or beside the checkout."""
    folder = Path(os.environ.get("GRAPHOPT_PACKINGS", _BESIDE))
    return sorted(folder.glob("*.*.csv"))


def every_instance() -> pytest.MarkDecorator:
    """Runs a test on each instance as ``path``; skips it without any."""
    paths = instances()
    if not paths:
        skip = pytest.mark.skip(reason="no instances: set GRAPHOPT_PACKINGS")
        return pytest.mark.parametrize("path", [pytest.param(None, marks=skip)])
    return pytest.mark.parametrize("path", paths, ids=[p.stem for p in paths])


def read(path: Path) -> tuple[list[Buffer], int]:
    """The buffers of an instance, and its capacity."""
    with path.open() as file:
        rows = [
            Buffer(row["id"], int(row["lower"]), int(row["upper"]), int(row["size"]))
            for row in csv.DictReader(file)
        ]
    return rows, int(path.name.split(".")[1])


def perfect(count: int, seed: int, steps: int = 40, height: int = 64) -> list[Buffer]:
    """Buffers that fill a rectangle: it was cut up, again and again."""
    draw = random.Random(seed)
    parts = [(0, steps, 0, height)]
    while len(parts) < count:
        areas = [(p[1] - p[0]) * (p[3] - p[2]) for p in parts]
        (i,) = draw.choices(range(len(parts)), areas)
        lower, upper, low, top = parts[i]
        if draw.random() < 0.5 and upper - lower > 1:
            cut = draw.randrange(lower + 1, upper)
            parts[i] = lower, cut, low, top
            parts.append((cut, upper, low, top))
        elif top - low > 1:
            cut = draw.randrange(low + 1, top)
            parts[i] = lower, upper, low, cut
            parts.append((lower, upper, cut, top))
    draw.shuffle(parts)
    return [Buffer(i, p[0], p[1], p[3] - p[2]) for i, p in enumerate(parts)]


def overlapping(
    buffers: Sequence[Buffer], offsets: Mapping[Hashable, int]
) -> list[tuple[Hashable, Hashable]]:
    """Pairs that share a byte in some step: looked at byte by byte where that is few.

    Raises KeyError for a buffer without an offset, AssertionError for one below 0.
    """
    found = []
    for a, b in itertools.combinations(buffers, 2):
        assert offsets[a.id] >= 0
        assert offsets[b.id] >= 0
        steps = range(max(a.lower, b.lower), min(a.upper, b.upper))
        start = max(offsets[a.id], offsets[b.id])
        stop = min(offsets[a.id] + a.size, offsets[b.id] + b.size)
        if steps and start < stop:
            found.append((a.id, b.id))
    return found


def peak(buffers: Sequence[Buffer], offsets: Mapping[Hashable, int]) -> int:
    """The highest byte that is used, plus one."""
    return max((offsets[b.id] + b.size for b in buffers if b.size), default=0)


def least_peak(buffers: Sequence[Buffer]) -> int:
    """The least peak, by trying all orders.

    Placed by rising offset, each as low as it goes, the buffers of a best packing end
    no higher than there.
    """
    best = sum(b.size for b in buffers)
    for order in itertools.permutations(buffers):
        placed: list[tuple[Buffer, int]] = []
        for buffer in order:
            spans = sorted(
                (at, at + other.size)
                for other, at in placed
                if other.lower < buffer.upper and buffer.lower < other.upper
            )
            low = 0
            for start, stop in spans:
                if start - low >= buffer.size:
                    break
                low = max(low, stop)
            placed.append((buffer, low))
        best = min(best, max((at + b.size for b, at in placed), default=0))
    return best


def fits(buffers: Sequence[Buffer], capacity: int) -> bool:
    """Whether some packing fits, by trying all offsets in the order of starts."""
    order = sorted(buffers, key=lambda b: (b.lower, -b.size))

    def placed(done: list[tuple[Buffer, int]]) -> bool:
        if len(done) == len(order):
            return True
        buffer = order[len(done)]
        taken = 0
        for other, at in done:
            if other.upper > buffer.lower:
                taken |= ((1 << other.size) - 1) << at
        own = (1 << buffer.size) - 1
        return any(
            taken & own << at == 0 and placed([*done, (buffer, at)])
            for at in range(capacity - buffer.size + 1)
        )

    return placed([])
