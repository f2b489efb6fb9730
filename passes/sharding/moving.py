"""Positions of a dim that move from device to device: each gets those of its part.

Every device has a part of a dim, and wants other positions. What one has and another
wants is an edge between the two; edges that share neither source nor target form a
round, which is one `Permute` of as much as the longest of them. Edges are taken the
longest first, each in the first round that is free (first fit decreasing). What a
device keeps is not sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np

from graphopt.ir import Value
from graphopt.ops import Add, Concat, Constant, Gather, Slice
from graphopt.ops.bodies import vector
from graphopt.ops.mesh import Permute
from graphopt.rewrite import Miss

from .local import Place

LONGEST: Final = 1 << 20
"""Most positions of a dim that are told apart."""


@dataclass
class Round:
    """Edges that need not wait for each other: by source and target, which positions.

    Positions are those of what the source has.
    """

    edges: dict[tuple[int, int], Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return max(len(at) for at in self.edges.values())

    def takes(self, edge: tuple[int, int]) -> bool:
        """True where neither end of the edge is in the round yet."""
        return all(edge[0] != a and edge[1] != b for a, b in self.edges)


@dataclass(frozen=True)
class Moves:
    """What is sent, and where each device finds the positions that it wants.

    ``held`` is how many positions a device has; those that it gets in the rounds are
    counted behind them. ``wanted`` has a row for each device.
    """

    held: int
    rounds: Sequence[Round]
    wanted: Any

    @property
    def sent(self) -> int:
        """How many positions a device sends."""
        return sum(each.size for each in self.rounds)


def moves(owners: Any, places: Any, wanted: Any, held: int) -> Moves:
    """How all devices get what they want.

    ``owners`` and ``places`` tell of each position the device that has it (-1: all do)
    and which of what it has that is; ``wanted`` has a row of positions for each device.
    """
    edges: dict[tuple[int, int], Any] = {}
    found = np.array(places[wanted])
    sources = owners[wanted]
    for target, row in enumerate(sources):
        for source in np.unique(row):
            if source not in (-1, target):
                edges[int(source), target] = found[target, row == source]
    rounds: list[Round] = []
    for edge in sorted(edges, key=lambda e: (-len(edges[e]), e[1] - e[0], e)):
        free = next((each for each in rounds if each.takes(edge)), None)
        if free is None:
            free = Round()
            rounds.append(free)
        free.edges[edge] = edges[edge]
    first = held
    for each in rounds:
        for (source, target), at in each.edges.items():
            begin = _begin(at, each.size, held)
            which = np.arange(len(at)) if begin is None else at - begin
            found[target, sources[target] == source] = first + which
        first += each.size
    return Moves(held, rounds, found)


def _begin(at: Any, size: int, held: int) -> int | None:
    """Where a run of ``size`` positions begins that has these; None if none does."""
    if np.any(np.diff(at) != 1):
        return None
    return int(min(at[0], held - size))


def moved(x: Value, dim: int, plan: Moves, place: Place) -> Value | Miss:
    """What each device wants of ``dim``; ``x`` is what it has."""
    if not plan.rounds:
        return _taken(x, dim, plan.wanted, place)
    if len(place.axes) > 1:
        return Miss("positions move along two mesh axes")
    ((axis, ways),) = place.axes
    parts = [x]
    for each in plan.rounds:
        rows = list(_sent(each, plan.held, ways))
        pairs = tuple([end for edge in sorted(each.edges) for end in edge])
        sent = _taken(x, dim, np.stack(rows), place)
        parts.append(Permute(sent, axis=axis, ways=ways, pairs=pairs))
    return _taken(Concat(*parts, axis=dim), dim, plan.wanted, place)


def _sent(each: Round, held: int, ways: int) -> Iterator[Any]:
    """The positions that each device sends, those alike that send nothing."""
    sources = {source: at for (source, _), at in each.edges.items()}
    idle: Any = None
    rows: dict[int, Any] = {}
    for source, at in sources.items():
        begin = _begin(at, each.size, held)
        if begin is None:
            rows[source] = np.resize(at, each.size)
        else:
            rows[source] = np.arange(begin, begin + each.size)
        idle = rows[source] if idle is None else idle
    for device in range(ways):
        yield rows.get(device, idle)


def _taken(x: Value, dim: int, rows: Any, place: Place) -> Value:
    """Positions of a dim, by a row of them for each device."""
    assert x.shape is not None
    starts = rows[:, 0]
    runs = bool(np.all(np.diff(rows, axis=1) == 1))
    if np.all(rows == rows[0]):
        if not runs:
            return Gather(x, Constant(rows[0].astype(np.int64)), axis=dim)
        first, stop = int(rows[0, 0]), int(rows[0, -1]) + 1
        if (first, stop) == (0, x.shape[dim]):
            return x
        return Slice(x, vector(first), vector(stop), vector(dim))
    if runs:
        start = Gather(Constant(starts.astype(np.int64)), place.number)
        at: Value = Add(start, Constant(np.arange(rows.shape[1], dtype=np.int64)))
    else:
        at = Gather(Constant(rows.astype(np.int64)), place.number)
    return Gather(x, at, axis=dim)


# --- several parts ------------------------------------------------------------------


def exchanged(
    xs: Sequence[Value],
    wholes: Sequence[int],
    dim: int,
    wanted: Sequence[Any],
    place: Place,
) -> tuple[Value, ...] | Miss:
    """Results along a dim from what devices have of several operands.

    ``wholes`` are the extents of whole operands: all devices have an operand of that
    extent. ``wanted`` says for each result which positions it has, of all operands one
    after the other; results are split. A miss where gathering sends no more.
    """
    ways = place.count
    owners, places, held, split = [], [], 0, 0
    for x, whole in zip(xs, wholes, strict=True):
        assert x.shape is not None
        own = cast(int, x.shape[dim])
        at = np.arange(whole)
        owners.append(at // own if own < whole else np.full(whole, -1))
        places.append(held + at % max(own, 1))
        held += own
        split += own if own < whole else 0
    parts = [np.reshape(each, (ways, -1)) for each in wanted]
    plan = moves(
        np.concatenate(owners), np.concatenate(places), np.concatenate(parts, 1), held
    )
    if plan.sent >= (ways - 1) * split:
        return Miss("gathering sends no more")
    together = Concat(*xs, axis=dim) if len(xs) > 1 else xs[0]
    made = moved(together, dim, plan, place)
    if isinstance(made, Miss) or len(parts) == 1:
        return made if isinstance(made, Miss) else (made,)
    ends = np.cumsum([each.shape[1] for each in parts]).tolist()
    return tuple(
        [
            Slice(made, vector(end - each.shape[1]), vector(end), vector(dim))
            for end, each in zip(ends, parts, strict=True)
        ]
    )
