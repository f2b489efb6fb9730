"""What ONNX Runtime says of its kernels, in a compact form that a file can hold.

``kernels`` maps domain and kind to rows: an opset range ("13-" is open), and the types
that each type variable may have. ``forms`` are the operands and the results of what the
runtime defines itself, as ``name:variable`` with "?" where one may be left out and "*"
where it stands for many. Types are written without ``tensor(…)``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from importlib import metadata
from typing import Any, Final, TypeAlias

from graphopt.types import DType

from .session import runtime

SCHEMA: Final = 1

DISTRIBUTIONS: Final = ("onnxruntime-gpu", "onnxruntime")
"""The wheels that bring `onnxruntime`, the one that has most first."""

OPEN: Final = (1 << 31) - 1
"""How a kernel says that it ends with no opset."""

HIGHEST_OPSET: Final = 64

Row: TypeAlias = "tuple[tuple[int, int], dict[str, frozenset[str]]]"


def installed() -> tuple[str, str] | None:
    """The wheel that is installed and its version; nothing is imported."""
    for name in DISTRIBUTIONS:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def read(provider: str) -> dict[str, Any]:
    """The kernels that the installed runtime has for a provider, as data.

    Raises BackendMissing where there is no runtime, LookupError where it has none for
    this provider. Reading those of CUDA needs CUDA.
    """
    onnxruntime = runtime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    definitions = [d for d in state.get_all_opkernel_def() if d.provider == provider]
    if not definitions:
        raise LookupError(f"this ONNX Runtime has no kernels for {provider}")
    schemas = defaultdict(list)
    for schema in state.get_all_operator_schema():
        schemas[schema.domain, schema.name].append(schema)
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for each in definitions:
        types = {
            variable: frozenset(map(shortened, allowed))
            for variable, allowed in each.type_constraints.items()
        }
        found[each.domain, each.op_name].append((each.version_range, types))
    kernels: dict[str, dict[str, Any]] = defaultdict(dict)
    forms: dict[str, dict[str, Any]] = defaultdict(dict)
    for (domain, kind), rows in sorted(found.items()):
        if kind.startswith("Memcpy"):
            continue
        own = [s for s in schemas[domain, kind] if not _is_of_onnx(s)]
        if own:
            schema = max(own, key=lambda s: s.since_version)
            forms[domain][kind] = _form(schema)
            rows = [(span, _filled(types, schema)) for span, types in rows]
        kernels[domain][kind] = [
            [_span(span), {v: " ".join(sorted(t)) for v, t in sorted(types.items())}]
            for span, types in merged(rows)
        ]
    return {
        "schema": SCHEMA,
        "source": f"get_all_opkernel_def() of {' '.join(installed() or ())}",
        "provider": provider,
        "version": onnxruntime.__version__,
        "opset": accepted_opset(),
        "kernels": kernels,
        "forms": forms,
    }


def merged(rows: Iterable[Row]) -> list[Row]:
    """Rows that say the same, fewer: two that differ in one variable become one."""
    pending = sorted(rows, key=_order)
    done: list[Row] = []
    while pending:
        row = pending.pop()
        for i, other in enumerate(done):
            joined = _joined(row, other)
            if joined is not None:
                del done[i]
                pending.append(joined)
                break
        else:
            done.append(row)
    return sorted(done, key=_order)


def _order(row: Row) -> tuple[tuple[int, int], list[tuple[str, list[str]]]]:
    span, types = row
    return span, sorted((variable, sorted(t)) for variable, t in types.items())


def _joined(a: Row, b: Row) -> Row | None:
    if a[0] != b[0] or a[1].keys() != b[1].keys():
        return None
    apart = [v for v in a[1] if a[1][v] != b[1][v]]
    if len(apart) > 1:
        return None
    return a[0], a[1] | {v: a[1][v] | b[1][v] for v in apart}


def shortened(text: str) -> str:
    """``tensor(float)`` -> ``float``, inside of sequences too."""
    return re.sub(r"(?<![a-z_])tensor\((\w+)\)", r"\1", text).replace(" ", "")


def _span(span: tuple[int, int]) -> str:
    first, last = span
    return f"{first}-" if last == OPEN else f"{first}-{last}"


def _is_of_onnx(schema: Any) -> bool:
    from onnx import defs

    return defs.has(schema.name, schema.since_version, schema.domain)


def _form(schema: Any) -> list[str]:
    return [" ".join(map(_formal, side)) for side in (schema.inputs, schema.outputs)]


def _formal(formal: Any) -> str:
    mark = {"Optional": "?", "Variadic": "*"}.get(formal.option.name, "")
    return f"{formal.name}:{shortened(formal.typeStr)}{mark}"


def _filled(types: dict[str, frozenset[str]], schema: Any) -> dict[str, frozenset[str]]:
    """With what the schema allows for the variables that the kernel does not mind."""
    allowed = {
        c.type_param_str: frozenset(map(shortened, c.allowed_type_strs))
        for c in schema.type_constraints
    }
    used = {f.typeStr for f in (*schema.inputs, *schema.outputs)}
    return {v: t for v, t in allowed.items() if v in used} | types


def accepted_opset() -> int:
    """The highest opset of the default domain that the runtime takes, by trying."""
    from onnx import helper

    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    value = helper.make_tensor_value_info
    for opset in range(HIGHEST_OPSET, 0, -1):
        graph = helper.make_graph(
            [helper.make_node("Neg", ["x"], ["y"])],
            "probe",
            [value("x", DType.F32.value, [1])],
            [value("y", DType.F32.value, [1])],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception:  # the runtime's errors have no base of their own
            continue
        return opset
    return 0
