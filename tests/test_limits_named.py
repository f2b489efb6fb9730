"""Budgets that refusals name: they do, less does not, and no limit changes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest

import graphopt
from graphopt import ops
from graphopt.fitted import DoesNotFit, Limits
from graphopt.ir import Graph, Parameter, Value
from graphopt.limits import fitted_to, with_tiles
from graphopt.passes.memory import SPACES, plan_memory
from graphopt.passes.tiling import Tile
from graphopt.pipeline import Pipeline
from graphopt.plan import Plan
from graphopt.types import DType, tensor

RNG = np.random.default_rng(0)


def x(*shape: int, name: str = "x") -> Parameter:
    return Parameter(tensor(DType.F32, *shape), name)


def weight(*shape: int) -> Value:
    return ops.Constant(RNG.standard_normal(shape, np.float32))


def attention() -> Graph:
    q, k, v = (x(2, 128, 16, name=name) for name in "qkv")
    scores = ops.MatMul(q, ops.Transpose(k, perm=(0, 2, 1)))
    return Graph([q, k, v], [ops.MatMul(ops.Softmax(scores), v)])


def layers() -> Graph:
    """Two wide hidden layers, which share a mask."""
    a = x(128, 32)
    few = Parameter(tensor(DType.I8, 128, 256), "few")
    mask = ops.Cast(few, to=DType.F32)
    h: Value = a
    for _ in range(2):
        wide = ops.Mul(ops.Relu(ops.MatMul(h, weight(32, 256))), mask)
        h = ops.Add(ops.MatMul(wide, weight(256, 32)), h)
    return Graph([a, few], [h])


def convolutions() -> Graph:
    a = x(1, 4, 32, 32)
    h: Value = a
    for narrow, wide in ((4, 16), (16, 16), (16, 4)):
        h = ops.Relu(ops.Conv(h, weight(wide, narrow, 3, 3), pads=(1, 1, 1, 1)))
    return Graph([a], [ops.ReduceMean(h)])


def joined() -> Graph:
    """A product of what is joined."""
    a = x(64, 32)
    parts = [ops.Relu(ops.MatMul(a, weight(32, 64))) for _ in range(4)]
    wide = ops.Concat(*parts, axis=1)
    return Graph([a], [ops.Softmax(ops.MatMul(wide, weight(256, 16)))])


def uncut() -> Graph:
    """The inverse is of a whole matrix."""
    a = x(64, 64)
    return Graph([a], [ops.ReduceSum(ops.Det(ops.MatMul(ops.Exp(a), a)))])


SLOW = [pytest.param(make, marks=pytest.mark.slow) for make in (convolutions, joined)]
GRAPHS = [attention, layers, uncut, *SLOW]


def named(graph: Graph, target: str = "onnx", **limits: int) -> int:
    """What a refusal says would do."""
    with pytest.raises(DoesNotFit) as caught:
        graphopt.optimize(graph, target=target, check="off", **limits)  # type: ignore[arg-type]
    found = re.findall(r"--max-\w+ (\d+) would do", caught.value.message)
    assert len(found) == 1
    return int(found[0])


@pytest.mark.parametrize("make", GRAPHS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "kind",
    ["max_activations", pytest.param("max_memory", marks=pytest.mark.slow)],
)
def test_what_is_named_does_and_less_does_not(
    make: Callable[[], Graph], kind: str
) -> None:
    graph = make()
    least = named(graph, **{kind: 1})
    assert named(graph, **{kind: least // 3}) == least
    result = graphopt.optimize(graph, check="off", **{kind: least})  # type: ignore[arg-type]
    fitted = result.report.memory
    assert fitted is not None
    found = fitted.activations if kind == "max_activations" else fitted.resident
    assert found <= least
    beside = fitted.resident - fitted.activations
    less = int(0.95 * fitted.activations) + (beside if kind == "max_memory" else 0)
    assert named(graph, **{kind: less}) == least


def test_a_compiler_is_asked_of_what_is_named() -> None:
    def thrice(graph: Graph, sizes: Mapping[str, int], plan: Plan) -> int:
        plan = plan_memory(graph, sizes, space=SPACES["xla-cpu"], reorder=True)
        return 3 * plan.peak

    graph = attention()

    def remade(tile: Tile) -> Graph:
        return with_tiles(Pipeline((), rounds=1), tile, "xla-cpu").run(graph)[0]

    def asked(limit: int) -> int:
        limits = Limits(activations=limit)
        return fitted_to(limits, graph, graph, "xla-cpu", remade, thrice).activations

    with pytest.raises(DoesNotFit, match="the smallest program found") as caught:
        asked(1)
    least = int(caught.value.message.split("--max-activations ")[1].split()[0])
    assert asked(least) <= least


def test_a_refusal_says_what_is_at_the_peak() -> None:
    a = x(64, 64)
    square = ops.MatMul(a, a)
    graph = Graph(
        [a],
        [ops.ReduceSum(ops.Det(square))],
        names={square: "square"},
    )
    with pytest.raises(DoesNotFit) as caught:
        graphopt.optimize(graph, max_activations=1, check="off")
    said = caught.value.message.splitlines()
    assert len(said) == 2
    assert "most is live at Det: 'square' 16.0 KiB, what Det gives 256 B" in said[1]


def test_a_refusal_says_where_weights_alone_are_too_much() -> None:
    graph = layers()
    with pytest.raises(DoesNotFit) as caught:
        graphopt.optimize(graph, max_memory=1000, check="off")
    assert "whatever the plan" in caught.value.message.splitlines()[1]
    assert "over the limit already" in caught.value.message


def test_a_report_says_how_many_ops_tiles_cost() -> None:
    graph = attention()
    plain = graphopt.optimize(graph, max_activations=1 << 30, check="off")
    result = graphopt.optimize(graph, max_activations=64 << 10, check="off")
    before, fitted = plain.report.memory, result.report.memory
    assert before is not None
    assert fitted is not None
    count = len(before.plan.order)
    assert fitted.ops_before == before.ops_before == count
    assert (
        sum(saving.ops for saving in fitted.savings) == len(fitted.plan.order) - count
    )
    members = fitted.to_json()
    assert (members["ops"], members["ops_before"]) == (fitted.ops, count)
    assert any(f"{count} ops before" in line for line in fitted.lines())
    assert not any("ops before" in line for line in before.lines())
