"""Graphs are written in the order that was planned, and keep it through a file."""

from __future__ import annotations

import pytest
from onnx import ModelProto
from ordered_graphs import branchy, some_order
from test_plan import GRAPH, INNER, OUT, TWIN

from graphopt import Graph, load, ops
from graphopt.errors import UsageError
from graphopt.exporter import source_order, to_proto
from graphopt.ir import Op, Parameter
from graphopt.plan import METADATA_KEY, Plan, annotated
from graphopt.types import DType, tensor


def named(graph: Graph) -> Graph:
    """Each result with a name that tells where it was made."""
    results = [v for op in graph.ops for v in op.results]
    return graph.replace(names={v: f"v{i}" for i, v in enumerate(results)})


def written(model: ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in node.output]


def expected(graph: Graph, order: list[Op]) -> list[str]:
    names = {**graph.names, **dict(zip(graph.outputs, graph.output_names, strict=True))}
    return [names[v] for op in order for v in op.results if v.constant is None]


@pytest.mark.parametrize("seed", range(20))
def test_nodes_stand_in_the_order_that_was_planned(seed: int) -> None:
    graph = named(branchy(seed))
    order = some_order(graph, seed)
    model = to_proto(graph, order=order)
    assert written(model) == expected(graph, order)
    again = load(model)
    assert written(to_proto(again)) == written(model)
    assert expected(again, source_order(again)) == written(model)
    other = some_order(again, seed + 1)
    assert written(to_proto(again, order=other)) == expected(again, other)


def test_what_stands_for_an_op_stands_in_its_place() -> None:
    """Opset 17 has no Gelu: its parts come where it was to come."""
    x = Parameter(tensor(DType.F32, 4, 16), "x")
    gelu, tanh, neg = ops.Gelu(x), ops.Tanh(x), ops.Neg(x)
    sum_ = ops.Sum(gelu, tanh, neg)
    graph = Graph([x], [sum_])
    for order in ([neg, gelu, tanh, sum_], [neg, tanh, gelu, sum_]):
        kinds = [n.op_type for n in to_proto(graph, opset=17, order=order).graph.node]
        assert kinds[0] == "Neg"
        assert kinds[-1] == "Sum"
        assert "Gelu" not in kinds
        place = kinds.index("Tanh")
        assert place == (len(kinds) - 2 if order[2] is tanh else 1)


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="lacks Neg"):
        to_proto(GRAPH, order=[INNER, OUT])
    with pytest.raises(UsageError, match="Neg before Add, which it reads"):
        to_proto(GRAPH, order=[TWIN, INNER, OUT])
    with pytest.raises(UsageError, match="Add twice"):
        to_proto(GRAPH, order=[INNER, INNER, TWIN, OUT])
    with pytest.raises(UsageError, match="has Exp, which the graph has not"):
        to_proto(GRAPH, order=[INNER, TWIN, OUT, ops.Exp(OUT)])


def test_an_order_follows_rewrites_and_needs_no_text() -> None:
    plan = Plan(order=(INNER, TWIN, OUT))
    assert plan
    assert plan.follow({TWIN: ops.Abs(INNER)}).order == (INNER, ops.Abs(INNER), OUT)
    assert plan.follow({TWIN: INNER}).order == (INNER, OUT)
    assert METADATA_KEY not in annotated(GRAPH, plan).header.metadata
