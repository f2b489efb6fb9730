"""Buffers with half-open lives, what packs them, and how small it can be at least."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from graphopt.errors import GraphoptError

Proof: TypeAlias = Literal["optimal", "bound", "none"]
"""What is known of a peak: the least; between it and a bound; nothing."""


class TooLarge(GraphoptError):
    """Sizes that no memory has; they come of a model's dims, or of those asked for."""

    exit_code = 6


def refuse_too_large(sizes: Iterable[int]) -> None:
    """Raises TooLarge where offsets could be no 64-bit numbers."""
    total = sum(sizes)
    if total >= 1 << 62:
        raise TooLarge(f"{total:,} bytes are more than any memory has")


@dataclass(frozen=True, slots=True)
class Buffer:
    """``size`` bytes that are needed in the steps [lower, upper).

    One of size 0 takes no place: it overlaps nothing, wherever it is put. Raises
    ValueError for an empty life or a negative size.
    """

    id: Hashable
    lower: int
    upper: int
    size: int

    def __post_init__(self) -> None:
        if self.lower >= self.upper:
            raise ValueError(
                f"buffer {self.id!r} lives in no step: [{self.lower}, {self.upper})"
            )
        if self.size < 0:
            raise ValueError(f"buffer {self.id!r} has the size {self.size}")


@dataclass(frozen=True, slots=True)
class Packing:
    """An offset for each buffer, and what is known of the peak.

    No packing has a lower peak than ``lower_bound``. ``method`` is what found the
    offsets, ``steps`` the nodes of the search tree that were visited.
    """

    offsets: Mapping[Hashable, int]
    peak: int
    lower_bound: int
    method: str
    steps: int

    @property
    def proof(self) -> Proof:
        """Whether the peak is the least, or only between it and the bound."""
        return "optimal" if self.peak == self.lower_bound else "bound"


def lower_bound(buffers: Iterable[Buffer]) -> int:
    """The most bytes that are live in one step."""
    changes: dict[int, int] = {}
    for buffer in buffers:
        changes[buffer.lower] = changes.get(buffer.lower, 0) + buffer.size
        changes[buffer.upper] = changes.get(buffer.upper, 0) - buffer.size
    most = live = 0
    for step in sorted(changes):
        live += changes[step]
        most = max(most, live)
    return most


def components(buffers: Iterable[Buffer]) -> list[list[Buffer]]:
    """Buffers that are tied by their lives; between the parts no step is shared."""
    parts: list[list[Buffer]] = []
    end = 0
    for buffer in sorted(buffers, key=lambda b: b.lower):
        if not parts or buffer.lower >= end:
            parts.append([])
            end = buffer.upper
        parts[-1].append(buffer)
        end = max(end, buffer.upper)
    return parts


def peak_of(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    """Where the highest buffer ends."""
    ends = [at + b.size for b, at in zip(buffers, offsets, strict=True)]
    return max(ends, default=0)
