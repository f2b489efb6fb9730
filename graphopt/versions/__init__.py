"""Every opset's way of saying what the IR means: read into it, spelled out of it."""

from __future__ import annotations

from . import (
    arithmetic as arithmetic,
    classical as classical,
    layers as layers,
    movement as movement,
)
from .spelling import Spelling, spelling
from .table import Node, has_changed, read, spell, turning_points

__all__ = [
    "Node",
    "Spelling",
    "has_changed",
    "read",
    "spell",
    "spelling",
    "turning_points",
]
