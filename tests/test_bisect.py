"""Finding the pass, the rule and the op that broke a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from broken import Bloat, Damp

from graphopt import Graph, Pass, Pipeline, check
from graphopt.bisect import culprit, smallest
from graphopt.ir import Parameter, Value
from graphopt.ops import Add, Constant, Neg, Relu, Sigmoid, Tanh
from graphopt.passes import Algebra
from graphopt.rewrite import Log
from graphopt.types import DType, tensor


@pytest.fixture
def graph() -> Graph:
    """A chain with one sigmoid, and many negations that a good pass removes."""
    x = Parameter(tensor(DType.F32, 4), "x")
    value: Value = x
    for i in range(6):
        value = Neg(Neg(Add(value, Constant(np.full(4, i, np.float32)))))
    gate = Sigmoid(Tanh(value))
    for _ in range(6):
        gate = Relu(Neg(Neg(gate)))
    return Graph([x], [gate], sources={gate: ("late",)}, names={})


def differs(before: Graph, after: Graph) -> bool:
    return not check(before, after).passed


def test_the_rule_and_the_op(graph: Graph) -> None:
    sigmoid = next(op for op in graph.ops if isinstance(op, Sigmoid))
    named = graph.replace(sources={sigmoid: ("the gate",)})
    pipeline = Pipeline((Algebra(), Damp(), Bloat()))
    found = culprit(named, pipeline, lambda made: differs(named, made))
    assert found is not None
    assert str(found) == ("pass damp, rule damped_sigmoid, on Sigmoid node 'the gate'")
    part = smallest(found, differs)
    assert part is not None
    assert [op.kind for op in part.ops] == ["Sigmoid"]


def test_a_pass_without_rules(graph: Graph) -> None:
    @dataclass(frozen=True)
    class Halve(Pass):
        """Scales the outputs, and should not."""

        def run(self, graph: Graph, log: Log) -> Graph:
            if any(isinstance(v, Tanh) for v in graph.outputs):
                return graph
            return graph.replace(outputs=[Tanh(v) for v in graph.outputs])

    pipeline = Pipeline((Algebra(), Halve()))
    found = culprit(graph, pipeline, lambda made: differs(graph, made))
    assert found is not None
    assert str(found) == "pass halve"
    assert smallest(found, differs) is None


def test_nothing_is_broken(graph: Graph) -> None:
    assert culprit(graph, Pipeline((Algebra(),)), lambda _: False) is None
    assert culprit(graph, Pipeline(()), lambda _: True) is None


def test_few_checks_are_needed() -> None:
    x = Parameter(tensor(DType.F32, 4), "x")
    value: Value = x
    for _ in range(100):
        value = Tanh(Sigmoid(value))
    graph = Graph([x], [value])
    asked = 0

    def broken(made: Graph) -> bool:
        nonlocal asked
        asked += 1
        return sum(op.kind == "Mul" for op in made.ops) >= 73

    found = culprit(graph, Pipeline((Damp(),)), broken)
    assert found is not None
    assert sum(op.kind == "Mul" for op in found.after.ops) == 73
    assert asked <= 10
