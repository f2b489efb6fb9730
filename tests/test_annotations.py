"""Multi-device annotations: what we write is right, and what is wrong is found."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
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

MESH = Mesh.parse("data=2,model=2")
HEADER = Header(opsets={"": 20}, ir_version=9)


def weight(*shape: int) -> ops.Constant:
    rng = np.random.default_rng(len(shape))
    return ops.Constant(rng.normal(size=shape).astype(np.float32))


def block(header: Header = HEADER) -> Graph:
    """A feed-forward with a residual connection."""
    x = Parameter(tensor(DType.F32, 4, 16), "x")
    hidden = ops.Relu(ops.MatMul(x, weight(16, 32)))
    out = ops.Add(ops.MatMul(hidden, weight(32, 16)), x)
    names = {hidden: "hidden", hidden.op.operands[0]: "up", out.op.operands[0]: "down"}
    return Graph([x], [out], output_names=["y"], header=header, names=names)


def megatron(cuts: tuple[int, ...] = (2,), header: Header = HEADER) -> ModelProto:
    """Rows of the input on one axis, the hidden dim on the other; in two stages."""
    graph = block(header)
    wanted = ["S(0),R R,S(1)", "S(0),S(1)", "S(0),S(1) R,S(0)", "S(0),R S(0),R"]
    chosen = {
        op: next(
            choice
            for choice in choices(op, MESH)
            if " ".join(map(layout_text, choice.operands)) == text
        )
        for op, text in zip(ordered(graph), wanted, strict=True)
    }
    return to_proto(annotated(graph, saved(graph, MESH, Decisions(chosen), cuts)))


def random_plan(
    graph: Graph, seed: int, mesh: Mesh = MESH, cuts: tuple[int, ...] = ()
) -> ModelProto:
    rng = random.Random(seed)
    chosen = {
        op: rng.choice(choices(op, mesh))
        for op in graph.ops
        if not isinstance(op, ops.Constant)
    }
    return to_proto(annotated(graph, saved(graph, mesh, Decisions(chosen), cuts)))


def valid() -> ModelProto:
    """Annotated, in two stages of four devices, all of which have names."""
    return annotate(megatron(), devices=[f"gpu{i}" for i in range(8)]).model


def spec_of(model: ModelProto, node: int, name: str) -> Any:
    (found,) = (
        spec
        for spec in model.graph.node[node].device_configurations[0].sharding_spec
        if spec.tensor_name == name
    )
    return found


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


# --- what is wrong ------------------------------------------------------------------

Mutation = Callable[[ModelProto], None]
MUTATIONS: list[tuple[str, Mutation, str]] = []


def mutation(said: str) -> Callable[[Mutation], Mutation]:
    """A way to spoil the valid model, and what is to be said of it."""

    def add(change: Mutation) -> Mutation:
        MUTATIONS.append((change.__name__, change, said))
        return change

    return add


def entry(model: ModelProto, node: int = 0) -> Any:
    return model.graph.node[node].device_configurations[0]


@mutation("need IR version 11; this is 10")
def old_ir(model: ModelProto) -> None:
    model.ir_version = 10


@mutation("has no name")
def configuration_without_a_name(model: ModelProto) -> None:
    model.configuration[0].name = ""


@mutation("2 have this name")
def configuration_twice(model: ModelProto) -> None:
    model.configuration.append(model.configuration[0])


@mutation("has 0 devices")
def no_devices(model: ModelProto) -> None:
    model.configuration[0].num_devices = 0


@mutation("names 7 of 8 devices")
def too_few_device_names(model: ModelProto) -> None:
    model.configuration[0].device.pop()


@mutation("names 2 devices 'gpu0'")
def a_device_name_twice(model: ModelProto) -> None:
    model.configuration[0].device[1] = "gpu0"


@mutation("has a device without a name")
def an_empty_device_name(model: ModelProto) -> None:
    model.configuration[0].device[1] = ""


@mutation("an annotation for no configuration")
def no_configuration_id(model: ModelProto) -> None:
    entry(model).ClearField("configuration_id")


@mutation("the model has no configuration 'other'")
def unknown_configuration_id(model: ModelProto) -> None:
    entry(model).configuration_id = "other"


@mutation("configuration 'graphopt' is said 2 times")
def an_annotation_twice(model: ModelProto) -> None:
    model.graph.node[0].device_configurations.append(entry(model))


@mutation("stage -1 on 8 devices")
def negative_stage(model: ModelProto) -> None:
    entry(model).pipeline_stage = -1


@mutation("stage 9 on 8 devices")
def stage_out_of_range(model: ModelProto) -> None:
    entry(model, 3).pipeline_stage = 9


@mutation("stage 0 reads 'hidden' of stage 1|stage 0 reads 'down' of stage 1")
def stages_that_go_back(model: ModelProto) -> None:
    entry(model, 3).pipeline_stage = 0


@mutation("2 stages on 1 devices")
def more_stages_than_devices(model: ModelProto) -> None:
    model.configuration[0].num_devices = 1


@mutation("has no name")
def no_tensor_name(model: ModelProto) -> None:
    spec_of(model, 0, "x").ClearField("tensor_name")


@mutation("'nobody': the node neither reads nor makes it")
def unknown_tensor(model: ModelProto) -> None:
    spec_of(model, 0, "x").tensor_name = "nobody"


@mutation("'y': the node neither reads nor makes it")
def tensor_of_another_node(model: ModelProto) -> None:
    spec_of(model, 0, "x").tensor_name = "y"


@mutation("tensor 'x' is sharded in 2 ways")
def a_tensor_twice(model: ModelProto) -> None:
    entry(model).sharding_spec.append(spec_of(model, 0, "x"))


@mutation("it lies on no device")
def no_device(model: ModelProto) -> None:
    del spec_of(model, 0, "up").device[:]


@mutation("device 8 is none of 8")
def device_out_of_range(model: ModelProto) -> None:
    spec_of(model, 0, "up").device[0] = 8


@mutation("device 0 holds 2 shards")
def a_device_with_two_shards(model: ModelProto) -> None:
    spec_of(model, 0, "up").device[1] = 0


@mutation("there is no group -7")
def unknown_group(model: ModelProto) -> None:
    spec_of(model, 0, "x").device[0] = -7


@mutation("group -9 holds no shard")
def a_group_of_nobody(model: ModelProto) -> None:
    groups = spec_of(model, 0, "x").index_to_device_group_map
    groups.add(key=-9, value=[4, 5])


@mutation("group -1 is said 2 times")
def a_group_twice(model: ModelProto) -> None:
    groups = spec_of(model, 0, "x").index_to_device_group_map
    groups.append(groups[0])


@mutation("group 1 is called like a device")
def a_group_like_a_device(model: ModelProto) -> None:
    spec = spec_of(model, 0, "x")
    spec.device[0] = spec.index_to_device_group_map[0].key = 1


@mutation("group -1 is empty")
def an_empty_group(model: ModelProto) -> None:
    del spec_of(model, 0, "x").index_to_device_group_map[0].value[:]


@mutation("device 1 holds 2 shards")
def overlapping_groups(model: ModelProto) -> None:
    spec_of(model, 0, "x").index_to_device_group_map[1].value[0] = 1


@mutation("device -3 is none of 8")
def a_group_in_a_group(model: ModelProto) -> None:
    spec_of(model, 0, "x").index_to_device_group_map[1].value[0] = -3


@mutation("a sharded axis without a number")
def no_axis(model: ModelProto) -> None:
    spec_of(model, 0, "up").sharded_dim[0].ClearField("axis")


@mutation("it has no axis 7, but rank 2")
def axis_out_of_rank(model: ModelProto) -> None:
    spec_of(model, 0, "up").sharded_dim[0].axis = 7


@mutation("it has no axis -3, but rank 2")
def negative_axis_out_of_rank(model: ModelProto) -> None:
    spec_of(model, 0, "up").sharded_dim[0].axis = -3


@mutation("axis 1 is sharded 2 times")
def an_axis_twice(model: ModelProto) -> None:
    dims = spec_of(model, 0, "up").sharded_dim
    dims[0].CopyFrom(dims[1])
    dims[0].axis = -1


@mutation("axis 0 has no number of shards")
def an_axis_without_shards(model: ModelProto) -> None:
    del spec_of(model, 0, "up").sharded_dim[0].simple_sharding[:]


@mutation("axis 0 is in 0 shards")
def no_number_of_shards(model: ModelProto) -> None:
    dims = spec_of(model, 0, "up").sharded_dim
    dims[0].simple_sharding[0].ClearField("num_shards")


@mutation("axis 0 is in -2 shards")
def a_negative_number_of_shards(model: ModelProto) -> None:
    spec_of(model, 0, "up").sharded_dim[0].simple_sharding[0].num_shards = -2


@mutation("axis 0 of 4 is in 3 shards")
def shards_that_do_not_divide(model: ModelProto) -> None:
    spec = spec_of(model, 0, "x")
    spec.sharded_dim[0].simple_sharding[0].num_shards = 3
    spec.device.append(4)


@mutation("axis 0 of 4 is in 3 shards")
def shards_that_do_not_divide_what_is_inferred(model: ModelProto) -> None:
    spec = spec_of(model, 2, "hidden")
    spec.sharded_dim[0].simple_sharding[0].ClearField("dim_value")
    spec.sharded_dim[0].simple_sharding[0].num_shards = 3


@mutation("8 shards for 4 devices")
def more_shards_than_devices(model: ModelProto) -> None:
    spec_of(model, 0, "up").sharded_dim[0].simple_sharding[0].num_shards = 4


@mutation("2 shards for 4 devices")
def more_devices_than_shards(model: ModelProto) -> None:
    del spec_of(model, 0, "up").sharded_dim[1]


@mutation("its extent is 4, not 6")
def another_extent(model: ModelProto) -> None:
    spec_of(model, 0, "x").sharded_dim[0].simple_sharding[0].dim_value = 6


@mutation("its extent is 32, not 64")
def joined_extents_that_do_not_fit(model: ModelProto) -> None:
    dim = spec_of(model, 0, "up").sharded_dim[1]
    dim.simple_sharding.add(dim_value=2, num_shards=1)


@mutation("'hidden' and 'constant_0' share an axis, and are split along it in 2 and 1")
def an_inner_axis_split_once(model: ModelProto) -> None:
    spec = spec_of(model, 2, model.graph.node[2].input[1])
    del spec.sharded_dim[:]
    del spec.index_to_device_group_map[:]
    del spec.device[:]
    spec.device.append(-1)
    spec.index_to_device_group_map.add(key=-1, value=range(4, 8))


@mutation("no device has the parts of 'x', 'constant' together")
def rows_and_columns_apart(model: ModelProto) -> None:
    """Of x the devices of a row have the same, and so they do of the weight."""
    weight = spec_of(model, 0, model.graph.node[0].input[1])
    for group, there in zip(
        weight.index_to_device_group_map,
        spec_of(model, 0, "x").index_to_device_group_map,
        strict=True,
    ):
        group.value[:] = there.value


def test_there_are_thirty_of_them() -> None:
    assert len(MUTATIONS) >= 30
    assert faults(valid()) == []
    texts = {change_of(change).SerializeToString() for _, change, _ in MUTATIONS}
    assert len(texts) == len(MUTATIONS)


def change_of(change: Mutation) -> ModelProto:
    model = valid()
    change(model)
    return model


@pytest.mark.parametrize(
    ("change", "said"),
    [(change, said) for _, change, said in MUTATIONS],
    ids=[name for name, _, _ in MUTATIONS],
)
def test_what_is_wrong_is_found(change: Mutation, said: str) -> None:
    model = change_of(change)
    with pytest.raises(InvalidModel):
        check_annotations(model)
    found = "\n".join(map(str, faults(model)))
    assert any(each in found for each in said.split("|")), found


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
