"""What stands around the nodes of a model: header, inputs, outputs, initializers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnx import ModelProto

from ..errors import InvalidModel, UnsupportedModel
from ..functions import Functions, domain_of
from ..ir import Graph, Header, Parameter
from ..ops.schema import LATEST
from ..proto import stated_type, text
from ..types import UNKNOWN, TensorType, Type
from .nodes import NodeReader
from .scope import Level, Scope


def read_model(model: ModelProto, folder: Path | None, apart: bool) -> Graph:
    """The graph of a model. Raises InvalidModel and UnsupportedModel."""
    try:
        return _read(model, folder, apart)
    except InvalidModel as error:
        error.where = error.where or "model"
        raise


def _read(model: ModelProto, folder: Path | None, apart: bool) -> Graph:
    opsets = _opsets(model)
    reader = NodeReader(folder, Functions(model.functions), apart)
    proto = model.graph
    level = Level(proto)
    scope = Scope(level, opsets)
    reader.initializers(proto, scope)
    inputs = _inputs(model, scope)
    reader.nodes(proto.node, scope)
    outputs = []
    for declared in proto.output:
        value = scope.values.get(text(declared.name))
        if value is None:
            raise InvalidModel(
                "graph output that nothing produces", where=repr(declared.name)
            )
        _agree(declared.name, stated_type(declared) or UNKNOWN, value.type)
        outputs.append(value)
    return Graph(
        inputs,
        outputs,
        output_names=[text(value.name) for value in proto.output],
        output_types=[stated_type(value) for value in proto.output],
        name=text(proto.name),
        doc=text(proto.doc_string),
        header=_header(model, opsets, reader),
        names=level.names,
        sources=level.sources,
    )


def _opsets(model: ModelProto) -> dict[str, int]:
    """The imported opsets. Before IR version 3 there were none, and it was opset 1."""
    opsets: dict[str, int] = {}
    for entry in model.opset_import:
        domain = domain_of(text(entry.domain))
        if domain in opsets and opsets[domain] != entry.version:
            raise InvalidModel(
                f"opsets {opsets[domain]} and {entry.version} of domain {domain!r} "
                "are both imported",
                where="opset_import",
            )
        opsets[domain] = entry.version
    if not opsets and model.ir_version < 3:
        opsets[""] = 1
    if opsets.get("", 0) > LATEST:
        raise UnsupportedModel(
            f"opset {opsets['']} is newer than {LATEST}, the newest that is known",
            where="opset_import",
        )
    return opsets


def _header(model: ModelProto, opsets: Mapping[str, int], reader: NodeReader) -> Header:
    kept = reader.kept
    kept.training_info.MergeFrom(model.training_info)
    kept.configuration.MergeFrom(model.configuration)
    if reader.keep_functions:
        kept.functions.MergeFrom(model.functions)
    graph = model.graph
    kept.graph.input.MergeFrom(graph.input)
    kept.graph.output.MergeFrom(graph.output)
    kept.graph.quantization_annotation.MergeFrom(graph.quantization_annotation)
    kept.graph.metadata_props.MergeFrom(graph.metadata_props)
    return Header(
        opsets=opsets,
        ir_version=model.ir_version,
        producer=(
            text(model.producer_name),
            text(model.producer_version),
        ),
        domain=text(model.domain),
        model_version=model.model_version,
        doc=text(model.doc_string),
        metadata={text(entry.key): text(entry.value) for entry in model.metadata_props},
        verbatim=kept.SerializeToString(deterministic=True),
    )


def _inputs(model: ModelProto, scope: Scope) -> list[Parameter]:
    """Parameters of the main graph.

    From IR version 4 on, an initializer that is also an input may be overridden;
    before, every initializer had to be listed, and is constant.
    """
    parameters: dict[str, Parameter] = {}
    for value in model.graph.input:
        name = text(value.name)
        if not name:
            raise InvalidModel("graph input without a name")
        if name in parameters:
            raise InvalidModel("two graph inputs of this name", where=name)
        given = scope.values.get(name)
        default = None if given is None else given.constant
        if given is not None and default is None:
            raise UnsupportedModel(
                "a large sparse initializer that is an input too", where=repr(name)
            )
        type_ = stated_type(value) or UNKNOWN
        if default is not None:
            _agree(name, type_, default.type)
        if given is not None and model.ir_version < 4:
            continue
        parameter = Parameter(type_, name, default=default)
        parameters[name] = parameter
        scope.values[name] = parameter
    return list(parameters.values())


def _agree(name: str, stated: Type, found: Type) -> None:
    """Raises InvalidModel where a value surely is not what the file says it is."""
    if not (isinstance(stated, TensorType) and isinstance(found, TensorType)):
        return
    clash = stated.dtype and found.dtype and stated.dtype is not found.dtype
    if stated.is_static and found.is_static:
        clash = clash or stated.shape != found.shape
    if clash:
        raise InvalidModel(f"is {found}, stated as {stated}", where=repr(name))
