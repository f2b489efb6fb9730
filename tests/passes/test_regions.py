"""Branches that are known, and captures that a body does not need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from equations import (
    assert_sound,
    const,
    fires,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    rewritten,
)

from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import (
    Add,
    Constant,
    If,
    Loop,
    Mul,
    Neg,
    RandomNormalLike,
    ReduceSum,
    Relu,
    Scan,
    Sub,
)
from graphopt.passes import regions as r
from graphopt.passes.regions import Regions
from graphopt.types import DType, Type, tensor
from graphopt.verify import verify

F = tensor(DType.F32, 3)
X, Y = Parameter(F, "x"), Parameter(F, "y")
C, D = param("c", dtype=DType.BOOL), param("d", dtype=DType.BOOL)
TRUE, FALSE = const(True, DType.BOOL), const(False, DType.BOOL)


def body(build: Callable[..., Value | Sequence[Value]], *types: Type) -> Graph:
    """A body whose parameters have these types."""
    inputs = [Parameter(t, f"p{i}") for i, t in enumerate(types)]
    made = build(*inputs)
    return Graph(inputs, [made] if isinstance(made, Value) else made)


def branch(condition: Value, then: Any, other: Any, *captured: Value) -> Op:
    types = [v.type for v in captured]
    return If(condition, *captured, bodies=(body(then, *types), body(other, *types)))


# --- known_branch -------------------------------------------------------------------


def test_a_known_condition_takes_its_branch() -> None:
    for condition, wanted in ((TRUE, Neg(X)), (FALSE, Relu(Y))):
        before = branch(condition, lambda a, b: Neg(a), lambda a, b: Relu(b), X, Y)
        fires(r.known_branch, before, wanted)


def test_a_condition_of_one_element() -> None:
    before = branch(const([True], DType.BOOL), lambda a: a, Neg, X)
    fires(r.known_branch, before, X)


def test_results_straight_from_outside_and_constants() -> None:
    before = branch(TRUE, lambda a: (a, const([1, 2, 3])), lambda a: (Neg(a), a), X)
    fires(r.known_branch, before.results, (X, const([1, 2, 3])))


def test_branches_in_branches() -> None:
    def inner(a: Value) -> Value:
        return branch(FALSE, Neg, Relu, a)

    fires(r.known_branch, branch(TRUE, inner, Neg, X), Relu(X))
    done = rewritten(r.known_branch, branch(C, inner, Neg, X))
    (op,) = done.ops
    assert kinds(op.bodies[0]) == ["Relu"]


def test_an_unknown_condition_stays() -> None:
    misses(r.known_branch, branch(C, Neg, Relu, X))
    default = Parameter(C.type, "default", default=TRUE.tensor)
    misses(r.known_branch, branch(default, Neg, Relu, X))


def noise(token: int) -> Callable[[Value], Value]:
    return lambda a: RandomNormalLike(a, token=token)


def test_random_ops_of_two_branches_never_merge() -> None:
    """Bodies number their tokens from 1, each for itself."""
    first = branch(TRUE, noise(1), Neg, X)
    second = branch(FALSE, Neg, lambda a: Relu(RandomNormalLike(a, token=1)), X)
    graph = graph_of(Sub(first, second), RandomNormalLike(X, token=1))
    done = Regions()(graph)
    verify(done)
    tokens = [op.token for op in done.ops if isinstance(op, RandomNormalLike)]
    assert len(tokens) == len(set(tokens)) == 3


def test_a_new_token_is_none_that_the_graph_has() -> None:
    """Whatever the numbers: 3 and 1 are there, and 2 comes out of the branch."""
    inlined = branch(TRUE, noise(2), Neg, X)
    before = Sub(inlined, RandomNormalLike(X, token=1))
    done = Regions()(graph_of(before, RandomNormalLike(Y, token=3)))
    verify(done)
    assert kinds(done).count("RandomNormalLike") == 3


def test_random_ops_inside_nested_bodies_get_new_tokens() -> None:
    inner = body(noise(1), F), body(Neg, F)
    outer = [
        body(lambda a, d: If(d, a, bodies=inner), F, D.type),
        body(lambda a, d: Neg(a), F, D.type),
    ]
    one = If(TRUE, X, D, bodies=outer)
    two = If(C, X, bodies=(body(noise(1), F), body(Neg, F)))
    done = Regions()(graph_of(Sub(one, two), If(D, X, bodies=inner)))
    verify(done)
    tokens = [op.token for _, op in done.walk() if isinstance(op, RandomNormalLike)]
    # the inlined If is another op than the equal one that was there
    assert len({op for op in done.ops if isinstance(op, If)}) == 3
    assert len(tokens) == 3


# --- same_branches ------------------------------------------------------------------


def test_equal_branches_need_no_condition() -> None:
    fires(r.same_branches, branch(C, Neg, Neg, X), Neg(X))
    before = branch(C, lambda a, b: (Add(a, b), b), lambda a, b: (Add(a, b), b), X, Y)
    fires(r.same_branches, before.results, (Add(X, Y), Y))


def test_branches_that_differ_in_one_thing() -> None:
    for other in (
        lambda a, b: Sub(b, a),
        lambda a, b: Add(a, b),
        lambda a, b: Sub(a, a),
    ):
        before = branch(C, lambda a, b: Sub(a, b), other, X, Y)
        misses(r.same_branches, before, "the branches differ")
    constants = branch(
        C, lambda a: Add(a, const(0.0)), lambda a: Add(a, const(-0.0)), X
    )
    misses(r.same_branches, constants, "the branches differ")
    attrs = branch(
        C,
        lambda a: ReduceSum(a, ints(0)),
        lambda a: ReduceSum(a, ints(0), keepdims=0),
        X,
    )
    misses(r.same_branches, attrs, "the branches differ")


def test_equal_random_branches_are_one_draw() -> None:
    before = Sub(branch(C, noise(1), noise(1), X), RandomNormalLike(X, token=1))
    done = Regions()(graph_of(before))
    verify(done)
    assert kinds(done) == ["RandomNormalLike", "RandomNormalLike", "Sub"]


# --- constant_capture ---------------------------------------------------------------


def captures(op: Op) -> tuple[Value | None, ...]:
    return op.captured  # type: ignore[no-any-return]


def test_constants_are_not_captured() -> None:
    weight = const([1, 2, 3])
    before = branch(C, lambda a, w: Add(a, w), lambda a, w: Mul(w, a), X, weight)
    done = rewritten(r.constant_capture, before)
    (op,) = [o for o in done.ops if isinstance(o, If)]
    assert captures(op) == (X,)
    a = op.bodies[1].inputs[0]
    assert op.bodies[1].outputs == (Mul(weight, a),)


def test_what_no_body_reads_is_not_captured() -> None:
    before = branch(C, lambda a, b: Neg(a), lambda a, b: Relu(a), X, Y)
    (op,) = rewritten(r.constant_capture, before).ops
    assert captures(op) == (X,)
    half = branch(C, lambda a, b: Neg(a), lambda a, b: Relu(b), X, Y)
    misses(r.constant_capture, half)


def test_what_is_captured_twice_is_captured_once() -> None:
    before = branch(C, lambda a, b: Sub(a, Neg(b)), lambda a, b: Add(b, b), X, X)
    (op,) = rewritten(r.constant_capture, before).ops
    assert captures(op) == (X,)


def test_captured_outputs_count_as_read() -> None:
    misses(r.constant_capture, branch(C, lambda a: a, Neg, X))


def loop(build: Any, trips: int, *operands: Value, captured: int) -> Op:
    types = [tensor(DType.I64), tensor(DType.BOOL), *(v.type for v in operands)]
    return Loop(
        const(trips, DType.I64),
        None,
        *operands,
        bodies=[body(build, *types)],
        captures=captured,
    )


def test_loops_keep_what_they_carry() -> None:
    one = const([1, 1, 1])
    before = loop(
        lambda i, go, state, w, unused, y: (go, Add(Mul(state, w), y), state),
        *(3, one, const([2, 2, 2]), X, Y),
        captured=3,
    )
    done = rewritten(r.constant_capture, before.results)
    (op,) = [o for o in done.ops if isinstance(o, Loop)]
    assert captures(op) == (Y,)
    assert op.operands[2] is one  # a carried constant is no capture
    assert op.captures == 1


def test_loops_without_captures_and_without_a_condition() -> None:
    before = loop(lambda i, go, w: (go, Neg(w)), 2, const([1, 2, 3]), captured=1)
    done = rewritten(r.constant_capture, before.results)
    (op,) = [o for o in done.ops if isinstance(o, Loop)]
    assert captures(op) == ()
    assert_sound(graph_of(*before.results), done, exact=True)


def test_scans_keep_states_and_slices() -> None:
    rows = param("rows", 4, 3)
    before = Scan(
        const([0, 0, 0]),
        rows,
        const([2, 2, 2]),
        Y,
        bodies=[body(lambda s, row, w, y: (Add(s, row), Mul(w, y)), F, F, F, F)],
        num_scan_inputs=1,
        captures=2,
    )
    done = rewritten(r.constant_capture, before.results)
    (op,) = [o for o in done.ops if isinstance(o, Scan)]
    assert captures(op) == (Y,)
    assert isinstance(op.operands[0], Constant)


def test_all_at_once_settles() -> None:
    inner = branch(C, lambda a, b: Neg(a), lambda a, b: Neg(a), X, const([1, 2, 3]))
    graph = graph_of(branch(TRUE, lambda a: Relu(a), Neg, inner))
    done = Regions()(graph)
    assert done.outputs == (Relu(Neg(X)),)
    assert Regions()(done) is done


def test_each_rule_has_a_case() -> None:
    assert {rule.name for rule in r.RULES} == {
        "known_branch",
        "same_branches",
        "constant_capture",
    }


@pytest.mark.parametrize("kind", [Relu, Neg])
def test_ops_without_bodies_are_left_alone(kind: Any) -> None:
    graph = graph_of(kind(X))
    assert Regions()(graph) is graph
