"""A sharding plan as ONNX's multi-device annotations: the last step before writing.

Each node says how the devices hold what it reads and makes, and its pipeline stage; how
they come by it is left to the runtime, which may also ignore it all. Optimizers lose
annotations, so the plan itself stays in the model beside them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from onnx import ModelProto, NodeProto, ShardingSpecProto

from graphopt.errors import UnsupportedModel, UsageError
from graphopt.importer import load
from graphopt.index import Split
from graphopt.ir import Graph, Op, Value
from graphopt.ops import Constant
from graphopt.plan import plan_of
from graphopt.proto import label
from graphopt.provenance import named_values
from graphopt.types import TensorType

from .agreement import disagreements
from .annotations import FIRST_IR
from .layout import Layout, is_partial, replicated
from .mesh import Mesh
from .saved import Restored, layout_text, restored
from .stages import ordered

LAST_IR: Final = 13
"""ONNX Runtime reads no later IR version."""

NAME: Final = "graphopt"
"""What our configuration is called."""


@dataclass(frozen=True)
class Annotated:
    """A model with annotations; ``left_out`` says of which tensors none tells."""

    model: ModelProto
    left_out: tuple[str, ...] = ()


def annotate(
    model: ModelProto,
    *,
    name: str = NAME,
    devices: Sequence[str] = (),
    folder: str | os.PathLike[str] | None = None,
) -> Annotated:
    """A copy of a model whose nodes say what the plan in its metadata does.

    ``name`` is that of the configuration, which replaces one of that name; ``devices``
    are names of all devices, those of the first stage first; ``folder`` is where
    external data lies, which is not read. Raises UsageError for a model without a
    sharding plan, and UnsupportedModel where it needs a later IR version than runtimes
    read.
    """
    graph = load(model, folder=folder)
    named = named_values(graph)
    plan = restored(graph, plan_of(graph, named))
    if plan is None:
        raise UsageError("the model has no sharding plan to annotate it with")
    if model.ir_version > LAST_IR:
        raise UnsupportedModel(
            f"annotations are read up to IR version {LAST_IR}, and the model has"
            f" {model.ir_version}; write it in opset 27 or less"
        )
    total = plan.mesh.devices * (len(plan.cuts) + 1)
    if devices and len(devices) != total:
        raise UsageError(f"{len(devices)} names for {total} devices")
    made = ModelProto()
    made.CopyFrom(model)
    made.ir_version = max(model.ir_version, FIRST_IR)
    _clear(made, name)
    made.configuration.add(name=name, num_devices=total, device=devices)
    writer = _Writer(graph, plan, name, {value: n for n, value in named.items()})
    return Annotated(made, tuple(writer.write(made)))


def _clear(model: ModelProto, name: str) -> None:
    """Forget what was said of a configuration."""
    others = [each for each in model.configuration if each.name != name]
    del model.configuration[:]
    model.configuration.extend(others)
    for node in model.graph.node:
        kept = [e for e in node.device_configurations if e.configuration_id != name]
        del node.device_configurations[:]
        node.device_configurations.extend(kept)


class _Writer:
    def __init__(
        self, graph: Graph, plan: Restored, name: str, names: Mapping[Value, str]
    ) -> None:
        self.graph = graph
        self.plan = plan
        self.name = name
        self.names = names
        ops = ordered(graph)
        bounds = [0, *plan.cuts, len(ops)]
        self.stage = {
            op: stage
            for stage, start in enumerate(bounds[:-1])
            for op in ops[start : bounds[stage + 1]]
        }

    def write(self, model: ModelProto) -> Iterator[str]:
        """Annotate the nodes; yields what cannot be said."""
        nodes = {name: node for node in model.graph.node for name in node.output}
        for op in self.graph.ops:
            if isinstance(op, Constant):
                continue
            names = [self.names[v] for v in op.results if v in self.names]
            node = next((nodes[name] for name in names if name in nodes), None)
            if node is not None:
                yield from self.node(op, node)

    def node(self, op: Op, node: NodeProto) -> Iterator[str]:
        mesh, stage = self.plan.mesh, self.stage[op]
        written = node.device_configurations.add(configuration_id=self.name)
        if self.plan.cuts:
            written.pipeline_stage = stage
        specs: dict[str, ShardingSpecProto] = {}
        for value, layouts in self.layouts(op).items():
            name = self.names.get(value, "")
            if not name or name not in (*node.input, *node.output):
                continue
            if len(layouts) > 1:
                said = " and ".join(map(layout_text, layouts))
                yield f"{label(node)} reads {name!r} as {said}"
                continue
            (layout,) = layouts
            if is_partial(layout):
                said = layout_text(layout)
                yield f"{label(node)} has partial values {name!r}, {said}"
                continue
            if isinstance(value.type, TensorType):
                first = stage * mesh.devices
                spec = sharding(layout, value.type, mesh, first=first)
                spec.tensor_name = name
                specs[name] = spec
        read = {
            i: self.names[v]
            for i, v in enumerate(op.operands)
            if v is not None and v in self.names
        }
        for said in list(disagreements(op, specs, read)):
            yield f"{label(node)}: {said}"
            for name in read.values():
                specs.pop(name, None)
        written.sharding_spec.extend(specs.values())

    def layouts(self, op: Op) -> dict[Value, dict[Layout, None]]:
        """The layouts in which an op reads and makes values."""
        choice = self.plan.decisions.choices.get(op)
        whole = replicated(self.plan.mesh)
        taken = choice.operands if choice else (whole,) * len(op.operands)
        left = choice.results if choice else (whole,) * op.outs
        found: dict[Value, dict[Layout, None]] = {}
        for values, layouts in ((op.operands, taken), (op.results, left)):
            for value, layout in zip(values, layouts, strict=True):
                if value is not None:
                    found.setdefault(value, {})[layout] = None
        return found


# --- one tensor ---------------------------------------------------------------------


def sharding(
    layout: Layout, type_: TensorType, mesh: Mesh, *, first: int = 0
) -> ShardingSpecProto:
    """What ONNX calls the sharding of a tensor in a layout without partial sums.

    ``first`` is the number of the mesh's first device. Shards are counted by sharded
    dims, the last fastest; a shard that several devices hold has a group of them.
    """
    spec = ShardingSpecProto()
    shards: dict[int, int] = {}
    for state, size in zip(layout, mesh.sizes, strict=True):
        if isinstance(state, Split):
            shards[state.dim] = shards.get(state.dim, 1) * size
    shards = dict(sorted(shards.items()))
    for axis, count in shards.items():
        extent = None if type_.shape is None else type_.shape[axis]
        simple = spec.sharded_dim.add(axis=axis).simple_sharding.add(num_shards=count)
        if isinstance(extent, int):
            simple.dim_value = extent
    holders: list[list[int]] = [[] for _ in range(math.prod(shards.values()))]
    for device in range(mesh.devices):
        holders[_shard(layout, mesh, device, shards)].append(first + device)
    for key, group in enumerate(holders, 1):
        if len(group) == 1:
            spec.device.append(group[0])
        else:
            spec.device.append(-key)
            spec.index_to_device_group_map.add(key=-key, value=group)
    return spec


def _shard(layout: Layout, mesh: Mesh, device: int, shards: Mapping[int, int]) -> int:
    """The number of the shard that a device holds."""
    at = dict.fromkeys(shards, 0)
    positions = mesh.positions(device)
    for state, place, size in zip(layout, positions, mesh.sizes, strict=True):
        if isinstance(state, Split):
            at[state.dim] = at[state.dim] * size + place
    number = 0
    for axis, count in shards.items():
        number = number * count + at[axis]
    return number
