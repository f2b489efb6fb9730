"""Spelled graphs -> GraphProto: names, nodes, bodies, values with their types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnx import GraphProto, NodeProto

from ..ir import Graph, Op, Value
from ..ir.values import attribute_key
from ..ops.constant import Constant
from ..ops.control import Control
from ..ops.opaque import Opaque
from ..ops.registry import UNNAMED, Modelled
from ..proto import (
    defined_names,
    is_known,
    kind_of_value,
    rename_free,
    stated_type,
    subgraphs,
    write_attribute,
    write_type,
)
from ..versions import Node, spelling
from .naming import Names
from .order import in_order, ranks_of_source
from .spelled import Spelled

if TYPE_CHECKING:
    from onnx import ValueInfoProto

    from ..types import Type


@dataclass(slots=True)
class Level:
    """A graph about to be written: the ops that its spelled outputs need, in order."""

    spelled: Spelled
    ops: list[Op]
    constants: dict[Constant, None]
    bodies: dict[Op, list[Level]]
    names: dict[Value, str] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        return self.spelled.graph


def live(spelled: Spelled) -> Level:
    """What of a spelled graph must be written.

    An older opset may say with attributes what now are operands; ops that only fed
    those are gone.
    """
    graph = spelled.graph
    needed: set[Value] = set(graph.outputs)
    ops: list[Op] = []
    bodies: dict[Op, list[Level]] = {}
    for op in reversed(graph.ops):
        if isinstance(op, Constant) or needed.isdisjoint(op.results):
            continue
        ops.append(op)
        needed.update([v for v in spelled.nodes[op].operands if v is not None])
        if isinstance(op, Control):
            needed.update([v for v in op.captured if v is not None])
    ranks = ranks_of_source(graph) if spelled.ranks is None else spelled.ranks
    ops = in_order(ops[::-1], ranks)
    constants: dict[Constant, None] = {}
    for value in graph.outputs:
        if isinstance(value, Constant):
            constants[value] = None
    for op in ops:
        operands = list(spelled.nodes[op].operands)
        if op in spelled.bodies:
            bodies[op] = [live(body) for body in spelled.bodies[op]]
            operands += op.operands
        constants.update((v, None) for v in operands if isinstance(v, Constant))
        for body in bodies.get(op, ()):
            constants.update(body.constants)
    return Level(spelled, ops, constants, bodies)


class GraphWriter:
    """Writes the graphs of one model.

    ``opsets`` are those of each domain; ``stubs`` hold the metadata of source nodes by
    name; ``stated`` what the source said of its inputs and outputs.
    """

    def __init__(
        self,
        opsets: Mapping[str, int],
        stubs: Mapping[str, NodeProto],
        stated: Mapping[str, ValueInfoProto],
    ) -> None:
        self.opsets = opsets
        self.stubs = stubs
        self.stated = stated
        self.constants: dict[Constant, str] = {}
        self.node_names = Names()

    def write(self, level: Level, proto: GraphProto) -> None:
        """Fill the main graph, initializers apart; `constants` names those."""
        graph = level.graph
        taken = [*graph.input_names, *graph.output_names, *_inner_names(level)]
        names = Names(taken=taken)
        for parameter in graph.inputs:
            level.names[parameter] = parameter.name
        for name, value in zip(graph.output_names, graph.outputs, strict=True):
            if isinstance(value, Constant):
                self.constants[value] = name
            else:
                level.names[value] = name
        suggested = _suggested(level)
        for constant in level.constants:
            if constant not in self.constants:
                wanted = suggested.get(constant) or "constant"
                self.constants[constant] = names.take(wanted)
        self.name_values(level, names)
        for parameter in graph.inputs:
            self.interface(proto.input.add(), parameter.name, parameter.type)
        for value, name, type_ in zip(
            graph.outputs, graph.output_names, graph.output_types, strict=True
        ):
            if type_ is None and name not in self.stated:
                type_ = value.type
            self.interface(proto.output.add(), name, type_)
        self.nodes(level, names, proto)

    def interface(self, proto: ValueInfoProto, name: str, type_: Type | None) -> None:
        """An input or output, as the source has it where its type is still the same."""
        stated = self.stated.get(name)
        if stated is not None:
            proto.CopyFrom(stated)
            if (type_ is None and not stated.HasField("type")) or (
                type_ is not None
                and write_type(stated_type(stated)) == write_type(type_)
            ):
                return
            proto.ClearField("type")
        _state(proto, name, type_)

    def body(self, level: Level, names: Names, captured: list[str]) -> GraphProto:
        """A body whose last parameters mean the captured names around it."""
        graph = level.graph
        proto = GraphProto(name=graph.name or "body", doc_string=graph.doc)
        inner = Names(around=names)
        formals = graph.inputs[: len(graph.inputs) - len(captured)]
        for parameter in formals:
            name = level.names[parameter] = inner.take(parameter.name or "input")
            _state(proto.input.add(), name, parameter.type)
        captures = graph.inputs[len(formals) :]
        level.names.update(zip(captures, captured, strict=True))
        for name, value, type_ in zip(
            graph.output_names, graph.outputs, graph.output_types, strict=True
        ):
            written = level.names[value] = inner.take(name or "output")
            _state(proto.output.add(), written, type_)
        self.name_values(level, inner)
        self.nodes(level, inner, proto)
        return proto

    def name_values(self, level: Level, names: Names) -> None:
        """Name every result that is read, or must be named."""
        suggested = level.graph.names
        for op in level.ops:
            for value in op.results:
                if value in level.names:
                    continue
                wanted = suggested.get(value)
                level.names[value] = (
                    names.take(wanted) if wanted else names.fresh(op.kind)
                )

    def nodes(self, level: Level, names: Names, proto: GraphProto) -> None:
        for op in level.ops:
            node = level.spelled.nodes[op]
            written = proto.node.add()
            if isinstance(op, Opaque):
                self.opaque(op, level, written)
                self.result_types(op, written, proto)
            else:
                self.node(op, node, level, names, written)
            self.provenance(op, level.graph, written)

    def node(
        self, op: Op, node: Node, level: Level, names: Names, proto: NodeProto
    ) -> None:
        proto.op_type = node.kind
        if op.domain not in UNNAMED:
            proto.domain = op.domain
        proto.input.extend([self.name(v, level) for v in node.operands])
        schema = spelling(node.kind, proto.domain, self.opsets.get(proto.domain, 0))
        outputs = []
        for i, (value, used) in enumerate(zip(op.results, node.used, strict=False)):
            unnamed = not used and (schema is None or schema.optional_result(i))
            outputs.append("" if unnamed else level.names[value])
        while outputs and not outputs[-1]:
            outputs.pop()
        proto.output.extend(outputs)
        if isinstance(op, Control):
            captured = [self.name(v, level) for v in op.captured]
            for name, body in zip(op.written, level.bodies.get(op, ()), strict=True):
                attribute = proto.attribute.add(name=name, type="GRAPH")
                attribute.g.CopyFrom(self.body(body, names, captured))
        own: Mapping[str, Any] = {}
        if schema is None and isinstance(op, Modelled):
            own = op.schema().defaults  # older runtimes do not know all of these
        for name in sorted(node.attrs):
            value = node.attrs[name]
            if schema is None:
                if not _is_default(own, name, value):
                    write_attribute(proto, name, value, kind_of_value(value))
            elif name == "axes" or not _is_default(schema.defaults, name, value):
                # onnx itself cannot infer with a default list of axes
                write_attribute(proto, name, value, schema.attributes[name])

    def name(self, value: Value | None, level: Level) -> str:
        if value is None:
            return ""
        if isinstance(value, Constant):
            return self.constants[value]
        return level.names[value]

    def opaque(self, op: Opaque, level: Level, proto: NodeProto) -> None:
        """The node as it was, with the names that its values have now."""
        proto.CopyFrom(op.node)
        proto.ClearField("name")
        count = len(proto.input)
        operands = [*op.operands] + [None] * (count - len(op.operands))
        proto.input[:] = [self.name(v, level) for v in operands[:count]]
        for i, value in enumerate(op.results):
            if proto.output[i]:
                proto.output[i] = level.names[value]
        captures: Any = op.captures
        renamed = {
            old: new
            for old, value in zip(captures, operands[count:], strict=True)
            if (new := self.name(value, level)) != old
        }
        if renamed:
            for body in subgraphs(proto):
                rename_free(body, renamed)

    def result_types(self, op: Opaque, node: NodeProto, proto: GraphProto) -> None:
        """State what nobody can infer."""
        outputs = {value.name for value in proto.output}
        for name, type_ in zip(node.output, op.types, strict=True):
            if name and name not in outputs and is_known(type_):
                _state(proto.value_info.add(), name, type_)

    def provenance(self, op: Op, graph: Graph, proto: NodeProto) -> None:
        """The name and metadata of the source node."""
        sources = graph.sources.get(op, ())
        if not sources:
            proto.name = self.node_names.fresh(proto.op_type)
            return
        proto.name = self.node_names.take(sources[0])
        stub = self.stubs.get(sources[0]) if len(sources) == 1 else None
        if stub is not None and not isinstance(op, Opaque):
            proto.doc_string = stub.doc_string
            proto.metadata_props.extend(stub.metadata_props)
            here = {*proto.input, *proto.output}
            for each in stub.device_configurations:
                if here.issuperset(spec.tensor_name for spec in each.sharding_spec):
                    proto.device_configurations.append(each)


def _is_default(defaults: Mapping[str, Any], name: str, value: Any) -> bool:
    """Bit by bit: -0.0 is not 0.0."""
    known = name in defaults
    return known and attribute_key(defaults[name]) == attribute_key(value)


def _state(proto: ValueInfoProto, name: str, type_: Type | None) -> None:
    proto.name = name
    if is_known(type_):
        proto.type.CopyFrom(write_type(type_))


def _suggested(level: Level) -> dict[Value, str]:
    """Names that any graph suggests for constants, outer graphs first."""
    found: dict[Value, str] = {}
    pending = [level]
    while pending:
        inner = pending.pop(0)
        for value, name in inner.graph.names.items():
            if isinstance(value, Constant):
                found.setdefault(value, name)
        for bodies in inner.bodies.values():
            pending.extend(bodies)
    return found


def _inner_names(level: Level) -> set[str]:
    """Names inside of nodes that are kept verbatim; nobody around may use them."""
    found: set[str] = set()
    levels = [level]
    graphs: list[GraphProto] = []
    while levels:
        inner = levels.pop()
        for op in inner.ops:
            if isinstance(op, Opaque):
                graphs.extend(subgraphs(op.node))
        for bodies in inner.bodies.values():
            levels.extend(bodies)
    while graphs:
        graph = graphs.pop()
        found |= defined_names(graph)
        for node in graph.node:
            graphs.extend(subgraphs(node))
    return found
