"""Nested segments for a budget: the fewest FLOPs, by dynamic programming.

A sweep runs steps a to b forwards, and their backward parts follow. With ``m`` bytes
beside what was held before, and ``d`` levels below it may sweep again,

    spent(a, b, m, d) = min over c of
        spent(c, b, m - all of a..c, d)                            kept wholly
        made(a, c) + spent(a, c, m, d - 1) + spent(c, b, m - read across c, d)

as in Beaumont et al., "Optimal checkpointing for heterogeneous chains" (2019). For
chains that is exact; where results are read by several steps, bytes are estimated from
above, so plans are also made for more bytes than there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from .cuts import places_of
from .retention import Retention, Training

PLACES: Final = 48
"""Where a long pass may be cut into nested segments."""

DEPTH: Final = 4
"""How often a result may be made again."""

SLOTS: Final = 192
"""Into how many parts memory is divided; small budgets into bytes."""

BEYOND: Final = 1.5
"""Plans are made for up to so many times the budget."""

LEVELS: Final = 24
"""How many plans are made at each depth."""

NEVER: Final = 1 << 60

Array = np.ndarray[Any, Any]


def nested(training: Training, budget: int) -> Iterator[Retention]:
    """Plans at each depth, for less and less memory; some may fit into the budget."""
    walk = _Walk(_Spans(training, places_of(training, PLACES)), budget)
    for depth in range(1, DEPTH + 1):
        for slot in walk.slots(depth):
            yield walk.plan(slot, depth)


class _Spans:
    """Bytes and FLOPs of the steps between any two places.

    Tables have a row for where a span begins, and a column for where it ends. ``back``
    is what its backward parts take where all that they look at is there, ``leaf`` that
    where also all they have inside is, ``inside``. By the end of the sweep: ``made``
    are FLOPs, ``behind`` bytes of what is kept as it is read behind the sweep, and
    ``sweep`` the most that the span holds in it: where it is forgotten, and where not.
    """

    def __init__(self, training: Training, places: list[int]) -> None:
        steps = training.steps
        self.training, self.places = training, places
        self.starts = np.asarray(places)
        self.bytes = np.asarray([step.bytes for step in steps], np.int64)
        self.flops = np.asarray([step.flops for step in steps], np.int64)
        self.first = np.full(len(steps), NEVER)  # of the backward parts that look at it
        self.reader = np.full(len(steps), NEVER)  # the first of each result
        for i in range(len(steps) - 1, -1, -1):
            step = steps[i]
            self.reader[[*step.reads]] = i
            if step.moves:
                self.first[
                    [*(step.reads if i in training.inner_of else step.needs)]
                ] = i
        inner = [
            training.nodes[training.inner_of[i]].bytes if i in training.inner_of else 0
            for i in range(len(steps))
        ]
        self.slopes, peaks = self._slopes()
        held = [
            self._from(self.bytes[:i] * (self.first[:i] <= i))
            for i in range(len(steps))
        ]
        rows = np.asarray(held) + np.asarray(peaks)[:, None]
        total = np.asarray([0, *np.cumsum(inner)])
        inners = np.maximum(total[1:, None] - total[None, self.starts], 0)
        self.inside = np.maximum(total[None, self.starts] - total[self.starts, None], 0)
        self.back = self._most(rows + np.asarray(inner)[:, None])
        self.leaf = self._most(rows + inners)
        uses = training.uses((), 0, len(steps))
        self.last = np.asarray([uses.get(i, -1) for i in range(len(steps))])
        self.made = np.zeros(self.back.shape, np.int64)
        self.behind = np.zeros(self.back.shape, np.int64)
        self.sweep: list[tuple[Array, Array]] = []
        self.last_in: list[Array] = []
        for b in range(len(places)):
            self._end(b)

    def _slopes(self) -> tuple[list[int], list[int]]:
        """Bytes of slopes that are there behind each step, and the most at it."""
        steps = self.training.steps
        into = [0] * len(steps)
        behind, peaks, live = [0] * (len(steps) + 1), [0] * len(steps), 0
        for i in range(len(steps) - 1, -1, -1):
            slopes = steps[i].slopes if steps[i].moves else ()
            peaks[i] = live + sum([steps[read].bytes for read in slopes])
            for read in slopes:
                if steps[read].moves:
                    into[read] += steps[read].bytes
                    live += steps[read].bytes
            live -= into[i]
            behind[i] = live
        return behind, peaks

    def _from(self, sizes: Array) -> Array:
        """The sums of sizes from each place on."""
        total = np.asarray([0, *np.cumsum(sizes)])
        found: Array = total[-1] - total[np.minimum(self.starts, len(sizes))]
        return found

    def _most(self, rows: Array) -> Array:
        """The most in each span, of rows for steps and columns for starts."""
        before = np.arange(len(rows))[:, None] < self.starts[None, :]
        most = np.maximum.accumulate(np.where(before, 0, rows), axis=0)
        first = np.zeros((1, len(self.starts)), np.int64)
        most = np.concatenate([first, most])
        found: Array = most[np.minimum(self.starts, len(rows))].T
        return found

    def _end(self, b: int) -> None:
        """The sweeps that end at a place: what is made in them once more."""
        stop, count = self.places[b], len(self.bytes)
        kept = self.last[:stop] >= stop
        uses = self.training.uses({*np.flatnonzero(kept).tolist()}, 0, stop)
        last = np.asarray([uses.get(i, -1) for i in range(stop)], np.int64)
        wanted = (last >= 0) & ~kept
        self.last_in.append(last)
        self.made[:, b] = self._from(self.flops[:stop] * wanted)
        held = kept & (self.reader[:stop] < stop)
        self.behind[:, b] = self._from(self.bytes[:stop] * held)
        sizes, back = self.bytes[:stop], self.first[:stop] < stop
        if stop == count:  # all is made for the first time
            last = np.asarray(self.training.last_read)
        else:
            sizes = sizes * wanted
        forgotten, whole = [], []
        for i in range(stop):
            now = slice(0, i + 1)
            read = (last[now] >= i) | (np.arange(i + 1) == i)
            forgotten.append(self._from(sizes[now] * read))
            whole.append(self._from(sizes[now] * (read | back[now])))
        shape = (stop, len(self.places))
        tables = [np.asarray(rows).reshape(shape) for rows in (forgotten, whole)]
        self.sweep.append((self._most(tables[0]), self._most(tables[1])))

    def held(self, b: int) -> tuple[Array, Array]:
        """Bytes of spans that are there until b is done: if forgotten, and if not."""
        stop, shape = self.places[b], (len(self.places), b + 1)
        crossing, wholly = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for c in range(1, b + 1):
            start = self.places[c]
            across = self.last_in[b][:start] >= start
            sizes, looked_at = self.bytes[:start], self.first[:start] < stop
            crossing[:, c] = self._from(sizes * across)
            wholly[:, c] = self._from(sizes * (across | looked_at))
        return crossing, wholly


class _Piece(NamedTuple):
    """A part of a sweep, by its places; ``slot`` is the memory beside what is held."""

    start: int
    stop: int
    forgotten: bool
    slot: int


class _Walk:
    """FLOPs that are spent again, by depth, first and last place, and memory."""

    def __init__(self, spans: _Spans, budget: int) -> None:
        self.spans, self.count = spans, len(spans.places) - 1
        self.unit = max(1, -(-int(BEYOND * budget) // SLOTS))
        self.size = int(BEYOND * budget) // self.unit + 1
        shape = (DEPTH + 1, self.count + 1, self.count + 1, self.size)
        self.spent = np.full(shape, np.inf)
        for a in range(self.count + 1):
            self.spent[:, a, a] = 0
        self.memory = np.arange(self.size)
        self.held: list[tuple[Array, Array]] = []
        for b in range(self.count + 1):
            crossing, wholly = spans.held(b)
            self.held.append((self._slots(crossing), self._slots(wholly)))
            for a in range(b - 1, -1, -1):
                self._fill(a, b)

    def _slots(self, sizes: Array) -> Array:
        return -(-sizes // self.unit)

    def _fill(self, a: int, b: int) -> None:
        """The cells of one span; its depths from below."""
        spans, base = self.spans, self._base(a, b)
        made = base + spans.sweep[b][1][a, b] + spans.inside[a, b]
        least = max(int(made), int(spans.leaf[a, b]))
        self.spent[0, a, b, int(self._slots(np.asarray(least))) :] = 0
        for depth in range(1, DEPTH + 1):
            options = self._options(a, b, depth)
            best = np.minimum(*[each.min(0) for each in options])
            self.spent[depth, a, b] = np.minimum(best, self.spent[depth - 1, a, b])

    def _base(self, a: int, b: int) -> int:
        """Bytes that are there while a sweep runs: slopes, and what is read behind."""
        spans = self.spans
        return int(spans.slopes[spans.places[b]] + spans.behind[a, b])

    def _options(self, a: int, b: int, depth: int) -> tuple[Array, Array]:
        """FLOPs by the end of the first piece, and memory: forgotten, or kept."""
        spans, base = self.spans, self._base(a, b)
        ends = slice(a + 1, b + 1)
        across, wholly = [each[a, ends] for each in self.held[b]]
        forgotten, whole = [base + each[a, ends] for each in spans.sweep[b]]
        needed = np.maximum(whole, spans.back[a, ends])
        kept = self._behind(b, ends, depth, wholly, needed)
        gone = self._behind(b, ends, depth, across, forgotten)
        gone = gone + self.spent[depth - 1, a, ends] + spans.made[a, ends, None]
        if b < self.count:  # the last piece of what is made again is there already
            gone[-1] = np.inf
        return gone, kept

    def _behind(
        self, b: int, ends: slice, depth: int, held: Array, needed: Array
    ) -> Array:
        """FLOPs behind a piece, by its end and the memory before it."""
        right = self.spent[depth, ends, b]
        left = self.memory[None, :] - held[:, None]
        found = np.take_along_axis(right, np.maximum(left, 0), axis=1)
        least = np.maximum(held, self._slots(needed))[:, None]
        return np.where(self.memory[None, :] >= least, found, np.inf)

    def slots(self, depth: int) -> list[int]:
        """The memory at which plans get dearer, most first; of many some."""
        spent = self.spent[depth, 0, self.count]
        found = [
            slot
            for slot in range(self.size - 1, -1, -1)
            if np.isfinite(spent[slot]) and (not slot or spent[slot] < spent[slot - 1])
        ]
        if len(found) <= LEVELS:
            return found
        return [found[k * (len(found) - 1) // (LEVELS - 1)] for k in range(LEVELS)]

    def plan(self, slot: int, depth: int) -> Retention:
        """The plan for all steps."""
        made = self._plan(0, self.count, slot, depth, frozenset())
        steps = len(self.spans.training.steps)
        return made or Retention(frozenset(range(steps)), tuple(range(steps)))

    def _plan(
        self, a: int, b: int, slot: int, depth: int, held: frozenset[int]
    ) -> Retention | None:
        """How a span is kept in its sweep; None for wholly, in one segment."""
        spent = self.spent[:, a, b, slot]
        while depth and spent[depth - 1] == spent[depth]:
            depth -= 1
        if not depth:
            return None
        places = self.spans.places
        kept: set[int] = set()
        starts: list[int] = []
        pieces = [*self._pieces(a, b, slot, depth)]
        for piece in pieces:
            span = range(places[piece.start], places[piece.stop])
            if not piece.forgotten:
                kept.update(span)
            starts += span[:1] if piece.forgotten else span
        kept |= self.spans.training.across(held | kept, {*starts}, places[b])
        inner = [
            self._plan(p.start, p.stop, p.slot, depth - 1, held | kept)
            for p in pieces
            if p.forgotten
        ]
        parts = tuple([part for part in inner if part])
        return Retention(frozenset(kept - held), tuple(starts), parts)

    def _pieces(self, a: int, b: int, slot: int, depth: int) -> Iterator[_Piece]:
        """The pieces of a sweep, as in the cheapest way."""
        while a < b:
            gone, kept = self._options(a, b, depth)
            options = np.asarray([kept[:, slot], gone[:, slot]])
            way, place = np.unravel_index(int(options.argmin()), options.shape)
            end = a + 1 + int(place)
            yield _Piece(a, end, bool(way), slot)
            slot -= int(self.held[b][0 if way else 1][a, end])
            a = end
