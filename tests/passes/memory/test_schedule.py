"""Schedules against all orders of small problems."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings, strategies as st

from graphopt.passes.memory import Task, Tasks, peak, schedule


def all_orders(tasks: Tasks) -> Iterator[tuple[int, ...]]:
    pending: list[tuple[int, ...]] = [()]
    while pending:
        order = pending.pop()
        if len(order) == len(tasks.tasks):
            yield order
        for i, needed in enumerate(tasks.before):
            if i not in order and needed <= {*order}:
                pending.append((*order, i))


@st.composite
def problems(draw: st.DrawFn, most: int = 7) -> Tasks:
    """Tasks that read what others made, or what is given; in place now and then."""
    count = draw(st.integers(1, most))
    sizes = [draw(st.integers(0, 9)) for _ in range(draw(st.integers(0, 2)))]
    tasks = []
    for i in range(count):
        known = range(len(sizes))
        reads = draw(st.frozensets(st.sampled_from(known), max_size=3)) if sizes else ()
        made = range(len(sizes), len(sizes) + draw(st.integers(0, 2)))
        sizes += [draw(st.integers(0, 9)) for _ in made]
        pairs = [(m, r) for m in made for r in sorted(reads)]
        over = draw(st.lists(st.sampled_from(pairs), max_size=3)) if pairs else ()
        after = draw(st.frozensets(st.sampled_from(range(i)), max_size=2)) if i else ()
        workspace = draw(st.integers(0, 5))
        tasks.append(
            Task(
                frozenset(reads), frozenset(made), frozenset(after), workspace, (*over,)
            )
        )
    every = range(len(sizes))
    kept = draw(st.frozensets(st.sampled_from(every), max_size=2)) if sizes else ()
    return Tasks(tuple(tasks), tuple(sizes), frozenset(kept))


@given(problems())
@settings(max_examples=300, deadline=None)
def test_small_problems_are_solved(tasks: Tasks) -> None:
    best = min(peak(tasks, order) for order in all_orders(tasks))
    found = schedule(tasks)
    assert peak(tasks, found.order) == found.peak == best
    assert found.proof == "optimal"
