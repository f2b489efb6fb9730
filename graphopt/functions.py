"""Model-local functions: found by name, and called by reading their nodes in place.

Values are objects, so a call needs no renaming: the formal names mean the operands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .errors import InvalidModel
from .types import MAX_NESTING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import AttributeProto, FunctionProto, NodeProto

MAX_CALLED_NODES = 1 << 18
"""Nodes that all calls of functions together may stand for."""

FunctionKey: TypeAlias = tuple[str, str, str]


def domain_of(domain: str) -> str:
    """A domain in canonical form: ``ai.onnx`` is the default domain."""
    return "" if domain == "ai.onnx" else domain


@dataclass(frozen=True)
class Function:
    """A function of the model; ``opsets`` are those that it imports itself."""

    proto: FunctionProto
    opsets: Mapping[str, int]
    defaults: Mapping[str, AttributeProto]
    where: str

    def bind(self, given: Mapping[str, AttributeProto]) -> dict[str, AttributeProto]:
        """What references to attributes mean in a call: given ones, then defaults."""
        known = {*self.proto.attribute, *self.defaults}
        return {**self.defaults, **{k: v for k, v in given.items() if k in known}}


class Functions:
    """The functions of a model, and the calls that are being read."""

    def __init__(self, protos: Iterable[FunctionProto]) -> None:
        self._by_key: dict[FunctionKey, Function] = {}
        self._open: list[FunctionKey] = []
        self._nodes = 0
        for proto in protos:
            key = (domain_of(proto.domain), proto.name, proto.overload)
            where = f"function {proto.domain}::{proto.name}"
            if key in self._by_key:
                raise InvalidModel("function defined twice", where=where)
            self._by_key[key] = Function(
                proto,
                {domain_of(o.domain): o.version for o in proto.opset_import},
                {a.name: a for a in proto.attribute_proto},
                where,
            )

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def find(self, node: NodeProto) -> Function | None:
        """The function that a node calls; it goes before a standard op of that name."""
        if not self._by_key:
            return None
        key = (domain_of(node.domain), node.op_type, node.overload)
        return self._by_key.get(key)

    @property
    def depth(self) -> int:
        """Calls within calls that are being read."""
        return len(self._open)

    def enter(self, function: Function, bodies: int) -> None:
        """Note that a call, so many bodies deep, is being read; `leave` ends it.

        Raises InvalidModel.
        """
        proto = function.proto
        key = (domain_of(proto.domain), proto.name, proto.overload)
        if key in self._open:
            raise InvalidModel("function calls itself", where=function.where)
        if len(self._open) + bodies >= MAX_NESTING:
            raise InvalidModel(
                f"functions call each other over {MAX_NESTING} deep",
                where=function.where,
            )
        self._nodes += len(proto.node)
        if self._nodes > MAX_CALLED_NODES:
            raise InvalidModel(
                f"calls of functions stand for over {MAX_CALLED_NODES} nodes",
                where=function.where,
            )
        self._open.append(key)

    def leave(self) -> None:
        self._open.pop()
