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

    Tables have a row for where a span begins, and a column for where it ends.
    ``sweep`` is the most that a forward pass over it holds which forgets it,
    ``keeping`` one that does not; with ``ending`` it is the last of a sweep, and what
    is read behind it is there. ``back`` is what the backward parts take, ``leaf`` that
    where all that they look at inside is there at once.
    """

    def __init__(self, training: Training, places: list[int]) -> None:
        steps = training.steps
        self.training, self.places = training, places
        self.bytes = np.asarray([step.bytes for step in steps], np.int64)
        self.last = np.asarray(training.last_read)
        self.reader = np.full(len(steps), NEVER)  # the first of each result
        self.user = np.full(len(steps), NEVER)  # the first for its backward part
        for i in range(len(steps) - 1, -1, -1):
            step = steps[i]
            self.reader[[*step.reads]] = i
            if step.moves:
                used = step.reads if i in training.inner_of else step.needs
                self.user[[*used]] = i
        inner = [
            training.nodes[training.inner_of[i]].bytes if i in training.inner_of else 0
            for i in range(len(steps))
        ]
        self.slopes, peaks = self._slopes()
        inside = np.asarray([0, *np.cumsum(inner)])
        starts = np.asarray(places)
        held, sweep, keeping = [], [], []
        for i in range(len(steps)):
            held.append(self._from(starts, self.bytes[:i] * (self.user[:i] <= i)))
            now = slice(0, i + 1)
            read = self.last[now] >= i
            sweep.append(self._from(starts, self.bytes[now] * read))
            kept = read | (self.user[now] < NEVER)
            keeping.append(self._from(starts, self.bytes[now] * kept))
        rows = np.asarray(held) + np.asarray(peaks)[:, None]
        self.back = self._most(rows + np.asarray(inner)[:, None])
        inners = inside[1:, None] - inside[None, starts]
        self.leaf = self._most(rows + np.maximum(inners, 0))
        self.sweep = self._most(np.asarray(sweep))
        self.keeping = self._most(np.asarray(keeping))
        self.inside = np.maximum(inside[None, starts] - inside[starts, None], 0)
        shape = self.back.shape
        self.made, self.ending = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.beyond = np.zeros(shape, np.int64)  # of what is read behind the span
        for b, stop in enumerate(places):
            self._end(b, stop)

    def _slopes(self) -> tuple[list[int], list[int]]:
        """Bytes of slopes that are there behind each step, and the most at it."""
        steps = self.training.steps
        into = [0] * len(steps)
        behind, peaks, live = [0] * (len(steps) + 1), [0] * len(steps), 0
        for i in range(len(steps) - 1, -1, -1):
            step = steps[i]
            new = sum([steps[r].bytes for r in step.slopes]) if step.moves else 0
            peaks[i] = live + new
            for read in step.slopes if step.moves else ():
                if steps[read].moves:
                    into[read] += steps[read].bytes
                    live += steps[read].bytes
            live -= into[i]
            behind[i] = live
        return behind, peaks

    @staticmethod
    def _from(starts: Array, sizes: Array) -> Array:
        """The sums of sizes from each place on."""
        total = np.asarray([0, *np.cumsum(sizes)])
        return total[-1] - total[np.minimum(starts, len(sizes))]

    def _most(self, rows: Array) -> Array:
        """The most in each span, of rows for steps and columns for starts."""
        places = np.asarray(self.places)
        before = np.arange(len(rows))[:, None] < places[None, :]
        most = np.maximum.accumulate(np.where(before, 0, rows), axis=0)
        return np.asarray([[0] * len(places), *most])[places].T

    def _end(self, b: int, stop: int) -> None:
        """The spans that end at a place: what is made in them once more."""
        steps = self.training.steps
        kept = self.last[:stop] >= stop
        here = self.user[:stop] < stop
        wanted = here.copy()
        for i in range(stop - 1, -1, -1):
            if wanted[i] and not kept[i]:
                wanted[[*steps[i].reads]] = True
        wanted &= ~kept
        starts = np.asarray(self.places[: b + 1])
        flops = np.asarray([step.flops for step in steps[:stop]], np.int64)
        self.made[: b + 1, b] = self._from(starts, flops * wanted)
        held = kept & (self.reader[:stop] < stop)
        self.beyond[: b + 1, b] = self._from(starts, self.bytes[:stop] * held)
        sizes = self.bytes[:stop] * wanted
        most = np.zeros(b + 1, np.int64)
        for i in range(stop):
            now = sizes[: i + 1] * (here[: i + 1] | (self.last[: i + 1] >= i))
            live = self._from(starts, now)
            most = np.maximum(most, np.where(starts <= i, live, 0))
        self.ending[: b + 1, b] = most

    def across(self, c: int, b: int) -> tuple[Array, Array]:
        """By start: bytes held before c until b is done, if forgotten, and if not."""
        start, stop = self.places[c], self.places[b]
        sizes = self.bytes[:start]
        crossing = (self.last[:start] >= start) & (self.reader[:start] < stop)
        wholly = crossing | (self.user[:start] < stop)
        starts = np.asarray(self.places[:c])
        return self._from(starts, sizes * crossing), self._from(starts, sizes * wholly)


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
        for b in range(1, self.count + 1):
            both = [spans.across(c, b) for c in range(1, b + 1)]
            for a in range(b - 1, -1, -1):
                held = tuple(
                    self._slots(np.asarray([pair[k][a] for pair in both[a:]]))
                    for k in (0, 1)
                )
                self._fill(a, b, *held)

    def _slots(self, sizes: Array) -> Array:
        return -(-sizes // self.unit)

    def _fill(self, a: int, b: int, across: Array, wholly: Array) -> None:
        """The cells of one span; its depths from below."""
        spans, base = self.spans, self._base(a, b)
        least = max(
            base + int(spans.ending[a, b] + spans.inside[a, b]), int(spans.leaf[a, b])
        )
        self.spent[0, a, b, int(self._slots(np.asarray(least))) :] = 0
        for depth in range(1, DEPTH + 1):
            options = self._options(a, b, depth, across, wholly)
            best = np.minimum(*[each.min(0) for each in options])
            self.spent[depth, a, b] = np.minimum(best, self.spent[depth - 1, a, b])

    def _base(self, a: int, b: int) -> int:
        """Bytes that are there while a sweep runs: slopes, and what is read behind."""
        spans = self.spans
        return int(spans.slopes[spans.places[b]] + spans.beyond[a, b])

    def _options(
        self, a: int, b: int, depth: int, across: Array, wholly: Array
    ) -> tuple[Array, Array]:
        """FLOPs by the end of the first piece, and memory: forgotten, or kept."""
        spans, base = self.spans, self._base(a, b)
        ends = slice(a + 1, b + 1)
        back = spans.back[a, ends]
        forward = spans.keeping[a, ends].copy()
        forward[-1] = spans.ending[a, b]
        kept = self._behind(b, ends, depth, wholly, np.maximum(base + forward, back))
        sweep = base + spans.sweep[a, ends]
        gone = self._behind(b, ends, depth, across, sweep)
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
        made = self._plan(0, self.count, slot, depth)
        steps = len(self.spans.training.steps)
        return made or Retention(frozenset(range(steps)), tuple(range(steps)))

    def _plan(self, a: int, b: int, slot: int, depth: int) -> Retention | None:
        """How a span is kept in its sweep; None for wholly, in one segment."""
        spans = self.spans
        while depth and self.spent[depth - 1, a, b, slot] == self.spent[
            depth, a, b, slot
        ]:
            depth -= 1
        if not depth:
            return None
        places = spans.places
        behind = {i for i in range(places[b]) if spans.last[i] >= places[b]}
        kept: set[int] = set()
        starts: list[int] = []
        inner = []
        for piece in self._pieces(a, b, slot, depth):
            first, stop = places[piece.start], places[piece.stop]
            if not piece.forgotten:
                kept.update(range(first, stop))
                starts += range(first, stop)
                continue
            kept.update(i for i in range(first, stop) if spans.last[i] >= stop)
            starts.append(first)
            own = self._plan(piece.start, piece.stop, piece.slot, depth - 1)
            inner += [own] if own else []
        return Retention(frozenset(kept - behind), tuple(starts), tuple(inner))

    def _pieces(self, a: int, b: int, slot: int, depth: int) -> Iterator[_Piece]:
        """The pieces of a sweep, as in the cheapest way."""
        while a < b:
            both = [self.spans.across(c, b) for c in range(a + 1, b + 1)]
            across, wholly = (
                self._slots(np.asarray([pair[k][a] for pair in both])) for k in (0, 1)
            )
            gone, kept = self._options(a, b, depth, across, wholly)
            options = np.asarray([kept[:, slot], gone[:, slot]])
            way, place = np.unravel_index(int(options.argmin()), options.shape)
            yield _Piece(a, a + 1 + int(place), bool(way), slot)
            slot -= int((across if way else wholly)[place])
            a += 1 + int(place)
