"""What ONNX Runtime's arena loses between pieces, and what makes it lose less."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt import ops
from graphopt.fitted import DoesNotFit, Fitted, Limits
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter, Value
from graphopt.lowering.ort.advice import recipe
from graphopt.lowering.ort.allocation import Facts, events, kept, predicted
from graphopt.lowering.ort.arena import fits, most_in_use
from graphopt.lowering.ort.tightened import tightened
from graphopt.opened import REUSED, opened
from graphopt.passes.memory import SPACES, plan_memory, validate
from graphopt.refusal import refusal
from graphopt.types import DType, tensor

FACTS = Facts.of({})


def branches(seed: int) -> Graph:
    """Many short branches of many sizes, which may run in any order."""
    rng = random.Random(seed)
    x = Parameter(tensor(DType.F32, 64, 64), "x")
    ends: list[Value] = []
    for _ in range(12):
        y: Value = ops.Slice(x, *map(_ints, ([0], [rng.randint(8, 64)], [0])))
        for _ in range(rng.randint(1, 3)):
            y = ops.Concat(y, y, axis=0) if rng.random() < 0.4 else ops.Erf(y)
        ends.append(ops.ReduceSum(y, _ints([0]), keepdims=1))
    return Graph([x], [ops.Concat(*ends, axis=0)])


def _ints(values: list[int]) -> Value:
    return ops.Constant(np.array(values, np.int64))


def stepped(length: int) -> Graph:
    """Buffers of one shape between larger ones: pieces of them fall apart."""
    x = Parameter(tensor(DType.F32, 1, 8, 32, 32), "x")
    rng = np.random.default_rng(0)
    layers: list[Value] = [ops.Erf(x)]
    for i in range(length):
        joined = ops.Concat(*layers, axis=1) if i else layers[0]
        shape = 8, 8 * (i + 1), 3, 3
        weight = ops.Constant(rng.normal(size=shape).astype(np.float32))
        layers.append(ops.Erf(ops.Conv(joined, weight, pads=(1, 1, 1, 1))))
    return Graph([x], [ops.Exp(ops.Concat(*layers, axis=1))])


@pytest.mark.parametrize("seed", range(2))
def test_another_order_is_one_and_needs_no_more(seed: int) -> None:
    graph = branches(seed)
    order = list(graph.ops)
    before = predicted(graph, order, reuse=False)
    assert before is not None
    found = tightened(graph, order, FACTS, before.in_use)
    assert found is not None
    assert set(found.order) == set(kept(order))
    assert kept(found.order) == list(found.order)  # operands come first
    assert before.in_use <= found.arena <= before.block
    asked = events(graph, found.order, FACTS, reuse=False)
    assert asked is not None
    assert fits(asked, found.arena)
    assert most_in_use(asked) <= found.arena
    assert tightened(graph, order, FACTS, before.in_use) == found


def test_some_orders_lose_less() -> None:
    """In the order of the file something is lost; the search finds less."""
    less = 0
    for seed in range(3):
        graph = branches(seed)
        before = predicted(graph, list(graph.ops), reuse=False)
        assert before is not None
        found = tightened(graph, graph.ops, FACTS, before.in_use)
        assert found is not None
        less += found.arena < before.block
    assert less


def test_what_is_enough_ends_the_search() -> None:
    graph = branches(0)
    found = tightened(graph, graph.ops, FACTS, 1 << 40)
    assert found is not None
    assert list(found.order) == kept(graph.ops)
    assert tightened(graph, graph.ops, FACTS, 1) is None


def fitted_of(graph: Graph, limit: int) -> Fitted:
    plan = plan_memory(graph, space=SPACES["ort-cpu"])
    return Fitted(graph, plan, Limits(activations=limit), target="ort-cpu")


def test_the_cheapest_way_that_fits_is_taken() -> None:
    """A counter says what each way takes; the plan goes with it."""
    graph = stepped(4)
    peak = plan_memory(graph, space=SPACES["ort-cpu"]).peak
    takes = {(True, False): 3, (True, True): 2, (False, False): 1, (False, True): 1}

    def counter(_: Graph, sizes: object, plan: graphopt.plan.Plan) -> int:
        layouts, reuse = plan.whole.get("layouts", True), plan.whole.get("reuse", False)
        return takes[layouts, reuse] * peak

    for times, way in ((3, (True, False)), (2, (True, True)), (1, (False, False))):
        found = opened(fitted_of(graph, times * peak), counter)
        assert found.fits
        assert (found.layouts, found.reuse) == way
        assert bool(found.opening) == (way != (True, False))
        validate(found.plan, graph)
    two = opened(fitted_of(graph, 2 * peak), counter)
    assert [saving.what for saving in two.opening] == [REUSED]
    assert any(REUSED in line for line in two.lines())


def test_a_recipe_says_how_it_was_opened() -> None:
    graph = stepped(2)
    plain = recipe(graph, "cpu", ordered=True, layouts=False, reuse=True)
    assert plain.session["graph_optimization_level"] == "ORT_DISABLE_ALL"
    assert plain.session["execution_order"] == "PRIORITY_BASED"
    assert plain.session["enable_mem_reuse"] is True
    default = recipe(graph, "cpu", ordered=True)
    assert default.session["enable_mem_reuse"] is False
    assert "graph_optimization_level" not in default.session


@pytest.mark.slow
def test_a_limit_is_kept_by_the_arena_or_refused(tmp_path: Path) -> None:
    """What a refusal names does, and what is written runs in as little."""
    pytest.importorskip("onnxruntime", minversion="1.32")
    from graphopt.lowering.ort.meter import realised_peak
    from graphopt.lowering.ort.recipe import Recipe

    graph = stepped(6)
    asked = {"target": "ort-cpu", "check": "off"}
    with pytest.raises(DoesNotFit) as caught:
        graphopt.optimize(graph, max_activations=4096, **asked)
    (named,) = re.findall(r"--max-activations (\d+) would do", str(caught.value))
    result = graphopt.optimize(graph, max_activations=int(named), **asked)
    fitted = result.report.memory
    assert fitted is not None
    assert fitted.activations <= int(named)
    result.save(tmp_path / "m.onnx")
    opened_by = Recipe.beside(tmp_path / "m.onnx")
    real = realised_peak(
        tmp_path / "m.onnx", random_inputs(graph, 0), recipe=opened_by, growing=False
    )
    assert real.peak <= 1.02 * (int(named) + fitted.plan.beside)


def test_an_arena_over_the_limit_is_named() -> None:
    """The plan would fit; what lies between the pieces does not."""
    graph = branches(1)
    best = fitted_of(graph, plan_memory(graph, space=SPACES["ort-cpu"]).peak)
    peak = best.plan.peak
    over = replace(best, executed=peak + best.plan.beside + 4096)
    assert peak <= over.limits.left(over.plan)
    assert not over.fits
    said = str(refusal(over))
    assert f"--max-activations {peak + 4096} would do" in said
    assert "4,096 B of it for layouts and kernels" in said
