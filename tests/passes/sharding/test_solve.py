"""The solver against brute force, and what it proves."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from brute import best, random_problem, states, tight
from hypothesis import given, settings, strategies as st

from graphopt.index import Partial, Replicated, Split
from graphopt.passes.sharding.columns import Columns
from graphopt.passes.sharding.layout import path
from graphopt.passes.sharding.problem import Carried, Node, Option, Problem, Row
from graphopt.passes.sharding.resharding import EXACT, tree, tree_seconds
from graphopt.passes.sharding.search import NoPlan, search
from graphopt.passes.sharding.shrink import Shrunk, routes
from graphopt.passes.sharding.solve import solve
from graphopt.passes.sharding.states import Arcs, States

R, S0, S1, P = Replicated(), Split(0), Split(1), Partial()


@pytest.mark.parametrize("shrink", [True, False], ids=["shrunk", "whole"])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_it_finds_the_optimum(shrink: bool, seed: int) -> None:
    problem = random_problem(seed)
    found = solve(problem, shrink=shrink)
    assert found.proved
    assert found.seconds == pytest.approx(best(problem), rel=1e-6)
    assert found.bound <= found.seconds * (1 + 1e-9)
    assert problem.seconds(found.chosen) == found.seconds


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
def test_it_finds_the_optimum_in_little_memory(seed: int, share: float) -> None:
    """Between the least that all occupy and the most."""
    problem = tight(random_problem(seed), share)
    found = solve(problem)
    assert problem.bytes(found.chosen) <= problem.limit
    assert found.seconds == pytest.approx(best(problem), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(0, 3))
def test_it_keeps_further_rows(seed: int, number: int) -> None:
    """One option of a node is as good as forbidden."""
    problem = random_problem(seed)
    first = solve(problem)
    amounts = [0.0] * len(problem.nodes[number].options)
    amounts[first.chosen[number]] = 2.0
    limited = replace(problem, rows=(Row({number: amounts}, 1.0),))
    if len(amounts) == 1:
        with pytest.raises(NoPlan, match="no plan keeps the limits"):
            solve(limited)
        return
    found = solve(limited)
    assert found.chosen[number] != first.chosen[number]
    assert found.seconds == pytest.approx(best(limited), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(0, 3))
def test_it_chooses_among_what_is_allowed(seed: int, number: int) -> None:
    problem = random_problem(seed)
    count = len(problem.nodes[number].options)
    only = seed % count
    found = solve(problem, allowed={number: [only]})
    assert found.chosen[number] == only
    some = [problem.nodes[number].options[only]]
    nodes = [
        replace(n, options=some) if i == number else n
        for i, n in enumerate(problem.nodes)
    ]
    assert found.seconds == pytest.approx(best(replace(problem, nodes=nodes)), rel=1e-6)


def test_nothing_allowed_is_said() -> None:
    problem = random_problem(0)
    with pytest.raises(NoPlan, match="no option is left for n1"):
        solve(problem, allowed={1: []})


def test_too_little_memory_is_said() -> None:
    of = states("2", 64, 64)
    weight = Node(
        "weight", [Option((), ((R,),), 0.0, 100), Option((), ((S0,),), 0.0, 50)]
    )
    op = Node("op", [Option(((R,),), (), 1e-6)])
    problem = Problem([weight, op], [Carried(of, (0, 0), ((1, 0),))], limit=49)
    with pytest.raises(NoPlan, match="no plan keeps the limits"):
        solve(problem)
    assert solve(replace(problem, limit=50)).chosen == (1, 0)


def test_members_of_a_class_count_each() -> None:
    """Three weights of 50 bytes do not fit where one does."""
    of = states("2", 64, 64)
    options = [Option((), ((R,),), 0.0, 100), Option((), ((S0,),), 0.0, 50)]
    op = Node("op", [Option(((R,),), (), 1e-6)], 3)
    carried = [Carried(of, (0, 0), ((1, 0),), 3)]
    problem = Problem([Node("weight", options, 3), op], carried, limit=299)
    found = solve(problem)
    gathered = of.distances[of.number[S0,], of.number[R,]]
    assert found.chosen == (1, 0)
    assert found.seconds == pytest.approx(3 * (1e-6 + gathered))


def test_what_two_readers_want_is_made_once() -> None:
    of = states("4", 64, 64)
    source = Node("source", [Option((), ((P,),), 1e-6)])
    reader = Node("reader", [Option(((R,),), (), 1e-6)])
    problem = Problem([source, reader, reader], [Carried(of, (0, 0), ((1, 0), (2, 0)))])
    once = of.distances[of.number[P,], of.number[R,]]
    assert solve(problem).seconds == pytest.approx(3e-6 + once)


def test_what_the_solver_prints_stays_off_stdout(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """HiGHS prints from C, where it mends a plan."""
    from scipy import optimize

    plain = optimize.milp

    def loud(*args: object, **options: object) -> object:
        os.write(1, b"tmpSolver.run();")
        return plain(*args, **options)

    monkeypatch.setattr(optimize, "milp", loud)
    search(Columns(Shrunk(random_problem(3))), 60, 1e-6)
    os.write(1, b"mine")
    out, err = capfd.readouterr()
    assert out == "mine"
    assert "tmpSolver" in err


# --- shrinking ----------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_chains_become_one_node(seed: int) -> None:
    """And what is left out of them never pays."""
    of = states("2x2", 64, 64)
    rng = np.random.default_rng(seed)
    count = len(of)

    def node(name: str) -> Node:
        picks = rng.integers(0, count, (8, 2))
        seconds = rng.random(8) * 2e-5
        return Node(
            name,
            [
                Option((of.layouts[a],), (of.layouts[b],), float(s))
                for (a, b), s in zip(picks, seconds, strict=True)
            ],
        )

    start = Node("start", [Option((), (x,), 0.0, 1) for x in of.layouts])
    nodes = [start, node("a"), node("b"), node("c")]
    carried = [Carried(of, (i, 0), ((i + 1, 0),)) for i in range(3)]
    problem = Problem(nodes, carried)
    shrunk = Shrunk(problem)
    shrunk.shrink()
    assert len(shrunk.blocks) == 2
    whole, small = solve(problem, shrink=False), solve(problem)
    assert small.seconds == pytest.approx(whole.seconds, rel=1e-9)
    assert Columns(shrunk).count < Columns(Shrunk(problem)).count


def test_what_is_as_cheap_converted_is_left_out() -> None:
    of = states("2", 64, 64)
    slow = Option(((R,),), ((S0,),), 1e-3)
    fast = Option(((S1,),), ((S1,),), 1e-6)  # reached by a slice, left by an all-to-all
    only = Option(((S0,),), ((R,),), 1e-7)
    start = Node("start", [Option((), (x,), 0.0) for x in of.layouts])
    end = Node("end", [Option((x,), (), 0.0) for x in of.layouts])
    nodes = [start, Node("op", [slow, fast, only]), end]
    problem = Problem(
        nodes, [Carried(of, (0, 0), ((1, 0),)), Carried(of, (1, 0), ((2, 0),))]
    )
    shrunk = Shrunk(problem)
    shrunk.shrink(contract=False)
    assert shrunk.blocks[1].picks.ravel().tolist() == [1, 2]


# --- states and ways ----------------------------------------------------------------


@pytest.mark.parametrize("mesh", ["2x4", "2x2x2"])
def test_steps_that_cost_nothing_lead_on(mesh: str) -> None:
    """Where no step takes any time, none leads back."""
    known = states(mesh, 16, 8)
    of = States(known.mesh, lambda step, type_: 0.0, known.type)
    for a, b in itertools.product(of.layouts[::3], of.layouts):
        made = tree(of, a, [b])
        assert a == b or (made is not None and made[-1].target == b)


@pytest.mark.parametrize("mesh", ["4", "2x4", "2x2x2"])
def test_distances_are_those_of_paths(mesh: str) -> None:
    of = states(mesh, 16, 8)
    rng = np.random.default_rng(0)
    for a, b in rng.integers(0, len(of), (40, 2)):
        source, target = of.layouts[a], of.layouts[b]
        found = path(source, target, of.type, of.mesh, of.cost)
        assert found is not None
        spent = sum(of.cost(step, of.type) for step in found)
        assert of.distances[a, b] == pytest.approx(spent, rel=1e-12)


def far(of: States, arcs: Arcs) -> Any:
    """The seconds from each layout to each over some arcs alone."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    ends = (arcs.tails.astype(np.int32), arcs.heads.astype(np.int32))
    return dijkstra(coo_array((arcs.seconds, ends), (len(of), len(of))).tocsr())


def test_arcs_that_are_not_needed_change_no_distance() -> None:
    of = states("2x8", 64, 64)
    arcs = of.arcs.where(of.needed)
    assert len(arcs) < len(of.arcs)
    np.testing.assert_allclose(far(of, arcs), of.distances, rtol=1e-9)


def test_routes_hold_cheapest_ways() -> None:
    of = states("2x4", 16, 16)
    sources, targets = np.arange(0, len(of), 3), np.arange(1, len(of), 4)
    arcs = of.arcs.where(routes(of, sources, targets))
    pairs = np.ix_(sources, targets)
    np.testing.assert_allclose(far(of, arcs)[pairs], of.distances[pairs], rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, EXACT + 2))
def test_trees_make_all_layouts_and_cost_what_is_said(seed: int, count: int) -> None:
    of = states("2x2", 16, 16)
    rng = np.random.default_rng(seed)
    source, *wants = [of.layouts[i] for i in rng.integers(0, len(of), count + 1)]
    steps = tree(of, source, wants)
    assert steps is not None
    have = {source}
    for step in steps:
        assert step.source in have
        have.add(step.target)
    assert set(wants) <= have
    spent = sum(of.cost(step, of.type) for step in steps)
    said = tree_seconds(of, source, wants)
    assert spent == pytest.approx(said, rel=1e-9)
    alone = [of.distances[of.number[source], of.number[w]] for w in set(wants)]
    assert (
        max(alone, default=0.0) <= said * (1 + 1e-9) <= sum(alone) * (1 + 2e-9) + 1e-30
    )
