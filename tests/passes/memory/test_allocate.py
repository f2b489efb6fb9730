"""Offsets: what greedy, search and solver find, and what they prove."""

from __future__ import annotations

import importlib.util
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from packings import (
    every_instance,
    fits,
    least_peak,
    overlapping,
    peak,
    perfect,
    read,
)

from graphopt.passes.memory import (
    Buffer,
    allocate,
    components,
    lower_bound,
    pack,
)
from graphopt.passes.memory.greedy import greedy
from graphopt.passes.memory.search import RUNS, Run, ranked, search
from graphopt.passes.memory.sections import sections
from graphopt.passes.memory.tree import (
    AT,
    CHANGED,
    COUNT,
    DEPTH,
    EXHAUSTED,
    FEWEST,
    FOUND,
    GROUND,
    LEFT,
    LOW,
    LOWEST,
    RUNNING,
    SLACK,
    TIGHTEST,
    TRAIL,
)

needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="needs numba"
)
needs_ortools = pytest.mark.skipif(
    importlib.util.find_spec("ortools") is None, reason="needs OR-Tools"
)


def buffers(*rows: tuple[int, int, int]) -> list[Buffer]:
    return [Buffer(i, *row) for i, row in enumerate(rows)]


TRAP = buffers((5, 8, 8), (6, 8, 4), (4, 6, 9), (3, 5, 6), (2, 3, 8), (1, 4, 7))
"""All orders and fits end at 21 or above; 17 is possible."""

GAP = buffers(
    *((0, 3, 3), (1, 4, 4), (3, 6, 2), (3, 7, 1)),
    *((5, 7, 3), (6, 8, 3), (7, 8, 2), (7, 8, 2)),
)
"""At most 7 are live, and yet 8 are needed."""


@st.composite
def lives(draw: st.DrawFn, count: int = 6, sizes: int = 9) -> list[Buffer]:
    made = []
    for i in range(draw(st.integers(0, count))):
        lower = draw(st.integers(-2, 6))
        upper = lower + draw(st.integers(1, 5))
        made.append(Buffer(i, lower, upper, draw(st.integers(0, sizes))))
    return made


@st.composite
def tight(draw: st.DrawFn) -> list[Buffer]:
    """What is left of `GAP` if some are cut up, and others come to them."""
    rows = [(b.lower, b.upper, b.size) for b in GAP]
    for _ in range(draw(st.integers(0, 2))):
        lower, upper, size = rows.pop(draw(st.integers(0, len(rows) - 1)))
        if size > 1 and draw(st.booleans()):
            part = draw(st.integers(1, size - 1))
            rows += [(lower, upper, part), (lower, upper, size - part)]
        else:
            step = draw(st.integers(lower, upper - 1))
            rows += [(lower, step, size)] if step > lower else []
            rows.append((step, upper, size))
    for _ in range(draw(st.integers(0, 2))):
        lower = draw(st.integers(0, 7))
        upper = draw(st.integers(lower + 1, 8))
        rows.append((lower, upper, draw(st.integers(1, 2))))
    return buffers(*draw(st.permutations(rows)))


class TestBuffer:
    @pytest.mark.parametrize("upper", [3, 2])
    def test_lives_in_some_step(self, upper: int) -> None:
        with pytest.raises(ValueError, match=r"'x' lives in no step: \[3, "):
            Buffer("x", 3, upper, 1)

    def test_has_no_negative_size(self) -> None:
        with pytest.raises(ValueError, match="'x' has the size -1"):
            Buffer("x", 0, 1, -1)

    def test_lives_are_half_open(self) -> None:
        assert lower_bound(buffers((0, 1, 4), (1, 2, 5))) == 5
        assert lower_bound(buffers((0, 2, 4), (1, 2, 5))) == 9
        assert lower_bound([]) == 0

    def test_components_share_no_step(self) -> None:
        parts = components(buffers((4, 5, 1), (0, 2, 1), (2, 3, 1), (1, 2, 1)))
        assert [[b.id for b in part] for part in parts] == [[1, 3], [2], [0]]


class TestPack:
    @settings(max_examples=60, deadline=None)
    @given(lives())
    def test_is_as_good_as_all_orders(self, made: list[Buffer]) -> None:
        packing = pack(made)
        assert not overlapping(made, packing.offsets)
        assert packing.peak == peak(made, packing.offsets) == least_peak(made)
        assert packing.proof == "optimal"

    @settings(max_examples=60, deadline=None)
    @given(lives(count=12, sizes=100), st.sampled_from([1, 8, 64]))
    def test_aligned(self, made: list[Buffer], alignment: int) -> None:
        packing = pack(made, alignment=alignment)
        assert not overlapping(made, packing.offsets)
        assert all(at % alignment == 0 for at in packing.offsets.values())
        assert packing.peak % alignment == 0
        assert peak(made, packing.offsets) <= packing.peak
        assert packing.lower_bound >= lower_bound(made)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10**6), st.integers(4, 40))
    def test_fills_a_rectangle(self, seed: int, count: int) -> None:
        made = perfect(count, seed)
        packing = pack(made)
        assert not overlapping(made, packing.offsets)
        assert packing.peak == packing.lower_bound == 64

    def test_finds_what_greedy_does_not(self) -> None:
        offsets, _ = greedy(TRAP, 17)
        assert peak(TRAP, dict(enumerate(offsets))) == 21
        packing = pack(TRAP)
        assert not overlapping(TRAP, packing.offsets)
        assert packing.peak == least_peak(TRAP) == 17
        assert packing.method == "search"

    def test_proves_more_than_the_live_bytes(self) -> None:
        packing = pack(GAP)
        assert lower_bound(GAP) == 7
        assert packing.peak == packing.lower_bound == least_peak(GAP) == 8
        assert packing.proof == "optimal"
        assert not overlapping(GAP, packing.offsets)

    def test_does_what_it_can_without_steps(self) -> None:
        packing = pack(TRAP, steps=0, methods=("search",))
        assert not overlapping(TRAP, packing.offsets)
        assert (packing.peak, packing.lower_bound) == (21, 17)
        assert (packing.proof, packing.steps) == ("bound", 0)

    def test_too_many_pairs_are_not_searched(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("graphopt.passes.memory.sections.PAIRS", 3)
        packing = pack(TRAP)
        assert (packing.peak, packing.lower_bound, packing.steps) == (21, 17, 0)

    def test_stops_in_time(self) -> None:
        start = time.monotonic()
        made = perfect(400, 1, steps=300, height=2000)
        packing = pack(made, seconds=0.5, steps=10**9, methods=("search",))
        assert time.monotonic() - start < 5
        assert not overlapping(made, packing.offsets)

    def test_a_buffer_of_no_size_takes_no_place(self) -> None:
        made = buffers((0, 4, 0), (0, 4, 8), (1, 2, 0))
        assert dict(pack(made).offsets) == {0: 0, 1: 0, 2: 0}
        assert pack(made[:1]).peak == 0

    def test_nothing(self) -> None:
        packing = pack([])
        assert (dict(packing.offsets), packing.peak) == ({}, 0)
        assert packing.proof == "optimal"

    def test_ids_are_any(self) -> None:
        made = [Buffer("a", 0, 2, 4), Buffer(("b", 1), 1, 3, 4)]
        assert set(pack(made).offsets) == {"a", ("b", 1)}
        with pytest.raises(ValueError, match="two buffers have the same id"):
            pack([made[0], made[0]])

    def test_refuses_what_makes_no_sense(self) -> None:
        with pytest.raises(ValueError, match="alignment is at least 1, not 0"):
            pack([], alignment=0)
        with pytest.raises(ValueError, match="capacity is at least 0, not -1"):
            pack([], capacity=-1)

    def test_a_thousand_buffers_in_a_second(self) -> None:
        """Chains with residuals, as in models: greedy alone meets the bound."""
        made = [
            Buffer(i, i, i + (2 if i % 7 else 12), 64 * (1 + i * 37 % 50))
            for i in range(1000)
        ]
        start = time.process_time()
        packing = pack(made, methods=("search",))
        assert time.process_time() - start < 5  # 1 where nothing else runs
        assert packing.proof == "optimal"


class TestAllocate:
    def test_within_a_capacity(self) -> None:
        assert allocate(TRAP, 16) is None
        found = allocate(TRAP, 17)
        assert found is not None
        assert peak(TRAP, found) == 17
        loose = allocate(TRAP, 40)
        assert loose is not None
        assert peak(TRAP, loose) <= 40

    def test_without_one(self) -> None:
        found = allocate(TRAP)
        assert found is not None
        assert peak(TRAP, found) == 17

    def test_proof_that_nothing_fits(self) -> None:
        assert allocate(GAP, 7) is None
        assert pack(GAP, 7).lower_bound == 8

    def test_sizes_are_rounded_up(self) -> None:
        made = buffers((0, 1, 3), (0, 1, 3))
        assert allocate(made, 15, alignment=8) is None
        found = allocate(made, 16, alignment=8)
        assert found is not None
        assert set(found.values()) == {0, 8}


class TestSearch:
    @needs_numba
    @settings(max_examples=10, deadline=None)
    @given(st.integers(0, 10**6), st.booleans())
    def test_compiled_is_the_same(self, seed: int, loose: bool) -> None:
        packed = sections(perfect(60, seed, steps=60, height=500))
        assert packed is not None
        capacity = 505 if loose else 500
        capacity //= packed.unit
        plain = search(packed, capacity, 3000, compile=False)
        from graphopt.passes.memory import search as module

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "PATIENCE", 0.0)
            assert search(packed, capacity, 3000) == plain

    def test_more_steps_find_the_same(self) -> None:
        packed = sections(perfect(60, 7, steps=60, height=500))
        assert packed is not None
        first = search(packed, 500, 4000, compile=False)
        assert first.offsets is not None
        assert search(packed, 500, 8000, compile=False) == first
        assert search(packed, 500, first.steps, compile=False) == first
        assert search(packed, 500, first.steps - 1, compile=False).offsets is None

    @settings(max_examples=150, deadline=None)
    @given(tight(), st.integers(0, 1))
    def test_proofs_are_right(self, made: list[Buffer], more: int) -> None:
        packed = sections(made)
        assert packed is not None
        capacity = lower_bound(made) + more
        possible = fits(made, capacity)
        for order, choice in RUNS:
            run = Run(packed, capacity // packed.unit, ranked(packed, order, 0), choice)
            status = run.go(5000, float("inf"), float("inf"))
            assert status == (FOUND if possible else EXHAUSTED)
            if possible:
                offsets = [at * packed.unit for at in run.offsets]
                assert not overlapping(made, dict(enumerate(offsets)))

    @pytest.mark.parametrize("count", [40, 60])
    def test_nothing_is_proved_wrongly(self, count: int) -> None:
        """A rectangle with holes can be packed, however long that is searched for."""
        for seed in range(30):
            draw = random.Random(seed)
            made = [
                buffer
                for buffer in perfect(count, seed, steps=count // 2, height=256)
                if draw.random() < 0.93
            ]
            packed = sections(made)
            assert packed is not None
            numbers = list(range(len(made)))
            draw.shuffle(numbers)
            for choice in (FEWEST, LOWEST, TIGHTEST):
                run = Run(packed, 256 // packed.unit, numbers, choice)
                status = run.go(1000, float("inf"), float("inf"))
                assert status in (FOUND, RUNNING)
                if status == FOUND:
                    offsets = {
                        buffer.id: at * packed.unit
                        for buffer, at in zip(made, run.offsets, strict=True)
                    }
                    assert not overlapping(made, offsets)

    def test_what_is_kept_up_to_date_is_what_it_means(self) -> None:
        checked = 0
        for seed in (1, 2, 6, 20):
            packed = sections(perfect(60, seed, steps=30, height=256))
            assert packed is not None
            numbers = sorted(range(60), key=lambda b: (b * 7 + seed) % 60)
            run = Run(packed, 270 // packed.unit, numbers, FEWEST)
            while run.go(run.steps + 1, float("inf"), float("inf")) == RUNNING:
                registers, cells = run.tree.registers, run.tree.cells
                if registers[CHANGED] != run.tree.frames[registers[DEPTH] - 1][TRAIL]:
                    continue  # in the middle of a dead end
                checked += 1
                for t in range(len(packed.totals)):
                    live = [
                        b for b in range(60) if packed.first[b] <= t < packed.last[b]
                    ]
                    left = [b for b in live if cells[AT][b] < 0]
                    assert cells[LEFT][t] == len(left)
                    if not left:
                        continue
                    ground = cells[GROUND][t]
                    lows = [cells[LOW][b] for b in left]
                    assert min(lows) == ground
                    assert cells[COUNT][t] == lows.count(ground)
                    rest = sum(packed.sizes[b] for b in left)
                    assert cells[SLACK][t] == run.problem.capacity - ground - rest
                for b in range(60):
                    below = [
                        cells[AT][c] + packed.sizes[c]
                        for c in packed.neighbors[b]
                        if cells[AT][c] >= 0
                    ]
                    if cells[AT][b] < 0:
                        assert cells[LOW][b] >= max(below, default=0)
                if run.steps > 400:
                    break
        assert checked > 100

    def test_a_capacity_below_the_bound_is_impossible(self) -> None:
        packed = sections(TRAP)
        assert packed is not None
        assert search(packed, 16, 100).impossible


@needs_ortools
class TestSolver:
    def test_finds_and_proves(self) -> None:
        for made, least in ((TRAP, 17), (GAP, 8)):
            packing = pack(made, methods=("constraint",))
            assert not overlapping(made, packing.offsets)
            assert (packing.peak, packing.proof) == (least, "optimal")
        assert pack(GAP, 7, methods=("constraint",)).lower_bound == 8
        assert pack(TRAP, 17, methods=("constraint",)).peak == 17


@every_instance()
def test_challenging_instances(path: Path) -> None:
    made, capacity = read(path)
    start = time.monotonic()
    found = allocate(made, capacity, seconds=60)
    assert time.monotonic() - start < 70
    assert found is not None
    assert not overlapping(made, found)
    assert peak(made, found) <= capacity
