"""The bytes that an order holds, by hand and by plain counting."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings, strategies as st
from small_tasks import Plain, problems

from graphopt.passes.memory import Task, Tasks, peak, profile
from graphopt.passes.memory.tasks import in_place, part, walk


def task(
    reads: Iterable[int] = (),
    makes: Iterable[int] = (),
    after: Iterable[int] = (),
    workspace: int = 0,
    over: tuple[tuple[int, int], ...] = (),
) -> Task:
    return Task(frozenset(reads), frozenset(makes), frozenset(after), workspace, over)


def tasks(
    each: Iterable[Task], sizes: Iterable[int], kept: Iterable[int] = ()
) -> Tasks:
    return Tasks(tuple(each), tuple(sizes), frozenset(kept))


CHAIN = (task(makes=[0]), task([0], [1]), task([1], [2]))


def test_what_is_read_and_made_is_live_together() -> None:
    assert profile(tasks(CHAIN, (10, 20, 5)), (0, 1, 2)) == [10, 30, 25]


def test_kept_buffers_live_to_the_end() -> None:
    assert profile(tasks(CHAIN, (10, 20, 5), [0]), (0, 1, 2)) == [10, 30, 35]


def test_a_buffer_nobody_reads_is_live_at_its_own_step() -> None:
    problem = tasks((task(makes=[0]), task(makes=[1])), (10, 1))
    assert profile(problem, (0, 1)) == [10, 1]


def test_given_buffers_live_from_the_start_to_their_last_reader() -> None:
    problem = tasks((task(), task([0]), task()), (7, 100))
    assert profile(problem, (0, 1, 2)) == [7, 7, 0]
    assert profile(tasks(problem.tasks, problem.sizes, [0]), (0, 1, 2)) == [7, 7, 7]


def test_workspace_is_live_at_its_step_alone() -> None:
    problem = tasks((task(makes=[0], workspace=9), task([0])), (1,))
    assert profile(problem, (0, 1)) == [10, 1]


def test_in_place_where_the_read_dies() -> None:
    problem = tasks(
        (task(makes=[0]), task([0], [1], over=((1, 0),)), task([1])), (10, 12)
    )
    assert profile(problem, (0, 1, 2)) == [10, 12, 12]
    assert profile(tasks(problem.tasks, problem.sizes, [0]), (0, 1, 2)) == [10, 22, 22]


def test_in_place_not_before_other_readers() -> None:
    readers = task([0], [1], over=((1, 0),)), task([0])
    problem = tasks((task(makes=[0]), *readers), (10, 12), [1])
    assert profile(problem, (0, 1, 2)) == [10, 22, 22]
    assert profile(problem, (0, 2, 1)) == [10, 10, 12]


def test_pairs_that_save_most_are_taken_first() -> None:
    each = task([0, 1], [2, 3], over=((2, 0), (2, 1), (3, 1)))
    problem = tasks((each,), (3, 8, 9, 8))
    assert in_place(problem, 0, {0, 1}) == [(2, 1)]
    assert in_place(problem, 0, {0}) == [(2, 0)]
    assert in_place(problem, 0, ()) == []


@pytest.mark.parametrize(
    ("each", "sizes", "kept", "said"),
    [
        ([task([1])], [4], [], "task 0: no buffer 1"),
        ([task()], [4], [1], "kept: no buffer 1"),
        ([task(after=[1])], [], [], "task 0: after no task 1"),
        ([task()], [4, -1], [], "buffer 1 is negative"),
        ([task(workspace=-1)], [], [], "workspace is negative"),
        ([task(makes=[0]), task(makes=[0])], [4], [], "task 1 makes buffer 0 again"),
        ([task([0], [0])], [4], [], "task 0 reads what it makes"),
        (
            [task([0], [1], over=((0, 1),))],
            [4, 4],
            [],
            r"\(0, 1\) is no \(made, read\)",
        ),
        ([task(after=[1]), task(after=[0])], [], [], "in a circle, 0 in it"),
        ([task([0], [1]), task([1], [0])], [4, 4], [], "in a circle"),
    ],
)
def test_what_is_no_problem_is_named(
    each: list[Task], sizes: list[int], kept: list[int], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        tasks(each, sizes, kept)


def test_orders_are_checked() -> None:
    problem = tasks(CHAIN, (10, 20, 5))
    with pytest.raises(ValueError, match="task 1 comes before 0"):
        peak(problem, (1, 0, 2))
    for wrong in ((0, 1), (0, 1, 1), (0, 1, 3)):
        with pytest.raises(ValueError, match="no order of 3 tasks"):
            profile(problem, wrong)


@given(problems(5))
@settings(max_examples=80, deadline=None)
def test_profiles_are_what_is_counted(problem: Tasks) -> None:
    plain = Plain(problem)
    for order in plain.orders():
        counted = [plain.bytes_at(order[:at], i) for at, i in enumerate(order)]
        assert profile(problem, order) == counted


@given(problems(8), st.integers(0, 8), st.integers(0, 8))
@settings(max_examples=80, deadline=None)
def test_a_part_holds_what_it_holds_in_the_whole(
    problem: Tasks, one: int, other: int
) -> None:
    order = problem.file_order
    start, stop = sorted((min(one, len(order)), min(other, len(order))))
    lives = [problem.given, *(live for _, live in walk(problem, order))]
    inner = part(problem, order, start, stop, lives[start])
    assert profile(inner, range(stop - start)) == profile(problem, order)[start:stop]
    assert [inner.given, *(live for _, live in walk(inner, range(stop - start)))] == (
        lives[start : stop + 1]
    )
