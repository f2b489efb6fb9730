"""Plans: they follow rewrites, and survive a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphopt import Graph, InvalidModel, load
from graphopt.exporter import save
from graphopt.ir import Parameter
from graphopt.ops import Add, Neg, Relu
from graphopt.plan import METADATA_KEY, Plan, annotated, plan_of
from graphopt.provenance import named_values
from graphopt.types import DType, tensor

X = Parameter(tensor(DType.F32, 4), "x")
INNER = Add(X, X)
TWIN = Neg(INNER)
OUT = Relu(TWIN)
GRAPH = Graph([X], [OUT], output_names=["y"], names={INNER: "name", TWIN: "name"})


def test_an_empty_plan_is_not_written() -> None:
    assert not Plan()
    assert annotated(GRAPH, Plan()) is GRAPH
    assert plan_of(GRAPH, named_values(GRAPH)) == Plan()


def test_a_plan_survives_a_file(tmp_path: Path) -> None:
    plan = Plan(
        {X: {"offset": 0}, INNER: {"offset": 64}, TWIN: {"tile": [2]}, OUT: {"a": "b"}}
    )
    path = tmp_path / "planned.onnx"
    save(annotated(GRAPH, plan), path)
    read = load(path)
    found = plan_of(read, named_values(read))
    add, neg, relu = read.ops
    assert found.decisions == {
        read.inputs[0]: {"offset": 0},
        add: {"offset": 64},
        neg: {"tile": [2]},
        relu: {"a": "b"},
    }


def test_a_plan_of_another_graph_is_dropped() -> None:
    planned = annotated(GRAPH, Plan({INNER: {"tile": 1}}))
    assert annotated(planned, Plan(), planned) is planned
    again = planned.substitute({INNER: X})
    assert METADATA_KEY in again.header.metadata
    assert METADATA_KEY not in annotated(again, Plan(), planned).header.metadata
    plain = GRAPH.substitute({INNER: X})
    assert annotated(plain, Plan(), GRAPH) is plain


def test_what_is_decided_of_the_whole_comes_back() -> None:
    plan = Plan({X: {"offset": 0}}, whole={"mesh": "2x2"})
    made = annotated(GRAPH, plan)
    assert plan_of(made, named_values(made)) == plan
    assert plan.follow({X: INNER}).whole == plan.whole
    alone = Plan(whole={"mesh": "8"})
    assert alone
    assert plan_of(annotated(GRAPH, alone), {}) == alone


def test_a_plan_follows_rewrites() -> None:
    plan = Plan({INNER: {"tile": 1, "at": 2}, TWIN: {"tile": 3}})
    moved = plan.follow({TWIN: INNER})
    assert moved.decisions == {INNER: {"tile": 3, "at": 2}}
    assert plan.follow({}).decisions == plan.decisions


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"schema": 99, "values": {}}),
        json.dumps({"schema": 1, "values": {"nowhere": {}}}),
        json.dumps({"schema": 1, "values": []}),
    ],
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    graph = GRAPH.with_header(metadata={METADATA_KEY: text})
    with pytest.raises(InvalidModel, match="plan"):
        plan_of(graph, named_values(graph))
