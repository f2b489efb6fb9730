"""How nodes of one kind are read at one opset, and what they must keep to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

from onnx import AttributeProto, NodeProto

from ..errors import InvalidModel
from ..ir import Value
from ..ops.control import Control
from ..ops.registry import RUNTIME, Modelled, find
from ..proto import GRAPHS, subgraphs
from ..sparse import DENSE_LIMIT, SparseTensor
from ..types import DType
from ..versions import Spelling, has_changed, spelling
from ..weights import Tensor

_NEWEST = 1 << 30


@dataclass(frozen=True, eq=False)
class Reading:
    """How nodes of one kind are read at one opset.

    ``spelling`` is None for a kind of a domain that ONNX has no schemas of;
    ``defaults`` are those of that opset that the newest does not share.
    """

    cls: type[Modelled]
    spelling: Spelling | None
    changed: bool
    defaults: Mapping[str, Any]

    def knows(self, attribute: str) -> bool:
        known = self.spelling or self.cls.schema()
        return attribute in known.attributes

    def expect(self, name: str, kind: int) -> None:
        """Raises InvalidModel for an attribute of another type than the schema's."""
        if self.spelling is not None and self.spelling.attributes[name] != kind:
            raise wrong_type(name, self.spelling.attributes[name], kind)

    def check_arity(self, operands: list[Value | None], outs: int) -> int:
        """How many results there are. Raises InvalidModel."""
        schema = self.spelling
        if schema is None:
            return max(outs, 1)
        low, high = schema.min_operands, schema.max_operands
        while len(operands) > high and operands[-1] is None:
            operands.pop()
        if not low <= len(operands) <= high:
            raise InvalidModel(f"{len(operands)} inputs, takes {low} to {high}")
        for index in range(low):
            if operands[index] is None and not schema.operand(index).optional:
                raise InvalidModel(f"input {index} is missing")
        if outs > schema.max_results:
            raise InvalidModel(f"{outs} outputs, has at most {schema.max_results}")
        return max(outs, schema.min_results, 1)

    def check_required(self, *given: Iterable[str]) -> None:
        """Raises InvalidModel where a required attribute is not given."""
        if self.spelling is None or not self.spelling.required:
            return
        for name in self.spelling.required.difference(*given):
            raise InvalidModel(f"attribute {name!r} is missing")


@cache
def reading(kind: str, domain: str, version: int) -> Reading | None:
    """How to read a kind; None where it is not modelled at that opset."""
    if domain == "graphopt" or (kind == "Constant" and not domain):
        return None
    found = newest = None
    if version > 0:
        found = spelling(kind, domain, version, withdrawn=True)
    if found is None and not domain:
        domain = RUNTIME
    newer = has_changed(kind, version, domain)
    cls = find(newer or kind, domain)
    if cls is None:
        return None
    if found is None:
        if version > 0:
            newest = spelling(kind, domain, _NEWEST, withdrawn=True)
        foreign = domain and newest is None
        return Reading(cls, None, False, {}) if foreign and version > 0 else None
    own: tuple[str, ...] = ()
    if issubclass(cls, Control):
        own = cls.body_names
    if any(k in GRAPHS and name not in own for name, k in found.attributes.items()):
        return None
    now = cls.schema().defaults
    defaults = {n: v for n, v in found.defaults.items() if newer or now.get(n) != v}
    return Reading(cls, found, newer is not None, defaults)


def wrong_type(name: str, expected: int, kind: int) -> InvalidModel:
    names = AttributeProto.AttributeType
    return InvalidModel(
        f"attribute {name!r} must be {names.Name(expected)}, is {names.Name(kind)}"
    )


def resolved(
    attributes: Iterable[AttributeProto], bound: Mapping[str, AttributeProto] | None
) -> Iterable[AttributeProto]:
    """Attributes with references replaced by what they refer to, or left out.

    ``bound`` is None outside of functions, where there is nothing to refer to.
    """
    if not any(attribute.ref_attr_name for attribute in attributes):
        return attributes
    if bound is None:
        raise InvalidModel("refers to an attribute of a function, but is in none")
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


def resolve_inside(node: NodeProto, bound: Mapping[str, AttributeProto]) -> None:
    """Resolve the references in a node that is kept, and in its bodies."""
    pending = [node]
    while pending:
        inner = pending.pop()
        found = list(resolved(inner.attribute, bound))
        del inner.attribute[:]
        inner.attribute.extend(found)
        for body in subgraphs(inner):
            pending.extend(body.node)


def dense(tensor: SparseTensor, where: str) -> Tensor | None:
    """A sparse tensor spelled out; None where that would be large."""
    dtype = tensor.values.dtype
    if dtype is DType.STRING:
        return None
    if prod(tensor.shape) * dtype.numpy.itemsize > DENSE_LIMIT:
        return None
    return tensor.dense(where)


CONSTANT: Mapping[str, tuple[int, DType | None]] = {
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
