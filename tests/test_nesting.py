"""Segments that nest: what plans make and hold, and how near to the optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from test_retention import chain, held, once, trainings

from graphopt.testing.checkmate import optimum
from graphopt.testing.pebbling import TooLarge, cheapest
from graphopt.training.budget import least, lowest, retain
from graphopt.training.nesting import DEPTH, nested
from graphopt.training.retention import Retention, Step, Training


@st.composite
def planned(draw: st.DrawFn) -> tuple[Training, Retention]:
    training = draw(trainings())
    return training, draw(trees(training))


@st.composite
def trees(draw: st.DrawFn, training: Training) -> Retention:
    """Any plan, some of whose segments have plans of their own."""

    def within(start: int, stop: int, around: frozenset[int], deep: int) -> Retention:
        places = range(start, stop)
        starts = draw(st.sets(st.sampled_from(places))) | {start}
        kept = draw(st.sets(st.sampled_from(places)))
        kept |= training.across(around | kept, starts, stop)
        plan = Retention(frozenset(kept), tuple(sorted(starts)))
        parts = [
            within(first, end, around | kept, deep - 1)
            for first, end, _ in plan.spans(stop)
            if deep and draw(st.booleans())
        ]
        return replace(plan, nested=tuple(parts))

    return within(0, len(training.steps), frozenset(), 3)


@given(planned())
@settings(max_examples=60, deadline=None)
def test_a_nested_plan_makes_what_it_reads_and_holds_and_costs_what_it_says(
    given: tuple[Training, Retention],
) -> None:
    training, plan = given
    order = training.sequence(plan)
    assert {*order} == {*range(len(training.nodes))}
    live = held(training, order)  # fails where a read was not made
    sizes = [node.bytes for node in training.nodes]
    assert training.peak(order) == max(sum(sizes[n] for n in now) for now in live)
    assert training.cost(plan) == sum(training.nodes[node].flops for node in order)
    for i in range(len(training.steps)):
        assert order.count(i) <= (1 if i in plan.kept else 1 + plan.depth)
    for node in range(len(training.steps), len(training.nodes)):
        assert order.count(node) == 1


@given(planned())
@settings(max_examples=60, deadline=None)
def test_a_segment_reads_what_plans_around_it_keep_and_what_it_makes(
    given: tuple[Training, Retention],
) -> None:
    """As `jax.checkpoint` has nothing else: not what an earlier turn has forgotten."""
    training, whole = given

    def check(plan: Retention, there: frozenset[int], stop: int) -> None:
        """``there`` are results that enclosing plans keep, and have made by now."""
        for start, end, inside in plan.spans(stop):
            around = there | {i for i in plan.kept if i < end}
            made = training.remade(around, start, end, inside)
            now = {*around}
            for i in made:
                assert {*training.steps[i].reads} <= now
                now.add(i)
            if inside is not None:
                swept = frozenset(around | ({*made} & inside.kept))
                check(replace(inside, kept=swept & inside.kept), frozenset(around), end)
                continue
            for i in range(start, end):
                step = training.steps[i]
                if step.moves:
                    looks = step.reads if i in training.inner_of else step.needs
                    assert {*looks} <= now

    check(whole, frozenset(), len(training.steps))


@given(trainings(), st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_kept_across_lets_segments_begin(
    training: Training, data: st.DataObject
) -> None:
    places = st.sampled_from(range(len(training.steps)))
    kept, starts = data.draw(st.sets(places)), data.draw(st.sets(places)) | {0}
    more = training.across(kept, starts, len(training.steps))
    assert starts <= {*training.starts(frozenset(kept | more))}
    for one in more:
        assert not starts <= {*training.starts(frozenset(kept | more) - {one})}


def test_a_kept_result_is_no_reason_to_make_its_operands() -> None:
    steps = [Step((), 1, 8), Step((0,), 1, 8, frozenset(), (0,))]
    training = Training([*steps, Step((1,), 1, 8, frozenset({1}), (1,))])
    assert training.remade(frozenset({1}), 0, 3) == []
    assert training.remade(frozenset(), 0, 3) == [0, 1]
    assert training.starts(frozenset({1})) == (0, 1, 2)
    assert training.starts(frozenset()) == (0,)


def test_a_segment_inside_is_made_again_when_it_is_wanted() -> None:
    training = chain(6)
    inside = Retention(frozenset({1}), (0, 2))
    plan = Retention(frozenset({3}), (0, 4), (inside,))
    forward = [0, 1, 2, 3, 4, 5, 6]
    again = [n for n in training.sequence(plan)[7:] if n < 7]
    assert again == [4, 5, 0, 1, 2, 0]  # 2 for 3's backward part, then 0 for 1's
    assert training.sequence(plan)[:7] == forward
    assert plan.depth == 2


# --- the search ---------------------------------------------------------------------


def line(sizes: list[int], flops: list[int], **also: int) -> Training:
    """A chain, some of whose steps read an earlier one, too; those of 1 FLOP look at
    nothing on the way back."""
    steps = []
    for i, (size, cost) in enumerate(zip(sizes, flops, strict=True)):
        reads = ({i - 1} if i else set()) | {also.get(f"s{i}", max(0, i - 1))}
        reads = tuple(sorted(reads)) if i else ()
        needs = frozenset(reads) if cost > 1 else frozenset()
        steps.append(Step(reads, size, cost, needs, reads, back=2 * cost))
    last = len(steps) - 1
    return Training([*steps, Step((last,), 0, 0, frozenset({last}), (last,))])


def seeded(seed: int) -> Training:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, 8).tolist()
    return line(sizes, rng.integers(1, 17, 8).tolist())


SLOW = pytest.mark.slow
GRAPHS = {
    "equal": line([2] * 8, [4] * 8),
    **{f"seed {seed}": seeded(seed) for seed in range(3)},
    "residual": line([2] * 9, [8, 8, 1] * 3, s2=0, s5=2, s8=5),
    "skips": line([4, 4, 2, 1, 1, 1, 2, 4, 4], [8] * 9, s6=2, s7=1),
}


@pytest.mark.parametrize("share", [0.5, 0.6, pytest.param(0.75, marks=SLOW)])
@pytest.mark.parametrize("name", GRAPHS)
def test_plans_are_within_a_twentieth_of_the_optimum(name: str, share: float) -> None:
    training = GRAPHS[name]
    budget = int(share * training.plain_peak())
    best, found = cheapest(training.nodes, budget), retain(training, budget)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert found.peak <= budget
    order = training.sequence(found.plan)
    assert (found.peak, found.flops) == (
        training.peak(order),
        training.cost(found.plan),
    )
    assert best <= found.flops <= 1.05 * best


@pytest.mark.parametrize("share", [0.5, 0.6])
@pytest.mark.parametrize("name", ["equal", "seed 1", "seed 2"])
def test_chains_need_no_more_than_the_dynamic_program(name: str, share: float) -> None:
    training = GRAPHS[name]
    budget = int(share * training.plain_peak())
    fit = [
        training.cost(plan)
        for plan in nested(training, budget)
        if training.peak(training.sequence(plan)) <= budget
    ]
    assert min(fit) == cheapest(training.nodes, budget)


@pytest.mark.parametrize(("name", "share"), [("equal", 0.5), ("seed 1", 0.5)])
def test_what_no_flat_plan_reaches_is_made_three_times(name: str, share: float) -> None:
    training = GRAPHS[name]
    found = retain(training, int(share * training.plain_peak()))
    assert found is not None
    assert least(training).peak > found.peak
    assert found.plan.depth == 2


def test_what_fits_flat_stays_flat_in_long_passes() -> None:
    training = chain(60)
    for share in (0.4, 0.7):
        found = retain(training, int(share * training.plain_peak()))
        assert found is not None
        assert not found.plan.nested


def test_a_long_chain_needs_far_less_than_a_root_of_its_memory() -> None:
    training = chain(120, size=1)
    flat, deep = least(training), lowest(training)
    assert flat.peak > 120**0.5
    assert deep.peak < flat.peak / 2
    assert deep.plan.depth > 1
    assert deep.flops <= training.flops * (3 + DEPTH) / 3
    between = retain(training, (deep.peak + flat.peak) // 2)
    assert between is not None
    assert between.flops < deep.flops


@given(trainings(6), st.integers(4, 60))
@settings(max_examples=40, deadline=None)
def test_all_plans_that_are_made_can_be_run(training: Training, budget: int) -> None:
    for plan in nested(training, budget):
        order = training.sequence(plan)
        held(training, order)
        assert {*order} == {*range(len(training.nodes))}
        assert plan.depth <= DEPTH
        assert {*plan.starts} <= {*training.starts(plan.kept)}


# --- the exact optimum --------------------------------------------------------------


@pytest.mark.parametrize("budget", [9, 10, 12])
def test_pebbles_cost_what_checkmate_says(budget: int) -> None:
    training = chain(6)
    exact = optimum(training.nodes, once(training), budget)
    pebbles = cheapest(training.nodes, budget)
    assert (exact is None) == (pebbles is None)
    if exact is not None:
        assert pebbles == pytest.approx(exact.flops)


@given(trainings(3))
@settings(max_examples=30, deadline=None)
def test_pebbles_make_nothing_twice_where_all_fits(training: Training) -> None:
    whole = sum(node.bytes for node in training.nodes)
    flops = sum(node.flops for node in training.nodes)
    assert cheapest(training.nodes, whole) == flops
    one = max(node.bytes for node in training.nodes)
    assert one == 0 or cheapest(training.nodes, one - 1) is None


def test_pebbles_say_what_is_too_large() -> None:
    with pytest.raises(TooLarge, match="more than 10 sets"):
        cheapest(chain(8).nodes, 20, states=10)
