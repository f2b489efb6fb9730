"""Multi-device annotations spoilt in many ways: each is found, and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from annotated_models import spec_of, valid
from onnx import ModelProto

from graphopt.errors import InvalidModel
from graphopt.passes.sharding.annotations import check_annotations, faults

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
