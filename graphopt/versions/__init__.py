"""Every opset's way of saying what the IR means: read into it, spelled out of it."""

from __future__ import annotations

from .spelling import Spelling, breakpoints, spelling
from .table import Node, read, spell

__all__ = ["Node", "Spelling", "breakpoints", "read", "spell", "spelling"]
