"""Nested plans as nested `jax.checkpoint`s: gradients, what XLA runs, what it holds."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.xla

from test_remat import MODELS, _moved, a_step, model, segmented  # noqa: E402

from graphopt.reference import OutOfBudget  # noqa: E402
from graphopt.training.budget import least, lowest  # noqa: E402
from graphopt.training.retention import Retention, Training  # noqa: E402
from graphopt.training.steps import Steps  # noqa: E402
from graphopt.training.within import OPTIONS, within  # noqa: E402


def deep(count: int, width: int = 8) -> onnx.ModelProto:
    """Products and activations, one after the other."""
    lines = ["h0 = Identity (x)"]
    for i in range(count):
        lines += [f"a{i} = MatMul (h{i}, w{i})", f"h{i + 1} = Tanh (a{i})"]
    body = "\n".join([*lines, f"y = Identity (h{count})"])
    head = f"net (float[n, {width}] x) => (float[n, {width}] y)"
    weights = {f"w{i}": (width, width) for i in range(count)}
    return model(f"{head} {{ {body} }}", **weights)


def drawn(seed: int, count: int = 9, width: int = 6) -> onnx.ModelProto:
    """A graph of random ops on random earlier results."""
    rng = np.random.default_rng(seed)
    lines, weights = ["h0 = Tanh (x)"], {}
    for i in range(1, count):
        one, other = f"h{i - 1}", f"h{rng.integers(0, i)}"
        match rng.integers(0, 4):
            case 0:
                lines.append(f"h{i} = Add ({one}, {other})")
            case 1:
                lines.append(f"h{i} = Mul ({one}, {other})")
            case 2:
                lines.append(f"h{i} = Softmax <axis = -1> ({one})")
            case _:
                weights[f"w{i}"] = (width, width)
                lines.append(f"h{i} = MatMul ({one}, w{i})")
    weights["last"] = (width, width)
    body = "\n".join([*lines, f"y = MatMul (h{count - 1}, last)"])
    head = f"net (float[n, {width}] x) => (float[n, {width}] y)"
    return model(f"{head} {{ {body} }}", **weights)


def tree(training: Training, seed: int, levels: int = 3) -> Retention:
    """A plan that is drawn, with segments in segments."""
    rng = np.random.default_rng(seed)

    def within_(start: int, stop: int, around: frozenset[int], left: int) -> Retention:
        places = np.arange(start, stop)
        cuts = {start, *rng.choice(places, min(3, len(places))).tolist()}
        kept = {*rng.choice(places, min(2, len(places))).tolist()}
        kept |= training.across(around | kept, cuts, stop)
        plan = Retention(frozenset(kept), tuple(sorted(cuts)))
        parts = [
            within_(first, end, around | kept, left - 1)
            for first, end, _ in plan.spans(stop)
            if left and end - first > 1
        ]
        return replace(plan, nested=tuple(parts))

    return within_(0, len(training.steps), frozenset(), levels)


def check(proto: onnx.ModelProto, shape: tuple[int, ...], seed: int) -> None:
    """A nested plan moves weights as no plan at all does."""
    with jax.enable_x64(True):
        steps, arguments = a_step(proto, shape)
        plan = tree(steps.forward(*arguments).training, seed)
        assert plan.depth > 1
        wanted = _moved(steps, arguments)
        found = _moved(segmented(steps, arguments, plan), arguments)
        for key, array in wanted.items():
            np.testing.assert_allclose(found[key], array, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_random_graphs_move_as_they_do_without_a_plan(seed: int) -> None:
    check(drawn(seed), (4, 6), seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_more_random_graphs_move_as_they_do_without_a_plan(seed: int) -> None:
    check(drawn(seed, 14), (4, 6), seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_move_as_they_do_without_a_plan(name: str) -> None:
    check(*MODELS[name], seed=1)


def compiled(steps: Steps, arguments: list[Any], plan: Retention | None) -> Any:
    if plan is not None:
        steps = replace(segmented(steps, arguments, plan), options=OPTIONS["cpu"])
    return steps.train.lower(*arguments).compile()


def bytes_of(program: Any) -> int:
    return int(program.memory_analysis().temp_size_in_bytes)


def test_xla_runs_what_a_nested_plan_says_and_needs_less() -> None:
    count = 16
    with jax.enable_x64(True):
        steps, arguments = a_step(deep(count), (8192, 8))
        forward = steps.forward(*arguments)
        training = forward.training
        flat, nested = least(training), lowest(training)
        assert nested.plan.depth > flat.plan.depth == 1
        assert nested.peak < flat.peak
        programs = {
            found: compiled(steps, arguments, found.plan) for found in (flat, nested)
        }
    products = [
        forward.step_of[op.results[0]] for op in forward.ops if op.kind == "MatMul"
    ]
    for found, program in programs.items():
        order = training.sequence(found.plan)
        again = sum(order.count(step) - 1 for step in products)
        made = len(re.findall(r" dot\(", program.as_text()))
        assert made == 3 * count - 1 + again  # the data has no slope
    ratio = bytes_of(programs[nested]) / bytes_of(programs[flat])
    assert ratio < 0.75
    assert bytes_of(programs[nested]) < 1.1 * nested.peak


@pytest.mark.parametrize("seed", range(3))
def test_xla_makes_again_what_a_plan_says_and_nothing_else(seed: int) -> None:
    count = 8
    with jax.enable_x64(True):
        steps, arguments = a_step(deep(count), (64, 8))
        forward = steps.forward(*arguments)
        products = [
            forward.step_of[op.results[0]] for op in forward.ops if op.kind == "MatMul"
        ]
        plan = tree(forward.training, seed)
        outer = plan.kept | {*products[1::3]}  # some of them inside of nested segments
        plan = replace(plan, kept=frozenset(outer))
        program = compiled(steps, arguments, plan)
    order = forward.training.sequence(plan)
    again = sum(order.count(step) - 1 for step in products)
    assert again
    made = len(re.findall(r" dot\(", program.as_text()))
    assert made == 3 * count - 1 + again


@pytest.mark.slow
def test_a_step_is_within_what_only_nested_segments_reach() -> None:
    with jax.enable_x64(True):
        steps, arguments = a_step(deep(12), (8192, 8))
        training = steps.forward(*arguments).training
        flat = bytes_of(compiled(steps, arguments, least(training).plan))
        _, said = within(steps, int(0.8 * flat), *arguments)
        assert said.bytes <= 0.8 * flat
        assert said.deep > 1
        assert f"nested {said.deep} deep" in str(said)
        with pytest.raises(OutOfBudget) as error:
            within(steps, 1000, *arguments)
        enough = int(str(error.value).rpartition("=")[2])
        assert enough < 0.8 * flat


@pytest.mark.slow
def test_nothing_is_said_of_depth_where_segments_are_flat() -> None:
    with jax.enable_x64(True):
        steps, arguments = a_step(deep(12), (8192, 8))
        plain = bytes_of(compiled(steps, arguments, None))
        _, said = within(steps, int(0.8 * plain), *arguments)
    assert said.deep == 1
    assert "nested" not in str(said)
