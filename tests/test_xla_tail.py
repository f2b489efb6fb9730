"""Where a shape depends on data: a head in XLA, and behind it a tail on the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from graphopt import Graph
from graphopt.dims import symbol
from graphopt.exporter import save
from graphopt.inputs import random_inputs
from graphopt.ir import Parameter, Value
from graphopt.lowering.xla.tail import split
from graphopt.ops import (
    Add,
    Cast,
    Compress,
    Concat,
    Constant,
    Gather,
    GatherND,
    Greater,
    Identity,
    If,
    MatMul,
    Mul,
    Neg,
    NonMaxSuppression,
    NonZero,
    OptionalHasElement,
    RandomNormalLike,
    ReduceMax,
    ReduceSum,
    Relu,
    Reshape,
    SequenceAt,
    SequenceConstruct,
    Shape,
    Transpose,
)
from graphopt.ops.random import is_random
from graphopt.plan import Plan
from graphopt.reference import run as reference
from graphopt.testing import graphs
from graphopt.types import DType, OptionalType, SequenceType, TensorType, tensor

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.xla

from graphopt.lowering import find  # noqa: E402

N = symbol("n")
X = Parameter(tensor(DType.F32, N, 4), "x")
X_OF_6 = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def ints(*values: int) -> Constant:
    return Constant(np.array(values, np.int64))


def picked(value: Value) -> Value:
    """The elements that are not zero, in order."""
    return GatherND(value, Transpose(NonZero(value), perm=(1, 0)))


def compared(graph: Graph, **inputs: Any) -> dict[str, int]:
    """Run it in XLA and in the reference; what ran on the host."""
    run = find("xla-cpu").compile(graph, Plan())
    made, truth = run(**inputs), reference(graph, inputs)
    assert list(made) == list(truth)
    for name, array in truth.items():
        assert made[name].dtype == array.dtype
        np.testing.assert_allclose(made[name], array, rtol=1e-5, atol=1e-6)
    host: dict[str, int] = dict(run.used().get("host", {}))
    return host


def test_what_waits_for_data_runs_behind_the_program() -> None:
    raised = Relu(X)
    graph = Graph(
        [X], [Mul(picked(raised), picked(raised)), Neg(raised)], output_names=["a", "b"]
    )
    host = compared(graph, x=X_OF_6)
    assert host == {"Transpose": 1, "NonZero": 1, "GatherND": 1, "Mul": 1}


def test_the_parts_make_the_whole() -> None:
    raised = Relu(X)
    ends = [Neg(raised), picked(raised), ReduceSum(X, ints(0))]
    graph = Graph([X], ends, output_names=["a", "b", "c"])
    parts = split(graph)
    assert parts is not None
    assert parts.head.output_names[:2] == ("a", "c")
    whole = parts.joined(parts.head)
    assert whole.outputs == graph.outputs
    assert whole.output_names == graph.output_names
    assert whole.inputs == graph.inputs


def test_inputs_and_defaults_reach_the_tail() -> None:
    scale = Parameter(
        tensor(DType.F32), "scale", default=Constant(np.float32(2)).tensor
    )
    graph = Graph([X, scale], [Mul(picked(Relu(X)), Add(scale, scale))])
    parts = split(graph)
    assert parts is not None
    assert "scale" in parts.head.input_names
    compared(graph, x=X_OF_6)
    compared(graph, x=X_OF_6, scale=np.float32(3))


def test_sizes_of_inputs_are_known_in_the_tail() -> None:
    found = picked(Relu(X))
    rows = Concat(Shape(X, start=0, end=1), ints(-1), axis=0)
    wide = Concat(found, Reshape(X, ints(-1)), found, found, found, axis=0)
    graph = Graph([X], [Reshape(Concat(wide, wide, wide, wide, axis=0), rows)])
    ones = np.ones((5, 4), np.float32)
    assert compared(graph, x=ones)["Reshape"] >= 1


def test_conditions_on_data_leave_branches_of_other_shapes_to_the_host() -> None:
    many = Greater(ReduceMax(X, keepdims=False), Constant(np.float32(0)))
    p, q = Parameter(X.type, "p"), Parameter(X.type, "q")
    picks = If(
        many,
        X,
        X,
        bodies=[
            Graph([p, q], [Reshape(p, ints(2, 12))]),
            Graph([p, q], [Reshape(q, ints(24))]),
        ],
    )
    graph = Graph([X], [Identity(picks), Relu(X)], output_names=["a", "b"])
    assert compared(graph, x=X_OF_6) == {"If": 1, "Identity": 1}
    assert compared(graph, x=-np.abs(X_OF_6)) == {"If": 1, "Identity": 1}


def test_what_no_program_gives_away_is_made_behind_it() -> None:
    """A sequence, made of what the program made, is read by the tail."""
    two = SequenceConstruct(Relu(X), Neg(X))
    graph = Graph([X], [picked(Add(SequenceAt(two, ints(0)), Neg(X)))])
    compared(graph, x=X_OF_6)


def test_lists_reach_the_tail_as_they_are() -> None:
    """Of arrays of different shapes; which one is read is data."""
    arrays = Parameter(SequenceType(tensor(DType.F32, None, 4)), "s")
    positive = Cast(Greater(Relu(X), Constant(np.float32(0))), to=DType.I64)
    some = SequenceAt(arrays, ReduceMax(positive, keepdims=False))
    graph = Graph([X, arrays], [some, Neg(X)], output_names=["a", "b"])
    compared(graph, x=X_OF_6, s=[X_OF_6[:2], X_OF_6[:3]])


@pytest.mark.parametrize("held", [None, X_OF_6])
def test_an_optional_that_holds_nothing_holds_nothing_in_the_tail(held: Any) -> None:
    maybe = Parameter(OptionalType(X.type), "s")
    positive = Cast(Greater(Relu(X), Constant(np.float32(0))), to=DType.I64)
    p, c = Parameter(X.type, "p"), Parameter(maybe.type, "c")
    q, d = Parameter(X.type, "q"), Parameter(maybe.type, "d")
    taken = If(
        Cast(ReduceMax(positive, keepdims=False), to=DType.BOOL),
        Relu(X),
        maybe,
        bodies=[
            Graph([p, c], [picked(p), OptionalHasElement(c)]),
            Graph([q, d], [Reshape(q, ints(-1)), OptionalHasElement(d)]),
        ],
    )
    ends = [*taken.results, Neg(X)]
    graph = Graph([X, maybe], ends, output_names=["a", "has", "b"])
    compared(graph, x=X_OF_6, s=held)


def test_an_output_may_have_the_name_of_an_input() -> None:
    minus = Neg(X)
    rows = NonZero(ReduceSum(Relu(minus), ints(1), keepdims=False))
    graph = Graph([X], [minus, Gather(X, Reshape(rows, ints(-1)))])
    graph = graph.replace(output_names=["x", "z"])
    compared(graph, x=X_OF_6)
    parts = split(graph)
    assert parts is not None
    assert parts.joined(parts.head).outputs == graph.outputs


def test_tails_draw_no_numbers() -> None:
    """A run has a key for its program alone; so all is refused, as it ever was."""
    graph = Graph([X], [RandomNormalLike(picked(Relu(X)))])
    assert split(graph) is None
    with pytest.raises(NotImplementedError, match="NonZero decides shapes"):
        find("xla-cpu").compile(graph, Plan())(x=X_OF_6)


def test_what_is_known_before_stays_in_the_program() -> None:
    mask = Parameter(tensor(DType.BOOL, 4), "mask")
    kept = Compress(Relu(X), mask, axis=1)
    graph = Graph([X, mask], [kept])
    assert split(graph) is None
    assert compared(graph, x=X_OF_6, mask=np.array([True, False, True, True])) == {}


def test_graphs_of_which_nothing_is_left_are_refused() -> None:
    graph = Graph([X], [NonZero(X)])
    assert split(graph) is None
    with pytest.raises(NotImplementedError, match="NonZero decides shapes"):
        find("xla-cpu").compile(graph, Plan())(x=X_OF_6)


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_random_graphs_with_a_tail(data: st.DataObject) -> None:
    a_random_graph_with_a_tail(data)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_many_random_graphs_with_a_tail(data: st.DataObject) -> None:
    a_random_graph_with_a_tail(data)


def a_random_graph_with_a_tail(data: st.DataObject) -> None:
    """What any float of a random graph leaves over zero, summed; nothing is lost."""
    graph = data.draw(graphs(max_ops=6))
    assume(not any(is_random(op) for op in graph.ops))
    floats = [
        v
        for op in graph.ops
        for v in op.results
        if not isinstance(op, Constant) and _has_axes(v)
    ]
    assume(floats)
    value = data.draw(st.sampled_from(floats))
    chosen = picked(Cast(Greater(value, Constant(np.float32(0))), to=DType.I64))
    outputs = [*graph.outputs, ReduceSum(chosen, ints(0)), chosen]
    made = graph.replace(
        outputs=outputs,
        output_names=[f"y{i}" for i in range(len(outputs))],
        output_types=None,
    )
    parts = split(made)
    assume(parts is not None)  # what follows from constants is known
    assert not any(isinstance(op, NonZero) for op in parts.head.ops)
    assert parts.joined(parts.head).outputs == made.outputs
    inputs = random_inputs(made, 0)
    behind = reference(parts.tail, _tail_inputs(parts, inputs))
    truth = reference(made, inputs)
    for name, array in behind.items():
        np.testing.assert_array_equal(array, truth[name])


def _tail_inputs(parts: Any, inputs: Any) -> dict[str, Any]:
    known = {**inputs, **reference(parts.head, inputs)}
    return {p.name: known[p.name] for p in parts.tail.inputs if p.name in known}


def _has_axes(value: Value) -> bool:
    type_ = value.type
    return (
        isinstance(type_, TensorType) and type_.dtype is DType.F32 and bool(value.rank)
    )


# --- on a mesh ------------------------------------------------------------------------


def detector() -> Graph:
    """Boxes and scores of a product each; the best, without those that overlap."""
    rng = np.random.default_rng(1)
    x = Parameter(tensor(DType.F32, 1, 16, 8), "x")
    corners = Constant(rng.normal(size=(8, 4)).astype(np.float32))
    classes = Constant(rng.normal(size=(8, 3)).astype(np.float32))
    boxes = MatMul(Relu(x), corners)
    scores = Transpose(MatMul(Relu(x), classes), perm=(0, 2, 1))
    best = NonMaxSuppression(boxes, scores, ints(4), Constant(np.float32([0.5])))
    where = Reshape(Gather(best, ints(2), axis=1), ints(-1))
    found = Gather(Reshape(boxes, ints(16, 4)), where, axis=0)
    return Graph([x], [found, scores, where], output_names=["boxes", "scores", "where"])


@pytest.mark.slow
def test_a_detector_runs_on_a_mesh(tmp_path: Path) -> None:
    """In another process, which shows eight devices; from a file with a plan, too."""
    graph = detector()
    inputs = {"x": np.random.default_rng(2).normal(size=(1, 16, 8)).astype(np.float32)}
    save(graph, tmp_path / "model.onnx")
    np.savez(tmp_path / "in.npz", **inputs)
    commands = [
        ["run", "model.onnx", "--mesh", "8", "--inputs", "in.npz", "-o", "a.npz"],
        ["optimize", "model.onnx", "--mesh", "2x4", "--target", "xla-cpu"],
        ["run", "model.opt.onnx", "--mesh", "--inputs", "in.npz", "-o", "b.npz"],
    ]
    said = [_graphopt(command, tmp_path) for command in commands]
    assert "on the host, behind the program: " in said[0]
    assert "NonMaxSuppression" in said[0]
    truth = reference(graph, inputs)
    for name in ("a.npz", "b.npz"):
        with np.load(tmp_path / name) as made:
            assert set(made) == set(truth)
            for output, array in truth.items():
                np.testing.assert_allclose(made[output], array, rtol=1e-5, atol=1e-6)


def _graphopt(command: list[str], folder: Path) -> str:
    kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    path = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "graphopt.cli", *command],
        cwd=folder,
        env=kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
