"""Nodes with bodies -> control flow with explicit captures and types that hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import InvalidModel, TypeMismatch
from ..ir import Graph, Parameter, Value
from ..ops.body_types import element_of, join, unstacked
from ..ops.control import Control, If, Loop, Scan, SequenceMap
from ..ops.flex_attention import FlexAttention
from ..proto import stated_type, text
from ..types import UNKNOWN, DType, TensorType, Type, UnknownType
from .scope import Level

if TYPE_CHECKING:
    from onnx import GraphProto


@dataclass(slots=True)
class Body:
    """A body that was read, before its captures got their order."""

    level: Level
    formals: list[Parameter]
    outputs: list[Value]
    output_types: list[Type | None]

    def graph(self, captured: Sequence[Value]) -> Graph:
        """The body, with a parameter for everything that any body captures."""
        own = self.level.captures
        captures = [own.get(v) or Parameter(v.type, "") for v in captured]
        proto = self.level.proto
        return Graph(
            [*self.formals, *captures],
            self.outputs,
            output_names=[value.name for value in proto.output],
            output_types=self.output_types,
            name=text(proto.name),
            doc=text(proto.doc_string),
            names=self.level.names,
            sources=self.level.sources,
        )


ReadBody: TypeAlias = "Callable[[GraphProto, Sequence[Type]], Body]"
"""Reads a body whose first formals have the given types, as far as those are known."""


@dataclass(slots=True)
class Budget:
    """Nodes that were read, and that may be read again to find what loops keep."""

    nodes: int = 0
    spare: int = 100_000

    def again(self, since: int) -> bool:
        """Whether what was read since then may be read once more."""
        self.spare -= self.nodes - since
        return self.spare > 0


def read_control(
    cls: type[Control],
    operands: list[Value | None],
    attrs: dict[str, Any],
    graphs: Mapping[str, GraphProto],
    read_body: ReadBody,
    budget: Budget,
) -> Sequence[Value]:
    """The results of an If, a Loop or a Scan. Raises InvalidModel, TypeMismatch."""
    protos = [graphs[name] for name in cls.body_names if name in graphs]
    if issubclass(cls, If):
        bodies = [read_body(proto, ()) for proto in protos]
    elif issubclass(cls, Loop):
        operands += [None] * (2 - len(operands))
        control = _control_types(protos[0])
        carried = [UNKNOWN if v is None else v.type for v in operands[2:]]
        bodies = [settled(protos[0], control, carried, [], 1, read_body, budget)]
    elif issubclass(cls, Scan):
        count = attrs["num_scan_inputs"]
        if not 0 < count <= len(operands):
            raise TypeMismatch(f"{cls.kind}: {count} scanned inputs of {len(operands)}")
        types = [UNKNOWN if v is None else v.type for v in operands]
        axes = attrs.get("scan_input_axes") or (0,) * count
        if len(axes) != count:
            raise TypeMismatch(f"{cls.kind}: {len(axes)} scan_input_axes for {count}")
        rows = [unstacked(t, a) for t, a in zip(types[-count:], axes, strict=True)]
        bodies = [settled(protos[0], [], types[:-count], rows, 0, read_body, budget)]
    elif issubclass(cls, SequenceMap):
        types = [UNKNOWN if v is None else element_of(v.type) for v in operands]
        bodies = [read_body(protos[0], types)]
    elif issubclass(cls, FlexAttention):
        attrs["stages"] = tuple([name for name in cls.body_names if name in graphs])
        scores = cls(*operands, **{**attrs, "stages": ()}).scores_type()
        bodies = [read_body(proto, [scores]) for proto in protos]
    else:
        raise TypeMismatch(f"{cls.kind}: bodies of this kind are not read")
    captured = list(dict.fromkeys(v for b in bodies for v in b.level.captures))
    op = cls(
        *operands,
        *captured,
        bodies=[body.graph(captured) for body in bodies],
        captures=None if issubclass(cls, If) else len(captured),
        **attrs,
    )
    return op.results


def read_formals(proto: GraphProto, types: Sequence[Type]) -> list[Parameter]:
    """The formal parameters of a body. ``types`` go before what the body states."""
    if len(proto.input) != len(types):
        raise InvalidModel(
            f"body {proto.name!r} has {len(proto.input)} inputs, is given {len(types)}"
        )
    parameters: dict[str, Parameter] = {}
    for value, type_ in zip(proto.input, types, strict=True):
        name = text(value.name)
        if not name or name in parameters:
            raise InvalidModel(
                f"body {proto.name!r} has an input {name!r} without a name of its own"
            )
        stated = stated_type(value) or UNKNOWN
        parameters[name] = Parameter(_agreed(type_, stated), name)
    return list(parameters.values())


def _agreed(known: Type, stated: Type) -> Type:
    """What is known of a formal, completed by what the body states.

    Symbolic dims that a body states mean nothing outside of it: only the rank counts.
    """
    if isinstance(known, UnknownType):
        known = TensorType() if isinstance(stated, TensorType) else stated
    if isinstance(known, TensorType) and isinstance(stated, TensorType):
        shape = known.shape
        if shape is None and stated.shape is not None:
            shape = tuple([d if isinstance(d, int) else None for d in stated.shape])
        return TensorType(known.dtype or stated.dtype, shape)
    return known


def _control_types(proto: GraphProto) -> list[Type]:
    """Types of the iteration number and the condition: scalars, or one element each.

    Runtimes follow what the body states.
    """
    types: list[Type] = []
    for value, dtype in zip(proto.input, (DType.I64, DType.BOOL), strict=False):
        vector = len(value.type.tensor_type.shape.dim) == 1
        types.append(TensorType(dtype, (1,) if vector else ()))
    return types


def settled(
    proto: GraphProto,
    before: Sequence[Type],
    carried: Sequence[Type],
    after: Sequence[Type],
    first: int,
    read_body: ReadBody,
    budget: Budget,
) -> Body:
    """A loop's body, with types for what it carries that hold in every iteration.

    They start as the types of the initial values; where the body, read with them,
    gives something else, that is forgotten in which the two differ.
    """
    if budget.spare <= 0:
        carried = [_vague(t) for t in carried]
    while True:
        since = budget.nodes
        body = read_body(proto, [*before, *carried, *after])
        results = body.outputs[first : first + len(carried)]
        formals = body.formals[len(before) : len(before) + len(carried)]
        if len(results) < len(carried):
            raise TypeMismatch(
                f"the body gives {len(body.outputs)} outputs for {len(carried)} carried"
            )
        wider = [
            _widened(formal.type, result.type)
            for formal, result in zip(formals, results, strict=True)
        ]
        if all(w == f.type for w, f in zip(wider, formals, strict=True)):
            return body
        carried = wider if budget.again(since) else [_vague(t) for t in wider]


def _widened(formal: Type, result: Type) -> Type:
    """What holds before and after an iteration; element types never change."""
    if isinstance(result, UnknownType):
        return _vague(formal)
    if isinstance(formal, TensorType) and isinstance(result, TensorType):
        result = TensorType(result.dtype or formal.dtype, result.shape)
        formal = TensorType(formal.dtype or result.dtype, formal.shape)
    try:
        return join(formal, result)
    except ValueError as error:
        raise TypeMismatch(f"carries {error}") from None


def _vague(type_: Type) -> Type:
    return TensorType(type_.dtype) if isinstance(type_, TensorType) else type_
