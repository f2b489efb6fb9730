"""Choices where it matters what an operand holds, and what lies beyond the border."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt import ops
from graphopt.errors import UsageError
from graphopt.index import Split
from graphopt.ir import Graph, Op, Parameter
from graphopt.ops import Constant
from graphopt.passes.sharding import Decisions, Mesh, choices, oracle, partition
from graphopt.passes.sharding.layout import Layout, is_partial
from graphopt.reference import run
from graphopt.types import DType, tensor
from graphopt.weights import Tensor

RNG = np.random.default_rng(0)
MESHES = ("2", "4", "2x2")


def constant(value: Any, dtype: Any) -> Constant:
    return Constant(Tensor.of(np.asarray(value, dtype)))


def sound(op: Op, mesh: Mesh) -> list[Layout]:
    """Run every choice in the oracle; the layouts of the first operand."""
    (x,) = (v for v in op.operands if isinstance(v, Parameter))
    assert x.shape is not None
    assert x.dtype is not None
    drawn = np.random.default_rng(0).integers(0, 100, [int(n) for n in x.shape if n])
    array = drawn.astype(x.dtype.numpy)
    graph = Graph([x], op.results)
    whole = run(graph, {x.name: array})
    taken = []
    for choice in choices(op, mesh):
        layout = choice.operands[op.operands.index(x)]
        given = {} if is_partial(layout) else {x: layout}
        program = partition(graph, mesh, Decisions({op: choice}, given))
        found = oracle.run(program, {x.name: array})
        for name, truth in whole.items():
            np.testing.assert_allclose(
                found[name], truth, 1e-6, 1e-6, err_msg=str(choice)
            )
        taken.append(layout)
    return taken


@pytest.mark.parametrize("mesh", MESHES)
def test_windows_of_integers_read_zero_points_beyond_the_border(mesh: str) -> None:
    x = Parameter(tensor(DType.U8, 1, 1, 8, 8), "x")
    w = constant(RNG.integers(0, 255, (2, 1, 3, 3)), np.uint8)
    one, zero = constant(1.5, np.float32), constant(7, np.uint8)
    for op in (
        ops.ConvInteger(x, w, zero, zero, pads=(1, 1, 1, 1)),
        ops.ConvInteger(x, w, pads=(1, 1, 1, 1)),
        ops.QLinearConv(
            x, one, zero, w, one, zero, constant(900, np.float32), zero, pads=(1,) * 4
        ),
    ):
        taken = sound(op, Mesh.parse(mesh))
        assert any(Split(2) in layout for layout in taken)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_resize_to_equal_extents_is_not_always_the_identity(mesh: str) -> None:
    x = Parameter(tensor(DType.F32, 1, 1, 4, 4), "x")
    for factor, free in ((1.0, True), (1.2, False)):
        op = ops.Resize(
            x,
            None,
            constant((1, 1, factor, 1), np.float32),
            None,
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        assert op.shape == x.shape
        taken = sound(op, Mesh.parse(mesh))
        assert any(Split(2) in layout for layout in taken) is free


def test_choices_do_not_depend_on_what_was_asked_before() -> None:
    a, b = (Parameter(tensor(DType.F32, 4, 4), name) for name in "ab")
    weight, mesh = constant(np.ones((4, 4)), np.float32), Mesh.parse("2")
    counts = [len(choices(ops.Mul(a, v), mesh)) for v in (weight, b, weight)]
    assert counts == [4, 5, 4]  # addends of a weight help nobody


@pytest.mark.parametrize("state", ["S(2)", "P(prod)"])
def test_a_layout_that_a_value_cannot_have_is_refused(state: str) -> None:
    from graphopt.passes.sharding.saved import read_layout

    mesh = Mesh.parse("2")
    a = Parameter(tensor(DType.F32, 4, 4), "a")
    weight = constant(np.ones((4, 4)), np.float32)
    graph = Graph([a], [ops.Mul(a, weight)])
    layout = read_layout(state, mesh)
    for decisions in (Decisions(given={weight: layout}), Decisions(outputs=(layout,))):
        with pytest.raises(UsageError, match="cannot be brought to"):
            partition(graph, mesh, decisions)


def test_a_mask_of_some_keys_hides_the_others() -> None:
    q = Parameter(tensor(DType.F32, 1, 2, 4, 8), "q")
    k, v = (constant(RNG.normal(size=(1, 2, 4, 8)), np.float32) for _ in "kv")
    for width in (4, 1):
        mask = constant(np.ones((4, width)), np.bool_)
        op = ops.Attention(q, k, v, mask, is_causal=1, scale=0.01)
        taken = sound(op, Mesh.parse("2"))
        if width == 4:
            assert any(Split(2) in layout for layout in taken)
