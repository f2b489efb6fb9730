"""Plans of a mesh, saved: they come back from a file as what they were."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

import graphopt
from graphopt import load, ops, reference
from graphopt.errors import InvalidModel, UsageError
from graphopt.exporter import save, to_proto
from graphopt.index import Combiner, Partial, Replicated, Split
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Header, Parameter, Value
from graphopt.passes.sharding.choices import choices
from graphopt.passes.sharding.layout import Layout, layouts
from graphopt.passes.sharding.mesh import Mesh
from graphopt.passes.sharding.oracle import run
from graphopt.passes.sharding.partition import Decisions, partition
from graphopt.passes.sharding.saved import (
    Restored,
    layout_text,
    read_layout,
    restored,
    saved,
)
from graphopt.passes.sharding.stages import ordered
from graphopt.plan import METADATA_KEY, Plan, annotated, plan_of
from graphopt.provenance import named_values
from graphopt.types import DType, TensorType, tensor

MESH = Mesh.parse("data=2,model=2")
HEADER = Header(opsets={"": 20}, ir_version=9)
REPLICATED = (Replicated(), Replicated())


def weight(*shape: int) -> ops.Constant:
    rng = np.random.default_rng(len(shape))
    return ops.Constant(rng.normal(size=shape).astype(np.float32))


def block() -> Graph:
    """Attention over one head, and a residual connection around a feed-forward."""
    x = Parameter(tensor(DType.F32, 4, 8, 16), "x")
    keys = ops.MatMul(x, weight(16, 16))
    scores = ops.MatMul(x, ops.Transpose(keys, perm=(0, 2, 1)))
    mixed = ops.MatMul(ops.Softmax(scores, axis=-1), x)
    hidden = ops.Relu(ops.MatMul(mixed, weight(16, 32)))
    low, high = ops.Split(hidden, axis=-1, num_outputs=2).results
    out = ops.Add(ops.MatMul(ops.Mul(low, high), weight(16, 16)), x)
    return Graph([x], [out, scores], output_names=["y", "scores"], header=HEADER)


def random_decisions(graph: Graph, seed: int, mesh: Mesh = MESH) -> Decisions:
    """A legal plan; constants and inputs lie as somebody reads them."""
    rng = random.Random(seed)
    chosen = {
        op: rng.choice(choices(op, mesh))
        for op in graph.ops
        if not isinstance(op, ops.Constant)
    }
    lying: dict[Value, Layout] = {}
    for value in (*graph.inputs, *(op for op in graph.ops if op.kind == "Constant")):
        type_ = value.type
        if isinstance(type_, TensorType) and type_.shape and rng.random() < 0.7:
            lying[value] = rng.choice(list(layouts(type_.shape, mesh)))
    return Decisions(chosen, lying)


def written(graph: Graph, plan: Plan, path: Path) -> tuple[Graph, Restored]:
    save(annotated(graph, plan), path)
    read = load(path)
    found = restored(read, plan_of(read, named_values(read)))
    assert found is not None
    return read, found


@pytest.mark.parametrize("seed", range(12))
def test_a_plan_survives_a_file(tmp_path: Path, seed: int) -> None:
    graph, mesh = block(), MESH
    decisions = random_decisions(graph, seed)
    before = partition(graph, mesh, decisions)
    decisions = replace(decisions, outputs=before.outputs)
    read, found = written(graph, saved(graph, mesh, decisions), tmp_path / "m.onnx")
    assert found.mesh == mesh
    after = partition(read, found.mesh, found.decisions)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    kinds = [(op.kind, dict(op.attrs)) for op in before.collectives()]
    assert [(op.kind, dict(op.attrs)) for op in after.collectives()] == kinds
    inputs = random_inputs(graph, 0)
    expected, results = run(before, inputs), run(after, inputs)
    for name, array in reference.run(graph, inputs).items():
        np.testing.assert_array_equal(results[name], expected[name])
        np.testing.assert_allclose(results[name], array, rtol=1e-4, atol=1e-4)


def test_a_plan_says_only_what_is_not_replicated() -> None:
    graph = block()
    none = saved(graph, MESH, Decisions())
    assert none == Plan(whole={"mesh": "data=2,model=2"})
    whole = {op: choices(op, MESH)[0] for op in graph.ops if op.kind != "Constant"}
    assert saved(graph, MESH, Decisions(whole, {graph.inputs[0]: REPLICATED})) == none


def test_stages_and_a_limit_are_saved_with_it(tmp_path: Path) -> None:
    graph = block()
    decisions = random_decisions(graph, 3)
    cuts = (2, 5)
    plan = saved(graph, MESH, decisions, cuts, limit=1 << 40)
    read, found = written(graph, plan, tmp_path / "m.onnx")
    assert (found.cuts, found.limit) == (cuts, 1 << 40)
    assert [op.kind for op in ordered(read)] == [op.kind for op in ordered(graph)]


def test_what_optimize_writes_keeps_it(tmp_path: Path) -> None:
    save(block(), tmp_path / "model.onnx")
    result = graphopt.optimize(tmp_path / "model.onnx")
    decisions = random_decisions(result.graph, 5)
    plan = saved(result.graph, MESH, decisions)
    path = tmp_path / "planned.onnx"
    replace(result, plan=plan).save(path)
    read = load(path)
    found = restored(read, plan_of(read, named_values(read)))
    assert found is not None
    inputs = random_inputs(read, 0)
    ours = run(partition(result.graph, MESH, decisions), inputs)
    theirs = run(partition(read, found.mesh, found.decisions), inputs)
    for name, array in ours.items():
        np.testing.assert_array_equal(theirs[name], array)


def test_optimize_drops_the_plan_of_what_it_rewrites(tmp_path: Path) -> None:
    x = Parameter(tensor(DType.F32, 4, 8), "x")
    twice = Graph([x], [ops.Relu(ops.Relu(x))], output_names=["y"], header=HEADER)
    once = Graph([x], [ops.Relu(x)], output_names=["y"], header=HEADER)
    for name, graph, kept in (("twice", twice, False), ("once", once, True)):
        plan = saved(graph, MESH, random_decisions(graph, 0))
        save(annotated(graph, plan), tmp_path / f"{name}.onnx")
        result = graphopt.optimize(tmp_path / f"{name}.onnx")
        result.save(tmp_path / f"{name}.opt.onnx")
        metadata = load(tmp_path / f"{name}.opt.onnx").header.metadata
        assert (METADATA_KEY in metadata) == kept


def test_a_model_without_a_mesh() -> None:
    assert restored(block(), Plan()) is None
    assert restored(block(), Plan({}, whole={"other": 1})) is None


def test_decisions_about_another_graph() -> None:
    stranger = Parameter(tensor(DType.F32, 2), "z")
    lying = {stranger: (Split(0), Replicated())}
    with pytest.raises(UsageError, match="not of the graph"):
        saved(block(), MESH, Decisions({}, lying))


@pytest.mark.parametrize(
    ("whole", "about", "said"),
    [
        ({"mesh": "data"}, {}, "mesh"),
        ({"mesh": 3}, {}, "mesh"),
        ({"limit": "1GiB"}, {}, "limit is '1GiB'"),
        ({"outputs": ["R,R"]}, {}, "2 outputs"),
        ({"outputs": "R,R"}, {}, "2 outputs"),
        ({"outputs": ["R", None]}, {}, "not one on the mesh"),
        ({}, {"layout": "S(0)"}, "not one on the mesh"),
        ({}, {"layout": "S(x),R"}, "is no state"),
        ({}, {"layout": "P(mean),R"}, "combines nothing"),
        ({}, {"results": ["R,R"]}, "lacks operands"),
        ({}, {"operands": ["R,R", "R,R"], "results": "R"}, "lacks results"),
        ({}, {"operands": ["S(2),R", "R,R"], "results": ["R,R"]}, "does not fit"),
        ({}, {"stage": 2}, "stage 2 behind"),
        ({}, {"stage": "x"}, "stage 'x' behind"),
    ],
)
def test_plans_that_do_not_fit(
    whole: dict[str, object], about: dict[str, object], said: str
) -> None:
    graph = block()
    value = graph.outputs[0]
    plan = Plan({value: about}, whole={"mesh": "data=2,model=2"} | whole)
    with pytest.raises(InvalidModel, match=said):
        restored(graph, plan)


def test_results_that_a_file_drops() -> None:
    """A mask that nobody reads is a result no more."""
    x = Parameter(tensor(DType.F32, 4, 8), "x")
    made, _ = ops.Dropout(x, outs=2).results
    graph = Graph([x], [made], output_names=["y"], header=HEADER)
    op = made.op
    assert op is not None
    assert op.outs == 2
    choice = choices(op, MESH)[-1]
    model = to_proto(annotated(graph, saved(graph, MESH, Decisions({op: choice}))))
    read = load(model)
    assert read.ops[-1].outs == 1
    found = restored(read, plan_of(read, named_values(read)))
    assert found is not None
    (again,) = found.decisions.choices.values()
    assert again.operands[0] == choice.operands[0]


def test_an_input_is_not_run() -> None:
    graph = block()
    about = {"operands": ["R,R"], "results": ["R,R"]}
    with pytest.raises(InvalidModel, match="runs an input"):
        restored(graph, Plan({graph.inputs[0]: about}, whole={"mesh": "2x2"}))


def test_the_text_is_versioned_json() -> None:
    graph = block()
    decisions = Decisions({}, {graph.inputs[0]: (Split(0), Split(2))})
    made = annotated(graph, saved(graph, MESH, decisions))
    assert json.loads(made.header.metadata[METADATA_KEY]) == {
        "schema": 1,
        "graph": {"mesh": "data=2,model=2"},
        "values": {"x": {"layout": "S(0),S(2)"}},
    }


states = st.one_of(
    st.just(Replicated()),
    st.integers(0, 12).map(Split),
    st.sampled_from(list(Combiner)).map(Partial),
)


@given(st.lists(states, min_size=1, max_size=4))
def test_layouts_come_back_from_text(
    layout: list[Split | Partial | Replicated],
) -> None:
    mesh = Mesh(tuple((name, 2) for name in itertools.islice("abcd", len(layout))))
    assert read_layout(layout_text(tuple(layout)), mesh) == tuple(layout)
