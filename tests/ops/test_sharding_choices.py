"""Every choice of every op by brute force: on parts, it gives parts of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from index_samples import samples
from single import Case

from graphopt.index import Partial
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Constant
from graphopt.passes.sharding import oracle
from graphopt.passes.sharding.choices import Choice, choices, localized, part_type
from graphopt.passes.sharding.layout import Layout, replicated
from graphopt.passes.sharding.mesh import Mesh
from graphopt.reference import Evaluator
from graphopt.rewrite import Miss

CASES = [case for case in samples() if case.op.deterministic]
LINE, SQUARE = Mesh.parse("2"), Mesh.parse("2x2")


def torn(
    whole: Any, layout: Layout, mesh: Mesh, rng: np.random.Generator
) -> oracle.Parts:
    """Parts of an array; where it is partial, random ones that make it."""
    parts = oracle.scattered(whole, layout, mesh)
    for axis, state in enumerate(layout):
        if isinstance(state, Partial):
            rows = oracle.rows_along(mesh, mesh.names[axis])
            parts = torn_along(parts, state, list(rows), rng)
    return parts


def torn_along(
    parts: oracle.Parts, state: Partial, rows: list[list[int]], rng: Any
) -> oracle.Parts:
    assert state.combiner.value == "sum"
    made = list(parts)
    drawn: dict[tuple[int, ...], list[Any]] = {}
    for row in rows:
        key = tuple(id(parts[device]) for device in row)
        if key not in drawn:  # devices that had the same still have
            addends = [
                rng.integers(-9, 9, parts[d].shape).astype(parts[d].dtype)
                for d in row[1:]
            ]
            drawn[key] = [parts[row[0]] - sum(addends), *addends]
        for device, addend in zip(row, drawn[key], strict=True):
            made[device] = addend
    return made


def judge(case: Case, op: Op, choice: Choice, mesh: Mesh, truth: list[Any]) -> None:
    """Fails where the op on parts does not give parts of the whole."""
    rng = np.random.default_rng(0)
    given: list[Value | None] = []
    env: dict[Value, oracle.Parts] = {}
    for value, array, layout in zip(
        op.operands, case.operands, choice.operands, strict=False
    ):
        if value is None or array is None:
            given.append(None)
        elif isinstance(value, Constant) and layout == replicated(mesh):
            given.append(value)
        else:
            type_ = part_type(value, layout, mesh)
            assert type_ is not None
            parameter = Parameter(type_)
            env[parameter] = torn(array, layout, mesh, rng)
            given.append(parameter)
    made = localized(op, choice, mesh, given)
    assert not isinstance(made, Miss), (str(choice), made)
    graph = Graph([p for p in env if isinstance(p, Parameter)], made)
    found = oracle.execute(graph, mesh, env)
    for parts, layout, whole in zip(found, choice.results, truth, strict=False):
        together = oracle.gathered(parts, layout, mesh)
        assert together.shape == whole.shape, str(choice)
        if whole.dtype.kind in "fc":
            scale = np.nanmax(np.abs(whole), initial=1e-30)
            narrow = any(
                x is not None and x.dtype == np.float32 for x in (*case.operands, whole)
            )
            assert np.allclose(
                together / scale, whole / scale, 0, 1e-5 if narrow else 1e-9, True
            ), str(choice)
        else:
            assert np.array_equal(together, whole), str(choice)


def whole_results(case: Case) -> list[Any]:
    evaluator = Evaluator()
    with evaluator.xp.scope():
        return list(evaluator.apply(case.op, case.operands))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_choices_on_a_line_are_sound(case: Case) -> None:
    truth = whole_results(case)
    for choice in choices(case.op, LINE):
        judge(case, case.op, choice, LINE, truth)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_choices_on_a_square_are_sound(case: Case) -> None:
    truth = whole_results(case)
    for choice in choices(case.op, SQUARE):
        judge(case, case.op, choice, SQUARE, truth)
