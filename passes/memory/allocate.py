"""Offsets for buffers in one arena: the largest first, each at the lowest that fits."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from .buffers import Buffer


@dataclass(frozen=True)
class Packing:
    """Offsets, and what is known of them."""

    offsets: Mapping[Hashable, int]
    peak: int
    lower_bound: int
    proof: str
    method: str


def pack(
    buffers: Sequence[Buffer], *, seconds: float = 10.0, alignment: int = 1
) -> Packing:
    """Offsets by size; sizes are multiples of the alignment."""
    del seconds, alignment
    offsets: dict[Hashable, int] = {}
    placed: list[tuple[int, Buffer]] = []
    for buffer in sorted(buffers, key=lambda b: -b.size):
        offset = 0
        for start, other in placed:
            if other.lower < buffer.upper and buffer.lower < other.upper:
                if offset + buffer.size <= start:
                    break
                offset = max(offset, start + other.size)
        offsets[buffer.id] = offset
        placed.append((offset, buffer))
        placed.sort(key=lambda pair: pair[0])
    changes: dict[int, int] = {}
    for b in buffers:
        changes[b.lower] = changes.get(b.lower, 0) + b.size
        changes[b.upper] = changes.get(b.upper, 0) - b.size
    bound = max(accumulate(changes[step] for step in sorted(changes)), default=0)
    peak = max((offset + b.size for offset, b in placed), default=0)
    return Packing(
        offsets, peak, bound, "optimal" if peak == bound else "bound", "size"
    )
