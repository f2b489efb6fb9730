"""Schedules against all orders of small problems; bounds; large problems."""

from __future__ import annotations

import importlib
import random

import pytest
from hypothesis import given, settings, strategies as st
from small_tasks import Plain, problems

from graphopt.passes.memory import Task, Tasks, peak, schedule
from graphopt.passes.memory.bounds import (
    branch_bound,
    cuts,
    lower_bound,
    own_bound,
    relations,
)
from graphopt.passes.memory.chains import runs
from graphopt.passes.memory.down_sets import Meter, search
from graphopt.passes.memory.orders import RANKS, greedy, reverse_depth_first
from graphopt.passes.memory.parts import Part
from graphopt.passes.memory.states import States


@given(problems(7))
@settings(max_examples=40, deadline=None)
def test_no_order_is_better(problem: Tasks) -> None:
    found = schedule(problem)
    assert found.peak == min(peak(problem, order) for order in Plain(problem).orders())
    assert found.proof == "optimal"


@given(problems(9))
@settings(max_examples=80, deadline=None)
def test_small_problems_are_solved(problem: Tasks) -> None:
    """By all together; and by search from the file's order, without other bounds."""
    plain = Plain(problem)
    best = plain.least_peak()
    found = schedule(problem)
    assert peak(problem, found.order) == found.peak == found.lower_bound == best
    assert found.proof == "optimal"
    for at, i in enumerate(found.order):
        assert plain.needs[i] <= {*found.order[:at]}

    known = relations(problem.before, problem.file_order)
    assert own_bound(problem) <= best
    assert lower_bound(problem, known) <= best
    assert branch_bound(problem, known) <= best

    alone = Part(problem, problem.file_order, 0, "")
    meter = Meter(10**6)
    while alone.peak > alone.bound and meter.spend(0):
        alone.search(0, meter)
        alone.width *= 2
        assert alone.bound <= best <= alone.peak
    assert alone.peak == best == peak(problem, alone.order)


@given(problems(9))
@settings(max_examples=80, deadline=None)
def test_a_complete_search_decides(problem: Tasks) -> None:
    best = Plain(problem).least_peak()
    space = States(
        problem, runs(problem, relations(problem.before, problem.file_order))
    )
    found = search(space, best, 10**6, Meter(10**6))
    assert found.order is not None
    assert peak(problem, found.order) == best
    if best:
        none = search(space, best - 1, 10**6, Meter(10**6))
        assert none.order is None
        assert none.complete
        assert best - 1 < none.over <= best


@given(problems(6))
@settings(max_examples=100, deadline=None)
def test_cuts_are_where_all_orders_pass(problem: Tasks) -> None:
    order = problem.file_order
    found = cuts(relations(problem.before, order), order)
    orders = list(Plain(problem).orders())
    assert found == [
        place
        for place in range(len(order) + 1)
        if all({*each[:place]} == {*order[:place]} for each in orders)
    ]


@given(problems(20), st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_never_worse_than_what_is_known_and_always_the_same(
    problem: Tasks, steps: int
) -> None:
    shuffled = random_order(problem)
    found = schedule(problem, steps=steps, baselines=[shuffled])
    known = [
        shuffled,
        problem.file_order,
        reverse_depth_first(problem),
        *(greedy(problem, rank) for rank in RANKS.values()),
    ]
    assert found.peak <= min(peak(problem, order) for order in known)
    assert found.lower_bound <= found.peak == peak(problem, found.order)
    assert (found.proof == "optimal") == (found.lower_bound == found.peak)
    assert schedule(problem, steps=steps, baselines=[shuffled]) == found


def random_order(problem: Tasks) -> tuple[int, ...]:
    rng = random.Random(0)
    plain = Plain(problem)
    order: list[int] = []
    while ready := plain.ready(order):
        order.append(rng.choice(ready))
    return tuple(order)


def test_a_baseline_that_is_no_order_is_refused() -> None:
    problem = fans(2)
    with pytest.raises(ValueError, match="comes before"):
        schedule(problem, baselines=[problem.file_order[::-1]])


def test_nothing_to_order() -> None:
    found = schedule(Tasks((), (), frozenset()))
    assert (found.order, found.peak, found.proof) == ((), 0, "optimal")


def fans(count: int) -> Tasks:
    """Large buffers that become small ones, which are joined: tiles, as a rule.

    The file has all the large ones first.
    """
    large = [Task(frozenset(), frozenset({i}), frozenset()) for i in range(count)]
    small = [
        Task(frozenset({i}), frozenset({count + i}), frozenset()) for i in range(count)
    ]
    join = Task(frozenset(range(count, 2 * count)), frozenset(), frozenset())
    return Tasks((*large, *small, join), (30,) * count + (10,) * count, frozenset())


@pytest.mark.parametrize("count", [2, 16, 300])
def test_equal_branches_are_proved(count: int) -> None:
    found = schedule(fans(count))
    assert found.peak == 10 * (count - 1) + 40
    assert found.proof == "optimal"


def windowed(count: int, reach: int = 12) -> Tasks:
    """Random tasks that read some of the buffers made lately."""
    rng = random.Random(count)
    tasks = []
    for i in range(count):
        near = range(max(0, i - reach), i)
        reads = rng.sample(near, min(len(near), rng.randint(1, 3)))
        tasks.append(Task(frozenset(reads), frozenset({i}), frozenset()))
    sizes = tuple(rng.choice((1, 2, 4, 8)) for _ in range(count))
    return Tasks(tuple(tasks), sizes, frozenset())


@pytest.mark.parametrize("count", [30, 60])
def test_sixty_tasks_are_proved(count: int) -> None:
    problem = windowed(count)
    found = schedule(problem)
    assert found.proof == "optimal"
    assert found.peak < peak(problem, problem.file_order)


def test_windows_improve_what_is_large() -> None:
    problem = windowed(400)
    plain = schedule(problem, steps=0)
    found = schedule(problem, steps=100_000)
    assert found.peak < plain.peak
    assert found.peak == peak(problem, found.order)


def test_large_chains_need_no_search() -> None:
    count = 2_000
    tasks = [
        Task(frozenset({i - 1} if i else ()), frozenset({i}), frozenset())
        for i in range(count)
    ]
    problem = Tasks(tuple(tasks), (4,) * count, frozenset({count - 1}))
    found = schedule(problem)
    assert (found.peak, found.proof) == (8, "optimal")


def test_the_largest_take_the_best_order_at_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("graphopt.passes.memory.schedule")
    monkeypatch.setattr(module, "LARGEST", 59)
    problem = windowed(60)
    found = schedule(problem)
    orders = [greedy(problem, rank) for rank in RANKS.values()]
    assert found.peak == min(peak(problem, order) for order in orders)
    assert found.peak == peak(problem, found.order)
    assert found.lower_bound == own_bound(problem) < found.peak
    assert found.proof == "none"


def test_time_only_stops_early() -> None:
    problem = windowed(60)
    assert schedule(problem, seconds=0).peak >= schedule(problem).peak


def test_the_bound_knows_what_cannot_die() -> None:
    """Task 1 may not compute in place, as 2 reads its operand again."""
    tasks = (
        Task(frozenset(), frozenset({0}), frozenset()),
        Task(frozenset({0}), frozenset({1}), frozenset(), 5, ((1, 0),)),
        Task(frozenset({0, 1}), frozenset(), frozenset()),
    )
    problem = Tasks(tasks, (10, 10), frozenset())
    known = relations(problem.before, problem.file_order)
    assert lower_bound(problem, known) == 25 == peak(problem, (0, 1, 2))
