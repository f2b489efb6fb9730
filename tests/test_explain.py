"""What rules did, what they did not do, and why; the names that lead there."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import Graph, Pipeline, UsageError, optimize
from graphopt.driver import missed
from graphopt.explain import events, misses
from graphopt.ir import Parameter
from graphopt.ops import (
    Add,
    BatchNormalization,
    Constant,
    Conv,
    LayerNormalization,
    Mul,
    Neg,
    Relu,
)
from graphopt.passes import Algebra, FoldAffine
from graphopt.provenance import named_values, names_of, place, value_named
from graphopt.types import DType, tensor


def floats(*shape: int) -> Constant:
    return Constant(np.ones(shape, np.float32))


@pytest.fixture
def graph() -> Graph:
    """Two batch norms after convolutions, one of which is read elsewhere too."""
    x = Parameter(tensor(DType.F32, 1, 2, 8, 8), "x")
    first = Conv(x, floats(2, 2, 3, 3))
    norm = BatchNormalization(first, *[floats(2)] * 4)
    second = Conv(Relu(norm), floats(2, 2, 1, 1))
    other = BatchNormalization(second, *[floats(2)] * 4)
    out = Mul(Neg(Neg(other)), second)
    return Graph(
        [x],
        [out],
        output_names=["y"],
        names={norm: "normed", second: "second_out"},
        sources={norm: ("norm",), other: ("other",), second: ("conv",)},
    )


def test_events(graph: Graph) -> None:
    found = events(graph, Pipeline((Algebra(), FoldAffine())))
    fired = {(event.rule, event.op) for event in found if event.fired}
    assert ("after_linear", "BatchNormalization node 'norm'") in fired
    assert ("involution", "Neg") in fired
    missed = [event for event in found if not event.fired and "other" in event.names]
    assert any("read elsewhere" in event.reason for event in missed)


def test_misses_are_those_of_the_finished_graph(graph: Graph) -> None:
    pipeline = Pipeline((Algebra(), FoldAffine()))
    done = pipeline(graph)
    found = misses(done, pipeline)
    assert found == misses(graph, pipeline)
    assert found == [e for e in events(graph, pipeline) if not e.fired]
    assert pipeline(done) is done  # looking changed nothing


def test_misses_are_those_before_later_passes_spell_it_otherwise() -> None:
    """The last pass writes a sum for ONNX Runtime that no rule takes for one."""
    x, y = (Parameter(tensor(DType.F32, 2, 3, 16), name) for name in "xy")
    norm = LayerNormalization(Add(x, y), floats(16), floats(16))
    graph = Graph([x, y], [Relu(norm)], output_names=["z"])
    graph = graph.with_header(opsets={"": 20})
    result = optimize(graph, "ort-cpu", check="off")
    assert "Sum" in {op.kind for op in result.graph.ops}
    slow = "the fused kernel is slower"
    (found,) = [m for m in missed(result) if m.reason == slow]
    assert found.rule == "skip_layer_norm"
    (norm_alone,) = found.ops
    assert "LayerNormalization" in norm_alone


def test_provenance(graph: Graph) -> None:
    x = graph.inputs[0]
    norm = value_named(graph, "normed").op
    assert norm is not None
    assert place(graph, norm) == "BatchNormalization node 'norm'"
    assert list(names_of(graph, norm)) == ["norm", "normed"]
    nameless = Add(x, x)
    assert place(graph, nameless) == "Add"
    assert place(graph.replace(names={nameless: "n"}), nameless) == (
        "Add that gives 'n'"
    )
    assert set(named_values(graph)) == {"x", "y", "normed", "second_out"}
    with pytest.raises(UsageError, match="did you mean 'normed'"):
        value_named(graph, "norned")
