"""Bounds and plans from messages, beside the whole program and brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from brute import best, least_bytes, random_problem, states, tight
from hypothesis import given, settings, strategies as st

from graphopt.passes.sharding import narrow
from graphopt.passes.sharding.columns import Columns
from graphopt.passes.sharding.messages import Messages, Port, Trees
from graphopt.passes.sharding.narrow import Narrowing, pairs, windows
from graphopt.passes.sharding.problem import UNIT, Node, Option, Problem, Row
from graphopt.passes.sharding.resharding import TREES, tree_seconds, trees_seconds
from graphopt.passes.sharding.search import NoPlan, search
from graphopt.passes.sharding.shrink import Shrunk
from graphopt.passes.sharding.solve import solve


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0), price=st.floats(0, 50))
def test_no_price_and_no_sweep_takes_the_bound_above_the_best(
    seed: int, share: float, price: float
) -> None:
    problem = tight(random_problem(seed), share)
    messages = Messages(Shrunk(problem))
    messages.reprice(np.full(len(messages.prices), price))
    least, before = best(problem) / UNIT, -np.inf
    for back in (False, True) * 4:
        messages.sweep(back=back)
        bound = messages.bound()
        assert before - 1e-6 * abs(before) <= bound <= least * (1 + 1e-9)
        before = bound


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_excess_of_an_option_is_no_more_than_it_costs(seed: int) -> None:
    problem = random_problem(seed)
    messages = Messages(Shrunk(problem))
    messages.sweep()
    bound = messages.bound()
    for key, excess in zip(messages.keys, messages.sweep(back=True), strict=True):
        for k, above in enumerate(excess):
            only = {key: [int(messages.shrunk.blocks[key].picks[k, 0])]}
            least = solve(problem, allowed=only).seconds / UNIT
            assert bound + above <= least * (1 + 1e-9) + 1e-6


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), sinks=st.integers(1, TREES))
def test_trees_cost_what_each_of_them_does(seed: int, sinks: int) -> None:
    """And the least by layouts of one end is that of the table."""
    of = states("2x2", 16, 16)
    rng = np.random.default_rng(seed)
    ends = [np.unique(rng.integers(0, len(of), 3)) for _ in range(1 + sinks)]
    table = trees_seconds(of, ends)
    for at in itertools.product(*[range(len(each)) for each in ends]):
        source, *wants = (of.layouts[each[i]] for each, i in zip(ends, at, strict=True))
        assert table[at] == pytest.approx(tree_seconds(of, source, wants), rel=1e-9)
    ports = [Port(i, each) for i, each in enumerate(ends)]
    for port in ports:
        port.moved = rng.random(len(port.layouts))
    trees = Trees(of, 1 / UNIT, ports)
    total = table / UNIT
    for axis, port in enumerate(ports):
        others = [a for a in range(1 + sinks) if a != axis]
        total = total + np.expand_dims(port.moved, others)
    for axis, port in enumerate(ports):
        others = tuple(a for a in range(1 + sinks) if a != axis)
        expected = total.min(others) - port.moved
        np.testing.assert_allclose(trees.marginal(axis), expected, rtol=1e-9)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
def test_it_finds_what_the_whole_program_does(seed: int, share: float) -> None:
    """Too many nodes for brute force."""
    problem = tight(random_problem(seed, nodes=6), share)
    whole = search(Columns(Shrunk(problem)), 60, 1e-9)
    found = solve(problem)
    assert problem.keeps(found.chosen)
    assert found.seconds / UNIT == pytest.approx(whole.value, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
def test_without_the_solver_there_is_a_plan_and_a_bound(
    seed: int, share: float
) -> None:
    problem = tight(random_problem(seed), share)
    shrunk = Shrunk(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrow, "_WORK", 0)
        patch.setattr(narrow, "_FEW", -1)
        found = Narrowing(shrunk, 60, 1e-4, lambda _: 0.0).run()
    assert problem.keeps(found.chosen)
    assert found.value == pytest.approx(problem.seconds(found.chosen) / UNIT)
    assert found.bound <= best(problem) / UNIT * (1 + 1e-9) <= found.value * (1 + 2e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_is_refused_is_not_chosen(seed: int) -> None:
    problem = random_problem(seed)
    first = solve(problem)
    found = solve(
        problem, over=lambda chosen: np.inf if chosen == first.chosen else 0.0
    )
    if found.chosen == first.chosen:  # all others were refused, or none was met
        assert found.refused == first.chosen
    else:
        assert found.seconds >= first.seconds * (1 - 1e-9)
        assert found.bound <= first.seconds * (1 + 1e-9)


def test_what_is_known_is_not_lost() -> None:
    problem = tight(random_problem(5), 0.3)
    first = solve(problem)
    found = solve(problem, known=first.chosen, seconds=0.0)
    assert found.seconds <= first.seconds


def test_no_room_is_said_before_anything_is_tried() -> None:
    found = map(random_problem, range(99))
    problem = next(problem for problem in found if least_bytes(problem))
    shrunk = Shrunk(replace(problem, limit=least_bytes(problem) / 2))
    with pytest.raises(NoPlan, match="no plan keeps the limits"):
        Narrowing(shrunk, 60, 1e-4, lambda _: 0.0).run()


def test_no_time_for_limits_that_contradict_is_no_plan() -> None:
    nodes = [
        Node(f"n{i}", [Option((), (), 1.0, 2), Option((), (), 1.0)]) for i in "abc"
    ]
    row = Row({i: [0.0, 2.0] for i in range(3)}, 2)
    problem = Problem(nodes, [], limit=2, rows=(row,))
    for seconds in (0.0, 5.0):
        with pytest.raises(NoPlan):
            solve(problem, seconds=seconds, shrink=False)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 40))
def test_windows_lie_over_all_blocks(sizes: list[int], most: int) -> None:
    found = list(windows(sizes, most))
    assert set().union(*found) == set(range(len(sizes)))
    for window, after in itertools.pairwise(found):
        assert window.start < after.start <= window.stop < after.stop
    for window in (*found, *pairs(sizes, most)):
        assert len(window) <= 2 or sum(sizes[i] for i in window) <= most


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
def test_windows_make_a_plan_no_worse(seed: int, share: float) -> None:
    problem = tight(random_problem(seed, nodes=5), share)
    search = Narrowing(Shrunk(problem), 60, 1e-4, lambda _: 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrow, "_FEW", -1)
        patch.setattr(narrow, "_WORK", 0)
        patch.setattr(narrow, "_WINDOW", 4)
        found = search.run()
    assert problem.keeps(found.chosen)
    assert found.value == pytest.approx(problem.seconds(found.chosen) / UNIT)
    whole = solve(problem).seconds / UNIT
    assert found.bound <= whole * (1 + 1e-9) <= found.value * (1 + 2e-9)


def test_nothing_is_looked_for_that_costs_more_than_what_there_is() -> None:
    problem = tight(random_problem(5), 0.3)
    least = solve(problem).seconds
    assert solve(problem, below=least * 1.01).seconds == pytest.approx(least)
    with pytest.raises(NoPlan):
        solve(problem, below=least)
