"""What a step of training keeps: plans against brute force, and Checkmate's optimum."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings, strategies as st

from graphopt.testing.checkmate import optimum
from graphopt.training.budget import least, retain
from graphopt.training.retention import Retention, Step, Training


@st.composite
def trainings(draw: st.DrawFn, most: int = 7) -> Training:
    steps = []
    for i in range(draw(st.integers(2, most))):
        reads: set[int] = set()
        if i:
            reads = draw(st.sets(st.integers(0, i - 1), max_size=2)) | {i - 1}
        needs = draw(st.sets(st.sampled_from(sorted(reads)))) if reads else set()
        slopes = draw(st.sets(st.sampled_from(sorted(reads)))) if reads else set()
        steps.append(
            Step(
                tuple(sorted(reads)),
                bytes=draw(st.integers(0, 8)),
                flops=draw(st.integers(0, 20)),
                needs=frozenset(needs),
                slopes=tuple(sorted(slopes)),
                inner=draw(st.integers(0, 3)),
                again=draw(st.integers(0, 3)),
                back=draw(st.integers(0, 20)),
                moves=draw(st.booleans()) or bool(slopes),
                own=draw(st.booleans()),
            )
        )
    return Training(steps)


def chain(count: int, size: int = 2, flops: int = 4) -> Training:
    """Steps that each read the one before, and look at it on the way back; a loss."""
    steps = [Step((), size, flops, back=2 * flops)]
    for i in range(1, count):
        needs = frozenset({i - 1})
        steps.append(Step((i - 1,), size, flops, needs, (i - 1,), back=2 * flops))
    steps.append(Step((count - 1,), 0, 0, frozenset({count - 1}), (count - 1,)))
    return Training(steps)


def once(training: Training) -> list[int]:
    """All nodes in order, what a step has inside right before its backward part."""
    order = [*range(len(training.steps))]
    for i in reversed(range(len(training.steps))):
        order += [training.inner_of[i]] if i in training.inner_of else []
        order += training.slopes_of.get(i, [])
    return order


def held(training: Training, order: list[int]) -> list[set[int]]:
    """The nodes whose results are there at each time, from the definition."""
    found: list[set[int]] = [set() for _ in order]
    for time, node in enumerate(order):
        found[time].add(node)
        for read in training.nodes[node].reads:
            born = max(t for t in range(time) if order[t] == read)
            for between in range(born, time + 1):
                found[between].add(read)
    return found


@given(trainings(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_plan_makes_all_that_it_reads_and_holds_what_it_says(
    training: Training, data: st.DataObject
) -> None:
    kept = frozenset(data.draw(st.sets(st.sampled_from(range(len(training.steps))))))
    order = training.sequence(Retention(kept, training.starts(kept)))
    assert {*order} == {*range(len(training.nodes))}
    live = held(training, order)  # fails where a read was not made
    sizes = [node.bytes for node in training.nodes]
    assert training.peak(order) == max(sum(sizes[n] for n in now) for now in live)


@given(trainings(), st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_kept_is_not_made_again_and_nothing_is_made_three_times(
    training: Training, data: st.DataObject
) -> None:
    kept = frozenset(data.draw(st.sets(st.sampled_from(range(len(training.steps))))))
    plan = Retention(kept, training.starts(kept))
    order = training.sequence(plan)
    for i in range(len(training.steps)):
        assert order.count(i) <= (1 if i in kept else 2)
    spent = sum(training.nodes[node].flops for node in order)
    assert training.cost(plan) == spent


@given(trainings(), st.data())
@settings(max_examples=100, deadline=None)
def test_more_segments_hold_no_more(training: Training, data: st.DataObject) -> None:
    kept = frozenset(data.draw(st.sets(st.sampled_from(range(len(training.steps))))))
    starts = training.starts(kept)
    some = data.draw(st.sets(st.sampled_from(starts))) | {0}
    fewer = Retention(kept, tuple(sorted(some)))
    finest = training.peak(training.sequence(Retention(kept, starts)))
    assert finest <= training.peak(training.sequence(fewer))


@given(trainings(6), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_a_plan_fits_and_is_close_to_the_best_of_all(
    training: Training, budget: int
) -> None:
    steps = range(len(training.steps))
    best = None
    for count in range(len(steps) + 1):
        for kept in map(frozenset, combinations(steps, count)):
            plan = Retention(kept, training.starts(kept))
            if training.peak(training.sequence(plan)) <= budget:
                cost = training.cost(plan)
                best = cost if best is None else min(best, cost)
    found = retain(training, budget)
    if found is None:
        assert least(training).peak > budget
        return
    assert found.peak <= budget
    assert found.peak == training.peak(training.sequence(found.plan))
    if found.plan.nested:  # then it fits where no flat plan does, or is cheaper
        assert best is None or found.flops < best
        return
    assert best is not None
    assert best <= found.flops <= best + 0.05 * training.flops + 20


@pytest.mark.parametrize(("count", "share"), [(6, 0.75), (8, 0.6), (8, 0.75)])
def test_chains_cost_what_checkmate_says(count: int, share: float) -> None:
    training = chain(count)
    budget = int(share * training.plain_peak())
    found = retain(training, budget)
    exact = optimum(training.nodes, once(training), budget)
    assert found is not None
    assert exact is not None
    assert exact.bound == pytest.approx(exact.flops)
    assert found.flops <= 1.05 * exact.flops
    assert found.flops >= exact.flops - 1e-6


def test_checkmate_makes_nothing_again_where_all_fits() -> None:
    training = chain(5)
    exact = optimum(training.nodes, once(training), training.plain_peak())
    assert exact is not None
    assert exact.flops == pytest.approx(training.flops)
    assert optimum(training.nodes, once(training), 3) is None


def test_a_long_chain_needs_about_a_root_of_its_memory() -> None:
    training = chain(400, size=1)
    found = least(training)
    assert training.plain_peak() > 400
    assert found.peak < 3 * 400**0.5
    assert found.flops <= training.flops * 4 / 3


def test_half_of_the_memory_of_a_long_chain_costs_little() -> None:
    training = chain(200, size=1)  # half of the forward pass twice is a sixth more
    found = retain(training, training.plain_peak() // 2)
    assert found is not None
    assert found.flops <= 1.18 * training.flops


def test_steps_read_earlier_ones() -> None:
    with pytest.raises(ValueError, match="step 1 reads"):
        Training([Step((), 1, 1), Step((1,), 1, 1)])
    with pytest.raises(ValueError, match="step 1 looks"):
        Training([Step((), 1, 1), Step((), 1, 1, needs=frozenset({0}))])
