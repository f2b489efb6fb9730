"""Graph -> ONNX: the same interface, at the source's opset where it can say every op."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from onnx import ModelProto, NodeProto, TensorProto, helper

from ..files import StagedFile
from ..functions import domain_of
from ..ir import Graph, Op
from ..ops.opaque import Opaque
from ..types import DType
from .graphs import GraphWriter, Level, live
from .spelled import Opset, choose_opset, spelled
from .storage import Storage, Weights

__all__ = ["Opset", "choose_opset", "save", "to_proto"]

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

Wanted = Literal["keep", "latest"] | int | None


def to_proto(
    graph: Graph,
    *,
    opset: Wanted = None,
    ir_version: int | None = None,
    weights: Weights = "auto",
) -> ModelProto:
    """The graph as a ModelProto with its weights inside.

    ``opset`` is that of the default domain: "keep" the source's, "latest", a number;
    by default the source's, or the lowest above that can say every op
    (`choose_opset` tells which op asked for more). Raises UnsupportedModel where the
    opset cannot say an op, and UsageError for weights over 2 GB.
    """
    return _written(graph, opset, ir_version, Storage("inline", None))


def save(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    opset: Wanted = None,
    ir_version: int | None = None,
    weights: Weights = "auto",
) -> None:
    """Write the graph to a file, whole or not at all.

    ``weights`` "auto" keeps inside what was inside; what was external, and everything
    where it is over 2 GB, goes to a data file beside (``PATH.data``); "share" refers to
    the data files of the source. Raises as `to_proto`, and UsageError for a path that
    cannot be written.
    """
    target = Path(path)
    storage = Storage(weights, target)
    try:
        model = _written(graph, opset, ir_version, storage)
        with StagedFile(target) as staged:
            staged.file.write(model.SerializeToString(deterministic=True))
            if storage.writer is not None:
                storage.writer.commit()
            staged.commit()
    finally:
        if storage.writer is not None:
            storage.writer.abort()


def _written(
    graph: Graph, wanted: Wanted, ir_version: int | None, storage: Storage
) -> ModelProto:
    header = graph.header
    kept = ModelProto.FromString(header.verbatim)
    chosen = choose_opset(graph, wanted)
    level = live(spelled(graph, chosen.version))
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
    writer = GraphWriter(chosen.version, stubs, stated)
    writer.write(level, proto)
    _initializers(graph, writer, storage, model)
    if ir_version is None:
        raised = opsets if chosen.version != source else {}
        ir_version = max(header.ir_version, _lowest_ir(raised), _ir_of_types(model))
    model.ir_version = ir_version
    if ir_version < 4:
        _list_initializers(model, [value.name for value in kept.graph.input])
    _annotate(model, kept)
    return model
