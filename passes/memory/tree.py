"""The search tree of offsets: what it means, and how it is held.

A packing is *settled* if no buffer can sink: each lies on the ground or on another.
Some packing with the least peak is. A settled packing is built from below:

- The *ground* of a section is as high as what is placed there. A *valley* is a run of
  sections with equal ground between higher ones. What comes next in a section of a
  valley is one of those buffers that may lie on its ground, or there is a gap.
- A buffer's *low* is the least offset that it may have: it lies on what is placed, or,
  behind a gap, on what may still come to lie beneath it.
- The *slack* of a section is what its gaps may take. Where all that is to come is above
  the ground, that is a gap; without slack for it the node is dead.
- Each rise of a low has a *record* of its cause. From the records follows which
  decisions a dead end stands on; the search jumps back to the last of them.

The functions (`nodes.py`) know nothing but integers in rows and tables, so that they
run as they are, on lists, or compiled (`compiled.py`), on arrays; they decide the same.
Gravity and the bound of a section are ideas of M. D. Moffitt, MiniMalloc (ASPLOS 2023,
vol. 4); jumping back is P. Prosser's conflict-directed backjumping (1993).
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

Row: TypeAlias = list[int]
"""A list, or an array of one dimension."""
Table: TypeAlias = list[list[int]]
"""A list of lists, or an array of two dimensions."""

GROUND, SLACK, LEFT, COUNT, LOW, AT, RECORD, LEVEL = range(8)
"""Rows of cells. Of sections: the ground, the slack, how many buffers are to come, and
how many of them have their low on the ground. Of buffers: the low, the offset (-1: not
placed), the last record, and the depth at which it was placed.
"""
CELLS: Final = 8

SECTION, NEXT, TRAIL, HEIGHT, RECORDS = range(5)
"""Columns of frames: the section that is decided, which member is tried next, how long
trail and records were, and the ground."""

CAUSE, VALUE, BEFORE = range(3)
"""Columns of records: a placed buffer, or -1 - depth of a gap; the low; the record
before."""

DEPTH, CHANGED, RECORDED, STEPS, FOCUS, DOWN = range(6)
"""Registers: the lengths of frames, trail and records; nodes visited; the section that
failed last; whether the node below is to be entered."""

RUNNING, FOUND, EXHAUSTED, FULL = range(4)
"""What `advance` returns: interrupted; packed; there is no packing; out of room."""

FEWEST, LOWEST, TIGHTEST = range(3)
"""Which section is decided: that with the fewest choices for its failures; on the
lowest ground, by the same; on the lowest ground, with the least slack."""

WORD: Final = 32
"""Decisions in a word of conflicts."""


class Problem(NamedTuple):
    """Buffers by number, in compressed time.

    Members of a section and neighbors of a buffer lie one after the other, from where
    the rows of starts say. A twin has the same life and size, and comes below.
    """

    capacity: int
    first: Row
    last: Row
    sizes: Row
    member_starts: Row
    members: Row
    neighbor_starts: Row
    neighbors: Row
    twins: Row


class Tree(NamedTuple):
    """Where the search stands; all of it is changed in place.

    The trail has three numbers for each change: row, index and former value of a cell.
    """

    registers: Row
    cells: Table
    trail: Row
    frames: Table
    conflicts: Table
    records: Table
    weights: Row
    lifted: Row
    needs: Row
    queue: Row
    queued: Row
