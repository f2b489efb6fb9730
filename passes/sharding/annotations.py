"""Whether the multi-device annotations of an ONNX model make sense.

ONNX's own checker does not look at them. What is checked is what ``onnx.proto`` and the
proposals 0006 and 0007 say, and what no device could do: two different shards of one
tensor, shards of unequal size, data that flows back to an earlier stage.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from onnx import GraphProto, ModelProto, NodeProto

from graphopt.dims import Dim
from graphopt.errors import GraphoptError, InvalidModel
from graphopt.importer import load
from graphopt.ir import Op
from graphopt.proto import label, subgraphs
from graphopt.provenance import named_values
from graphopt.types import TensorType

from .agreement import disagreements

if TYPE_CHECKING:
    from onnx import (
        DeviceConfigurationProto,
        NodeDeviceConfigurationProto,
        ShardedDimProto,
        ShardingSpecProto,
        TensorShapeProto,
    )

FIRST_IR: Final = 11
"""The IR version that brought annotations."""

Extent: TypeAlias = int | str | None
"""A size, the name of one, or nothing known."""

Shapes: TypeAlias = Mapping[str, tuple[Extent, ...] | None]
"""The dims of tensors by name; None for what has no dims, as it is no tensor."""


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with an annotation, and the node or configuration."""

    said: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {self.said}"


Folder: TypeAlias = "str | os.PathLike[str] | None"
"""Where a model's external data lies, which is not read."""


def check_annotations(model: ModelProto, folder: Folder = None) -> None:
    """Raises InvalidModel, with the first faults, where annotations make no sense."""
    found = faults(model, folder)
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise InvalidModel("; ".join(map(str, found[:3])) + more)


def faults(model: ModelProto, folder: Folder = None) -> list[Fault]:
    """All that is wrong with the annotations of a model; none where there are none.

    Of a model that graphopt does not read, external data without its ``folder``
    included, only those dims are known that it states itself.
    """
    return list(_Reader(model, folder).faults())


class _Reader:
    def __init__(self, model: ModelProto, folder: Folder) -> None:
        self.model = model
        self.devices: dict[str, int] = {c.name: c.num_devices for c in _reversed(model)}
        self.shapes, self.ops = _read(model, folder)

    def faults(self) -> Iterator[Fault]:
        annotated = [
            (node, scope)
            for node, scope in _nodes(self.model, self.shapes)
            if node.device_configurations
        ]
        if not annotated and not self.model.configuration:
            return
        version = self.model.ir_version
        if version < FIRST_IR:
            said = f"annotations need IR version {FIRST_IR}; this is {version}"
            yield Fault(said, "the model")
        yield from self.configurations()
        for node, scope in annotated:
            wrong = list(self.node(node, scope)) or self.together(node)
            for said in wrong:
                yield Fault(said, label(node))
        yield from self.stages([node for node, _ in annotated])

    # Configurations

    def configurations(self) -> Iterator[Fault]:
        names = Counter(each.name for each in self.model.configuration)
        for each in self.model.configuration:
            for said in _configuration(each):
                yield Fault(said, f"configuration {each.name!r:.200}")
        for name, count in names.items():
            if count > 1:
                yield Fault(f"{count} have this name", f"configuration {name!r:.200}")

    # Nodes

    def node(self, node: NodeProto, scope: Shapes) -> Iterator[str]:
        names = Counter(each.configuration_id for each in node.device_configurations)
        for name, count in names.items():
            if count > 1:
                yield f"configuration {name!r:.200} is said {count} times"
        for each in node.device_configurations:
            devices = self.devices.get(each.configuration_id)
            if not each.configuration_id:
                yield "an annotation for no configuration"
            elif devices is None:
                yield f"the model has no configuration {each.configuration_id!r:.200}"
            yield from _stage(each, devices)
            tensors = Counter(spec.tensor_name for spec in each.sharding_spec)
            for name, count in tensors.items():
                if count > 1:
                    yield f"tensor {name!r:.200} is sharded in {count} ways"
            for spec in each.sharding_spec:
                for said in _spec(spec, node, devices, scope):
                    yield f"tensor {spec.tensor_name!r:.200}: {said}"

    def together(self, node: NodeProto) -> Iterator[str]:
        """What the shardings of a node, each valid by itself, do to each other."""
        op, names = self.ops.get(node.output[0] if node.output else "", (None, {}))
        if op is not None:
            for each in node.device_configurations:
                specs = {spec.tensor_name: spec for spec in each.sharding_spec}
                yield from disagreements(op, specs, names)

    def stages(self, nodes: Iterable[NodeProto]) -> Iterator[Fault]:
        """Data flows from stage to stage, in order, within each configuration."""
        made: dict[tuple[str, str], int] = {}
        used: dict[str, set[int]] = {}
        for node in nodes:
            for each in node.device_configurations:
                name = each.configuration_id
                if not each.HasField("pipeline_stage"):
                    continue
                stage = each.pipeline_stage
                used.setdefault(name, set()).add(stage)
                for read in node.input:
                    earlier = made.get((name, read), stage)
                    if earlier > stage:
                        said = f"stage {stage} reads {read!r:.200} of stage {earlier}"
                        yield Fault(said, label(node))
                made.update(((name, output), stage) for output in node.output)
        for name, stages in used.items():
            devices = self.devices.get(name)
            if devices is not None and len(stages) > devices:
                said = f"{len(stages)} stages on {devices} devices"
                yield Fault(said, f"configuration {name!r:.200}")


def _reversed(model: ModelProto) -> Iterator[DeviceConfigurationProto]:
    """So that of configurations with one name the first counts."""
    yield from reversed(model.configuration)


def _configuration(each: DeviceConfigurationProto) -> Iterator[str]:
    if not each.name:
        yield "has no name"
    if each.num_devices < 1:
        yield f"has {each.num_devices} devices"
    if each.device and len(each.device) != each.num_devices:
        yield f"names {len(each.device)} of {each.num_devices} devices"
    for name, count in Counter(each.device).items():
        if not name:
            yield "has a device without a name"
        elif count > 1:
            yield f"names {count} devices {name!r:.200}"


def _stage(each: NodeDeviceConfigurationProto, devices: int | None) -> Iterator[str]:
    """A stage has a device at least; whether they count from 0 or 1 is open."""
    if not each.HasField("pipeline_stage"):
        return
    stage = each.pipeline_stage
    if stage < 0 or (devices is not None and stage > devices):
        yield f"stage {stage} on {devices} devices"


# --- one tensor ---------------------------------------------------------------------


def _spec(
    spec: ShardingSpecProto, node: NodeProto, devices: int | None, scope: Shapes
) -> Iterator[str]:
    name = spec.tensor_name
    if not name:
        yield "has no name"
        return
    if name not in node.input and name not in node.output:
        yield "the node neither reads nor makes it"
    yield from _devices(spec, devices)
    if name in scope and scope[name] is None:
        yield "it is no tensor and has no shards"
        return
    shape = scope.get(name)
    axes: list[int] = []
    shards: int | None = 1
    for dim in spec.sharded_dim:
        count = 1
        for said, number in _dim(dim, shape):
            if said:
                yield said
            count *= number
        axes.append(dim.axis % len(shape) if shape else dim.axis)
        shards = None if shards is None or count < 1 else shards * count
    for axis, number in Counter(axes).items():
        if number > 1:
            yield f"axis {axis} is sharded {number} times"
    if spec.device and shards is not None and shards != len(spec.device):
        yield f"{shards} shards for {len(spec.device)} devices or groups"


def _devices(spec: ShardingSpecProto, devices: int | None) -> Iterator[str]:
    """Each shard has a device or a group; no device has two."""
    groups = {each.key: each.value for each in spec.index_to_device_group_map}
    if not spec.device:
        yield "it lies on no device"
    for key, count in Counter(e.key for e in spec.index_to_device_group_map).items():
        if count > 1:
            yield f"group {key} is said {count} times"
        if key >= 0:
            yield f"group {key} is called like a device; keys of groups are negative"
        elif key not in spec.device:
            yield f"group {key} holds no shard"
        if not groups[key]:
            yield f"group {key} is empty"
    lacking = {d for d in spec.device if d < 0 and d not in groups}
    for device in sorted(lacking):
        yield f"there is no group {device}"
    holders = Counter(d for each in spec.device for d in groups.get(each, [each]))
    for device, count in holders.items():
        if count > 1:
            yield f"device {device} holds {count} shards"
        known = device >= 0 and (devices is None or device < devices)
        if not known and device not in lacking:
            yield f"device {device} is none of {devices}"


def _dim(
    dim: ShardedDimProto, shape: tuple[Extent, ...] | None
) -> Iterator[tuple[str, int]]:
    """What is wrong with a sharded axis, empty if nothing, beside numbers of shards."""
    if not dim.HasField("axis"):
        yield "a sharded axis without a number", 1
    elif shape is not None and not -len(shape) <= dim.axis < len(shape):
        yield f"it has no axis {dim.axis}, but rank {len(shape)}", 1
        shape = None
    if not dim.simple_sharding:
        yield f"axis {dim.axis} has no number of shards", 0
        return
    extent = shape[dim.axis] if shape else None
    stated = [_stated(each) for each in dim.simple_sharding]
    if said := _unlike(stated, extent):
        yield f"axis {dim.axis}: {said}", 1
    for each, size in zip(dim.simple_sharding, stated, strict=True):
        count = each.num_shards
        if count < 1:
            yield f"axis {dim.axis} is in {count} shards", 0
            continue
        whole = extent if len(stated) == 1 and size is None else size
        uneven = isinstance(whole, int) and (whole % count or whole < count)
        said = f"axis {dim.axis} of {whole} is in {count} shards" if uneven else ""
        yield said, count


def _stated(each: Any) -> Extent:
    """The extent that a SimpleShardedDimProto states."""
    which = each.WhichOneof("dim")
    return None if which is None else getattr(each, which)


def _unlike(stated: Sequence[Extent], extent: Extent) -> str:
    """How stated extents, which a reshape may have joined, clash with the tensor's."""
    product: Extent = 1
    for size in stated:
        if isinstance(size, int) and isinstance(product, int):
            product *= size
        else:
            product = size if len(stated) == 1 else None
    if product is None or extent is None or type(product) is not type(extent):
        return ""
    return "" if product == extent else f"its extent is {extent}, not {product}"


# --- what is known of tensors -------------------------------------------------------


def _nodes(model: ModelProto, known: Shapes) -> Iterator[tuple[NodeProto, Shapes]]:
    """All nodes, those of bodies and functions too, with the tensors around them."""
    pending = [(model.graph, {**_declared(model.graph), **known})]
    for function in model.functions:
        for node in function.node:
            yield node, {}
            pending.extend((body, _declared(body)) for body in subgraphs(node))
    while pending:
        graph, scope = pending.pop()
        for node in graph.node:
            yield node, scope
            pending.extend((g, {**scope, **_declared(g)}) for g in subgraphs(node))


def _declared(graph: GraphProto) -> dict[str, tuple[Extent, ...] | None]:
    """What a graph says of its tensors; nothing of those whose rank it does not say."""
    found: dict[str, tuple[Extent, ...] | None] = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        which = value.type.WhichOneof("value")
        if which in ("sequence_type", "map_type", "optional_type"):
            found[value.name] = None
        elif which == "tensor_type" and value.type.tensor_type.HasField("shape"):
            found[value.name] = tuple(map(_extent, value.type.tensor_type.shape.dim))
    for tensor in graph.initializer:
        found[tensor.name] = tuple(tensor.dims)
    return found


def _extent(dim: TensorShapeProto.Dimension) -> Extent:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


def _read(
    model: ModelProto, folder: Folder
) -> tuple[dict[str, tuple[Extent, ...] | None], dict[str, tuple[Op, dict[int, str]]]]:
    """What the importer knows of the main graph: dims of tensors, and the ops.

    These are by their first result, each with the names of its operands.
    """
    try:
        graph = load(model, folder=folder)
    except (GraphoptError, OSError):
        return {}, {}  # then only what the model says itself
    shapes: dict[str, tuple[Extent, ...] | None] = {}
    named = named_values(graph)
    names = {value: name for name, value in named.items()}
    ops: dict[str, tuple[Op, dict[int, str]]] = {}
    for name, value in named.items():
        if isinstance(value.type, TensorType) and value.type.shape is not None:
            shapes[name] = tuple(map(_known, value.type.shape))
        if value.op is not None:
            operands = enumerate(value.op.operands)
            read = {i: names[v] for i, v in operands if v in names}
            ops[name] = value.op, read
    return shapes, ops


def _known(dim: Dim) -> Extent:
    return dim if dim is None or isinstance(dim, int) else str(dim)
