"""Memory: buffers with lives, and where each lies."""

from __future__ import annotations

from .allocate import METHODS, STEPS, Method, allocate, pack
from .buffers import Buffer, Packing, Proof, components, lower_bound

__all__ = [
    "METHODS",
    "STEPS",
    "Buffer",
    "Method",
    "Packing",
    "Proof",
    "allocate",
    "components",
    "lower_bound",
    "pack",
]
