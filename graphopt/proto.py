"""Types and attributes in ONNX's protobuf form, read and written.

Everything read is checked: the bytes may come from anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import AttributeProto, TypeProto

from .dims import Dim, Expr, format_dim, symbol, symbols
from .errors import InvalidModel
from .sparse import sparse_from_proto
from .types import (
    MAX_NESTING,
    UNKNOWN,
    DType,
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    TensorType,
    Type,
    UnknownType,
)
from .unnamed import is_unnamed
from .weights import Tensor

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, ValueInfoProto

_DTYPES = {dtype.value: dtype for dtype in DType}


def text(value: Any) -> str:
    """A string field. Raises InvalidModel where it is not UTF-8."""
    if isinstance(value, str):
        return value
    raise InvalidModel(f"{value!r:.80} is not UTF-8")


def label(node: NodeProto) -> str:
    """How messages call a node: by its name, or by its first result."""
    name = node.name or next(iter(node.output), "")
    return f"{node.op_type} node {name!r:.200}"


# --- types --------------------------------------------------------------------------


def read_type(proto: TypeProto, depth: int = 0) -> Type:
    """The type that a TypeProto states, as far as it does. Raises InvalidModel."""
    if depth > MAX_NESTING:
        raise InvalidModel("types nested too deep")
    which = proto.WhichOneof("value")
    if which == "tensor_type":
        return _read_tensor_type(proto.tensor_type)
    if which == "sequence_type":
        inner = proto.sequence_type.elem_type
        return SequenceType(read_type(inner, depth + 1))
    if which == "optional_type":
        inner = proto.optional_type.elem_type
        return OptionalType(read_type(inner, depth + 1))
    if which == "map_type":
        key = _read_dtype(proto.map_type.key_type)
        value = read_type(proto.map_type.value_type, depth + 1)
        if key is None:
            raise InvalidModel("map type without a key type")
        return MapType(key, value)
    if which == "sparse_tensor_type":
        return SparseType(_read_tensor_type(proto.sparse_tensor_type))
    return UNKNOWN


def _read_tensor_type(proto: TypeProto.Tensor | TypeProto.SparseTensor) -> TensorType:
    dtype = _read_dtype(proto.elem_type)
    if not proto.HasField("shape"):
        return TensorType(dtype)
    return TensorType(dtype, tuple([_read_dim(d) for d in proto.shape.dim]))


def _read_dtype(number: int) -> DType | None:
    if not number:
        return None
    try:
        return _DTYPES[number]
    except KeyError:
        raise InvalidModel(f"unknown element type {number}") from None


def _read_dim(proto: Any) -> Dim:
    which = proto.WhichOneof("value")
    if which == "dim_value":
        size: int = proto.dim_value
        if size < 0:
            if size == -1:  # how some exporters say "unknown"
                return None
            raise InvalidModel(f"negative dim {size}")
        return size
    if which == "dim_param" and proto.dim_param:
        return symbol(text(proto.dim_param))
    return None


def write_type(type_: Type | None) -> TypeProto:
    """The TypeProto of a type; empty where nothing is known."""
    proto = TypeProto()
    if isinstance(type_, TensorType):
        _write_tensor_type(proto.tensor_type, type_)
    elif isinstance(type_, SparseType):
        _write_tensor_type(proto.sparse_tensor_type, type_.tensor)
    elif isinstance(type_, SequenceType):
        proto.sequence_type.elem_type.CopyFrom(write_type(type_.element))
    elif isinstance(type_, OptionalType):
        proto.optional_type.elem_type.CopyFrom(write_type(type_.element))
    elif isinstance(type_, MapType):
        proto.map_type.key_type = type_.key.value
        proto.map_type.value_type.CopyFrom(write_type(type_.value))
    return proto


def _write_tensor_type(
    proto: TypeProto.Tensor | TypeProto.SparseTensor, type_: TensorType
) -> None:
    proto.elem_type = 0 if type_.dtype is None else type_.dtype.value
    if type_.shape is None:
        return
    proto.shape.SetInParent()
    for dim in type_.shape:
        written = proto.shape.dim.add()
        if isinstance(dim, int):
            written.dim_value = dim
        elif dim is not None and not is_unnamed(dim):
            written.dim_param = dim_name(dim)


def dim_name(dim: Expr) -> str:
    """The ``dim_param`` of a symbolic dim: its bare name, or the expression."""
    names = symbols(dim)
    if len(names) == 1:
        (name,) = names
        if symbol(name) == dim:
            return name
    return format_dim(dim)


def stated_type(value: ValueInfoProto) -> Type | None:
    """The type that the file states for a value, None where it states nothing."""
    if not value.HasField("type"):
        return None
    try:
        type_ = read_type(value.type)
    except InvalidModel as error:
        raise InvalidModel(error.message, where=f"value {value.name!r}") from None
    return type_ if is_known(type_) else None


def is_known(type_: Type | None) -> bool:
    """True where a value's type says anything that a file could state."""
    return type_ is not None and not isinstance(type_, UnknownType)


# --- attributes ---------------------------------------------------------------------

_FIELDS = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors",
    AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    AttributeProto.TYPE_PROTOS: "type_protos",
}
GRAPHS = frozenset({AttributeProto.GRAPH, AttributeProto.GRAPHS})
_MAY_BE_GRAPHS = GRAPHS | {AttributeProto.UNDEFINED}


def kind_of(proto: AttributeProto) -> int:
    """The attribute's type; for files older than the field, what it holds."""
    kind = proto.type
    if kind in _FIELDS:
        return kind
    if kind != AttributeProto.UNDEFINED:
        raise InvalidModel(f"attribute {proto.name!r} of unknown type")
    held = {field.name for field, _ in proto.ListFields()}
    for number, name in _FIELDS.items():
        if name in held:
            return number
    return AttributeProto.INTS  # nothing at all: an empty list


def read_attribute(
    proto: AttributeProto, kind: int, folder: Path | None, node: NodeProto
) -> Any:
    """The value of an attribute without graphs. Raises InvalidModel."""
    if kind == AttributeProto.INT:
        return proto.i
    if kind == AttributeProto.INTS:
        return tuple(proto.ints)
    if kind == AttributeProto.FLOAT:
        return proto.f
    if kind == AttributeProto.STRING:
        return _decode(proto.s)
    if kind == AttributeProto.FLOATS:
        return tuple(proto.floats)
    if kind == AttributeProto.STRINGS:
        return tuple([_decode(s) for s in proto.strings])
    if kind == AttributeProto.TYPE_PROTO:
        return read_type(proto.tp)
    if kind == AttributeProto.TYPE_PROTOS:
        return tuple([read_type(tp) for tp in proto.type_protos])
    where = f"attribute {proto.name!r} of {label(node)}"
    if kind == AttributeProto.TENSOR:
        return Tensor.from_proto(proto.t, folder=folder, where=where)
    if kind == AttributeProto.TENSORS:
        return tuple(
            [Tensor.from_proto(t, folder=folder, where=where) for t in proto.tensors]
        )
    if kind == AttributeProto.SPARSE_TENSOR:
        return sparse_from_proto(proto.sparse_tensor, folder=folder, where=where)
    raise InvalidModel(f"attribute {proto.name!r} cannot be read")


def _decode(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def write_attribute(node: NodeProto, name: str, value: Any, kind: int) -> None:
    """Append an attribute of the given AttributeProto type to a node."""
    proto = node.attribute.add()
    proto.name = name
    proto.type = kind
    if kind == AttributeProto.INT:
        proto.i = value
    elif kind == AttributeProto.INTS:
        proto.ints.extend(value)
    elif kind == AttributeProto.FLOAT:
        proto.f = value
    elif kind == AttributeProto.FLOATS:
        proto.floats.extend(value)
    elif kind == AttributeProto.STRING:
        proto.s = _encode(value)
    elif kind == AttributeProto.STRINGS:
        proto.strings.extend(map(_encode, value))
    elif kind == AttributeProto.TENSOR:
        proto.t.CopyFrom(value.to_proto())
    elif kind == AttributeProto.TENSORS:
        proto.tensors.extend(t.to_proto() for t in value)
    elif kind == AttributeProto.TYPE_PROTO:
        proto.tp.CopyFrom(write_type(value))
    elif kind == AttributeProto.TYPE_PROTOS:
        proto.type_protos.extend(map(write_type, value))
    else:
        raise TypeError(f"cannot write attribute {name!r} of type {kind}")


def _encode(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def kind_of_value(value: Any) -> int:
    """The AttributeProto type that a value asks for where no schema says."""
    if isinstance(value, tuple):
        return _PLURAL[kind_of_value(value[0])] if value else AttributeProto.INTS
    for type_, kind in _SINGULAR.items():
        if isinstance(value, type_):
            return kind
    return AttributeProto.TYPE_PROTO


_SINGULAR: Mapping[type, int] = {
    int: AttributeProto.INT,
    float: AttributeProto.FLOAT,
    str: AttributeProto.STRING,
    bytes: AttributeProto.STRING,
    Tensor: AttributeProto.TENSOR,
}
_PLURAL: Mapping[int, int] = {
    AttributeProto.INT: AttributeProto.INTS,
    AttributeProto.FLOAT: AttributeProto.FLOATS,
    AttributeProto.STRING: AttributeProto.STRINGS,
    AttributeProto.TENSOR: AttributeProto.TENSORS,
    AttributeProto.TYPE_PROTO: AttributeProto.TYPE_PROTOS,
}


# --- names that bodies read from around them ---------------------------------------


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """The graphs among a node's attributes."""
    found = []
    for attribute in node.attribute:
        if attribute.type in _MAY_BE_GRAPHS:
            if attribute.HasField("g"):
                found.append(attribute.g)
            found.extend(attribute.graphs)
    return found


def free_names(graph: GraphProto, depth: int = 0) -> dict[str, None]:
    """Names that a body reads and does not define, in order of reading."""
    if depth > MAX_NESTING:
        raise InvalidModel(f"bodies nested over {MAX_NESTING} deep")
    own = defined_names(graph)
    free: dict[str, None] = {}
    for node in graph.node:
        for name in node.input:
            if name and name not in own:
                free[name] = None
        for inner in subgraphs(node):
            for name in free_names(inner, depth + 1):
                if name not in own:
                    free[name] = None
    for output in graph.output:
        if output.name and output.name not in own:
            free[output.name] = None
    return free


def defined_names(graph: GraphProto) -> set[str]:
    """Names that a graph gives to values: inputs, initializers, results of nodes."""
    own = {value.name for value in graph.input}
    own.update(tensor.name for tensor in graph.initializer)
    own.update(sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        own.update(node.output)
    return own


def rename_free(graph: GraphProto, renamed: Mapping[str, str]) -> None:
    """Rename what a body reads from around it."""
    own = defined_names(graph)
    outer = {old: new for old, new in renamed.items() if old not in own}
    if not outer:
        return
    for node in graph.node:
        node.input[:] = [outer.get(name, name) for name in node.input]
        for body in subgraphs(node):
            rename_free(body, outer)
    for value in graph.output:
        value.name = outer.get(value.name, value.name)
