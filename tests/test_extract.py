"""Cutting parts out of models, and giving inputs and outputs other names."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import Graph, UsageError
from graphopt.extract import extract, renamed
from graphopt.ir import Parameter
from graphopt.ops import Abs, Add, Mul, Neg, Relu, Split
from graphopt.reference import evaluate
from graphopt.types import DType, tensor

F = tensor(DType.F32, 4)


@pytest.fixture
def graph() -> Graph:
    """relu(-x + |y|) and its product with x, the values in between named."""
    x, y = Parameter(F, "x"), Parameter(F, "y")
    a, b = Neg(x), Abs(y)
    total = Add(a, b)
    out = Relu(total)
    return Graph(
        [x, y],
        [out, Mul(out, x)],
        output_names=["out", "product"],
        names={a: "a", b: "b", total: "total"},
        sources={total: ("the sum",)},
    )


X = np.array([1, -2, 3, -4], np.float32)
Y = np.array([5, 6, -7, 0], np.float32)


def test_the_whole(graph: Graph) -> None:
    assert extract(graph).outputs == graph.outputs


def test_some_outputs(graph: Graph) -> None:
    part = extract(graph, outputs=["b"])
    assert part.output_names == ("b",)
    assert [op.kind for op in part.ops] == ["Abs"]
    assert part.input_names == ("x", "y")


def test_between_values(graph: Graph) -> None:
    part = extract(graph, ["a", "b"], ["out"])
    assert [op.kind for op in part.ops] == ["Add", "Relu"]
    (out,) = evaluate(part, {"a": -X, "b": np.abs(Y)})
    np.testing.assert_array_equal(out, np.maximum(np.abs(Y) - X, 0))


def test_an_input_may_be_an_output(graph: Graph) -> None:
    part = extract(graph, ["total"], ["total", "out"])
    total, out = evaluate(part, {"total": X})
    np.testing.assert_array_equal(total, X)
    np.testing.assert_array_equal(out, np.maximum(X, 0))


def test_several_results() -> None:
    x = Parameter(F, "x")
    halves = Split(x, num_outputs=2, outs=2).results
    graph = Graph([x], [Neg(halves[1])], names={halves[0]: "left", halves[1]: "right"})
    part = extract(graph, ["right"], ["output_0"])
    assert [op.kind for op in part.ops] == ["Neg"]


def test_renaming(graph: Graph) -> None:
    part = extract(graph, ["a", "b"], ["out"], {"a": "left", "out": "result"})
    assert (part.input_names, part.output_names) == (("left", "b"), ("result",))
    (out,) = evaluate(part, {"left": -X, "b": np.abs(Y)})
    np.testing.assert_array_equal(out, np.maximum(np.abs(Y) - X, 0))


def test_renaming_keeps_defaults(graph: Graph) -> None:
    made = renamed(graph, {"x": "z"})
    assert made.input_names == ("z", "y")
    assert evaluate(made, {"z": X, "y": Y})[0].tolist() == (
        evaluate(graph, {"x": X, "y": Y})[0].tolist()
    )


@pytest.mark.parametrize(
    ("inputs", "outputs", "rename", "told"),
    [
        (["tota"], None, {}, "did you mean 'total'"),
        (None, ["tota"], {}, "did you mean 'total'"),
        (["a"], ["out"], {}, "also need the input 'y'"),
        (["x"], ["x", "y"], {}, "'y' is an input that is not named"),
        (["a", "b"], ["a"], {}, "no output needs the input 'b'"),
        (["a", "a"], ["a"], {}, "'a' is named twice"),
        (None, ["out", "out"], {}, "'out' is named twice"),
        (None, None, {"ouz": "z"}, "did you mean 'out'"),
        (None, None, {"x": "y"}, "'y' is named twice"),
    ],
)
def test_what_does_not_work_is_named(
    graph: Graph,
    inputs: list[str] | None,
    outputs: list[str] | None,
    rename: dict[str, str],
    told: str,
) -> None:
    with pytest.raises(UsageError, match=told):
        extract(graph, inputs, outputs, rename)


def test_deep_graphs() -> None:
    x = value = Parameter(F, "x")
    names = {}
    for i in range(20_000):
        value = Neg(Abs(value))  # type: ignore[assignment]
        names[value] = f"v{i}"
    part = extract(Graph([x], [value], names=names), ["v10000"], ["v10001"])
    assert len(part.ops) == 2


def test_an_input_and_an_output_need_names_of_their_own(graph: Graph) -> None:
    old, new = graph.output_names[0], graph.input_names[0]
    with pytest.raises(UsageError, match="both an input and an output"):
        extract(graph, rename={old: new})
