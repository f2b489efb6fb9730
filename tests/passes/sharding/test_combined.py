"""Attention whose keys devices share out, against the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphopt.index import Split
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import Attention
from graphopt.ops.mesh import AllGather, AllToAll
from graphopt.passes.sharding import Decisions, Mesh, choices, oracle, partition
from graphopt.passes.sharding.choices import Choice
from graphopt.passes.sharding.program import Program
from graphopt.reference import run
from graphopt.types import DType, tensor

BATCH, HEADS, ROWS, KEYS, SIZE = 2, 4, 4, 8, 8


def x(name: str, *shape: int, dtype: DType = DType.F32) -> Parameter:
    return Parameter(tensor(dtype, *shape), name)


def attention(
    *rest: Value | None, groups: int = HEADS, dtype: DType = DType.F32, **attrs: Any
) -> Attention:
    q = x("q", BATCH, HEADS, ROWS, SIZE, dtype=dtype)
    k, v = (x(n, BATCH, groups, KEYS, w, dtype=dtype) for n, w in (("k", 8), ("v", 6)))
    return Attention(q, k, v, *rest, **attrs)


def flat(**attrs: Any) -> Attention:
    q, k, v = x("q", 2, 4, 32), x("k", 2, 8, 16), x("v", 2, 8, 12)
    return Attention(q, k, v, q_num_heads=4, kv_num_heads=2, **attrs)


BOOL = DType.BOOL
CASES: dict[str, Callable[[], Attention]] = {
    "plain": attention,
    "grouped": lambda: attention(groups=2),
    "causal": lambda: attention(is_causal=1, groups=2),
    "window": lambda: attention(left_window_size=1, right_window_size=2),
    "capped": lambda: attention(softcap=2.0, scale=0.5),
    "mask": lambda: attention(x("mask", ROWS, KEYS, dtype=BOOL)),
    "mask of heads": lambda: attention(x("mask", 1, HEADS, 1, KEYS), is_causal=1),
    "lengths": lambda: attention(None, None, None, x("n", BATCH, dtype=DType.I64)),
    "causal lengths": lambda: attention(
        None, None, None, x("n", BATCH, dtype=DType.I64), is_causal=1
    ),
    "flat": flat,
    "flat causal": lambda: flat(is_causal=1),
}


def fed(op: Attention, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for value in op.operands:
        if not isinstance(value, Parameter) or value.dtype is None:
            continue
        shape = [int(n) for n in value.shape or () if n]
        made: Any = rng.normal(size=shape)
        if value.dtype is BOOL:
            made = made > 0
            made[0] = False  # a query that sees nothing
        elif value.name == "n":
            made = np.array([5, 3])
        elif value.name == "mask":
            made = np.where(made > 1, -np.inf, made)
        arrays[value.name] = made.astype(value.dtype.numpy)
    return arrays


def combined(op: Attention, mesh: Mesh) -> list[Choice]:
    return [c for c in choices(op, mesh) if any(w.form == "combined" for w in c.ways)]


def sound(op: Attention, choice: Choice, mesh: Mesh, arrays: Any) -> Program:
    inputs = [v for v in op.operands if isinstance(v, Parameter)]
    graph = Graph(inputs, [op], output_names=["y"])
    pairs = zip(op.operands, choice.operands, strict=True)
    given = {v: layout for v, layout in pairs if isinstance(v, Parameter)}
    if any("P" in str(layout) for layout in given.values()):
        given = {}
    program = partition(graph, mesh, Decisions({op: choice}, given))
    truth, found = run(graph, arrays)["y"], oracle.run(program, arrays)["y"]
    narrow = op.dtype is DType.BF16
    np.testing.assert_allclose(
        found.astype(np.float64),
        truth.astype(np.float64),
        2e-2 if narrow else 1e-5,
        2e-2 if narrow else 1e-6,
        err_msg=str(choice),
    )
    return program


ON_A_SQUARE = ("grouped", "causal lengths", "flat causal")


@pytest.mark.parametrize(
    ("name", "mesh"),
    [*((name, "4") for name in CASES)]
    + [pytest.param(n, "2x2", marks=pytest.mark.slow) for n in ON_A_SQUARE],
)
def test_parts_of_keys_give_the_whole(name: str, mesh: str) -> None:
    op, on = CASES[name](), Mesh.parse(mesh)
    found = combined(op, on)
    states = {layout for c in found for layout in c.results[0]}
    assert {Split(1), Split(2)} & states
    arrays = fed(op)
    for choice in found:
        sound(op, choice, on, arrays)


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16, DType.F64])
def test_logarithms_keep_their_bits(dtype: DType) -> None:
    """Keys that weigh much more than others, all on one device."""
    op, mesh = attention(dtype=dtype), Mesh.parse("4")
    arrays = fed(op)
    arrays["k"] = arrays["k"] * np.linspace(0.1, 8, KEYS)[:, None].astype(dtype.numpy)
    found = combined(op, mesh)
    assert found
    for choice in found:
        sound(op, choice, mesh, arrays)


@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min])
def test_rows_that_see_nothing_are_as_in_the_whole(lowest: float) -> None:
    op, mesh = attention(x("mask", BATCH, 1, ROWS, KEYS)), Mesh.parse("4")
    mask = np.zeros((BATCH, 1, ROWS, KEYS), np.float32)
    mask[0], mask[1, 0, :, 3:] = lowest, lowest
    found = combined(op, mesh)
    assert found
    for choice in found:
        sound(op, choice, mesh, fed(op) | {"mask": mask})


def test_one_collective_combines_all() -> None:
    op, mesh = attention(is_causal=1), Mesh.parse("4")
    kinds: dict[str, list[type]] = {}
    for choice in combined(op, mesh):
        made = list(sound(op, choice, mesh, fed(op)).collectives())
        kinds[str(choice.results[0][0])] = [type(c) for c in made]
    assert kinds["S(1)"] == kinds["S(2)"] == [AllToAll]
    assert kinds["R"] == [AllGather]


def test_a_mask_of_fewer_keys_hides_the_others() -> None:
    op = attention(x("mask", ROWS, KEYS - 1, dtype=BOOL))
    assert not combined(op, Mesh.parse("2"))
