"""What an op's schema allows at one opset: names, defaults, arity, element types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from onnx import defs, helper

from ..ir import Value
from ..types import DType, OptionalType, SequenceType, TensorType, Type

_NEWEST = 1 << 30
_OPTION = defs.OpSchema.FormalParameterOption
_DTYPE_NAMES = {
    "F32": "float",
    "F64": "double",
    "F16": "float16",
    "BF16": "bfloat16",
    "STRING": "string",
    "BOOL": "bool",
    "C64": "complex64",
    "C128": "complex128",
    "F8E4M3FN": "float8e4m3fn",
    "F8E4M3FNUZ": "float8e4m3fnuz",
    "F8E5M2": "float8e5m2",
    "F8E5M2FNUZ": "float8e5m2fnuz",
    "F8E8M0": "float8e8m0",
    "F4E2M1": "float4e2m1",
    "F6E2M3": "float6e2m3",
    "F6E3M2": "float6e3m2",
}


@dataclass(frozen=True)
class Formal:
    """One declared operand or result."""

    variable: str
    types: frozenset[str]
    optional: bool
    variadic: bool
    homogeneous: bool


@dataclass(frozen=True, eq=False)
class Spelling:
    """One op at one opset, as ONNX's schema has it.

    ``attributes`` maps names to AttributeProto types; ``defaults`` are those that an
    attribute left out has.
    """

    since: int
    attributes: Mapping[str, int]
    defaults: Mapping[str, Any]
    required: frozenset[str]
    operands: tuple[Formal, ...]
    results: tuple[Formal, ...]
    min_operands: int
    max_operands: int
    min_results: int
    max_results: int

    def operand(self, index: int) -> Formal:
        """The declared operand for a position; the last one may stand for many."""
        return self.operands[min(index, len(self.operands) - 1)]

    def accepts(self, operands: Sequence[Value | None], types: Sequence[Type]) -> bool:
        """True unless arity or a known element type breaks the schema."""
        count = len(operands)
        if not self.min_operands <= count <= self.max_operands:
            return False
        if len(types) > self.max_results:
            return False
        key = (
            tuple([None if v is None else type_name(v.type) for v in operands]),
            tuple([type_name(t) for t in types]),
        )
        return _fits(self, *key)

    def optional_result(self, index: int) -> bool:
        """True where a result that nobody wants may go unnamed."""
        formal = self.results[min(index, len(self.results) - 1)]
        return formal.optional


@cache
def _fits(
    spelling: Spelling,
    operands: tuple[str | None, ...],
    results: tuple[str, ...],
) -> bool:
    bound: dict[str, str] = {}
    for formals, names in ((spelling.operands, operands), (spelling.results, results)):
        for i, name in enumerate(names):
            formal = formals[min(i, len(formals) - 1)]
            if name is None:
                if not (formal.optional or formal.variadic):
                    return False
                continue
            if not name:
                continue
            if name not in formal.types:
                return False
            if formal.homogeneous and bound.setdefault(formal.variable, name) != name:
                return False
    return True


def type_name(type_: Type) -> str:
    """ONNX's text for a type with its dims left out; empty where it is not known."""
    if isinstance(type_, TensorType):
        return _TENSOR_NAMES[type_.dtype]
    if isinstance(type_, (SequenceType, OptionalType)):
        inner = type_name(type_.element)
        outer = "seq" if isinstance(type_, SequenceType) else "optional"
        return f"{outer}({inner})" if inner else ""
    return ""


def _dtype_name(dtype: DType) -> str:
    name = dtype.name
    if name in _DTYPE_NAMES:
        return _DTYPE_NAMES[name]
    return f"{'u' if name[0] == 'U' else ''}int{name[1:]}"


_TENSOR_NAMES: dict[DType | None, str] = {
    dtype: f"tensor({_dtype_name(dtype)})" for dtype in DType
}
_TENSOR_NAMES[None] = ""


@cache
def spelling(
    kind: str, domain: str, version: int, *, withdrawn: bool = False
) -> Spelling | None:
    """The schema in force at an opset; None where there is none, or it is withdrawn.

    ``withdrawn`` asks for that too.
    """
    try:
        schema = defs.get_schema(kind, version, domain)
    except defs.SchemaError:
        return None
    return (
        None
        if schema.deprecated and not withdrawn
        else _spelling(schema.name, domain, schema.since_version)
    )


@cache
def _spelling(kind: str, domain: str, since: int) -> Spelling:
    schema = defs.get_schema(kind, since, domain)
    attributes, defaults, required = {}, {}, set()
    for name, attribute in schema.attributes.items():
        attributes[name] = int(attribute.type.value)  # type: ignore[attr-defined]
        if attribute.default_value.type:
            defaults[name] = _plain(helper.get_attribute_value(attribute.default_value))
        elif attribute.required:
            required.add(name)
    return Spelling(
        since=schema.since_version,
        attributes=attributes,
        defaults=defaults,
        required=frozenset(required),
        operands=tuple(map(_formal, schema.inputs)),
        results=tuple(map(_formal, schema.outputs)),
        min_operands=schema.min_input,
        max_operands=schema.max_input,
        min_results=schema.min_output,
        max_results=schema.max_output,
    )


def _formal(formal: Any) -> Formal:
    return Formal(
        variable=formal.type_str,
        types=frozenset(formal.types),
        optional=formal.option == _OPTION.Optional,
        variadic=formal.option == _OPTION.Variadic,
        homogeneous=formal.option != _OPTION.Variadic or formal.is_homogeneous,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple)):
        return tuple([_plain(v) for v in value])
    return value


@cache
def breakpoints(kind: str, domain: str = "") -> tuple[int, ...]:
    """The opsets at which a kind appeared or changed, in order."""
    found: list[int] = []
    version = _NEWEST
    while version > 0:
        try:
            since = defs.get_schema(kind, version, domain).since_version
        except defs.SchemaError:
            break
        found.append(since)
        version = since - 1
    return tuple(reversed(found))
