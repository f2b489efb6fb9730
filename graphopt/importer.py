"""ONNX -> Graph: every way of writing a model is read into one meaning.

Names become values, outer references become captures, functions are read in place,
old opsets are modernized (`graphopt.versions`), weights stay in their files. What is
not modelled becomes `Opaque`. The bytes may come from anybody: everything that ONNX
promises is checked, and a broken promise is an InvalidModel that says where.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import AttributeProto, GraphProto, ModelProto

from . import ops  # noqa: F401  registers every kind
from .errors import InvalidModel, TypeMismatch, UnsupportedModel
from .functions import Attributes, Function, Functions, domain_of
from .ir import Graph, Header, Op, Parameter, Value
from .ops.constant import Constant
from .ops.control import Control, If, Loop, Scan, fits, join, unstacked
from .ops.opaque import Opaque
from .ops.registry import Modelled, find
from .ops.schema import LATEST
from .proto import (
    GRAPHS,
    MAX_NESTING,
    free_names,
    is_known,
    kind_of,
    read_attribute,
    read_type,
    subgraphs,
    text,
)
from .sparse import DENSE_LIMIT, SparseTensor, sparse_from_proto
from .types import UNKNOWN, DType, TensorType, Type
from .versions import Node, Spelling, read, spelling
from .versions.table import changes_after
from .weights import Tensor

if TYPE_CHECKING:
    from onnx import NodeProto, SparseTensorProto, ValueInfoProto


def load(
    source: str | os.PathLike[str] | bytes | ModelProto,
    *,
    folder: str | os.PathLike[str] | None = None,
) -> Graph:
    """The graph of an ONNX model: a file, its bytes, or a ModelProto.

    External data is looked for in ``folder``, by default the file's own. Raises
    InvalidModel, UnsupportedModel, and OSError where the file cannot be read.
    """
    if isinstance(source, ModelProto):
        model = source
    else:
        if not isinstance(source, bytes):
            path = Path(source)
            folder = path.parent if folder is None else folder
            source = path.read_bytes()
        model = _parse(source)
    with _without_collector():
        return _Importer(model, None if folder is None else Path(folder)).graph()


def _parse(data: bytes) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError; its own module is private
        raise InvalidModel(f"not an ONNX model: {error}") from None
    if not model.HasField("graph") or not (model.ir_version or model.opset_import):
        raise InvalidModel("not an ONNX model: no graph, version or opset in it")
    return model


@contextmanager
def _without_collector() -> Iterator[None]:
    """The cyclic collector would walk every new object again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(slots=True)
class _Level:
    """One graph or body in the making: its side tables, and what it captures."""

    names: dict[Value, str] = field(default_factory=dict)
    sources: dict[Op, tuple[str, ...]] = field(default_factory=dict)
    captures: dict[Value, Parameter] = field(default_factory=dict)
    declared: Mapping[str, ValueInfoProto] | None = None
    proto: GraphProto | None = None
    depth: int = 0


@dataclass(slots=True)
class _Scope:
    """The names that nodes can see: of a graph, a body, or a function being called."""

    level: _Level
    opsets: Mapping[str, int]
    values: dict[str, Value] = field(default_factory=dict)
    outer: _Scope | None = None
    attributes: Attributes | None = None
    """What references to attributes mean; None outside of functions."""
    prefix: str = ""

    def find(self, name: str) -> Value | None:
        """The value of a name, captured where it comes from around this body."""
        value = self.values.get(name)
        if value is not None or self.outer is None:
            return value
        value = self.outer.find(name)
        if value is None or isinstance(value, Constant):
            return value
        captured = self.level.captures.get(value)
        if captured is None:
            captured = Parameter(value.type, name)
            captured.contents = value.contents
            self.level.captures[value] = captured
        self.values[name] = captured
        return captured


@dataclass(frozen=True, eq=False)
class _Reading:
    """How nodes of one kind are read at one opset."""

    cls: type[Modelled]
    spelling: Spelling | None
    changes: bool
    defaults: Mapping[str, Any]
    """Defaults of this opset that the newest does not share."""


@cache
def _reading(kind: str, domain: str, version: int) -> _Reading | None:
    """None where the kind is not modelled at that opset."""
    if domain == "graphopt" or kind == "Constant":
        return None
    changes = changes_after(kind, version) if domain == "" else ()
    cls = find(changes[-1].kind if changes else kind, domain)
    if cls is None:
        return None
    schema = cls.schema()
    found = spelling(kind, domain, version) if version > 0 else None
    if found is None:
        if domain == "" or spelling(kind, domain, 1 << 30) is not None:
            return None
        return _Reading(cls, None, False, {})
    if domain != "" and found is not spelling(kind, domain, 1 << 30):
        return None
    names = getattr(cls, "body_names", ())
    if any(
        kind in GRAPHS and name not in names for name, kind in found.attributes.items()
    ):
        return None
    defaults = {
        name: value
        for name, value in found.defaults.items()
        if name not in schema.defaults or schema.defaults[name] != value or changes
    }
    return _Reading(cls, found, bool(changes), defaults)


class _Importer:
    """Reads one model."""

    def __init__(self, model: ModelProto, folder: Path | None) -> None:
        self.model = model
        self.folder = folder
        self.opsets = _opsets(model)
        self.functions = Functions(model.functions)
        self.tokens = 0
        self.kept = ModelProto()  # what the IR does not hold
        self.keep_functions = False
        self.retries = 3 * len(model.graph.node) + 1000  # nodes that may be read again

    def graph(self) -> Graph:
        proto = self.model.graph
        level = _Level(proto=proto)
        scope = _Scope(level, self.opsets)
        tensors = self.initializers(proto, scope)
        inputs = self.inputs(proto, scope, tensors)
        self.nodes(proto.node, scope)
        outputs = [self.output(value, scope) for value in proto.output]
        types = [self.declared_type(value) for value in proto.output]
        return Graph(
            inputs,
            outputs,
            output_names=[text(value.name, "graph") for value in proto.output],
            output_types=types,
            name=text(proto.name, "graph"),
            doc=text(proto.doc_string, "graph"),
            header=self.header(),
            names=level.names,
            sources=level.sources,
        )

    def header(self) -> Header:
        model = self.model
        keep = self.kept
        for name in ("training_info", "configuration"):
            if getattr(model, name, None):
                getattr(keep, name).MergeFrom(getattr(model, name))
        if self.keep_functions:
            keep.functions.MergeFrom(model.functions)
        keep.graph.input.MergeFrom(model.graph.input)
        keep.graph.output.MergeFrom(model.graph.output)
        keep.graph.quantization_annotation.MergeFrom(
            model.graph.quantization_annotation
        )
        keep.graph.metadata_props.MergeFrom(model.graph.metadata_props)
        return Header(
            opsets=self.opsets,
            ir_version=model.ir_version,
            producer=(
                text(model.producer_name, "model"),
                text(model.producer_version, "model"),
            ),
            domain=text(model.domain, "model"),
            model_version=model.model_version,
            doc=text(model.doc_string, "model"),
            metadata={
                text(p.key, "metadata"): text(p.value, "metadata")
                for p in model.metadata_props
            },
            verbatim=keep.SerializeToString(),
        )

    # --- the interface ---------------------------------------------------------------

    def initializers(self, proto: GraphProto, scope: _Scope) -> dict[str, Tensor]:
        """The graph's tensors by name; sparse ones spelled out where that is small."""
        found: dict[str, Tensor] = {}
        for tensor in proto.initializer:
            name = text(tensor.name, "initializer")
            if name in found:
                raise InvalidModel("two initializers of this name", where=name)
            found[name] = Tensor.from_proto(tensor, folder=self.folder)
        for sparse in proto.sparse_initializer:
            name = text(sparse.values.name, "sparse initializer")
            if name in found or name in scope.values:
                raise InvalidModel("two initializers of this name", where=name)
            value = self.sparse(sparse, name)
            scope.values[name] = value
            scope.level.names.setdefault(value, name)
        for name, tensor in found.items():
            constant = Constant(tensor)
            scope.values[name] = constant
            scope.level.names.setdefault(constant, name)
        return found

    def sparse(self, proto: SparseTensorProto, name: str) -> Value:
        tensor = sparse_from_proto(proto, folder=self.folder)
        if dense := _dense(tensor, name):
            return Constant(dense)
        node = NodeProto_(op_type="Constant", output=[name])
        attribute = node.attribute.add(
            name="sparse_value", type=AttributeProto.SPARSE_TENSOR
        )
        attribute.sparse_tensor.CopyFrom(proto)
        type_ = TensorType(tensor.values.dtype, tensor.shape)
        return self.make_opaque(node, [], [], (type_,), 0)

    def inputs(
        self, proto: GraphProto, scope: _Scope, tensors: Mapping[str, Tensor]
    ) -> list[Parameter]:
        """Parameters of the main graph.

        From IR version 4 an initializer that is also an input may be overridden;
        before, every initializer had to be listed and is constant.
        """
        seen = set()
        parameters = []
        for value in proto.input:
            name = text(value.name, "graph input")
            if not name:
                raise InvalidModel("graph input without a name")
            if name in seen:
                raise InvalidModel("two graph inputs of this name", where=name)
            seen.add(name)
            default = tensors.get(name)
            if name in scope.values and self.model.ir_version < 4:
                continue
            type_ = self.declared_type(value) or UNKNOWN
            parameter = Parameter(type_, name, default=default)
            parameters.append(parameter)
            scope.values[name] = parameter
        return parameters

    def declared_type(self, value: ValueInfoProto) -> Type | None:
        if not value.HasField("type"):
            return None
        type_ = read_type(value.type, f"value {value.name!r}")
        return type_ if is_known(type_) else None

    def output(self, proto: ValueInfoProto, scope: _Scope) -> Value:
        name = proto.name
        value = scope.find(name) if name else None
        if value is None:
            raise InvalidModel("graph output that nothing produces", where=repr(name))
        return value

    # --- nodes -----------------------------------------------------------------------

    def nodes(self, protos: Sequence[NodeProto], scope: _Scope) -> None:
        """Read nodes into a scope, operands first whatever their order in the file."""
        for index, proto in _in_order(protos, scope):
            self.node(proto, index, scope)

    def node(self, proto: NodeProto, index: int, scope: _Scope) -> None:
        name = proto.name
        where = f"{proto.op_type} node {name or '#' + str(index)}"
        operands: list[Value | None] = []
        values = scope.values
        for read_name in proto.input:
            value = values.get(read_name)
            if value is None and read_name:
                value = scope.find(read_name)
                if value is None:
                    raise InvalidModel(
                        f"reads {read_name!r:.200}, which nothing produces", where=where
                    )
            operands.append(value)
        source = scope.prefix + (name or f"{proto.op_type}_{index}")
        function = self.functions.find(proto)
        if function is not None:
            results = self.call(function, proto, operands, scope, source, where)
        else:
            results = self.op(proto, operands, scope, source, where)
        outputs = proto.output
        if len(results) < len(outputs):
            raise InvalidModel(
                f"names {len(outputs)} results, has {len(results)}", where=where
            )
        names = scope.level.names
        for output, value in zip(outputs, results, strict=False):
            if output:
                values[text(output, where)] = value
                names.setdefault(value, output)

    def op(
        self,
        proto: NodeProto,
        operands: list[Value | None],
        scope: _Scope,
        source: str,
        where: str,
    ) -> Sequence[Value]:
        domain = domain_of(proto.domain)
        version = scope.opsets.get(domain, 0)
        reading = _reading(proto.op_type, domain, version)
        if reading is None:
            if proto.op_type == "Constant" and domain == "":
                tensor = self.constant(proto, scope, where)
                if tensor is not None:
                    return (Constant(tensor),)
            results: Sequence[Value] | None = None
        else:
            try:
                results = self.modelled(reading, proto, operands, scope, where)
            except TypeMismatch as error:
                raise InvalidModel(str(error), where=where) from None
        if results is None:
            results = self.opaque(proto, operands, scope, where, version)
        sources = scope.level.sources
        noted = False
        for value in results:
            op = value.op
            if op is not None and not noted:
                have = sources.get(op)
                if have is None:
                    sources[op] = (source,)
                elif source not in have:
                    sources[op] = (*have, source)
                noted = value is op
        if proto.metadata_props or proto.doc_string or proto.device_configurations:
            stub = self.kept.graph.node.add(name=source, doc_string=proto.doc_string)
            stub.metadata_props.MergeFrom(proto.metadata_props)
            stub.device_configurations.MergeFrom(proto.device_configurations)
        return results

    def modelled(
        self,
        reading: _Reading,
        proto: NodeProto,
        operands: list[Value | None],
        scope: _Scope,
        where: str,
    ) -> Sequence[Value] | None:
        """The results of a node whose kind is modelled; None where this one is not."""
        spelled = reading.spelling
        cls = reading.cls
        attrs: dict[str, Any] = dict(reading.defaults)
        graphs: dict[str, GraphProto] = {}
        for attribute in proto.attribute:
            name = attribute.name
            if attribute.ref_attr_name:
                found = _resolve(attribute, scope, where)
                if found is None:
                    continue
                attribute = found
            kind = attribute.type or kind_of(attribute, where)
            if spelled is None:
                if name not in cls.schema().attributes:
                    return None
            else:
                expected = spelled.attributes.get(name)
                if expected is None:
                    return None
                if expected != kind:
                    raise InvalidModel(
                        f"attribute {name!r} must be "
                        f"{AttributeProto.AttributeType.Name(expected)}, is "
                        f"{AttributeProto.AttributeType.Name(kind)}",
                        where=where,
                    )
            if kind in GRAPHS:
                if not isinstance(attribute.g, GraphProto) or kind != GRAPH:
                    return None
                graphs[name] = attribute.g
            else:
                attrs[name] = read_attribute(attribute, kind, self.folder, where)
        outs = len(proto.output)
        while outs and not proto.output[outs - 1]:
            outs -= 1
        if spelled is not None:
            self.check_arity(spelled, operands, outs, attrs, graphs, where)
            outs = max(outs, spelled.min_results, 1)
        if issubclass(cls, Control):
            return self.control(cls, operands, attrs, graphs, scope, where)
        token = 0
        if not cls.deterministic:
            self.tokens += 1
            token = self.tokens
        if reading.changes:
            attrs.pop("consumed_inputs", None)
            used = tuple([bool(name) for name in proto.output[:outs]])
            node = Node(proto.op_type, operands, attrs, used or (True,))
            made = read(node, scope.opsets[domain_of(proto.domain)])
            if not isinstance(made, Node):
                return made
            operands, attrs = made.operands, made.attrs
        elif graphs:
            return None
        return cls(*operands, outs=outs or None, token=token, **attrs).results

    def check_arity(
        self,
        spelled: Spelling,
        operands: Sequence[Value | None],
        outs: int,
        attrs: Mapping[str, Any],
        graphs: Mapping[str, GraphProto],
        where: str,
    ) -> None:
        count = len(operands)
        if count < spelled.min_operands or count > spelled.max_operands:
            most = spelled.max_operands
            while count > most and operands[count - 1] is None:
                count -= 1
            if count < spelled.min_operands or count > most:
                raise InvalidModel(
                    f"{count} inputs, takes {spelled.min_operands} to {most}",
                    where=where,
                )
        if outs > spelled.max_results:
            raise InvalidModel(
                f"{outs} outputs, has at most {spelled.max_results}", where=where
            )
        for name in spelled.required:
            if name not in attrs and name not in graphs:
                raise InvalidModel(f"attribute {name!r} is missing", where=where)

    def constant(self, proto: NodeProto, scope: _Scope, where: str) -> Tensor | None:
        """The tensor of a Constant node; None where it is sparse and large."""
        if len(proto.attribute) != 1 or proto.input or len(proto.output) != 1:
            raise InvalidModel("needs one attribute and one output", where=where)
        attribute: AttributeProto | None = proto.attribute[0]
        assert attribute is not None
        name = attribute.name
        if attribute.ref_attr_name:
            attribute = _resolve(attribute, scope, where)
            if attribute is None:
                raise InvalidModel(f"attribute {name!r} is missing", where=where)
        kind = kind_of(attribute, where)
        if CONSTANTS.get(name) != kind:
            raise InvalidModel(f"attribute {name!r} is of the wrong type", where=where)
        value = read_attribute(attribute, kind, self.folder, where)
        if isinstance(value, Tensor):
            return value
        if isinstance(value, SparseTensor):
            return _dense(value, where)
        if name == "value_floats":
            return Tensor.of(list(value), DType.F32)
        if name == "value_ints":
            return Tensor.of(list(value), DType.I64)
        if name == "value_strings":
            return Tensor.of(list(value), DType.STRING)
        return Tensor.of(value, _SINGLE[name])

    def opaque(
        self,
        proto: NodeProto,
        operands: list[Value | None],
        scope: _Scope,
        where: str,
        version: int,
    ) -> Sequence[Value]:
        """The results of a node that is kept as it is."""
        node = NodeProto_()
        node.CopyFrom(proto)
        if scope.attributes is not None:
            _resolve_all(node, scope, where)
        free: dict[str, None] = {}
        for inner in subgraphs(node):
            free.update(free_names(inner))
            self.keep_functions |= bool(self.functions)
        captured = []
        for name in free:
            value = scope.find(name)
            if value is None:
                raise InvalidModel(
                    f"a body reads {name!r:.200}, which nothing produces", where=where
                )
            captured.append(value)
        types = tuple([self.declared_result(n, scope) for n in proto.output])
        made = self.make_opaque(node, [*operands, *captured], list(free), types, version)
        return made.results

    def make_opaque(
        self,
        node: NodeProto,
        operands: Sequence[Value | None],
        captures: Sequence[str],
        types: tuple[Type, ...],
        version: int,
    ) -> Opaque:
        self.tokens += 1
        return Opaque(
            *operands,
            token=self.tokens,
            node=node.SerializeToString(deterministic=True),
            op_type=node.op_type,
            op_domain=domain_of(node.domain),
            version=version,
            captures=tuple(captures),
            declared=types,
        )

    def declared_result(self, name: str, scope: _Scope) -> Type:
        """The type that the file states for a result, in a called function nothing."""
        level = scope.level
        if scope.attributes is not None or level.proto is None:
            return UNKNOWN
        if level.declared is None:
            level.declared = {
                value.name: value
                for values in (level.proto.output, level.proto.value_info)
                for value in values
            }
        value = level.declared.get(name)
        return (self.declared_type(value) if value is not None else None) or UNKNOWN

    # --- functions -------------------------------------------------------------------

    def call(
        self,
        function: Function,
        node: NodeProto,
        operands: Sequence[Value | None],
        scope: _Scope,
        source: str,
        where: str,
    ) -> list[Value]:
        """The results of a model-local function, its nodes read in place."""
        proto = function.proto
        if len(operands) > len(proto.input) or len(node.output) > len(proto.output):
            raise InvalidModel(
                f"{function.where} has {len(proto.input)} inputs and "
                f"{len(proto.output)} outputs",
                where=where,
            )
        actual = {}
        for attribute in node.attribute:
            name = attribute.name
            if attribute.ref_attr_name:
                found = _resolve(attribute, scope, where)
                if found is None:
                    continue
                attribute = found
            actual[name] = attribute
        inner = _Scope(
            scope.level,
            function.opsets,
            attributes=function.bind(actual),
            prefix=f"{source}/",
        )
        for formal, value in zip(proto.input, operands, strict=False):
            if value is not None:
                inner.values[formal] = value
        absent = set(proto.input) - inner.values.keys()
        self.functions.enter(function)
        inner.absent = absent
        self.nodes(proto.node, inner)
        self.functions.leave()
        results = []
        for name in proto.output[: len(node.output)]:
            value = inner.values.get(name)
            if value is None:
                raise InvalidModel(
                    f"output {name!r} that nothing produces", where=function.where
                )
            results.append(value)
        return results
