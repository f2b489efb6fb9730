"""One value in several layouts: the cheapest steps that make all of them.

What two ways have in common is paid once, so that they form a Steiner tree. Dreyfus and
Wagner, "The Steiner problem in graphs", Networks 1 (1971).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from .layout import Layout, Step
from .states import States

EXACT: Final = 7
"""Most layouts for which the tree is exact; more are joined in order of distance."""
TREES: Final = 3
"""Most readers of a value for which trees to all layouts of each are looked at."""


def tree_seconds(states: States, source: Layout, wants: Iterable[Layout]) -> float:
    """The seconds of the cheapest tree; inf where a layout cannot be reached."""
    start, ends = _numbers(states, source, wants)
    if not ends:
        return 0.0
    if len(ends) == 1:
        return float(states.distances[start, ends[0]])
    if len(ends) > EXACT:
        return sum(
            float(states.distances[a, b]) for a, b in _joined(states, start, ends)
        )
    return float(_tables(states, ends)[-1][start])


def trees_seconds(states: States, ends: Sequence[Any]) -> Any:
    """By layouts of the source and of each sink, the seconds of the cheapest tree.

    An axis for each end, of the layouts with these numbers; there are at most `TREES`
    sinks.
    """
    far = states.distances
    source, *sinks = ends
    if len(sinks) == 1:
        return far[np.ix_(source, sinks[0])]
    found = np.full([len(each) for each in ends], np.inf)
    for first in range(len(sinks) if len(sinks) > 2 else 1):
        others = [sinks[i] for i in range(len(sinks)) if i != first]
        rest = trees_seconds(states, [np.arange(len(states)), *others])
        for at in range(
            len(states)
        ):  # a tree to one sink, and to all others, from here
            parted = np.add.outer(far[at, sinks[first]], rest[at])
            total = np.add.outer(far[source, at], np.moveaxis(parted, 0, first))
            np.minimum(found, total, out=found)
    return found


def tree(states: States, source: Layout, wants: Iterable[Layout]) -> list[Step] | None:
    """The steps of the cheapest tree, each after what it starts from.

    None where a layout cannot be reached.
    """
    start, ends = _numbers(states, source, wants)
    if len(ends) > EXACT:
        ways = _joined(states, start, ends)
    else:
        ways = _branches(states, start, ends)
    found: dict[Layout, Step] = {}
    for a, b in ways:
        if not np.isfinite(states.distances[a, b]):
            return None
        for step in _way(states, a, b):
            if step.target != source:
                found.setdefault(step.target, step)
    return list(found.values())


def _numbers(
    states: States, source: Layout, wants: Iterable[Layout]
) -> tuple[int, list[int]]:
    start = states.number[source]
    return start, sorted({states.number[w] for w in wants} - {start})


def _joined(states: States, start: int, ends: Sequence[int]) -> list[tuple[int, int]]:
    """From where to go to each end: the nearest of those that are there."""
    far = states.distances
    have, left, ways = [start], list(ends), []
    while left:
        a, b = min(((a, b) for a in have for b in left), key=lambda w: far[w])
        ways.append((a, b))
        have.append(b)
        left.remove(b)
    return ways


def _tables(states: States, ends: Sequence[int]) -> list[Any]:
    """By set of ends, the cheapest tree to them from each layout; set 0 is empty."""
    far = states.distances
    tables: list[Any] = [np.zeros(len(states))]
    for some in range(1, 1 << len(ends)):
        if some & (some - 1) == 0:
            tables.append(far[:, ends[some.bit_length() - 1]])
        else:
            tables.append((far + _split(tables, some)[0]).min(1))
    return tables


def _split(tables: Sequence[Any], some: int) -> tuple[Any, Any]:
    """By layout, the cheapest two trees from it that share a set of ends out."""
    low = some & -some
    rest = some ^ low
    part, parts = rest, []
    while part:  # each part without the lowest end; the other part has it
        parts.append(part)
        part = (part - 1) & rest
    sums = np.stack([tables[p] + tables[some ^ p] for p in parts])
    best = sums.argmin(0)
    return np.take_along_axis(sums, best[None], 0)[0], np.asarray(parts)[best]


def _branches(states: States, start: int, ends: Sequence[int]) -> list[tuple[int, int]]:
    """The ways between source, branching layouts and ends, outermost first."""
    if not ends:
        return []
    tables = _tables(states, ends)
    pending, ways = [(start, (1 << len(ends)) - 1)], []
    for at, some in pending:
        if some & (some - 1) == 0:
            ways.append((at, ends[some.bit_length() - 1]))
            continue
        costs, parts = _split(tables, some)
        branch = int((states.distances[at] + costs).argmin())
        if branch != at:
            ways.append((at, branch))
        part = int(parts[branch])
        pending += [(branch, part), (branch, some ^ part)]
    return ways


def _way(states: States, start: int, end: int) -> list[Step]:
    """The steps of a cheapest way between two layouts; of equal ones, the fewest.

    Fewest, as steps may cost nothing, and then some lead back for nothing.
    """
    arcs, least = states.arcs, states.distances[start]
    tight = least[arcs.tails] + arcs.seconds <= least[arcs.heads] * (1 + 1e-9)
    came: dict[int, int] = {}
    reached = [start]
    for at in reached:
        if end in came or at == end:
            break
        for step in np.flatnonzero(tight & (arcs.tails == at)):
            head = int(arcs.heads[step])
            if head != start and head not in came:
                came[head] = int(step)
                reached.append(head)
    found: list[Step] = []
    while end != start:
        found.append(states.steps[came[end]])
        end = int(arcs.tails[came[end]])
    return found[::-1]
