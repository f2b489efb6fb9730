"""Ops along a dim that devices share out, where what they read may be elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphopt import ops
from graphopt.index import Partial, Split
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops.bodies import scalar, vector
from graphopt.ops.mesh import AllGather, Permute
from graphopt.passes.sharding import Decisions, Mesh, choices, oracle, partition
from graphopt.passes.sharding.choices import Choice
from graphopt.passes.sharding.layout import is_partial
from graphopt.passes.sharding.moving import moves
from graphopt.passes.sharding.program import Program, handled_bytes
from graphopt.reference import run
from graphopt.types import DType, tensor

RNG = np.random.default_rng(0)


def x(*shape: int, name: str = "x", dtype: DType = DType.F32) -> Parameter:
    return Parameter(tensor(dtype, *shape), name)


def along(op: Op, form: str, mesh: Mesh) -> list[Choice]:
    """The choices in which the op runs in that form on all axes that it shares."""
    return [c for c in choices(op, mesh) if any(w.form == form for w in c.ways)]


def sound(op: Op, choice: Choice, mesh: Mesh, arrays: dict[str, Any]) -> Program:
    """Run a choice in the oracle, and compare with the whole."""
    inputs = [v for v in dict.fromkeys(op.operands) if isinstance(v, Parameter)]
    results: list[Value] = list(op.results)
    graph = Graph(inputs, results, output_names=[f"y{i}" for i in range(op.outs)])
    given = {
        value: layout
        for value, layout in zip(op.operands, choice.operands, strict=True)
        if isinstance(value, Parameter) and not is_partial(layout)
    }
    program = partition(graph, mesh, Decisions({op: choice}, given))
    whole, found = run(graph, arrays), oracle.run(program, arrays)
    for name, truth in whole.items():
        np.testing.assert_allclose(found[name], truth, 1e-5, 1e-6, err_msg=str(choice))
    return program


def drawn(op: Op) -> dict[str, Any]:
    made = {}
    for value in op.operands:
        if isinstance(value, Parameter):
            assert value.dtype is not None
            shape = [int(n) for n in value.shape or () if n]
            numbers = RNG.integers(-50, 50, shape)
            made[value.name] = numbers.astype(value.dtype.numpy)
    return made


def slices(*args: int) -> Op:
    """Of a dim of 48: from, before, step."""
    start, stop, step = args
    cut = vector(start), vector(stop), vector(1), vector(step)
    return ops.Slice(x(2, 48), *cut)


SEGMENTS: dict[str, Callable[[], Op]] = {
    "half": lambda: slices(0, 24, 1),
    "other half": lambda: slices(24, 48, 1),
    "middle": lambda: slices(5, 45, 1),
    "backwards": lambda: slices(-1, -49, -1),
    "every third": lambda: slices(0, 48, 3),
    "all but few": lambda: slices(8, 48, 1),
    "halves": lambda: ops.Split(x(2, 48), vector(24, 24), axis=1, outs=2).op,
    "grouped": lambda: ops.Split(x(2, 64), vector(32, 16, 16), axis=1, outs=3).op,
    "two": lambda: ops.Concat(x(2, 24, name="a"), x(2, 24, name="b"), axis=1),
    "twice": lambda: ops.Concat(*[x(2, 24)] * 2, axis=1),
    "grown": lambda: ops.Concat(x(2, 72, name="a"), x(2, 8, name="b"), axis=1),
}


@pytest.mark.parametrize("mesh", ["2", "4", "8", "2x4"])
@pytest.mark.parametrize("name", SEGMENTS)
def test_positions_move_to_where_they_belong(name: str, mesh: str) -> None:
    op, on = SEGMENTS[name](), Mesh.parse(mesh)
    found = along(op, "moved", on)
    assert found or mesh == "2"  # where gathering sends no more
    for choice in found:
        program = sound(op, choice, on, drawn(op))
        assert not any(isinstance(c, AllGather) for c in program.graph.ops)


def sent(op: Op, mesh: str, which: int = 0) -> list[int]:
    """The bytes of each message, of one of the choices."""
    on = Mesh.parse(mesh)
    program = sound(op, along(op, "moved", on)[which], on, drawn(op))
    return [handled_bytes(c) for c in program.collectives()]


def test_no_more_is_sent_than_moves() -> None:
    rows, size = 2, 4
    assert sent(slices(24, 48, 1), "2") == [rows * size * 12]
    assert sent(SEGMENTS["two"](), "8") == [rows * size * 3] * 2
    assert sent(SEGMENTS["grown"](), "8", -1) == [rows * size * 7]  # to the neighbour


def test_rounds_take_what_does_not_meet() -> None:
    """Each device wants what the next one has: one round."""
    at = np.arange(8)
    plan = moves(at // 2, at % 2, np.roll(at, -2).reshape(4, 2), 2)
    assert len(plan.rounds) == 1
    assert plan.sent == 2


@pytest.mark.parametrize("mesh", ["2", "2x2", "8"])
def test_a_few_positions_are_addends(mesh: str) -> None:
    last = ops.Slice(x(3, 16, 5), vector(-1), vector(1 << 60), vector(1))
    rows = ops.Slice(
        x(3, 16), vector(2, 15), vector(0, 1), vector(0, 1), vector(-1, -4)
    )
    for op in (last, rows):
        on = Mesh.parse(mesh)
        found = along(op, "added", on)
        assert any(isinstance(s, Partial) for c in found for s in c.results[0])
        for choice in found:
            program = sound(op, choice, on, drawn(op))
            assert all(handled_bytes(c) <= 4 * 3 * 5 for c in program.collectives())


@pytest.mark.parametrize("mesh", ["2", "2x2", "8"])
@pytest.mark.parametrize("made", [ops.CumSum, ops.CumProd])
@pytest.mark.parametrize("attrs", [{}, {"exclusive": 1}, {"reverse": 1}])
def test_running_sums_go_on_from_part_to_part(mesh: str, made: Any, attrs: Any) -> None:
    dtype = DType.I64 if made is ops.CumSum else DType.F32
    op, on = made(x(3, 16, dtype=dtype), vector_of(1), **attrs), Mesh.parse(mesh)
    found = along(op, "running", on)
    assert any(all(isinstance(s, Split) for s in c.results[0]) for c in found)
    for choice in found:
        arrays = drawn(op)
        if dtype is DType.F32:
            arrays = {"x": RNG.uniform(0.5, 1.5, (3, 16)).astype(np.float32)}
        sound(op, choice, on, arrays)


def vector_of(axis: int) -> Value:
    return scalar(axis, DType.I64)


@pytest.mark.parametrize("mesh", ["2", "4", "2x2"])
@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_a_buffer_in_parts_is_written_where_its_positions_are(
    mesh: str, length: int, mode: str
) -> None:
    update, at = x(2, 3, length, 5, name="new"), x(2, name="at", dtype=DType.I64)
    op, on = (
        ops.TensorScatter(x(2, 3, 16, 5), update, at, axis=2, mode=mode),
        Mesh.parse(mesh),
    )
    found = along(op, "written", on)
    assert found
    last = 16 if mode == "circular" else 17 - length
    for choice in found:
        for start in range(0, last, 3):
            arrays = drawn(op) | {"at": np.array([start, last - 1 - start])}
            program = sound(op, choice, on, arrays)
        if all(w.form == "written" for w in choice.ways):
            assert not list(program.collectives())


def index(*shape: int) -> Parameter:
    return x(*shape, name="at", dtype=DType.I64)


SCATTERED: dict[str, Callable[[], Op]] = {
    "one of a row": lambda: ops.ScatterElements(
        x(3, 16), index(3, 1), x(3, 1, name="new"), axis=1
    ),
    "several of a row": lambda: ops.ScatterElements(
        x(3, 16), index(3, 4), x(3, 4, name="new"), axis=1
    ),
    "added": lambda: ops.ScatterElements(
        x(3, 16), index(3, 4), x(3, 4, name="new"), axis=1, reduction="add"
    ),
    "one row": lambda: ops.ScatterND(x(16, 5), index(1, 1), x(1, 5, name="new")),
    "rows": lambda: ops.ScatterND(x(16, 5), index(3, 1), x(3, 5, name="new")),
    "elements": lambda: ops.ScatterND(x(16, 16), index(3, 2), x(3, name="new")),
    "the most": lambda: ops.ScatterND(
        x(16, 5), index(3, 1), x(3, 5, name="new"), reduction="max"
    ),
}


@pytest.mark.parametrize("mesh", ["4", "2x2"])
@pytest.mark.parametrize("name", SCATTERED)
def test_what_is_scattered_goes_to_whose_it_is(name: str, mesh: str) -> None:
    op, on = SCATTERED[name](), Mesh.parse(mesh)
    found = along(op, "written", on)
    assert found
    for choice in found:
        for first in (0, 3, 13):
            arrays = drawn(op)
            shape = arrays["at"].shape
            where = (np.arange(first, first + arrays["at"].size) * 5) % 16
            arrays["at"] = where.reshape(shape) - np.where(first == 3, 16, 0)
            sound(op, choice, on, arrays)


def test_a_permutation_gives_zeros_where_nobody_sends() -> None:
    op = Permute(x(2), axis="x", ways=3, pairs=(0, 2, 2, 1))
    parts = [np.full(2, i + 1) for i in range(3)]
    assert [int(p[0]) for p in op.exchange(parts)] == [0, 3, 1]
