"""Graph -> ONNX: the same interface, at the source's opset where that says every op."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from ..files import StagedFile, file_named
from ..ir import Graph, Op
from ..ops.opaque import Opaque
from ..ops.registry import UNNAMED
from ..proto import defined_names, write_type
from ..types import DType, TensorType
from .graphs import GraphWriter, Level, live
from .opsets import Wanted, opset_of, with_opset
from .order import by_rank, ranks_of, ranks_of_source, source_order
from .spelled import Opset, choose_opset, spelled
from .storage import Storage, Weights

__all__ = [
    "Opset",
    "Wanted",
    "by_rank",
    "choose_opset",
    "opset_of",
    "ranks_of_source",
    "save",
    "source_order",
    "to_proto",
    "with_opset",
]

_FIRST_IR = {
    DType.F8E4M3FN: 9,
    DType.F8E4M3FNUZ: 9,
    DType.F8E5M2: 9,
    DType.F8E5M2FNUZ: 9,
    DType.U4: 10,
    DType.I4: 10,
    DType.F4E2M1: 11,
    DType.F8E8M0: 12,
    DType.U2: 13,
    DType.I2: 13,
}
"""IR versions that brought element types."""


def to_proto(
    graph: Graph,
    *,
    opset: Wanted = None,
    ir_version: int | None = None,
    order: Sequence[Op] | None = None,
) -> ModelProto:
    """The graph as a ModelProto with its weights inside.

    ``opset`` is that of the default domain: "keep" the source's, "latest", a number;
    by default the source's, or the lowest above that can say every op
    (`choose_opset` tells which op asked for more). ``order`` is that of the nodes, all
    ops of the graph with operands first; by default the source's. Raises
    UnsupportedModel where the opset cannot say an op, and UsageError for an order that
    is none and for weights over 2 GB.
    """
    return _written(graph, opset, ir_version, Storage("inline", None), order)


def save(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    opset: Wanted = None,
    ir_version: int | None = None,
    weights: Weights = "auto",
    folder: Path | None = None,
    order: Sequence[Op] | None = None,
) -> None:
    """Write the graph to a file, whole or not at all.

    ``weights`` "auto" keeps inside what was inside; what was external, and everything
    where it is over 2 GB, goes to a data file beside (``PATH.data``); "share" refers to
    the data files of the source. ``folder`` is where the file will be moved to, if it
    does not stay. Raises as `to_proto`, and UsageError for a path that cannot be
    written.
    """
    target = file_named(path)
    storage = Storage(weights, target, folder)
    try:
        model = _written(graph, opset, ir_version, storage, order)
        with StagedFile(target) as staged:
            staged.file.write(model.SerializeToString(deterministic=True))
            if storage.writer is not None:
                storage.writer.commit()
            staged.commit()
    finally:
        if storage.writer is not None:
            storage.writer.abort()


def _written(
    graph: Graph,
    wanted: Wanted,
    ir_version: int | None,
    storage: Storage,
    order: Sequence[Op] | None,
) -> ModelProto:
    header = graph.header
    kept = ModelProto.FromString(header.verbatim)
    chosen = choose_opset(graph, wanted)
    ranks = None if order is None else ranks_of(order, graph)
    level = live(spelled(graph, chosen.version, ranks=ranks))
    opsets = _opsets(level, chosen.version)
    source = header.opsets.get("", 0)
    model = ModelProto(
        producer_name=header.producer[0],
        producer_version=header.producer[1],
        domain=header.domain,
        model_version=header.model_version,
        doc_string=header.doc,
        training_info=kept.training_info,
        functions=kept.functions,
        configuration=kept.configuration,
    )
    for domain, version in opsets.items():
        model.opset_import.add(domain=domain, version=version)
    for key, value in header.metadata.items():
        model.metadata_props.add(key=key, value=value)
    proto = model.graph
    proto.name = graph.name or "graph"
    proto.doc_string = graph.doc
    proto.metadata_props.extend(kept.graph.metadata_props)
    stated = {v.name: v for v in (*kept.graph.output, *kept.graph.input)}
    stubs: dict[str, NodeProto] = {node.name: node for node in kept.graph.node}
    writer = GraphWriter(opsets, stubs, stated)
    writer.write(level, proto)
    _initializers(graph, writer, storage, model)
    if ir_version is None:
        new = chosen.version != source or not header.ir_version
        raised = opsets if new else {}
        ir_version = max(header.ir_version, _lowest_ir(raised), _ir_of_types(model))
    model.ir_version = ir_version
    if ir_version < 3 and opsets == {"": 1}:
        del model.opset_import[:]  # there were no opsets, then
    if ir_version < 4:
        _list_initializers(model, [value.name for value in kept.graph.input])
    _annotate(model, kept)
    return model


def _opsets(level: Level, version: int) -> dict[str, int]:
    """What to import: all that the source did, and the domains of every op."""
    opsets = dict(level.graph.header.opsets)
    if version:
        opsets[""] = version
    for op in _ops(level):
        domain, needed = op.domain, 1
        if isinstance(op, Opaque):
            domain, needed = op.op_domain, op.version
        if domain not in UNNAMED:
            opsets.setdefault(domain, max(needed, 1))
    return opsets


def _ops(level: Level) -> Iterator[Op]:
    pending = [level]
    while pending:
        inner = pending.pop()
        yield from inner.ops
        for bodies in inner.bodies.values():
            pending.extend(bodies)


def _initializers(
    graph: Graph, writer: GraphWriter, storage: Storage, model: ModelProto
) -> None:
    """Write every constant once, and the defaults of inputs."""
    tensors = {p.name: p.default for p in graph.inputs if p.default is not None}
    tensors.update((name, c.tensor) for c, name in writer.constants.items())
    storage.plan(tensors.values())
    for name, tensor in tensors.items():
        storage.write(tensor, name, model.graph.initializer.add())


def _lowest_ir(opsets: Mapping[str, int]) -> int:
    """The IR version that came with the newest of some opsets."""
    known = [helper.make_operatorsetid(d, v) for d, v in opsets.items()]
    return helper.find_min_ir_version_for(known, ignore_unknown=True) if known else 1


def _ir_of_types(model: ModelProto) -> int:
    types = {tensor.data_type for tensor in model.graph.initializer}
    types.update(
        value.type.tensor_type.elem_type
        for values in (model.graph.input, model.graph.output)
        for value in values
    )
    return max((_FIRST_IR.get(DType(t), 1) for t in types if t), default=1)


def _list_initializers(model: ModelProto, order: Sequence[str]) -> None:
    """Before IR version 4 initializers are inputs, too; the source's order is kept."""
    graph = model.graph
    listed = {value.name: value for value in graph.input}
    for tensor in graph.initializer:
        type_ = TensorType(DType(tensor.data_type), tuple(tensor.dims))
        value = listed[tensor.name] = ValueInfoProto(name=tensor.name)
        value.type.CopyFrom(write_type(type_))
    place = {name: i for i, name in enumerate(order)}
    names = sorted(listed, key=lambda name: place.get(name, len(place)))
    values = [listed[name] for name in names]
    del graph.input[:]
    graph.input.extend(values)


def _annotate(model: ModelProto, kept: ModelProto) -> None:
    """Keep what the source says of quantization, for tensors that are still there."""
    annotations = kept.graph.quantization_annotation
    if not annotations:
        return
    names = defined_names(model.graph)
    for annotation in annotations:
        others = [entry.value for entry in annotation.quant_parameter_tensor_names]
        if names.issuperset([annotation.tensor_name, *others]):
            model.graph.quantization_annotation.append(annotation)
