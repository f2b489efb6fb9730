"""Nodes -> ops: modelled ones in their newest meaning, the rest opaque."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from ..errors import InvalidModel, TypeMismatch
from ..functions import Function, Functions, domain_of
from ..ir import Op, Value
from ..ops.constant import Constant
from ..ops.control import Control
from ..ops.opaque import Opaque
from ..ops.registry import find
from ..proto import (
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
from ..sparse import DENSE_LIMIT, SparseTensor, sparse_from_proto
from ..types import UNKNOWN, DType, TensorType, Type
from ..versions import Node, Spelling, has_changed, read, spelling
from ..weights import Tensor
from .bodies import Body, Budget, read_control, read_formals
from .scope import Level, Scope, in_order, label

if TYPE_CHECKING:
    from onnx import SparseTensorProto, ValueInfoProto

_NEWEST = 1 << 30


@dataclass(frozen=True, eq=False)
class Reading:
    """How nodes of one kind are read at one opset.

    ``defaults`` are those of that opset that the newest does not share.
    """

    cls: type[Op]
    attributes: frozenset[str]
    spelling: Spelling | None
    changed: bool
    defaults: Mapping[str, Any]


@cache
def reading(kind: str, domain: str, version: int) -> Reading | None:
    """How to read a kind; None where it is not modelled at that opset."""
    if domain == "graphopt" or (kind == "Constant" and not domain):
        return None
    newer = has_changed(kind, version) if not domain else None
    cls = find(newer or kind, domain)
    if cls is None:
        return None
    schema = cls.schema()
    found = spelling(kind, domain, version) if version > 0 else None
    newest = spelling(kind, domain, _NEWEST)
    if found is None or (domain and found is not newest):
        foreign = domain and newest is None  # a kind with a schema of its own
        if not foreign or version <= 0:
            return None
        return Reading(cls, schema.attributes, None, False, {})
    own: tuple[str, ...] = ()
    if issubclass(cls, Control):
        if newer:
            return None
        own = cls.body_names
    if any(k in GRAPHS and name not in own for name, k in found.attributes.items()):
        return None
    defaults = {
        name: value
        for name, value in found.defaults.items()
        if newer or schema.defaults.get(name) != value
    }
    return Reading(cls, schema.attributes, found, newer is not None, defaults)


class NodeReader:
    """Reads the nodes of one model; counts tokens; collects what the IR does not hold.

    ``kept`` gathers the metadata of nodes, under the names that `Graph.sources` uses.
    """

    def __init__(self, folder: Path | None, functions: Functions) -> None:
        self.folder = folder
        self.functions = functions
        self.kept = ModelProto()
        self.keep_functions = False
        self.budget = Budget()
        self._tokens = 0

    def token(self) -> int:
        self._tokens += 1
        return self._tokens

    def nodes(self, protos: Iterable[NodeProto], scope: Scope) -> None:
        """Read nodes into a scope, operands first whatever their order in the file."""
        for index, proto in in_order(protos, scope.values):
            self.budget.nodes += 1
            self.node(proto, index, scope)

    def node(self, proto: NodeProto, index: int, scope: Scope) -> None:
        where = label(proto, index)
        operands = [scope.find(name, where) for name in proto.input]
        source = scope.prefix + (proto.name or f"{proto.op_type}_{index}")
        function = self.functions.find(proto)
        if function is not None:
            results = self.call(function, proto, operands, scope, source, where)
        else:
            results = self.op(proto, operands, scope, where)
            if results:
                scope.level.note(results, source)
            if proto.metadata_props or proto.doc_string or proto.device_configurations:
                self.keep_metadata(proto, source)
        names = proto.output
        if len(results) < len(names) and any(names[len(results) :]):
            raise InvalidModel(
                f"names {len(names)} results, has {len(results)}", where=where
            )
        for name, value in zip(names, results, strict=False):
            if name:
                scope.define(name, value, where)

    def keep_metadata(self, proto: NodeProto, source: str) -> None:
        stub = self.kept.graph.node.add(name=source, doc_string=proto.doc_string)
        stub.metadata_props.MergeFrom(proto.metadata_props)
        stub.device_configurations.MergeFrom(proto.device_configurations)

    def op(
        self,
        proto: NodeProto,
        operands: list[Value | None],
        scope: Scope,
        where: str,
    ) -> Sequence[Value]:
        """The results of a node that calls no function."""
        domain = domain_of(proto.domain)
        version = scope.opsets.get(domain, 0)
        how = reading(proto.op_type, domain, version)
        results: Sequence[Value] | None = None
        if how is not None:
            try:
                results = self.modelled(how, version, proto, operands, scope, where)
            except TypeMismatch as error:
                raise InvalidModel(str(error), where=where) from None
        elif proto.op_type == "Constant" and not domain:
            tensor = self.constant(proto, scope, where)
            results = None if tensor is None else (Constant(tensor),)
        if results is None:
            results = self.opaque(proto, operands, scope, where, version)
        return results

    def initializers(self, proto: GraphProto, scope: Scope) -> dict[str, Tensor]:
        """Define a graph's tensors; sparse ones are spelled out where that is small."""
        tensors: dict[str, Tensor] = {}
        for entry in proto.initializer:
            name = text(entry.name, "initializer")
            tensors[_new(name, tensors)] = Tensor.from_proto(entry, folder=self.folder)
        for name, tensor in tensors.items():
            scope.define(name, Constant(tensor), "initializer")
        for sparse in proto.sparse_initializer:
            name = _new(text(sparse.values.name, "sparse initializer"), scope.values)
            scope.define(name, self.sparse(sparse, name), "sparse initializer")
        return tensors

    def sparse(self, proto: SparseTensorProto, name: str) -> Value:
        tensor = sparse_from_proto(proto, folder=self.folder)
        spelled_out = dense(tensor, f"sparse initializer {name!r}")
        if spelled_out is not None:
            return Constant(spelled_out)
        node = NodeProto(op_type="Constant", output=[name])
        node.attribute.add(
            name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=proto
        )
        type_ = TensorType(tensor.values.dtype, tensor.shape)
        return self.make_opaque(node, [], (), (type_,), 0)

    # --- modelled kinds ----------------------------------------------------------------

    def modelled(
        self,
        how: Reading,
        version: int,
        proto: NodeProto,
        operands: list[Value | None],
        scope: Scope,
        where: str,
    ) -> Sequence[Value] | None:
        """The results of a node of a known kind; None where it says unknown things."""
        attrs = dict(how.defaults)
        graphs: dict[str, GraphProto] = {}
        known = how.attributes if how.spelling is None else how.spelling.attributes
        for attribute in self.attributes(proto, scope, where):
            name = attribute.name
            if name not in known:
                return None
            kind = attribute.type or kind_of(attribute, where)
            if how.spelling is not None:
                _expect(how.spelling.attributes[name], kind, name, where)
            if kind == AttributeProto.GRAPH:
                graphs[name] = attribute.g
            else:
                attrs[name] = read_attribute(attribute, kind, self.folder, where)
        outs = len(proto.output)
        while outs and not proto.output[outs - 1]:
            outs -= 1
        if how.spelling is not None:
            _check_arity(how.spelling, operands, outs, where)
            for name in how.spelling.required:
                if name not in attrs and name not in graphs:
                    raise InvalidModel(f"attribute {name!r} is missing", where=where)
            outs = max(outs, how.spelling.min_results, 1)
        cls = how.cls
        if issubclass(cls, Control):
            return read_control(
                cls, operands, attrs, graphs, self.body_reader(scope), self.budget
            )
        token = 0 if cls.deterministic else self.token()
        if how.changed:
            attrs.pop("consumed_inputs", None)
            used = tuple([bool(name) for name in proto.output[:outs]])
            node = Node(proto.op_type, list(operands), attrs, used, token)
            made = read(node, version)
            if not isinstance(made, Node):
                return made
            operands, attrs = made.operands, made.attrs
        return cls(*operands, outs=outs, token=token, **attrs).results

    def attributes(
        self, proto: NodeProto, scope: Scope, where: str
    ) -> Iterable[AttributeProto]:
        """A node's attributes, references to those of the calling node resolved."""
        if scope.attributes is not None:
            return resolved(proto.attribute, scope.attributes)
        for attribute in proto.attribute:
            if attribute.ref_attr_name:
                raise InvalidModel(
                    f"attribute {attribute.name!r} refers to an attribute of a "
                    "function, but the node is in none",
                    where=where,
                )
        return proto.attribute

    def constant(self, proto: NodeProto, scope: Scope, where: str) -> Tensor | None:
        """The tensor of a Constant node; None where it is sparse and large."""
        attributes = list(self.attributes(proto, scope, where))
        if len(attributes) != 1 or proto.input or len(proto.output) != 1:
            raise InvalidModel("needs one attribute and one output", where=where)
        name = attributes[0].name
        kind = kind_of(attributes[0], where)
        if name not in _CONSTANT:
            raise InvalidModel(f"unknown attribute {name!r}", where=where)
        expected, dtype = _CONSTANT[name]
        _expect(expected, kind, name, where)
        value = read_attribute(attributes[0], kind, self.folder, where)
        if isinstance(value, SparseTensor):
            return dense(value, where)
        if isinstance(value, Tensor):
            return value
        return Tensor.of(list(value) if isinstance(value, tuple) else value, dtype)

    # --- bodies and functions ----------------------------------------------------------

    def body_reader(self, scope: Scope) -> Callable[[GraphProto, Sequence[Type]], Body]:
        """Reads bodies of a node that stands in ``scope``."""

        def read_body(proto: GraphProto, formals: Sequence[Type]) -> Body:
            where = f"body {proto.name!r}"
            level = Level(proto, scope.level.depth + 1)
            if level.depth > MAX_NESTING:
                raise InvalidModel(f"nested over {MAX_NESTING} deep", where=where)
            inner = Scope(
                level,
                scope.opsets,
                outer=scope,
                attributes=scope.attributes,
                prefix=scope.prefix,
            )
            parameters = read_formals(proto, formals, where)
            self.initializers(proto, inner)
            for parameter in parameters:  # always given: an initializer has no say
                inner.values[parameter.name] = parameter
            self.nodes(proto.node, inner)
            outputs = []
            for declared in proto.output:
                value = inner.find(declared.name, f"output of {where}")
                if value is None:
                    raise InvalidModel("output without a name", where=where)
                outputs.append(value)
            types = [stated_type(value) for value in proto.output]
            return Body(level, parameters, outputs, types)

        return read_body

    def call(
        self,
        function: Function,
        node: NodeProto,
        operands: Sequence[Value | None],
        scope: Scope,
        source: str,
        where: str,
    ) -> list[Value | None]:
        """The results of a model-local function, its nodes read in place."""
        proto = function.proto
        if len(operands) > len(proto.input) or len(node.output) > len(proto.output):
            raise InvalidModel(
                f"{function.where} has {len(proto.input)} inputs and "
                f"{len(proto.output)} outputs",
                where=where,
            )
        given = {a.name: a for a in self.attributes(node, scope, where)}
        bound = dict(zip(proto.input, operands, strict=False))
        values = {name: value for name, value in bound.items() if value is not None}
        inner = Scope(
            scope.level,
            function.opsets,
            values,
            attributes=function.bind(given),
            absent=frozenset(proto.input) - values.keys(),
            prefix=f"{source}/",
        )
        self.functions.enter(function)
        self.nodes(proto.node, inner)
        self.functions.leave()
        names = proto.output[: len(node.output)]
        return [inner.find(name, function.where) for name in names]

    # --- what is not modelled ----------------------------------------------------------

    def opaque(
        self,
        proto: NodeProto,
        operands: list[Value | None],
        scope: Scope,
        where: str,
        version: int,
    ) -> Sequence[Value]:
        """The results of a node that is kept as it is."""
        node = NodeProto()
        node.CopyFrom(proto)
        if scope.attributes is not None:
            _resolve_inside(node, scope.attributes)
        free: dict[str, None] = {}
        for inner in subgraphs(node):
            free.update(free_names(inner))
            self.keep_functions |= bool(self.functions)
        captured = {name: scope.find(name, f"body of {where}") for name in free}
        types = tuple([self.result_type(name, scope) for name in proto.output])
        return self.make_opaque(
            node, [*operands, *captured.values()], tuple(captured), types, version
        ).results

    def result_type(self, name: str, scope: Scope) -> Type:
        """The type that the file states for a node's result; for functions none is."""
        if scope.attributes is not None:
            return UNKNOWN
        level = scope.level
        if level.stated is None:
            graph = level.proto
            level.stated = {v.name: v for v in (*graph.value_info, *graph.output)}
        return stated_type(level.stated.get(name)) or UNKNOWN

    def make_opaque(
        self,
        node: NodeProto,
        operands: Sequence[Value | None],
        captures: tuple[str, ...],
        types: tuple[Type, ...],
        version: int,
    ) -> Opaque:
        return Opaque(
            *operands,
            token=self.token(),
            node=node.SerializeToString(deterministic=True),
            op_type=node.op_type,
            op_domain=domain_of(node.domain),
            version=version,
            captures=captures,
            declared=types,
        )


def resolved(
    attributes: Iterable[AttributeProto], bound: Mapping[str, AttributeProto]
) -> list[AttributeProto]:
    """Attributes with references replaced by what they refer to, or left out."""
    found = []
    for attribute in attributes:
        if attribute.ref_attr_name:
            actual = bound.get(attribute.ref_attr_name)
            if actual is None:
                continue
            name = attribute.name
            attribute = AttributeProto()
            attribute.CopyFrom(actual)
            attribute.name = name
        found.append(attribute)
    return found


def _resolve_inside(node: NodeProto, bound: Mapping[str, AttributeProto]) -> None:
    """Resolve the references in a node that is kept, and in its bodies."""
    pending = [node]
    while pending:
        inner = pending.pop()
        found = resolved(inner.attribute, bound)
        del inner.attribute[:]
        inner.attribute.extend(found)
        for body in subgraphs(inner):
            pending.extend(body.node)


def _new(name: str, known: Mapping[str, object]) -> str:
    if not name:
        raise InvalidModel("initializer without a name")
    if name in known:
        raise InvalidModel("two initializers of this name", where=name)
    return name


def dense(tensor: SparseTensor, where: str) -> Tensor | None:
    """A sparse tensor spelled out; None where that would be large."""
    dtype = tensor.values.dtype
    if dtype is DType.STRING:
        return None
    if prod(tensor.shape) * dtype.numpy.itemsize > DENSE_LIMIT:
        return None
    return tensor.dense(where)


def stated_type(value: ValueInfoProto | None) -> Type | None:
    """The type that the file states for a value, None where it states nothing."""
    if value is None or not value.HasField("type"):
        return None
    type_ = read_type(value.type, f"value {value.name!r}")
    return type_ if is_known(type_) else None


def _expect(expected: int, kind: int, name: str, where: str) -> None:
    if kind != expected:
        kinds = AttributeProto.AttributeType
        raise InvalidModel(
            f"attribute {name!r} must be {kinds.Name(expected)}, is {kinds.Name(kind)}",
            where=where,
        )


def _check_arity(
    spelled: Spelling, operands: list[Value | None], outs: int, where: str
) -> None:
    low, high = spelled.min_operands, spelled.max_operands
    while len(operands) > high and operands[-1] is None:
        operands.pop()
    if not low <= len(operands) <= high:
        raise InvalidModel(
            f"{len(operands)} inputs, takes {low} to {high}", where=where
        )
    for index, operand in enumerate(operands[:low]):
        if operand is None and not spelled.operands[index].optional:
            raise InvalidModel(f"input {index} is missing", where=where)
    if outs > spelled.max_results:
        raise InvalidModel(
            f"{outs} outputs, has at most {spelled.max_results}", where=where
        )


_CONSTANT: Mapping[str, tuple[int, DType | None]] = {
    "value": (AttributeProto.TENSOR, None),
    "sparse_value": (AttributeProto.SPARSE_TENSOR, None),
    "value_float": (AttributeProto.FLOAT, DType.F32),
    "value_floats": (AttributeProto.FLOATS, DType.F32),
    "value_int": (AttributeProto.INT, DType.I64),
    "value_ints": (AttributeProto.INTS, DType.I64),
    "value_string": (AttributeProto.STRING, DType.STRING),
    "value_strings": (AttributeProto.STRINGS, DType.STRING),
}
"""The attributes of a Constant node: what they are, and what they make."""
