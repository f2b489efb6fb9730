"""What ONNX's own schemas say of an op: attributes, defaults, arity, result types.

The IR means each op as the newest opset does; older forms die in the importer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from ..types import DType

LATEST = 28
"""The opset of the default domain whose meaning the IR gives to every op."""


@dataclass(frozen=True)
class Schema:
    """Facts of one op kind that need not be retyped.

    ``result_types`` holds, for each declared result, the operand position whose
    element type it shares, a fixed element type, or None where neither is said.
    """

    defaults: dict[str, Any]
    required: frozenset[str]
    optional: frozenset[str]
    min_operands: int
    max_operands: int
    min_results: int
    max_results: int
    operand_names: tuple[str, ...]
    variadic_operand: bool
    variadic_result: bool
    result_types: tuple[int | DType | None, ...]

    @property
    def attributes(self) -> frozenset[str]:
        return self.required | self.optional | frozenset(self.defaults)


@cache
def schema_of(kind: str, domain: str = "") -> Schema | None:
    """The newest schema of an op up to opset `LATEST`; None where ONNX has none."""
    import onnx

    version = LATEST if domain == "" else 1000
    try:
        raw = onnx.defs.get_schema(kind, version, domain)
    except onnx.defs.SchemaError:
        return None
    option = onnx.defs.OpSchema.FormalParameterOption
    defaults: dict[str, Any] = {}
    required, optional = set(), set()
    for name, attribute in raw.attributes.items():
        default = attribute.default_value
        if default.type != onnx.AttributeProto.UNDEFINED:
            defaults[name] = _plain(onnx.helper.get_attribute_value(default))
        elif attribute.required:
            required.add(name)
        else:
            optional.add(name)
    of_type: dict[str, int | DType | None] = {}
    for i, formal in enumerate(raw.inputs):
        of_type.setdefault(formal.type_str, i)
    for variable in raw.type_constraints:
        if len(variable.allowed_type_strs) == 1:
            of_type[variable.type_param_str] = _fixed(variable.allowed_type_strs[0])
    results = [_fixed(r.type_str) or of_type.get(r.type_str) for r in raw.outputs]
    return Schema(
        defaults=defaults,
        required=frozenset(required),
        optional=frozenset(optional),
        min_operands=raw.min_input,
        max_operands=raw.max_input,
        min_results=raw.min_output,
        max_results=raw.max_output,
        operand_names=tuple(formal.name for formal in raw.inputs),
        variadic_operand=bool(raw.inputs) and raw.inputs[-1].option == option.Variadic,
        variadic_result=bool(raw.outputs) and raw.outputs[-1].option == option.Variadic,
        result_types=tuple(results),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v) for v in value)
    return value


def _fixed(text: str) -> DType | None:
    """``tensor(int64)`` -> I64; None for a type variable."""
    return _TENSORS.get(text)


_ONNX_NAMES = {
    "float": "F32",
    "double": "F64",
    "float16": "F16",
    "bfloat16": "BF16",
    "string": "STRING",
    "bool": "BOOL",
    "complex64": "C64",
    "complex128": "C128",
} | {f"{p}int{b}": f"{p.upper() or 'I'}{b}" for p in ("", "u") for b in (8, 16, 32, 64)}
_TENSORS = {f"tensor({name})": DType[ours] for name, ours in _ONNX_NAMES.items()}
