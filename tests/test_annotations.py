"""Multi-device annotations: what we write is right, and what others may write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from annotated_models import HEADER, MESH, block, megatron, random_plan, spec_of, valid
from hypothesis import given, settings, strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper
from real_models import every_model

from graphopt import load, ops
from graphopt.errors import GraphoptError, InvalidModel, UnsupportedModel, UsageError
from graphopt.exporter import save, to_proto
from graphopt.inputs import random_inputs, usual
from graphopt.ir import Graph, Header, Parameter
from graphopt.passes.sharding.annotations import check_annotations, faults
from graphopt.passes.sharding.choices import choices
from graphopt.passes.sharding.devices import annotate, sharding
from graphopt.passes.sharding.layout import layouts
from graphopt.passes.sharding.mesh import Mesh
from graphopt.passes.sharding.oracle import where
from graphopt.passes.sharding.partition import Decisions
from graphopt.passes.sharding.saved import layout_text, restored, saved
from graphopt.passes.sharding.stages import ordered
from graphopt.plan import annotated, plan_of
from graphopt.provenance import named_values
from graphopt.sharded import shard
from graphopt.specialize import specialize, symbols_of
from graphopt.testing.strategies import families, graphs
from graphopt.types import DType, tensor

# --- what we write ------------------------------------------------------------------


def test_a_megatron_block() -> None:
    model = valid()
    (configuration,) = model.configuration
    assert (configuration.name, configuration.num_devices) == ("graphopt", 8)
    stages = [n.device_configurations[0].pipeline_stage for n in model.graph.node]
    assert stages == [0, 0, 1, 1]
    rows = spec_of(model, 0, "x")  # on both devices of a row of the mesh
    assert list(rows.device) == [-1, -2]
    groups = {e.key: list(e.value) for e in rows.index_to_device_group_map}
    assert groups == {-1: [0, 1], -2: [2, 3]}
    assert [(d.axis, d.simple_sharding[0].num_shards) for d in rows.sharded_dim] == [
        (0, 2)
    ]
    both = spec_of(model, 0, "up")
    assert list(both.device) == [0, 1, 2, 3]
    assert [d.axis for d in both.sharded_dim] == [0, 1]
    assert [d.simple_sharding[0].dim_value for d in both.sharded_dim] == [4, 32]
    assert list(spec_of(model, 3, "y").device) == [-1, -2]
    assert min(spec_of(model, 2, "hidden").device) == 4  # devices of the second stage


def test_partial_values_are_left_out_and_listed() -> None:
    made = annotate(megatron())
    (said,) = made.left_out
    assert "has partial values 'down', S(0),P(sum)" in said
    names = [
        spec.tensor_name
        for spec in made.model.graph.node[2].device_configurations[0].sharding_spec
    ]
    assert "down" not in names
    assert "hidden" in names


def test_a_value_that_is_read_in_two_layouts_is_listed() -> None:
    x = Parameter(tensor(DType.F32, 4, 4), "x")
    graph = Graph([x], [ops.MatMul(x, x)], output_names=["y"], header=HEADER)
    (op,) = ordered(graph)
    (choice,) = (
        c
        for c in choices(op, MESH)
        if " ".join(map(layout_text, c.operands)) == "S(0),R R,S(1)"
    )
    plan = saved(graph, MESH, Decisions({op: choice}))
    made = annotate(to_proto(annotated(graph, plan)))
    assert made.left_out == ("MatMul node 'MatMul_0' reads 'x' as S(0),R and R,S(1)",)
    assert not faults(made.model)


@pytest.mark.parametrize("mesh", ["4", "2x2", "2x2x2", "1x4"])
def test_devices_hold_what_they_do_in_the_oracle(mesh: str) -> None:
    """Against the parts that are cut there: each device has the shard that it holds."""
    devices, shape = Mesh.parse(mesh), (8, 16)
    for layout in layouts(shape, devices):
        spec = sharding(layout, tensor(DType.F32, *shape), devices, first=3)
        groups = {e.key: list(e.value) for e in spec.index_to_device_group_map}
        counts = [1, 1]
        for dim in spec.sharded_dim:
            counts[dim.axis] = dim.simple_sharding[0].num_shards
        parts = [n // count for n, count in zip(shape, counts, strict=True)]
        held = {}
        for number, entry in enumerate(spec.device):
            at = np.unravel_index(number, counts)
            index = tuple(
                slice(int(i) * size, (int(i) + 1) * size)
                for i, size in zip(at, parts, strict=True)
            )
            held.update(dict.fromkeys(groups.get(entry, [entry]), index))
        assert held == {
            3 + device: where(shape, layout, devices, device)
            for device in range(devices.devices)
        }


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("mesh", ["2", "2x2", "2x2x2"])
def test_what_we_write_is_valid(mesh: str, seed: int) -> None:
    cuts = ((), (1,), (1, 3))[seed % 3]
    made = annotate(random_plan(block(), seed, Mesh.parse(mesh), cuts))
    assert faults(made.model) == []
    check_annotations(made.model)
    onnx.checker.check_model(made.model, full_check=True)


REGIONS = {"branch", "loop", "scan"}
"""Families whose ops may capture what no body reads, which no file keeps."""


@settings(deadline=None)
@given(
    graphs(max_ops=8, only=[name for name in families if name not in REGIONS]),
    st.integers(0, 1 << 16),
)
def test_what_we_write_of_random_graphs_is_valid(graph: Graph, seed: int) -> None:
    graph = specialize(graph, dict.fromkeys(symbols_of(graph), 4)).graph
    model = random_plan(graph, seed)
    model.ir_version = max(model.ir_version, 11)
    read = load(model)
    plan = restored(read, plan_of(read, named_values(read)))
    assert plan is not None
    made = annotate(model)
    assert faults(made.model) == []
    assert load(made.model).key == read.key


def test_writing_it_twice_is_writing_it_once() -> None:
    once = annotate(megatron()).model
    assert annotate(once).model == once
    other = annotate(once, name="other").model
    assert [c.name for c in other.configuration] == ["graphopt", "other"]
    assert faults(other) == []


def test_weights_may_lie_in_files(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save(load(megatron()), path, weights="external")
    model = onnx.load(path, load_external_data=False)
    with pytest.raises(InvalidModel, match="external data"):
        annotate(model)
    made = annotate(model, folder=tmp_path).model
    assert faults(made, tmp_path) == []
    dim = spec_of(made, 2, "hidden").sharded_dim[0].simple_sharding[0]
    dim.ClearField("dim_value")
    dim.num_shards = 3
    found = "\n".join(map(str, faults(made, tmp_path)))
    assert "axis 0 of 4 is in 3 shards" in found
    assert "for 4 devices" in "\n".join(map(str, faults(made)))


def test_a_plan_that_was_searched_for(digits: Path) -> None:
    made = shard(digits, "data=2,model=2", "xla-cuda:h100", dims={"batch": 8})
    annotations = annotate(to_proto(annotated(made.graph, made.kept))).model
    assert faults(annotations) == []
    specs = [
        spec
        for node in annotations.graph.node
        for spec in node.device_configurations[0].sharding_spec
    ]
    assert any(len(spec.sharded_dim) for spec in specs)


def test_a_model_without_annotations_has_no_faults() -> None:
    assert faults(to_proto(block())) == []


def test_a_file_without_a_plan() -> None:
    with pytest.raises(UsageError, match="no sharding plan"):
        annotate(to_proto(block()))


def test_names_for_all_devices_or_none() -> None:
    with pytest.raises(UsageError, match="2 names for 8 devices"):
        annotate(megatron(), devices=["a", "b"])


def test_an_ir_that_runtimes_do_not_read() -> None:
    late = megatron(header=Header(opsets={"": 28}, ir_version=14))
    with pytest.raises(UnsupportedModel, match="IR version 13"):
        annotate(late)


@pytest.mark.parametrize("version", [11, 12, 13])
def test_a_later_ir_is_kept(version: int) -> None:
    model = megatron(header=Header(opsets={"": 20}, ir_version=version))
    assert annotate(model).model.ir_version == version


@pytest.mark.runtime
@pytest.mark.parametrize("version", [11, 13])
def test_onnx_runtime_loads_it_with_unchanged_results(version: int) -> None:
    from graphopt.lowering.ort.session import Session

    plain = to_proto(block())
    header = Header(opsets={"": 20}, ir_version=version)
    model = annotate(megatron(header=header)).model
    inputs = random_inputs(load(plain), 0)
    expected = Session(plain.SerializeToString())(inputs)
    found = Session(model.SerializeToString())(inputs)
    np.testing.assert_array_equal(found["y"], expected["y"])


# --- models of others ---------------------------------------------------------------


def sharded(node: NodeProto, name: str, *dims: Any) -> NodeProto:
    """The node with a spec on device 0 and 1 for one of its tensors."""
    made = node.device_configurations.add(configuration_id="c")
    spec = made.sharding_spec.add(tensor_name=name, device=[0, 1])
    for axis, *simple in dims:
        dim = spec.sharded_dim.add(axis=axis)
        for each in simple:
            dim.simple_sharding.add(**each)
    return node


def other(node: NodeProto, shape: tuple[Any, ...] | None) -> ModelProto:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 11
    model.configuration.add(name="c", num_devices=2)
    return model


RELU = ("Relu", ["a"], ["b"])


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((4, 2), [(-2, {"num_shards": 2})]),
        (("n", 2), [(0, {"num_shards": 2})]),
        (("n", 2), [(0, {"num_shards": 2, "dim_param": "n"})]),
        ((None, 2), [(0, {"num_shards": 2, "dim_value": 6})]),
        (None, [(5, {"num_shards": 2})]),
        (
            (12,),
            [(0, {"num_shards": 2, "dim_value": 4}, {"num_shards": 1, "dim_value": 3})],
        ),
        (("n",), [(0, {"num_shards": 2, "dim_value": 4}, {"num_shards": 1})]),
    ],
)
def test_what_others_may_write(shape: Any, dims: Any) -> None:
    model = other(sharded(helper.make_node(*RELU), "a", *dims), shape)
    assert faults(model) == []


@pytest.mark.parametrize(
    ("shape", "dims", "said"),
    [
        (("n", 2), [(0, {"num_shards": 2, "dim_param": "m"})], "is n, not m"),
        ((), [(0, {"num_shards": 2})], "no axis 0, but rank 0"),
        ((12,), [(0, {"num_shards": 2, "dim_value": 3}, {"num_shards": 1,
         "dim_value": 4})], "axis 0 of 3 is in 2 shards"),
        ((0,), [(0, {"num_shards": 2})], "axis 0 of 0 is in 2 shards"),
    ],
)  # fmt: skip
def test_what_others_may_not_write(shape: Any, dims: Any, said: str) -> None:
    model = other(sharded(helper.make_node(*RELU), "a", *dims), shape)
    assert said in "\n".join(map(str, faults(model)))


def test_a_sequence_has_no_shards() -> None:
    node = sharded(helper.make_node("SequenceConstruct", ["a"], ["b"]), "b")
    model = other(node, (4,))
    type_ = helper.make_sequence_type_proto(
        helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    )
    model.graph.output[0].type.CopyFrom(type_)
    assert "it is no tensor" in str(faults(model)[0])


def test_nodes_in_bodies_and_functions_are_looked_at() -> None:
    inner = sharded(helper.make_node("Relu", ["a"], ["c"]), "a", (1, {"num_shards": 2}))
    body = helper.make_graph(
        [inner],
        "body",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["p"], ["b"], then_branch=body, else_branch=body)
    model = other(node, (4,))
    model.graph.input.append(helper.make_tensor_value_info("p", TensorProto.BOOL, ()))
    assert len(faults(model)) == 2
    assert "it has no axis 1, but rank 1" in str(faults(model)[0])
    function = helper.make_function(
        "d",
        "F",
        ["a"],
        ["b"],
        [sharded(helper.make_node(*RELU), "z", (0, {"num_shards": 2}))],
        [helper.make_opsetid("", 20)],
    )
    model = other(helper.make_node("F", ["a"], ["b"], domain="d"), (4,))
    model.opset_import.append(helper.make_opsetid("d", 1))
    model.functions.append(function)
    assert "'z': the node neither reads nor makes it" in str(faults(model)[0])


def test_a_configuration_that_nobody_uses_is_looked_at() -> None:
    model = other(helper.make_node(*RELU), (4,))
    assert faults(model) == []
    model.configuration[0].num_devices = -1
    assert "has -1 devices" in str(faults(model)[0])


def test_a_node_that_reads_something_else_loses_its_annotation() -> None:
    """So that rewrites leave no annotations of tensors that are gone."""
    graph = load(valid())
    up, hidden, *_ = (op.results[0] for op in ordered(graph))
    model = to_proto(graph.substitute({hidden: ops.Neg(up)}))
    assert [node.op_type for node in model.graph.node] == [
        *("MatMul", "Neg", "MatMul", "Add")
    ]
    assert faults(model) == []
    told = [bool(node.device_configurations) for node in model.graph.node]
    assert told == [True, False, False, True]
    assert all(node.device_configurations for node in to_proto(graph).graph.node)


# --- real models --------------------------------------------------------------------


@every_model()
def test_a_real_model(path: Path) -> None:
    try:
        graph = load(path)
        graph = specialize(graph, usual(graph)).graph
        count = len(ordered(graph))
        model = random_plan(
            graph, 0, Mesh.parse("2"), (count // 2,) if count > 1 else ()
        )
    except GraphoptError as error:
        pytest.skip(f"not taken: {error}")
    made = annotate(model).model
    assert faults(made) == []
    annotations = [node.device_configurations for node in made.graph.node]
    assert sum(map(bool, annotations)) == count
    assert accepted(made) == accepted(model)


def accepted(model: ModelProto) -> bool:
    """What ONNX's checker says, which does not take every model of others."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True
