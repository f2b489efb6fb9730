"""Draw a legal plan, run it in the oracle, compare with the graph as a whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.inputs import random_inputs
from graphopt.ir import Graph
from graphopt.ops import Constant
from graphopt.passes.sharding import Decisions, Mesh, choices, oracle, partition
from graphopt.passes.sharding.layout import layouts
from graphopt.passes.sharding.program import Program
from graphopt.reference import run
from graphopt.specialize import specialize, symbols_of
from graphopt.types import TensorType

FLOOR = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 2e-5, "float64": 1e-10}
"""Of the largest number; rounding beyond that is judged by a run in float64."""
SLACK = 8.0

Runner = Callable[[Program, Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Judged:
    """A plan that was run: whether it gave the whole, and what it was."""

    right: bool
    program: Program
    exchanges: int
    what: str = ""


def on_sizes(graph: Graph) -> Graph | None:
    """The graph with sizes that devices divide; None where it has none such."""
    try:
        return specialize(graph, dict.fromkeys(symbols_of(graph), 4)).graph
    except GraphoptError:
        return None


def drawn(graph: Graph, mesh: Mesh, rng: random.Random) -> Decisions:
    """A choice for each op, a layout for each input and weight, all at random."""
    made = {
        op: rng.choice(choices(op, mesh))
        for op in graph.ops
        if not isinstance(op, Constant)
    }
    stored = [*graph.inputs, *(op for op in graph.ops if isinstance(op, Constant))]
    given = {}
    for value in stored:
        type_ = value.type
        default = getattr(value, "default", None)
        if isinstance(type_, TensorType) and type_.shape and default is None:
            given[value] = rng.choice(list(layouts(type_.shape, mesh)))
    return Decisions(made, given)


def judged(
    graph: Graph, seed: int, mesh: str, runner: Runner = oracle.run
) -> Judged | None:
    """A random plan of a graph, run; None where the graph itself cannot be run."""
    rng = random.Random(seed)
    program = partition(graph, Mesh.parse(mesh), drawn(graph, Mesh.parse(mesh), rng))
    try:
        inputs = random_inputs(graph, seed & 0xFFFF)
        with np.errstate(all="ignore"):
            whole = run(graph, inputs, seed=0)
            exact = run(graph, inputs, seed=0, precision="float64")
    except GraphoptError:
        return None
    with np.errstate(all="ignore"):
        found = runner(program, inputs)
    count = sum(1 for _ in program.collectives())
    for name, array in whole.items():
        said = _apart(array, found[name], exact[name])
        if said:
            return Judged(False, program, count, f"{name}: {said}")
    return Judged(True, program, count)


def _apart(whole: Any, found: Any, exact: Any) -> str:
    """Why an output is not the whole one; empty where it is."""
    if not isinstance(whole, np.ndarray):
        return "" if repr(whole) == repr(found) else "another value"
    if whole.shape != found.shape or whole.dtype != found.dtype:
        return f"{found.dtype}{found.shape} for {whole.dtype}{whole.shape}"
    floor = FLOOR.get(whole.dtype.name)
    if floor is None:
        return "" if np.array_equal(whole, found) else "other numbers"
    truth = np.asarray(exact, np.float64)
    before, after = (np.asarray(x, np.float64) for x in (whole, found))
    regular = np.isfinite(before) & np.isfinite(truth)
    scale = np.abs(truth[regular]).max(initial=1e-30)
    if not np.isfinite(after[regular]).all():
        return "numbers that are none"
    errors = [
        np.abs(x[regular] - truth[regular]).max(initial=0.0) for x in (before, after)
    ]
    if errors[1] > SLACK * errors[0] + floor * scale:
        return f"error {errors[1]:.2g}, {errors[0]:.2g} as a whole, of {scale:.2g}"
    return ""
