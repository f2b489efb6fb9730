"""Which ops ONNX Runtime has a kernel for: by provider, opset and element types.

The tables are in ``data/``: `registry` read them out of the runtime. Where another
version of it is installed, its own word is taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeAlias

from onnx import defs

from graphopt.errors import UsageError, nearest
from graphopt.exporter.spelled import node_of
from graphopt.ir import Op
from graphopt.ops.constant import Constant
from graphopt.ops.opaque import Opaque
from graphopt.ops.registry import RUNTIME
from graphopt.types import Type
from graphopt.versions import turning_points
from graphopt.versions.spelling import type_name

from . import registry
from .limits import out_of_limits
from .recipe import PROVIDERS

_PLACES: Final = {"cpu": "on the CPU", "cuda": "on CUDA"}


@dataclass(frozen=True)
class Formal:
    """A declared operand or result; ``variable`` is a type where it can only be one."""

    name: str
    variable: str

    @classmethod
    def parse(cls, text: str) -> Formal:
        """``name:variable``, with a mark or without."""
        name, _, variable = text.rstrip("?*").partition(":")
        return cls(name, variable)


Form: TypeAlias = "tuple[tuple[Formal, ...], tuple[Formal, ...]]"
"""Operands and results; the last one of each may stand for many."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """One row of a table: opsets, the last one included, and types by variable.

    ``last`` is None for an op that has not changed since ``first``.
    """

    first: int
    last: int | None
    types: Mapping[str, frozenset[str]]

    def is_for(self, since: int) -> bool:
        """True for an op that an opset defined. An open kernel knows none but its own.

        As KernelRegistry::VerifyVersion of ONNX Runtime has it.
        """
        if self.last is None:
            return since == self.first
        return self.first <= since <= self.last

    def allowed(self, formal: Formal) -> frozenset[str] | None:
        """The types that an operand or result may have; None for any."""
        for key in (formal.variable, formal.name):
            if key in self.types:
                return self.types[key]
        is_type = formal.variable[:1].islower()
        return frozenset((formal.variable,)) if is_type else None

    def reaches(self, used: Sequence[tuple[Formal, str]]) -> int:
        """How many of the given types fit, up to the first that does not."""
        for i, (formal, name) in enumerate(used):
            allowed = self.allowed(formal)
            if allowed is not None and name not in allowed:
                return i
        return len(used)

    @property
    def span(self) -> str:
        """``13``, ``7-12``, ``13+``."""
        if self.last is None:
            return f"{self.first}+"
        return f"{self.first}-{self.last}" if self.last > self.first else str(self.last)


@dataclass(frozen=True, eq=False)
class Kernels:
    """The kernels of one execution provider ("cpu", "cuda") of one ONNX Runtime.

    ``opset`` is the highest of the default domain that this runtime accepts.
    """

    provider: str
    version: str
    source: str
    opset: int
    rows: Mapping[tuple[str, str], tuple[Kernel, ...]] = field(repr=False)
    forms: Mapping[tuple[str, str], Form] = field(repr=False)

    @classmethod
    def of(cls, provider: str) -> Kernels:
        """The table for a provider: "cpu", "cuda", or a target "ort-…".

        Raises UsageError for what is none.
        """
        short = provider.partition(":")[0].removeprefix("ort-")
        if short not in PROVIDERS:
            raise UsageError(
                f"no kernels are known for {provider!r}{nearest(provider, PROVIDERS)}"
            )
        return _here(short)

    def has(self, domain: str, kind: str) -> bool:
        """True where there is a kernel for some opset and types."""
        return (domain, kind) in self.rows

    def takes(
        self,
        domain: str,
        kind: str,
        version: int,
        operands: Sequence[Type | None] = (),
        results: Sequence[Type | None] = (),
    ) -> str | None:
        """Why a node of an opset of its domain has no kernel here; None where it has.

        Operands that are left out are None; results that nobody reads may be.
        """
        rows = self.rows.get((domain, kind))
        label = f"{domain}.{kind}" if domain else kind
        if domain == "" and version > self.opset:
            return f"{self._runtime} takes opsets up to {self.opset}, not {version}"
        if rows is None:
            return f"{self._runtime} has no kernel for {label} {self._place}"
        since, form = self._form(domain, kind, version)
        if form is None:
            return f"opset {version} of ONNX has no {label}"
        fitting = [row for row in rows if row.is_for(since)]
        if not fitting:
            spans = ", ".join(dict.fromkeys(row.span for row in rows))
            return (
                f"{self._runtime} has {label} {self._place} for opsets {spans},"
                f" not as opset {since} defines it"
            )
        used = list(_used(form, operands, results))
        for formal, name in used:
            if not name:
                return f"the element type of {formal.name} is not known"
        reached = {row: row.reaches(used) for row in fitting}
        furthest = max(reached.values())
        if furthest == len(used):
            return None
        formal, name = used[furthest]
        taken = {
            other
            for row, at in reached.items()
            if at == furthest
            for other in row.allowed(formal) or ()
        }
        return (
            f"{self._runtime} has no kernel for {label} {self._place} that takes"
            f" {name} as {formal.name}, only {', '.join(sorted(taken))}"
        )

    def why_not(
        self, op: Op, *, opset: int = 13, used: tuple[bool, ...] | None = None
    ) -> str | None:
        """Why an op has no kernel here, None where it has.

        It is asked for as the exporter would write it: at ``opset`` of the default
        domain, or the lowest above that can say it. ``used`` tells which results
        somebody reads; without it, all are.
        """
        if isinstance(op, Constant):
            return None
        used = used or (True,) * op.outs
        if isinstance(op, Opaque):
            domain, kind, version = op.op_domain, op.op_type, op.version
            operands = op.operands
        elif op.domain not in ("", "graphopt"):
            domain, version = ("", 1) if op.domain == RUNTIME else (op.domain, 0)
            kind, operands = op.kind, op.operands
        else:
            domain = ""
            above = [v for v in turning_points(op.kind) if v > opset]
            for version in (opset, *above):
                node = node_of(op, used, version)
                if node is not None:
                    break
            else:
                return f"no opset has {op.kind}: it is written as its body"
            kind, operands = node.kind, tuple(node.operands)
        types = [None if v is None else v.type for v in operands]
        results = [
            type_ if wanted else None
            for type_, wanted in zip(op.types, used, strict=True)
        ]
        return self.takes(domain, kind, version, types, results) or out_of_limits(
            self.provider, domain, kind, op
        )

    def kinds(self) -> Iterator[tuple[str, str]]:
        """Domain and kind of all that has kernels, in order."""
        yield from sorted(self.rows)

    @property
    def _runtime(self) -> str:
        return f"ONNX Runtime {self.version}"

    @property
    def _place(self) -> str:
        return _PLACES[self.provider]

    def _form(self, domain: str, kind: str, version: int) -> tuple[int, Form | None]:
        """The opset that defined a node, and its operands and results."""
        found = _standard(domain, kind, version)
        return (1, self.forms.get((domain, kind))) if found is None else found


@cache
def _standard(domain: str, kind: str, version: int) -> tuple[int, Form] | None:
    """What ONNX says of a node; ``version`` 0 is the newest opset of its domain."""
    try:
        newest = (kind, domain) if not version else (kind, version, domain)
        schema = defs.get_schema(*newest)
    except defs.SchemaError:
        return None
    if schema.deprecated:
        return None
    operands, results = (
        tuple([Formal(f.name, registry.shortened(f.type_str)) for f in side])
        for side in (schema.inputs, schema.outputs)
    )
    return schema.since_version, (operands, results)


def _used(
    form: Form, operands: Sequence[Type | None], results: Sequence[Type | None]
) -> Iterator[tuple[Formal, str]]:
    """What is there, with the name of its type; an empty one if that is not known."""
    for formals, types in zip(form, (operands, results), strict=True):
        for i, type_ in enumerate(types):
            if type_ is not None:
                formal = formals[min(i, len(formals) - 1)]
                yield formal, registry.shortened(type_name(type_))


def recorded(provider: str) -> dict[str, Any]:
    """The packaged table for a provider, "cpu" or "cuda", as `registry` made it."""
    text = files(__package__).joinpath("data", f"{provider}.json").read_text()
    data: dict[str, Any] = json.loads(text)
    return data


@cache
def _here(provider: str) -> Kernels:
    """What is installed where it is another than the recorded one, or the latter.

    The GPU wheel is not asked: for that it starts TensorRT, and dies without it.
    """
    data = recorded(provider)
    wheel = registry.installed()
    if provider == "cpu" and wheel is not None:
        name, version = wheel
        if name == "onnxruntime" and version != data["version"]:
            data = registry.read(PROVIDERS[provider])
    return from_data(provider, data)


def from_data(provider: str, data: Mapping[str, Any]) -> Kernels:
    """The table that `registry.read` or a file gives."""
    rows = {
        (domain, kind): tuple([_kernel(span, types) for span, types in found])
        for domain, kinds in data["kernels"].items()
        for kind, found in kinds.items()
    }
    forms = {
        (domain, kind): (_formals(operands), _formals(results))
        for domain, kinds in data["forms"].items()
        for kind, (operands, results) in kinds.items()
    }
    return Kernels(
        provider, data["version"], data["source"], data["opset"], rows, forms
    )


def _kernel(span: str, types: Mapping[str, str]) -> Kernel:
    first, _, last = span.partition("-")
    return Kernel(
        int(first),
        int(last) if last else None,
        {variable: frozenset(text.split()) for variable, text in types.items()},
    )


def _formals(text: str) -> tuple[Formal, ...]:
    return tuple(map(Formal.parse, text.split()))


def why_not(op: Op, provider: str, *, opset: int = 13) -> str | None:
    """Why a provider has no kernel for an op, None where it has: `Kernels.why_not`."""
    return Kernels.of(provider).why_not(op, opset=opset)


def max_opset(provider: str) -> int:
    """The highest opset of the default domain that ONNX Runtime accepts."""
    return Kernels.of(provider).opset
