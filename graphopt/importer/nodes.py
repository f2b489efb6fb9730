"""Nodes -> ops: modelled ones in their newest meaning, the rest opaque."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from ..errors import InvalidModel, TypeMismatch
from ..functions import Function, Functions, domain_of
from ..ir import Value
from ..ops.constant import Constant
from ..ops.control import Control
from ..ops.opaque import Opaque
from ..proto import (
    free_names,
    kind_of,
    label,
    read_attribute,
    stated_type,
    subgraphs,
    text,
)
from ..sparse import SparseTensor, sparse_from_proto
from ..types import MAX_NESTING, UNKNOWN, TensorType, Type
from ..versions import Node, read
from ..weights import Tensor
from .batched import read_batched_scan
from .bodies import Body, Budget, read_control, read_formals
from .reading import (
    CONSTANT,
    Reading,
    dense,
    reading,
    resolve_inside,
    resolved,
    wrong_type,
)
from .scope import Level, Scope, in_order

if TYPE_CHECKING:
    from onnx import SparseTensorProto


_MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What ops raise for attributes that no schema rules out, such as a stride of 0."""


class NodeReader:
    """Reads the nodes of one model; counts tokens; collects what the IR does not hold.

    ``kept`` gathers the metadata of nodes, under the names that `Graph.sources` uses.
    With ``apart``, each initializer is a constant of its own.
    """

    def __init__(
        self, folder: Path | None, functions: Functions, apart: bool = False
    ) -> None:
        self.folder = folder
        self.functions = functions
        self.kept = ModelProto()
        self.keep_functions = False
        self.budget = Budget()
        self._apart = apart
        self._copies = 0
        self._tokens = 0

    def token(self) -> int:
        self._tokens += 1
        return self._tokens

    def nodes(self, protos: Iterable[NodeProto], scope: Scope) -> None:
        """Read nodes into a scope, operands first whatever their order in the file."""
        for index, proto in in_order(protos, scope.values):
            self.budget.nodes += 1
            try:
                self.node(proto, index, scope)
            except (InvalidModel, TypeMismatch) as error:
                if isinstance(error, InvalidModel) and error.where:
                    raise
                raise InvalidModel(error.message, where=label(proto)) from None
            except _MISTAKES as error:
                raise InvalidModel(
                    f"attributes or operands make no sense: {error!r:.200}",
                    where=label(proto),
                ) from error

    def node(self, proto: NodeProto, index: int, scope: Scope) -> None:
        operands = [scope.find(name) for name in proto.input]
        source = scope.prefix + (text(proto.name) or f"{text(proto.op_type)}_{index}")
        function = self.functions.find(proto)
        results: Sequence[Value | None]
        if function is not None:
            results = self.call(function, proto, operands, scope, source)
        else:
            results = made = self.op(proto, operands, scope)
            scope.level.note(made, source)
            if proto.metadata_props or proto.doc_string or proto.device_configurations:
                self.keep_metadata(proto, source)
        names = proto.output
        if len(results) < len(names) and any(names[len(results) :]):
            raise InvalidModel(f"names {len(names)} results, has {len(results)}")
        for name, value in zip(names, results, strict=False):
            if name and value is not None:
                scope.define(name, value)

    def keep_metadata(self, proto: NodeProto, source: str) -> None:
        doc = text(proto.doc_string)
        stub = self.kept.graph.node.add(name=source, doc_string=doc)
        stub.metadata_props.MergeFrom(proto.metadata_props)
        stub.device_configurations.MergeFrom(proto.device_configurations)

    def op(
        self, proto: NodeProto, operands: list[Value | None], scope: Scope
    ) -> Sequence[Value]:
        """The results of a node that calls no function."""
        domain = domain_of(text(proto.domain))
        version = scope.opsets.get(domain, 0)
        how = reading(proto.op_type, domain, version)
        results: Sequence[Value] | None = None
        if how is not None:
            results = self.modelled(how, version, proto, operands, scope)
        elif proto.op_type == "Constant" and not domain:
            tensor = self.constant(proto, scope)
            results = None if tensor is None else (Constant(tensor),)
        if results is None:
            results = self.opaque(proto, operands, scope, version)
        return results

    # --- constants ------------------------------------------------------------------

    def initializers(self, proto: GraphProto, scope: Scope) -> None:
        """Define a graph's tensors; sparse ones are spelled out where that is small."""
        tensors: dict[str, Tensor] = {}
        for entry in proto.initializer:
            name = _new(text(entry.name), tensors)
            tensors[name] = Tensor.from_proto(entry, folder=self.folder)
        for name, tensor in tensors.items():
            self._copies += self._apart
            scope.define(name, Constant(tensor, instance=self._copies))
        for sparse in proto.sparse_initializer:
            name = _new(text(sparse.values.name), scope.values)
            scope.define(name, self.sparse(sparse, name))

    def sparse(self, proto: SparseTensorProto, name: str) -> Value:
        where = f"sparse initializer {name!r}"
        tensor = sparse_from_proto(proto, folder=self.folder, where=where)
        spelled_out = dense(tensor, where)
        if spelled_out is not None:
            return Constant(spelled_out)
        node = NodeProto(op_type="Constant", output=[name])
        node.attribute.add(
            name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=proto
        )
        type_ = TensorType(tensor.values.dtype, tensor.shape)
        return self.make_opaque(node, [], (), (type_,), 0)

    def constant(self, proto: NodeProto, scope: Scope) -> Tensor | None:
        """The tensor of a Constant node; None where it is sparse and large."""
        attributes = list(resolved(proto.attribute, scope.attributes))
        if len(attributes) != 1 or proto.input or len(proto.output) != 1:
            raise InvalidModel("needs one attribute and one output")
        name = attributes[0].name
        kind = kind_of(attributes[0])
        if name not in CONSTANT:
            raise InvalidModel(f"unknown attribute {name!r}")
        expected, dtype = CONSTANT[name]
        if kind != expected:
            raise wrong_type(name, expected, kind)
        value = read_attribute(attributes[0], kind, self.folder, proto)
        if isinstance(value, SparseTensor):
            return dense(value, label(proto))
        if isinstance(value, Tensor):
            return value
        return Tensor.of(list(value) if isinstance(value, tuple) else value, dtype)

    # --- modelled kinds -------------------------------------------------------------

    def modelled(
        self,
        how: Reading,
        version: int,
        proto: NodeProto,
        operands: list[Value | None],
        scope: Scope,
    ) -> Sequence[Value] | None:
        """The results of a node of a known kind; None where it says unknown things."""
        attrs = dict(how.defaults)
        graphs: dict[str, GraphProto] = {}
        for attribute in resolved(proto.attribute, scope.attributes):
            name = attribute.name
            if not how.knows(name):
                return None
            kind = attribute.type or kind_of(attribute)
            how.expect(name, kind)
            if kind == AttributeProto.GRAPH:
                graphs[name] = attribute.g
            else:
                value = read_attribute(attribute, kind, self.folder, proto)
                attrs[name] = text(value) if isinstance(value, bytes) else value
        outs = len(proto.output)
        while outs and not proto.output[outs - 1]:
            outs -= 1
        outs = how.check_arity(operands, outs)
        how.check_required(attrs, graphs)
        cls = how.cls
        if issubclass(cls, Control):
            reads = self.body_reader(scope)
            how_read = read_batched_scan if how.changed else read_control
            return how_read(cls, operands, attrs, graphs, reads, self.budget)
        token = 0 if cls.deterministic else self.token()
        attrs.pop("consumed_inputs", None)  # a hint of opsets 1 to 5
        if how.changed:
            used = tuple([bool(name) for name in proto.output[:outs]])
            node = Node(proto.op_type, list(operands), attrs, used, token)
            made = read(node, version, cls.domain)
            if not isinstance(made, Node):
                return made
            operands, attrs = made.operands, made.attrs
        return cls(*operands, outs=outs, token=token, **attrs).results

    # --- bodies and functions -------------------------------------------------------

    def body_reader(self, scope: Scope) -> Callable[[GraphProto, Sequence[Type]], Body]:
        """Reads bodies of a node that stands in ``scope``."""

        def read_body(proto: GraphProto, formals: Sequence[Type]) -> Body:
            level = Level(proto, scope.level.depth + 1)
            if level.depth + self.functions.depth > MAX_NESTING:
                raise InvalidModel(f"bodies nested over {MAX_NESTING} deep")
            inner = Scope(
                level,
                scope.opsets,
                outer=scope,
                attributes=scope.attributes,
                prefix=scope.prefix,
            )
            parameters = read_formals(proto, formals)
            self.initializers(proto, inner)
            for parameter in parameters:  # always given: an initializer has no say
                inner.values[parameter.name] = parameter
            self.nodes(proto.node, inner)
            outputs = []
            for declared in proto.output:
                value = inner.find(declared.name)
                if value is None:
                    raise InvalidModel(f"output of body {proto.name!r} without a name")
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
    ) -> list[Value | None]:
        """The results of a model-local function, its nodes read in place."""
        proto = function.proto
        if len(operands) > len(proto.input) or len(node.output) > len(proto.output):
            raise InvalidModel(
                f"{function.where} has {len(proto.input)} inputs and "
                f"{len(proto.output)} outputs"
            )
        given = {a.name: a for a in resolved(node.attribute, scope.attributes)}
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
        self.functions.enter(function, scope.level.depth)
        self.nodes(proto.node, inner)
        self.functions.leave()
        return [inner.find(name) for name in proto.output[: len(node.output)]]

    # --- what is not modelled -------------------------------------------------------

    def opaque(
        self,
        proto: NodeProto,
        operands: list[Value | None],
        scope: Scope,
        version: int,
    ) -> Sequence[Value]:
        """The results of a node that is kept as it is."""
        node = NodeProto()
        node.CopyFrom(proto)
        if scope.attributes is not None:
            resolve_inside(node, scope.attributes)
        free: dict[str, None] = {}
        for inner in subgraphs(node):
            free.update(free_names(inner))
            self.keep_functions |= bool(self.functions)
        captured = {name: scope.find(name) for name in free}
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
        value = level.stated.get(name)
        return (None if value is None else stated_type(value)) or UNKNOWN

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


def _new(name: str, known: dict[str, Tensor] | dict[str, Value]) -> str:
    if not name:
        raise InvalidModel("initializer without a name")
    if name in known:
        raise InvalidModel("two initializers of this name", where=repr(name))
    return name
