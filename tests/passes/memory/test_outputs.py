"""Outputs beside an arena: there from their step on, or for the whole run."""

from __future__ import annotations

import pytest

from graphopt.ir import Graph, Parameter, Value
from graphopt.lowering.ort.allocation import predicted
from graphopt.ops import Exp, MatMul, Relu, Softmax
from graphopt.passes.memory import SPACES, plan_memory
from graphopt.types import DType, tensor

SIZE = 4 * 64 * 64


def chain(early: int, late: int) -> Graph:
    """A wide stretch between an output that is made first and one that is made last."""
    x = Parameter(tensor(DType.F32, 64, 64), "x")
    first: Value = Exp(x)
    h: Value = MatMul(x, x)
    for _ in range(3):
        h = MatMul(Softmax(MatMul(h, x)), h)
    outputs = [first] * early + [Relu(MatMul(h, h))] * late
    return Graph([x], outputs, output_names=[f"y{i}" for i in range(early + late)])


def test_what_is_made_last_does_not_count_at_a_peak_before() -> None:
    plan = plan_memory(chain(0, 1), space=SPACES["ort-cpu"])
    assert (plan.outputs, plan.given[-1], plan.given[0]) == (SIZE, SIZE, 0)
    assert plan.beside < plan.outputs
    assert plan.resident == plan.inputs + plan.beside + plan.peak


def test_what_is_made_first_counts_at_every_step() -> None:
    graph = chain(1, 0)
    plan = plan_memory(graph, space=SPACES["ort-cpu"], order=_first_first(graph))
    assert set(plan.given) == {SIZE}
    assert plan.beside == plan.outputs == SIZE


def _first_first(graph: Graph) -> list[Value]:
    return sorted(graph.ops, key=lambda op: op.kind != "Exp")


@pytest.mark.parametrize("target", ["xla-cpu", "xla-tpu", "reference"])
def test_elsewhere_the_caller_has_them_from_the_start(target: str) -> None:
    plan = plan_memory(chain(0, 1), space=SPACES[target])
    assert set(plan.given) == {plan.outputs}
    assert plan.beside == plan.outputs > 0


def test_an_output_that_is_an_input_is_there_from_the_start() -> None:
    x = Parameter(tensor(DType.F32, 64, 64), "x")
    plan = plan_memory(Graph([x], [x, Exp(Exp(x))]), space=SPACES["ort-cpu"])
    assert plan.given == (SIZE, 2 * SIZE)
    alone = plan_memory(Graph([x], [x]), space=SPACES["ort-cpu"])
    assert (alone.given, alone.beside, alone.resident) == ((), SIZE, 2 * SIZE)


@pytest.mark.parametrize(("early", "late"), [(0, 1), (1, 0), (1, 1)])
def test_the_most_is_what_the_runtime_has_in_its_arena(early: int, late: int) -> None:
    """Its own account of ONNX Runtime's planner, which has outputs in the arena."""
    graph = chain(early, late)
    plan = plan_memory(graph, space=SPACES["ort-cpu"])
    found = predicted(graph, plan.order, reuse=False)
    assert found is not None
    assert found.in_use == max(plan.live) + plan.beside
