"""Cuts of a line of work: against all cuts there are, and a pipeline's clock."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from graphopt.passes.sharding.cuts import NoCut, cut, step_seconds

numbers = st.integers(0, 9).map(float)


def finished(stages: Sequence[float], micro_batches: int) -> float:
    """When a pipeline is done, micro-batch by micro-batch and stage by stage."""
    free = [0.0] * len(stages)
    done = 0.0
    for _ in range(micro_batches):
        done = 0.0
        for i, seconds in enumerate(stages):
            done = free[i] = max(done, free[i]) + seconds
    return done


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=6), st.integers(1, 7))
def test_the_step_is_what_a_pipeline_takes(
    stages: list[float], micro_batches: int
) -> None:
    assert step_seconds(stages, micro_batches) == finished(stages, micro_batches)


def test_equal_stages_take_the_ticks_of_fill_and_drain() -> None:
    assert step_seconds([2.0] * 4, 8) == 2 * (8 + 4 - 1)


def every_cut(length: int, count: int) -> Iterator[tuple[int, ...]]:
    for stages in range(1, min(count, length) + 1):
        yield from itertools.combinations(range(1, length), stages - 1)


def stages_of(
    costs: Sequence[float], sends: Sequence[float], cuts: tuple[int, ...]
) -> list[float]:
    bounds = [0, *cuts, len(costs)]
    sent = [*(sends[end - 1] for end in cuts), 0.0]
    return [
        sum(costs[start:end]) + send
        for (start, end), send in zip(itertools.pairwise(bounds), sent, strict=True)
    ]


@st.composite
def lines(draw: st.DrawFn) -> tuple[list[float], list[float], list[int]]:
    """Costs, sends (some infinite) and memory of each item."""
    length = draw(st.integers(1, 8))
    costs = draw(st.lists(numbers, min_size=length, max_size=length))
    sends = draw(
        st.lists(
            st.one_of(numbers, st.just(math.inf)),
            min_size=length - 1,
            max_size=length - 1,
        )
    )
    memory = draw(st.lists(st.integers(0, 5), min_size=length, max_size=length))
    return costs, sends, memory


@settings(deadline=None)
@given(lines(), st.integers(1, 5), st.integers(1, 6), st.integers(5, 20))
def test_no_cut_is_better(
    line: tuple[list[float], list[float], list[int]],
    count: int,
    micro_batches: int,
    limit: int,
) -> None:
    costs, sends, memory = line
    length = len(costs)
    earliest = [
        next((i for i in range(j) if sum(memory[i:j]) <= limit), j)
        for j in range(length + 1)
    ]
    best = math.inf
    for cuts in every_cut(length, count):
        bounds = itertools.pairwise([0, *cuts, length])
        if all(sum(memory[start:end]) <= limit for start, end in bounds):
            best = min(best, finished(stages_of(costs, sends, cuts), micro_batches))
    if math.isinf(best):
        with pytest.raises(NoCut, match="more memory"):
            cut(costs, sends, count, micro_batches, earliest)
        return
    found = cut(costs, sends, count, micro_batches, earliest)
    assert found.seconds == best
    assert list(found.stages) == stages_of(costs, sends, found.cuts)
    bounds = itertools.pairwise([0, *found.cuts, length])
    assert all(sum(memory[start:end]) <= limit for start, end in bounds)


def test_one_batch_alone_is_not_cut() -> None:
    assert cut([1.0, 1.0], [0.5], 2, 1).cuts == ()
    assert cut([1.0, 1.0], [0.5], 2, 8).cuts == (1,)


def test_a_cheap_place_may_be_worth_an_uneven_cut() -> None:
    costs = [1.0] * 6
    assert cut(costs, [0.0] * 5, 2, 4).cuts == (3,)
    assert cut(costs, [9.0, 9.0, 9.0, 0.0, 9.0], 2, 4).cuts == (4,)


def test_no_work_is_no_stage() -> None:
    assert cut([], [], 3).cuts == ()


@pytest.mark.parametrize("arguments", [([1.0], [], 0, 1), ([1.0], [], 1, 0)])
def test_numbers_that_make_no_sense(
    arguments: tuple[list[float], list[float], int, int],
) -> None:
    with pytest.raises(ValueError, match="stages and"):
        cut(*arguments)


def test_sends_lie_between_items() -> None:
    with pytest.raises(ValueError, match="sends between"):
        cut([1.0, 2.0], [], 1)


@pytest.mark.slow
def test_a_long_line_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    costs, sends = rng.uniform(0, 1, 2000), rng.uniform(0, 9, 1999)
    start = time.process_time()
    found = cut(costs.tolist(), sends.tolist(), 16, 32)
    assert time.process_time() - start < 60
    assert len(found.cuts) <= 15
