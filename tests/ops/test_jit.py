"""Each op under `jax.jit` outside of 64 bits, where nothing but the trace is in scope.

Lowering consults `jax_enable_x64` again, after the scope of the trace has been left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from peers import QUICK
from single import Case
from test_single_ops import CASES, KINDS

from graphopt.dims import symbol
from graphopt.ir import Graph, Parameter
from graphopt.ops import (
    Bernoulli,
    Constant,
    Dropout,
    Multinomial,
    RandomNormal,
    RandomNormalLike,
    RandomUniform,
    RandomUniformLike,
)
from graphopt.types import DType, tensor

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.xla

from graphopt.lowering.xla.function import Function  # noqa: E402

NAMED = ["ArgMax", "ArgMin", "CumSum", "Hardmax", "TopK"]
DRAWING: dict[str, Callable[[Parameter], Any]] = {
    "Bernoulli": lambda x: Bernoulli(x, token=1),
    "Dropout": lambda x: Dropout(
        x, Constant(np.float32(0.5)), Constant(np.array(True)), token=1
    ),
    "Multinomial": lambda x: Multinomial(x, sample_size=5, token=1),
    "RandomNormal": lambda x: RandomNormal(shape=(2, 4), token=1),
    "RandomNormalLike": lambda x: RandomNormalLike(x, token=1),
    "RandomUniform": lambda x: RandomUniform(shape=(2, 4), token=1),
    "RandomUniformLike": lambda x: RandomUniformLike(x, token=1),
}


def lower(cases: list[Case]) -> list[str]:
    """What JAX says against these cases; nothing is compiled or run."""
    assert not jax.config.jax_enable_x64
    faults = []
    for case in cases:
        if not case.traced:
            continue
        op = case.op
        inputs = [v for v in op.operands if isinstance(v, Parameter)]
        fn = Function(Graph([*dict.fromkeys(inputs)], list(op.results)))
        places = {f"x{i}": a for i, a in enumerate(case.operands) if a is not None}
        static = {f"x{i}" for i in op.static}
        arrays = {p.name: places[p.name] for p in fn.graph.inputs}
        traced = {n: a for n, a in arrays.items() if n not in static}
        fixed = {n: a for n, a in arrays.items() if n in static}

        def program(
            traced: Any, fn: Function = fn, fixed: dict[str, Any] = fixed
        ) -> Any:
            return fn(fn.params, {**traced, **fixed})

        try:
            jax.jit(program).lower(traced)
        except Exception as error:
            text = str(error).strip().splitlines()
            faults.append(f"{case}: {type(error).__name__}: {' '.join(text[:2])}")
    return faults


@pytest.mark.parametrize("kind", NAMED)
def test_positions(kind: str) -> None:
    assert lower(CASES[kind][:4]) == []


@pytest.mark.parametrize("kind", DRAWING)
def test_random_numbers(kind: str) -> None:
    x = Parameter(tensor(DType.F32, symbol("n"), 4), "x")
    made = DRAWING[kind](x)
    fn = Function(Graph([x], [made.results[0]])).keyed(jax.random.key(0))
    halves = np.full((2, 4), 0.5, np.float32)
    here = fn({}, x=halves)
    jitted = jax.jit(fn, compiler_options=QUICK)({}, x=halves)
    for name, array in here.items():
        np.testing.assert_allclose(jitted[name], array, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str) -> None:
    assert lower(CASES[kind]) == []
