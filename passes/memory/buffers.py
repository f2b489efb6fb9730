"""Buffers: bytes that are needed from one step to another."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Buffer:
    """``size`` bytes that are live in the half-open range of steps [lower, upper)."""

    id: Hashable
    lower: int
    upper: int
    size: int
