"""Strips: types, rules, text, and that every way to run them gives the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from graphopt.dims import evaluate as evaluate_dim, symbol
from graphopt.errors import TypeMismatch
from graphopt.exporter import to_proto
from graphopt.ir import Graph, Parameter, Value
from graphopt.lowering import find
from graphopt.ops import Add, Cast, MatMul, Relu, Scan, Strips
from graphopt.ops.strips import firsts_of, strips_of
from graphopt.ops.tiled import NUMBER
from graphopt.plan import Plan
from graphopt.reference import evaluate
from graphopt.specialize import specialize
from graphopt.text import parse
from graphopt.types import DType, tensor
from graphopt.verify import IllegalGraph, verify

F32 = DType.F32
N = symbol("n")


def param(name: str, *shape: Any, dtype: DType = F32) -> Parameter:
    return Parameter(tensor(dtype, *shape), name)


def rows(size: int = 4, extent: Any = N) -> tuple[list[Parameter], Strips]:
    """relu(x @ w) + first along axis 1, and of y two rows for each of x."""
    x, y, w = param("x", 2, extent, 3), param("y", 2 * extent, 2), param("w", 3, 5)
    _, length = strips_of(extent, size)
    first = Parameter(NUMBER, "first")
    part, other = param("part", 2, length, 3), param("other", 2 * length, 2)
    whole = param("whole", 3, 5)
    made = Add(Relu(MatMul(part, whole)), Cast(first, to=F32))
    body = Graph([first, part, other, whole], [made, Add(other, other)], name="strip")
    op = Strips(
        *(x, y, w),
        bodies=(body,),
        size=size,
        captures=1,
        axes=(1, 0),
        ratios=(1, 2),
        result_axes=(1, 0),
        result_ratios=(1, 2),
    )
    return [x, y, w], op


def arrays(extent: int) -> dict[str, Any]:
    random = np.random.default_rng(extent)
    shapes = {"x": (2, extent, 3), "y": (2 * extent, 2), "w": (3, 5)}
    return {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def truth(fed: dict[str, Any], size: int) -> list[Any]:
    """By position: the strip that begins last has it."""
    x, extent = fed["x"], fed["x"].shape[1]
    count = max(1, -(-extent // size))
    length = -(-extent // count)
    begins = np.zeros(extent, np.float32)
    for i in range(count):
        start = min(i * length, extent - length)
        begins[start : start + length] = start
    return [np.maximum(x @ fed["w"], 0) + begins[:, None], 2 * fed["y"]]


def same(found: Any, expected: list[Any]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        assert a.dtype == b.dtype


@given(st.integers(0, 500), st.integers(1, 70))
def test_strips_cover_a_dim_and_lap_little(extent: int, size: int) -> None:
    firsts, length = firsts_of(extent, size)
    assert length <= size
    covered = {p for first in firsts for p in range(first, first + length)}
    assert covered == set(range(extent))
    assert len(firsts) * length - extent < max(1, len(firsts))
    assert firsts[:-1] == [i * length for i in range(len(firsts) - 1)]
    count, long = strips_of(N, size)
    known = {"n": extent}
    assert evaluate_dim(count, known) == len(firsts)
    assert evaluate_dim(long, known) == length


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 40), st.integers(1, 9))
def test_a_run_is_that_of_each_strip(extent: int, size: int) -> None:
    inputs, op = rows(size)
    verify(Graph(inputs, op.results))
    fed = arrays(extent)
    for values in (op.results, op.body()):
        graph = Graph(inputs, values)
        verify(graph)
        same(evaluate(graph, fed), truth(fed, size))


def test_without_strips_all_is_typed() -> None:
    _, op = rows()
    made = op.body()
    assert [v.type for v in made] == [v.type for v in op.results]
    _, length = strips_of(N, 4)
    (scan,) = (o for o in Graph(rows()[0], made).ops if isinstance(o, Scan))
    assert [v.shape for v in scan.bodies[0].outputs] == [
        (2, length, 5),
        (2 * length, 2),
    ]


@pytest.mark.parametrize("extent", [1, 3, 4, 5, 8, 17, 64])
def test_onnxruntime_runs_one_file_at_every_length(extent: int) -> None:
    pytest.importorskip("onnxruntime")
    inputs, op = rows()
    fed = arrays(extent)
    found = find("ort-cpu").compile(Graph(inputs, op.results), Plan())(fed)
    same(found.values(), truth(fed, 4))


@pytest.mark.parametrize("extent", [1, 4, 9])
def test_xla_knows_the_length_when_it_traces(extent: int) -> None:
    pytest.importorskip("jax")
    inputs, op = rows()
    fed = arrays(extent)
    found = find("xla-cpu").compile(Graph(inputs, op.results), Plan())(fed)
    same(found.values(), truth(fed, 4))


@pytest.mark.parametrize("extent", [1, 4, 6, 11])
def test_a_dim_that_is_fixed_later_fixes_the_strips(extent: int) -> None:
    inputs, op = rows()
    made = specialize(Graph(inputs, op.results), {"n": extent}).graph
    verify(made)
    fixed = made.outputs[0].op
    assert isinstance(fixed, Strips)
    firsts, length = firsts_of(extent, 4)
    assert (fixed.count, fixed.length) == (len(firsts), length)
    fed = arrays(extent)
    for values in (fixed.results, fixed.body()):
        same(evaluate(Graph(made.inputs, values), fed), truth(fed, 4))


def test_an_onnx_file_has_a_scan_and_no_strips() -> None:
    inputs, op = rows()
    nodes = {node.op_type for node in to_proto(Graph(inputs, op.results)).graph.node}
    assert "Strips" not in nodes
    assert "Scan" in nodes


def test_its_text_parses_back() -> None:
    inputs, op = rows()
    graph = Graph(inputs, op.results)
    assert parse(str(graph)).key == graph.key
    assert "graphopt::Strips" in str(graph)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"size": 0}, "strips of 0 positions"),
        ({"ratios": (1, 1)}, "positions of one operand"),
        ({"ratios": (2, 2)}, "has no axis 1 by 2"),
        ({"axes": (1, 7)}, "operand 1 has no axis 7"),
        ({"axes": (1,)}, "not those of its cut operands"),
        ({"captures": 3}, "not those of its cut operands"),
        ({"result_axes": (1,)}, "not the parts"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], reason: str) -> None:
    _, op = rows()
    with pytest.raises(TypeMismatch, match=reason):
        op.copy(**changed)


def test_the_verifier_holds_the_body_to_the_operands() -> None:
    inputs, op = rows()
    (body,) = op.bodies
    first, part, other, _ = body.inputs
    wider = param("whole", 3, 6)
    made: list[Value] = [Relu(MatMul(part, wider)), Add(other, other)]
    wrong = op.copy(bodies=(Graph([first, part, other, wider], made),))
    with pytest.raises(IllegalGraph, match=r"f32\[3, 5\] goes into 'whole'"):
        verify(Graph(inputs, wrong.results))
