"""Slopes of results along lines: by differences in float64, and by `jax.vjp`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
from onnx import ModelProto
from peers import QUICK
from single import Array

import graphopt
from graphopt import xp
from graphopt.ir import Graph
from graphopt.reference import Evaluator

STEPS = (1e-3, 1e-4, 1e-5)
TRIES = 8
TOLERANCE = {"float64": 1e-8, "float32": 2e-4, "single": 2e-6}
"""Of the sum of what the directions of all elements contribute."""

T = TypeVar("T")


def around(dtype: Any) -> AbstractContextManager[Any]:
    """Where gradients are taken: those of float32 are as users take them.

    What is traced has 64 bits, but what JAX makes of it afterwards has 32.
    """
    return xp.traced().scope() if dtype == np.float64 else nullcontext()


NO_FLOATS = "no result is a float"


def is_float(array: Array | None) -> bool:
    return array is not None and array.dtype.kind == "f"


def typed(operands: Sequence[Array | None], dtype: Any) -> tuple[Array | None, ...]:
    return tuple(a.astype(dtype) if is_float(a) else a for a in operands)


def random_weights(
    results: Sequence[Array], rng: np.random.Generator
) -> list[Array | None] | str:
    """Weights that make one number of results; or why there is none."""
    weights = [rng.normal(size=a.shape) if is_float(a) else None for a in results]
    if not any(w is not None and w.size for w in weights):
        return NO_FLOATS
    if not all(np.isfinite(a).all() for a in results if is_float(a)):
        return "a result is not finite"
    return weights


def weighed(weights: Sequence[Array | None], results: Sequence[Array]) -> float:
    made = zip(weights, results, strict=True)
    return float(sum((w * a).sum() for w, a in made if w is not None))


def difference(value: Callable[[float], float], agree: float = 1e-8) -> float | str:
    """The slope at zero, of fourth order; or why there is none, as text.

    It is one that two steps ``agree`` on.
    """
    slopes = []
    for step in STEPS:
        near, far = value(step) - value(-step), value(2 * step) - value(-2 * step)
        slopes.append((8 * near - far) / (12 * step))
    size = 1 + max(map(abs, slopes))
    for first, second in itertools.pairwise(slopes):
        if abs(first - second) <= agree * size:
            return first
    return f"no slope: {slopes}"


def fault(
    gradients: Sequence[Array],
    directions: Sequence[Array],
    slope: float,
    tolerance: float,
) -> str | None:
    """How gradients along a direction miss the slope."""
    terms = [g * d for g, d in zip(gradients, directions, strict=True)]
    made = sum(t.sum() for t in terms)
    size = sum(abs(t).sum() for t in terms) + abs(slope) + 1e-3
    if abs(made - slope) / size <= tolerance:
        return None
    return f"{made:.9g}, not {slope:.9g}"


def telling(lines: Sequence[T], facts: Callable[[T], set[tuple[str, str]]]) -> list[T]:
    """The first, and each of which there are facts that none before had.

    What is compiled takes nearly all of the time, and most cases are combinations.
    """
    seen: set[tuple[str, str]] = set()
    chosen = []
    for at in lines:
        found = facts(at)
        if not found <= seen:
            chosen.append(at)
        seen |= found
    return chosen


def facts_of(case: Any) -> set[tuple[str, str]]:
    """The attributes of a case, the rank of each operand, and how many results."""
    ranks = [None if a is None else a.ndim for a in case.operands]
    facts = {(name, repr(value)) for name, value in case.attrs.items()}
    facts |= {(f"operand {i}", str(rank)) for i, rank in enumerate(ranks)}
    return facts | {("outs", str(case.outs))}


# --- of models ------------------------------------------------------------------------


@dataclass(eq=False)
class Source:
    """A model that can be made of any float type, and what it is given.

    ``single`` is for models whose results are float32 whatever their inputs are.
    ``fixed`` are float inputs that have no gradient.
    """

    name: str
    make: Callable[[Any], ModelProto]
    inputs: dict[str, Array]
    single: bool = False
    fixed: tuple[str, ...] = ()
    graphs: dict[str, Graph] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def graph(self, dtype: Any) -> Graph:
        name = np.dtype(dtype).name
        if name not in self.graphs:
            self.graphs[name] = graphopt.load(self.make(dtype))
        return self.graphs[name]

    @property
    def widest(self) -> Any:
        return np.float32 if self.single else np.float64


@dataclass
class Line:
    """A line through a model's inputs, and weights that make one number of results."""

    source: Source
    point: dict[str, Array]
    direction: dict[str, Array]
    weights: list[Array | None]
    slope: float


def line(source: Source) -> Line | str:
    """Where to compare slopes; why there is none, as text."""
    from graphopt.lowering.xla.function import Function

    graph = source.graph(source.widest)
    fixed = {*source.fixed, *Function(graph).steering}
    moved = [n for n, a in source.inputs.items() if is_float(a) and n not in fixed]
    moved = [name for name in moved if source.inputs[name].size]
    if not moved:
        return "no float moves it"
    rng = np.random.default_rng(crc32(source.name.encode()))
    why = ""
    for attempt in range(TRIES):
        given = source.inputs
        far = 0.05 * attempt
        point = {
            n: given[n].astype(np.float64) + far * rng.uniform(size=given[n].shape)
            for n in moved
        }
        direction = {n: rng.normal(size=a.shape) for n, a in point.items()}
        made = _along(source, point, direction, rng)
        if not isinstance(made, str):
            return made
        why = made
    return why


def _along(
    source: Source,
    point: dict[str, Array],
    direction: dict[str, Array],
    rng: np.random.Generator,
) -> Line | str:
    graph = source.graph(source.widest)
    evaluator = Evaluator(precision="float64", seed=0)

    def results(step: float) -> list[Array]:
        env = {}
        for parameter in graph.inputs:
            name = parameter.name
            array = source.inputs[name]
            if name in point:
                array = point[name] + step * direction[name]
            env[parameter] = evaluator.adopt(array)
        return evaluator.run(graph.outputs, env)

    weights = random_weights(results(0), rng)
    if isinstance(weights, str):
        return weights
    slope = difference(lambda step: weighed(weights, results(step)))
    if isinstance(slope, str):
        return slope
    return Line(source, point, direction, weights, slope)


def gradients(lines: Sequence[Line], dtype: Any) -> list[dict[str, Array]]:
    """What `jax.vjp` gives for the inputs that were moved, all as one program."""
    import jax

    from graphopt.lowering.xla.function import Function

    def results(at: Line, point: dict[str, Any]) -> list[Any]:
        graph = at.source.graph(dtype)
        function = Function(graph)
        given = typed(list(at.source.inputs.values()), dtype)
        fixed = dict(zip(at.source.inputs, given, strict=True))
        made = function(function.params, fixed | point)
        kept = zip(graph.output_names, at.weights, strict=True)
        return [made[name].astype(dtype) for name, w in kept if w is not None]

    def run(points: list[dict[str, Any]], weights: list[list[Any]]) -> list[Any]:
        found = []
        for at, point, weight in zip(lines, points, weights, strict=True):
            _, back = jax.vjp(functools.partial(results, at), point)
            found.append(back(weight)[0])
        return found

    with around(dtype):
        points = [{n: a.astype(dtype) for n, a in at.point.items()} for at in lines]
        weights = [
            [w.astype(dtype) for w in at.weights if w is not None] for at in lines
        ]
        made = jax.jit(run, compiler_options=QUICK)(points, weights)
        return [{n: np.asarray(a, np.float64) for n, a in g.items()} for g in made]


def faults(lines: Sequence[Line]) -> list[str]:
    """Where gradients of models miss the slopes, in float64 and in float32."""
    found = []
    for dtype in (np.float64, np.float32):
        some = [at for at in lines if dtype is np.float32 or not at.source.single]
        for at, made in zip(some, gradients(some, dtype) if some else [], strict=True):
            parts = [(made[name], at.direction[name]) for name in at.point]
            given, along = zip(*parts, strict=True)
            text = fault(given, along, at.slope, TOLERANCE[np.dtype(dtype).name])
            if text is not None:
                found.append(f"{at.source} in {np.dtype(dtype)}: {text}")
    return found


def gradients_of(source: Source) -> dict[str, Array]:
    """Of the sum of all results, at the inputs that are given, as users take them."""
    import jax

    from graphopt.lowering.xla.function import Function

    function = Function(source.graph(np.float32))
    names = {n for n, a in source.inputs.items() if is_float(a)}
    moved = {n: source.inputs[n] for n in names.difference(function.steering)}

    def total(moved: dict[str, Any]) -> Any:
        made = function(function.params, source.inputs | moved)
        return sum(a.sum() for a in made.values() if a.dtype.kind == "f")

    made = jax.jit(jax.grad(total), compiler_options=QUICK)(moved)
    return {name: np.asarray(a) for name, a in made.items()}
