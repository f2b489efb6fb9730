"""Orders of graphs: tasks that hold what a plan holds, and orders that hold less."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings, strategies as st

from graphopt import ops
from graphopt.ir import Graph, Parameter
from graphopt.passes.memory import Space, peak, plan_memory, validate
from graphopt.passes.memory.order import tasks_of
from graphopt.passes.memory.sizes import Sizes
from graphopt.testing import graphs
from graphopt.types import DType, TensorType

SIZES = {"n": 3, "m": 2}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_tasks_hold_what_a_plan_in_the_same_order_has_live(data: Any) -> None:
    graph = data.draw(graphs(max_ops=16))
    space = Space(
        alignment=data.draw(st.sampled_from([1, 64])),
        views=data.draw(st.booleans()),
        in_place=data.draw(st.booleans()),
        outputs=data.draw(st.booleans()),
    )
    plan = plan_memory(graph, SIZES, space=space)
    need = {op: place.buffer.size for op, place in plan.workspace_of.items()}
    tasks = tasks_of(graph, Sizes(SIZES, space), need)
    assert peak(tasks, range(len(tasks.tasks))) == max(plan.live, default=0)


@settings(max_examples=60, deadline=None)
@given(graphs(max_ops=14))
def test_the_best_order_is_one_and_holds_no_more(graph: Graph) -> None:
    file = plan_memory(graph, SIZES)
    best = plan_memory(graph, SIZES, reorder=True)
    validate(best, graph)
    assert best.schedule is not None
    assert best.schedule.peak == max(best.live, default=0) <= file.lower_bound
    assert best.schedule.lower_bound <= best.schedule.peak


def test_what_is_summed_at_once_is_freed_at_once() -> None:
    a = Parameter(TensorType(DType.F32, (1024,)), "a")
    large = [ops.Softmax(ops.Mul(a, ops.Exp(a))), ops.LogSoftmax(a), ops.Hardmax(a)]
    sums = [ops.ReduceSum(value) for value in large]
    total = ops.Add(ops.Add(sums[0], sums[1]), sums[2])
    names = [value.op for value in [*large, *sums, total]]
    sources = {op: (f"n{i}",) for i, op in enumerate(names)}
    graph = Graph([a], [total], sources=sources)  # type: ignore[arg-type]
    file = plan_memory(graph)
    best = plan_memory(graph, reorder=True)
    assert file.lower_bound >= 3 * 4096
    assert best.schedule is not None
    assert (best.schedule.proof, best.peak <= 2 * 4096 + 256) == ("optimal", True)
