"""Memory plans: what they count, and runs inside of one arena that compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from real_models import every_model

from graphopt import ops
from graphopt.dims import evaluate, maximum, minimum, sub, symbol
from graphopt.errors import GraphoptError, UsageError
from graphopt.feeds import bind
from graphopt.importer import load
from graphopt.inputs import bindings, random_inputs
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.passes.memory import (
    SPACES,
    MemoryPlan,
    PlanIsWrong,
    Space,
    plan_memory,
    run_in_arena,
    validate,
)
from graphopt.passes.memory.aliases import pointwise
from graphopt.passes.memory.buckets import Plans
from graphopt.passes.memory.buffers import TooLarge
from graphopt.passes.memory.lives import Kind
from graphopt.passes.memory.overwriting import may_overwrite
from graphopt.passes.memory.ranges import largest
from graphopt.reference import EvaluationFailed, Evaluator
from graphopt.testing import graphs
from graphopt.types import DType, TensorType

BYTES = Space(alignment=1)


def x(*shape: Any, name: str = "x", dtype: DType = DType.F32) -> Parameter:
    return Parameter(TensorType(dtype, shape), name)


def chain(*kinds: type[Op], size: int = 16) -> tuple[Graph, list[Value]]:
    """x, and one op after the other."""
    value: Value = x(size)
    made = [value]
    for kind in kinds:
        made.append(kind(made[-1]))
    return Graph([made[0]], [made[-1]]), made  # type: ignore[list-item]


def in_order(op: Op, index: int, array: Any) -> Any:
    """A result as an arena has it: NumPy rounds sums by the operand's strides."""
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array


def expected(graph: Graph, inputs: dict[str, Any]) -> list[Any]:
    fed, symbols = bind(graph, inputs)
    evaluator = Evaluator(seed=0, after=in_order, symbols=symbols)
    with np.errstate(all="ignore"):
        return evaluator.run(graph.outputs, fed)


def assert_same(found: Sequence[Any], wanted: Sequence[Any]) -> None:
    for a, b in zip(found, wanted, strict=True):
        if isinstance(b, list):
            assert_same(a, b)
        else:
            np.testing.assert_array_equal(a, b)


# --- what is counted ----------------------------------------------------------------


def test_an_elementwise_chain_is_one_block() -> None:
    graph, made = chain(ops.Relu, ops.Neg, ops.Exp, ops.Sin)
    plan = plan_memory(graph, space=BYTES)
    assert (plan.peak, plan.lower_bound, plan.proof) == (64, 64, "optimal")
    assert (plan.inputs, plan.outputs, plan.constants) == (64, 64, 0)
    assert [place.values for place in plan.placements] == [tuple(made[1:4])]


def test_nothing_is_in_place_where_the_space_forbids_it() -> None:
    graph, _ = chain(ops.Relu, ops.Neg, ops.Exp, ops.Sin)
    assert plan_memory(graph, space=Space(alignment=1, in_place=False)).peak == 128


def test_views_have_the_bytes_of_what_they_look_at() -> None:
    shape = ops.Constant(np.array([4, 4]))
    made = ops.Softmax(x(16))
    graph = Graph(
        [made.operands[0]],  # type: ignore[list-item]
        [ops.Transpose(ops.Reshape(made, shape), perm=(1, 0)), ops.Softmax(made)],
    )
    assert plan_memory(graph, space=BYTES).peak == 64
    assert plan_memory(graph, space=Space(alignment=1, views=False)).peak == 128


def test_a_value_that_is_read_later_is_not_written_over() -> None:
    a = x(16)
    b = ops.Softmax(a)
    c = ops.Relu(b)
    graph = Graph([a], [ops.Add(ops.Softmax(c), b)])
    plan = plan_memory(graph, space=BYTES)
    assert plan.place_of[b] is not plan.place_of[c]
    assert plan.peak == 3 * 64


def test_an_output_has_memory_of_its_own() -> None:
    a = x(16)
    b = ops.Softmax(a)
    flat = ops.Reshape(b, ops.Constant(np.array([4, 4])))
    plan = plan_memory(Graph([a], [b, flat, ops.Relu(b), a]), space=BYTES)
    assert (plan.peak, plan.outputs) == (0, 4 * 64)


def test_outputs_may_be_asked_into_the_arena() -> None:
    a = x(16)
    b = ops.Softmax(a)
    plan = plan_memory(Graph([a], [b, ops.Softmax(b)]), space=Space(1, outputs=True))
    assert (plan.peak, plan.outputs) == (128, 0)


def test_sizes_are_rounded_up_to_the_alignment() -> None:
    graph, _ = chain(ops.Softmax, ops.Softmax, ops.Softmax, size=3)
    plan = plan_memory(graph, space=Space(alignment=256))
    assert (plan.peak, [p.offset for p in plan.placements]) == (512, [0, 256])


def test_a_tpu_fills_tiles_of_8_by_128() -> None:
    assert Space(alignment=1, padded=True).size((2, 9, 130), 32) == 2 * 16 * 256 * 4
    assert Space(alignment=1, padded=True).size((9,), 32) == 36


def test_dims_take_the_sizes_that_are_given() -> None:
    n = symbol("n")
    a = x(n, 4)
    graph = Graph([a], [ops.Softmax(ops.Softmax(a))])
    assert plan_memory(graph, {"n": 5}, space=BYTES).peak == 80
    unsized = plan_memory(graph, space=BYTES)
    assert (unsized.peak, len(unsized.unknown)) == (0, 3)


def test_attention_needs_its_scores() -> None:
    q, k, v = (x(1, 2, 64, 4, name=n) for n in "qkv")
    graph = Graph([q, k, v], [ops.Attention(q, k, v)])
    (place,) = plan_memory(graph, space=BYTES).placements
    assert (place.kind, place.buffer.size) == (Kind.WORKSPACE, 2 * 64 * 64 * 4)


def test_a_loop_needs_its_body_and_what_it_carries_twice() -> None:
    number, keep, state = x(dtype=DType.I64), x(dtype=DType.BOOL), x(16)
    body = Graph(
        [number, keep, state],
        [ops.Identity(keep), ops.Softmax(ops.Softmax(state))],
    )
    a, count = x(16, name="a"), ops.Constant(np.array(3))
    loop = ops.Loop(count, None, a, bodies=(body,))
    plan = plan_memory(Graph([a], [loop]), space=BYTES)
    assert plan.peak == (1 + 64 + 64) + 64
    validate(plan, Graph([a], [loop]))


# --- a run in the arena -------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_a_run_in_one_array_computes_the_same(data: Any) -> None:
    graph = data.draw(graphs(max_ops=16))
    space = Space(
        alignment=data.draw(st.sampled_from([1, 64])),
        views=data.draw(st.booleans()),
        in_place=data.draw(st.booleans()),
        outputs=data.draw(st.booleans()),
    )
    sizes = {"n": 3, "m": 2}
    plan = plan_memory(graph, sizes, space=space)
    validate(plan, graph)
    inputs = random_inputs(graph, 0, sizes)
    try:
        wanted = expected(graph, inputs)
    except GraphoptError:
        return  # a random graph may divide by zero
    with np.errstate(all="ignore"):
        assert_same(run_in_arena(graph, plan, inputs, seed=0), wanted)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_ops_in_place_read_each_element_where_they_write_it(data: Any) -> None:
    graph = data.draw(graphs(max_ops=6, only=None))
    sizes = {"n": 3, "m": 2}
    evaluator = Evaluator(seed=0)
    for op in graph.ops:
        for place in pointwise(op):
            _assert_pointwise(evaluator, graph, op, place, sizes, data)


def _assert_pointwise(
    evaluator: Evaluator,
    graph: Graph,
    op: Op,
    place: int,
    sizes: dict[str, int],
    data: Any,
) -> None:
    """Another number in one place of the operand changes no other of the result."""
    inputs = random_inputs(graph, 0, sizes)
    env, _ = bind(graph, inputs)
    wanted = [v for v in op.operands if v is not None]
    try:
        arrays = dict(zip(wanted, evaluator.run(wanted, env), strict=True))
        operands = [None if v is None else arrays[v] for v in op.operands]
        with evaluator.xp.scope(), np.errstate(all="ignore"):
            (before,) = evaluator.apply(op, operands)
            changed = np.array(operands[place])
            if not changed.size:
                return
            at = data.draw(st.integers(0, changed.size - 1))
            changed.reshape(-1)[at : at + 1] = np.zeros(1, changed.dtype)
            same = [
                changed if v is op.operands[place] else a
                for v, a in zip(op.operands, operands, strict=True)
            ]
            (after,) = evaluator.apply(op, same)
    except EvaluationFailed:
        return
    for array in (before, after):
        array.reshape(-1)[at : at + 1] = np.zeros(1, array.dtype)
    np.testing.assert_array_equal(before, after, err_msg=op.label)


@pytest.mark.slow
@every_model(lambda path: path.stat().st_size < 200 << 20)
def test_real_models_run_in_their_arena(path: Path) -> None:
    try:
        graph = load(path)
    except GraphoptError as error:
        pytest.skip(f"not taken: {error!s:.60}")
    sizes = next(iter(bindings(graph)))
    plan = plan_memory(graph, sizes)
    validate(plan, graph)
    inputs = random_inputs(graph, 0, sizes)
    try:
        wanted = expected(graph, inputs)
    except GraphoptError:
        pytest.skip("does not run at these sizes")
    assert_same(run_in_arena(graph, plan, inputs, seed=0), wanted)


# --- wrong plans --------------------------------------------------------------------


def branching() -> tuple[Graph, MemoryPlan]:
    """Three values that are alive at once."""
    a = x(16)
    values = [ops.Softmax(a), ops.LogSoftmax(a), ops.Hardmax(a)]
    graph = Graph([a], [ops.Add(ops.Mul(values[0], values[1]), values[2])])
    return graph, plan_memory(graph, space=BYTES)


def moved(plan: MemoryPlan, index: int, **changes: Any) -> MemoryPlan:
    """The plan with another place for one block."""
    places = list(plan.placements)
    buffer = {k: v for k, v in changes.items() if k != "offset"}
    place = replace(
        places[index],
        buffer=replace(places[index].buffer, **buffer),
        offset=changes.get("offset", places[index].offset),
    )
    places[index] = place
    peak = max(p.end for p in places)
    return replace(plan, placements=tuple(places), peak=peak)


def test_two_values_in_one_place_are_found() -> None:
    graph, plan = branching()
    other = next(p.offset for p in plan.placements if p.offset)
    wrong = moved(plan, 0, offset=other)
    wrong = replace(wrong, placements=wrong.placements, peak=plan.peak)
    with pytest.raises(PlanIsWrong, match="not there any more"):
        validate(wrong, graph)
    inputs = random_inputs(graph, 0, {})
    good, bad = (run_in_arena(graph, p, inputs) for p in (plan, wrong))
    assert_same(good, expected(graph, inputs))
    assert not np.array_equal(bad[0], good[0])


@pytest.mark.parametrize("kind", ["Transpose", "Softmax", "Exp"])
def test_an_op_that_needs_other_elements_does_not_write_over_its_operand(
    kind: str,
) -> None:
    a = x(4, 4)
    first = ops.Neg(a)
    last = {
        "Transpose": ops.Transpose(first, perm=(1, 0)),
        "Softmax": ops.Softmax(first),
        "Exp": ops.Exp(first),
    }[kind]
    graph = Graph([a], [ops.Relu(last)])
    plan = plan_memory(graph, space=BYTES)
    place = plan.placements[0]
    shared = replace(
        place,
        buffer=replace(place.buffer, lower=0, upper=3),
        offset=0,
        values=(first, last),
    )
    one = replace(plan, placements=(shared,), peak=64, lower_bound=64)
    if kind == "Exp":
        validate(one, graph)
        return
    with pytest.raises(PlanIsWrong, match=f"{kind}.* may not write over what it reads"):
        validate(one, graph)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_who_doubts_agrees_on_what_is_in_place(data: Any) -> None:
    graph = data.draw(graphs(max_ops=6, only=None))
    for op in graph.ops:
        for place in pointwise(op):
            assert may_overwrite(op, place, Space()), op.label
        for place in range(len(op.operands)):
            assert not may_overwrite(op, place, Space(in_place=False))


def test_what_may_be_written_over() -> None:
    a, b = x(4, 4), x(4, name="b")
    rows, some = x(symbol("n"), 4), x(minimum(symbol("n"), 100), 4, name="some")
    cases: list[tuple[Op, int, bool]] = [
        (ops.Add(a, b), 0, True),
        (ops.Add(a, b), 1, False),
        (ops.Mul(a, ops.Exp(a)), 0, True),
        (ops.MatMul(a, a), 0, False),
        (ops.Transpose(a, perm=(1, 0)), 0, False),
        (ops.Softmax(a), 0, False),
        (ops.Trilu(a), 0, True),
        (ops.Gelu(a), 0, True),
        (ops.CumSum(a, ops.Constant(np.array(0))), 0, False),
        (ops.Add(rows, some), 0, True),
        (ops.Add(rows, some), 1, False),
    ]
    for op, place, wanted in cases:
        assert may_overwrite(op, place, Space()) is wanted, op.label
    ort = SPACES["ort-cpu"]
    assert may_overwrite(ops.Softmax(a), 0, ort)
    assert not may_overwrite(ops.Add(a, b), 0, ort)


def test_memory_that_is_freed_too_early_is_poisoned() -> None:
    graph, plan = branching()
    (first, *_) = plan.placements
    wrong = moved(plan, 0, upper=first.buffer.lower + 1)
    (found,) = run_in_arena(graph, wrong, random_inputs(graph, 0, {}))
    assert np.isnan(found).all()


def test_other_mistakes_of_a_plan_are_found() -> None:
    graph, plan = branching()
    with pytest.raises(PlanIsWrong, match="the peak is"):
        validate(replace(plan, peak=plan.peak + 1), graph)
    with pytest.raises(PlanIsWrong, match="the bound cannot"):
        validate(replace(plan, lower_bound=plan.lower_bound - 1), graph)
    nowhere = replace(plan, placements=(), peak=0, lower_bound=0)
    with pytest.raises(PlanIsWrong, match="without a place"):
        validate(nowhere, graph)
    with pytest.raises(PlanIsWrong, match="before its operand"):
        validate(replace(plan, order=plan.order[::-1]), graph)
    with pytest.raises(PlanIsWrong, match="not in the order"):
        validate(replace(plan, order=plan.order[:-1]), graph)
    with pytest.raises(PlanIsWrong, match="aligned"):
        validate(replace(plan, space=Space(alignment=48)), graph)


def test_an_order_is_one_of_all_ops() -> None:
    graph, plan = branching()
    other = (plan.order[1], plan.order[0], *plan.order[2:])
    validate(plan_memory(graph, order=other), graph)
    with pytest.raises(UsageError, match="not one of the graph's"):
        plan_memory(graph, order=plan.order[1:])
    with pytest.raises(UsageError, match="before its operand"):
        plan_memory(graph, order=plan.order[::-1])


# --- sizes that vary ----------------------------------------------------------------


@given(st.data())
def test_the_largest_of_a_dim_bounds_it(data: Any) -> None:
    n, m = symbol("n"), symbol("m")
    dims_ = [n, m, n * 2 + m, n * m, (n + 3) // 2, n % 4, maximum(n, m), minimum(n, 7)]
    dims_ += [n * n - n, (m + 1) // (n + 1), sub(n * m, n), (n * 3) % (m + 1)]
    dim = data.draw(st.sampled_from(dims_))
    ranges: dict[str, tuple[int, int]] = {}
    sizes = {}
    for name in "nm":
        low = data.draw(st.integers(0, 9))
        high = data.draw(st.integers(low, 12))
        ranges[name], sizes[name] = (low, high), data.draw(st.integers(low, high))
    bound = largest(dim, ranges)
    assert bound is not None
    assert evaluate(dim, sizes) <= bound
    exact = {name: (size, size) for name, size in sizes.items()}
    assert largest(dim, exact) == evaluate(dim, sizes) == largest(dim, sizes)


def test_a_plan_for_a_range_holds_for_all_its_sizes() -> None:
    n = symbol("n")
    a = x(n, 4)
    top = ops.Softmax(ops.Concat(a, ops.Softmax(a), axis=0))
    graph = Graph([a], [ops.Softmax(top, axis=0)])
    plan = plan_memory(graph, {"n": (1, 6)}, space=BYTES)
    validate(plan, graph)
    assert plan.peak == 2 * 12 * 16
    for size in (1, 3, 6):
        inputs = random_inputs(graph, 0, {"n": size})
        assert_same(run_in_arena(graph, plan, inputs), expected(graph, inputs))
    with pytest.raises(PlanIsWrong, match="takes"):
        run_in_arena(graph, plan, random_inputs(graph, 0, {"n": 7}))


def test_sizes_share_the_plan_of_their_bucket() -> None:
    n = symbol("n")
    a = x(n, 4)
    graph = Graph([a], [ops.Softmax(ops.Softmax(a))])
    plans = Plans(graph, {"n": (8, 32)}, space=BYTES)
    assert plans.at({"n": 3}) is plans.at({"n": 8})
    assert [plan.peak for plan in plans.all()] == [128, 512]
    with pytest.raises(UsageError, match="over the largest bucket, 32"):
        plans.at({"n": 33})
    bound = Plans(graph, space=BYTES)
    assert bound.at({"n": 3}) is bound.at({"n": 3})
    assert (bound.at({"n": 3}).peak, bound.at({"n": 5}).peak) == (48, 80)


def test_attention_needs_its_scores_whatever_their_dims_are() -> None:
    for size in (63, 64):
        q, k, v = (x(1, 2, 64, size, name=n) for n in "qkv")
        plan = plan_memory(Graph([q, k, v], [ops.Attention(q, k, v)]), space=BYTES)
        assert plan.peak == 2 * 64 * 64 * 4


def test_sizes_that_no_memory_has_are_refused() -> None:
    huge = x(1 << 40, 1 << 40)
    graph = Graph([huge], [ops.Softmax(ops.Softmax(huge))])
    for reorder in (False, True):
        with pytest.raises(TooLarge, match="more than any memory"):
            plan_memory(graph, reorder=reorder)
    for size in ((3, 2), -1, "4"):
        with pytest.raises(UsageError, match="no size"):
            plan_memory(graph, {"n": size})  # type: ignore[dict-item]
