"""Tiled: types, rules, text, and that every way to run it gives the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from graphopt.cost import cost
from graphopt.dims import symbol
from graphopt.errors import TypeMismatch
from graphopt.exporter import to_proto
from graphopt.ir import Graph, Parameter, Value
from graphopt.lowering import find
from graphopt.ops import Add, Cast, MatMul, Mul, Relu, Scan, Slice, Tiled
from graphopt.ops.tiled import NUMBER, WRITTEN_OUT
from graphopt.plan import Plan
from graphopt.reference import evaluate
from graphopt.text import parse
from graphopt.types import DType, tensor
from graphopt.verify import IllegalGraph, verify

F32 = DType.F32


def param(name: str, *shape: Any, dtype: DType = F32) -> Parameter:
    return Parameter(tensor(dtype, *shape), name)


def rows(
    extent: int = 12, size: int = 3, *, start: int = 0, step: int = 3, count: int = 4
) -> tuple[list[Parameter], Tiled]:
    """relu(x[i:j] @ w) + number, side by side, and the sum of the tiles of x."""
    x, w, zero = param("x", extent, 2), param("w", 2, 5), param("zero", size, 2)
    number, state = Parameter(NUMBER, "number"), param("state", size, 2)
    part, whole = param("part", size, 2), param("whole", 2, 5)
    made = Add(Relu(MatMul(part, whole)), Cast(number, to=F32))
    body = Graph([number, state, part, whole], [Add(state, part), made], name="tile")
    op = Tiled(
        *(zero, x, w),
        bodies=(body,),
        count=count,
        states=1,
        captures=1,
        axes=(0,),
        starts=(start,),
        steps=(step,),
        result_axes=(0,),
    )
    return [x, w, zero], op


def arrays(inputs: list[Parameter], seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        p.name: random.normal(size=p.shape).astype(p.type.dtype.numpy)  # type: ignore[union-attr]
        for p in inputs
    }


def truth(given: dict[str, Any], op: Tiled, size: int) -> list[Any]:
    made, state = [], given["zero"]
    for i in range(int(op.count)):
        first = int(op.starts[0] + i * op.steps[0])
        part = given["x"][first : first + size]
        state = state + part
        made.append(np.maximum(part @ given["w"], 0) + i)
    return [state, np.concatenate(made)]


CUTS = st.tuples(
    st.integers(1, 4), st.integers(0, 3), st.integers(0, 5), st.integers(1, 6)
)


@settings(deadline=None, max_examples=40)
@given(CUTS)
def test_a_run_is_that_of_each_tile_in_order(cut: tuple[int, int, int, int]) -> None:
    size, start, step, count = cut
    extent = start + (count - 1) * step + size
    inputs, op = rows(extent, size, start=start, step=step, count=count)
    verify(Graph(inputs, op.results))
    fed = arrays(inputs)
    expected = truth(fed, op, size)
    for values in (op.results, op.unrolled(), op.scanned()):
        found = evaluate(Graph(inputs, values), fed)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
            assert a.dtype == b.dtype


@pytest.mark.parametrize("target", ["ort-cpu", "xla-cpu"])
@pytest.mark.parametrize("count", [4, WRITTEN_OUT + 2])
@pytest.mark.parametrize("step", [2, 3])
def test_targets_run_it(target: str, count: int, step: int) -> None:
    pytest.importorskip("onnxruntime" if target == "ort-cpu" else "jax")
    inputs, op = rows(3 * count + 1, step=step, count=count)
    graph = Graph(inputs, op.results)
    fed = arrays(inputs)
    found = find(target).compile(graph, Plan())(fed)
    for a, b in zip(found.values(), truth(fed, op, 3), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "kinds"), [(WRITTEN_OUT, {"Slice"}), (WRITTEN_OUT + 1, {"Scan"})]
)
def test_no_onnx_file_holds_it(count: int, kinds: set[str]) -> None:
    inputs, op = rows(3 * count, count=count)
    nodes = {node.op_type for node in to_proto(Graph(inputs, op.results)).graph.node}
    assert "Tiled" not in nodes
    assert kinds <= nodes
    assert ("Scan" in nodes) == (count > WRITTEN_OUT)


def test_tiles_that_fill_a_dim_are_slices_of_a_scan() -> None:
    _, op = rows()
    assert not any(isinstance(o, Slice) for o in body_of(op).ops)
    _, op = rows(step=2)
    assert any(isinstance(o, Slice) for o in body_of(op).ops)


def body_of(op: Tiled) -> Graph:
    (scan,) = {v.op for v in op.scanned() if isinstance(v.op, Scan)} or {
        v.op.operands[0].op  # type: ignore[union-attr]
        for v in op.scanned()
        if v.op is not None
    }
    assert isinstance(scan, Scan)
    (body,) = scan.bodies
    return body


def test_a_dim_that_is_not_known_stays_so_in_a_scan() -> None:
    n = symbol("n")
    x, part = param("x", n, 12, n), param("part", n, 3, n)
    number = Parameter(NUMBER, "number")
    body = Graph([number, part], [Mul(part, part)], name="tile")
    op = Tiled(
        x, bodies=(body,), count=4, axes=(1,), starts=(0,), steps=(3,), result_axes=(1,)
    )
    assert op.shape == (n, 12, n)
    given = np.arange(2 * 12 * 2, dtype=np.float32).reshape(2, 12, 2)
    for values in (op.results, op.scanned(), op.unrolled()):
        (found,) = evaluate(Graph([x], values), [given])
        np.testing.assert_array_equal(found, given * given)


def test_its_text_parses_back() -> None:
    inputs, op = rows()
    graph = Graph(inputs, op.results)
    assert parse(str(graph)).key == graph.key
    assert "graphopt::Tiled" in str(graph)


def test_only_one_tile_is_alive() -> None:
    inputs, op = rows(1200, 3, count=400)
    found = cost(Graph(inputs, op.results))
    outside = 4 * (2 * 1200 + 5 * 1200 + 2 * 5 + 2 * 2 * 3)
    assert isinstance(found.peak, int)
    assert outside < found.peak < outside + 500
    (body,) = op.bodies
    each = cost(body).flops
    assert isinstance(each, int)
    assert found.flops == 400 * each


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"count": 5}, "the last tile ends at 15, the dim at 12"),
        ({"count": 0}, "0 tiles"),
        ({"starts": (1,)}, "the last tile ends at 13"),
        ({"starts": (-1,)}, "tiles begin at -1"),
        ({"axes": (0, 1)}, "not those of its cut operands"),
        ({"axes": (7,)}, "unknown size"),
        ({"captures": 2}, "not those of its cut operands"),
        ({"result_axes": ()}, "not the states and the parts"),
        ({"states": 2, "captures": 0}, "not the states and the parts"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], reason: str) -> None:
    _, op = rows()
    with pytest.raises(TypeMismatch, match=reason):
        op.copy(**changed)


def test_the_verifier_holds_the_body_to_the_operands() -> None:
    inputs, op = rows()
    (body,) = op.bodies
    number, state, part, _ = body.inputs
    other = param("whole", 2, 6)
    made: list[Value] = [Add(state, part), Relu(MatMul(part, other))]
    wrong = op.copy(bodies=(Graph([number, state, part, other], made),))
    with pytest.raises(IllegalGraph, match=r"f32\[2, 5\] goes into 'whole'"):
        verify(Graph(inputs, wrong.results))
