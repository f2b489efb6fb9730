"""What runs at once in a search for an order, against the rule as it is said."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings, strategies as st
from small_tasks import problems

from graphopt.passes.memory import Task, Tasks
from graphopt.passes.memory.bounds import relations
from graphopt.passes.memory.chains import runs
from graphopt.passes.memory.states import State, States


def space_of(problem: Tasks) -> States:
    return States(problem, runs(problem, relations(problem.before, problem.file_order)))


def plainly(
    space: States, state: State, candidates: int, budget: int, path: list[int]
) -> State:
    """All candidates are costed, the lowest first."""
    done, live, ready = state
    while candidates:
        run = (candidates & -candidates).bit_length() - 1
        candidates &= candidates - 1
        most, left = space.cost(done, live, run)
        if left > live or most > budget:
            continue
        path.append(run)
        done, ready = space.after(done, ready, run)
        candidates = ready if left < live else ready & (candidates | space.near[run])
        live = left
    return done, live, ready


def shared(groups: int, tiles: int) -> Tasks:
    """Tiles that read what is large, which dies when all of them are done."""
    tasks, sizes = [], []
    for _ in range(groups):
        large = len(sizes)
        sizes.append(50)
        tasks.append(Task(frozenset(), frozenset({large}), frozenset()))
        for _ in range(tiles):
            made = frozenset({len(sizes)})
            sizes.append(4)
            tasks.append(Task(frozenset({large}), made, frozenset()))
    kept = frozenset(i for i, size in enumerate(sizes) if size == 4)
    return Tasks(tuple(tasks), tuple(sizes), kept)


def walked(problem: Tasks, seed: int, budget: int) -> None:
    """From state to state, some run in each, what settles is what the rule says."""
    space, rng = space_of(problem), random.Random(seed)
    ready = sum(1 << i for i, wants in enumerate(space.before) if not wants)
    state: State = (0, space.given, ready)
    candidates = ready
    while True:
        path: list[int] = []
        expected: list[int] = []
        settled = space.settle(state, candidates, budget, path)
        assert settled == plainly(space, state, candidates, budget, expected)
        assert path == expected
        done, live, ready = settled
        if not ready:
            return
        run = rng.choice([i for i in range(len(space.runs)) if ready >> i & 1])
        _, live = space.cost(done, live, run)
        done, ready = space.after(done, ready, run)
        state, candidates = (done, live, ready), ready & space.near[run]


@settings(deadline=None)
@given(problems(9), st.integers(0, 5), st.integers(0, 60))
def test_what_settles_is_what_the_rule_says(
    problem: Tasks, seed: int, budget: int
) -> None:
    walked(problem, seed, budget)


@pytest.mark.parametrize("budget", [120, 160, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_tiles_that_share_what_dies(seed: int, budget: int) -> None:
    walked(shared(3, 8), seed, budget)


def test_of_tiles_that_wait_for_one_another_only_the_last_is_costed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = space_of(shared(1, 200))
    costed: list[int] = []
    cost = space.cost

    def counted(done: int, live: int, run: int) -> tuple[int, int]:
        costed.append(run)
        return cost(done, live, run)

    monkeypatch.setattr(space, "cost", counted)
    done = 1  # what is large is there
    ready = sum(1 << i for i in range(1, len(space.runs)))
    state = space.settle((done, 50, ready), ready, 10_000, [])
    assert state == (done, 50, ready)
    assert not costed
