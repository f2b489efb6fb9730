"""What the search over down-sets leaves out, where leaving it out would be wrong."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from small_tasks import Plain, problems

from graphopt.passes.memory import Task, Tasks, peak
from graphopt.passes.memory.bounds import relations
from graphopt.passes.memory.chains import runs
from graphopt.passes.memory.down_sets import Meter, search
from graphopt.passes.memory.states import States
from graphopt.passes.memory.tasks import walk


def space_of(problem: Tasks) -> States:
    return States(problem, runs(problem, relations(problem.before, problem.file_order)))


def searched(problem: Tasks) -> int:
    """The least budget for which the search alone finds an order."""
    space = space_of(problem)
    budget = 0
    while True:
        found = search(space, budget, 10**6, Meter(10**6))
        if found.order is not None:
            assert peak(problem, found.order) <= budget
            return budget
        assert found.complete
        assert found.over > budget
        budget = found.over


def task(
    reads: Iterable[int] = (),
    makes: Iterable[int] = (),
    after: Iterable[int] = (),
    workspace: int = 0,
    over: tuple[tuple[int, int], ...] = (),
) -> Task:
    return Task(frozenset(reads), frozenset(makes), frozenset(after), workspace, over)


CASES = {
    # 1 and 2 lead down, but 0 that helps 1 is better left to the end.
    "followers are of the run": Tasks(
        (
            *(task([0], [2]), task([0], [3])),
            *(task([3, 1], workspace=3), task(workspace=20)),
        ),
        (4, 5, 6, 1),
        frozenset({2}),
    ),
    # 0 and 1 look alike; what follows 1 frees much.
    "alike but for what is behind": Tasks(
        (
            *(task(makes=[0], workspace=1), task(makes=[1], workspace=1)),
            *(task([0], after=[4]), task([1, 2], after=[5])),
            *(task(workspace=20), task(workspace=1)),
        ),
        (5, 5, 10),
        frozenset(),
    ),
    # 2 and 3 look alike; 2 needs 0, that holds much while it runs.
    "alike but for what is before": Tasks(
        (task(workspace=10), task(workspace=1), task([0], after=[0, 1]), task([1])),
        (5, 5),
        frozenset(),
    ),
    # 0 and 1 look alike; the other reader of what 1 reads can run at once.
    "alike but for other readers": Tasks(
        (
            *(task([0], [2]), task([1], [3])),
            *(task([0], after=[4]), task([1]), task(workspace=20)),
        ),
        (10, 10, 1, 1),
        frozenset({2, 3}),
    ),
    # 0 and 1 look alike; only 0 can compute in place, if it comes last.
    "alike but for memory in place": Tasks(
        (task([0], [1], over=((1, 0),)), task([0], [2])),
        (10, 10, 10),
        frozenset({1, 2}),
    ),
    # Of two buffers that die with 0, what it makes takes the place of one.
    "in place of one": Tasks(
        (task([0, 1], [2], over=((2, 0), (2, 1))), task([0, 1])),
        (6, 6, 10),
        frozenset({2}),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_better_is_left_out(name: str) -> None:
    problem = CASES[name]
    best = Plain(problem).least_peak()
    assert best == min(peak(problem, order) for order in Plain(problem).orders())
    assert searched(problem) == best


@given(problems(7))
@settings(max_examples=60, deadline=None)
def test_the_least_budget_is_found(problem: Tasks) -> None:
    assert searched(problem) == Plain(problem).least_peak()


@given(problems(12))
@settings(max_examples=100, deadline=None)
def test_runs_cost_what_their_tasks_hold(problem: Tasks) -> None:
    space = space_of(problem)
    rng = random.Random(0)
    done, live = 0, space.given
    ready = sum(1 << i for i, wants in enumerate(space.before) if not wants)
    order: list[int] = []
    costs = []
    while ready:
        run = rng.choice([i for i in range(len(space.runs)) if ready >> i & 1])
        most, live = space.cost(done, live, run)
        order += space.runs[run].members
        costs.append((len(order), most, live))
        done, ready = space.after(done, ready, run)
    steps = list(walk(problem, order))
    start = 0
    for stop, most, live in costs:
        assert most == max(at_step for at_step, _ in steps[start:stop])
        assert live == steps[stop - 1][1]
        start = stop
