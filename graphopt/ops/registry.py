"""The closed set of op kinds: how a class becomes one, and how to find it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import TypeMismatch
from ..ir import Attr, Op, canonical
from .schema import Schema, schema_of

T = TypeVar("T", bound="type[Op]")

RUNTIME = "onnxruntime"
"""Domain of kinds that ONNX Runtime writes into the default one, against ONNX."""
UNNAMED = frozenset(("", "graphopt", RUNTIME))
"""Domains of kinds that are written into the default one."""

kinds: dict[tuple[str, str], type[Modelled]] = {}
"""Every op kind that is modelled, by (domain, kind)."""


def op(kind: str, *, domain: str = "") -> Callable[[T], T]:
    """Register a class as the meaning of an ONNX op.

    >>> @op("Relu")
    ... class Relu(Elementwise): ...
    """

    def register(cls: T) -> T:
        cls.kind = kind
        cls.domain = domain
        kinds[domain, kind] = cls  # type: ignore[assignment]
        return cls

    return register


def find(kind: str, domain: str = "") -> type[Modelled] | None:
    """The class of an op kind, None where it is not modelled."""
    return kinds.get((domain, kind))


class Modelled(Op):
    """An op that ONNX has a schema for (or that brings its own `schema`)."""

    __slots__ = ()

    @classmethod
    def schema(cls) -> Schema:
        """Arity, attributes and defaults. Raises KeyError for an unknown op."""
        found = schema_of(cls.kind, cls.domain)
        if found is None:
            raise KeyError(f"no schema for {cls.domain}::{cls.kind}")
        return found

    @classmethod
    def complete(cls, attrs: Mapping[str, Any]) -> dict[str, Attr]:
        schema = cls.schema()
        merged = dict(schema.defaults)
        known = schema.attributes
        for name, value in attrs.items():
            if name not in known:
                raise TypeMismatch(f"{cls.kind} has no attribute {name!r}")
            if value is not None:
                merged[name] = canonical(value)
        for name in schema.required:
            if name not in merged:
                raise TypeMismatch(f"{cls.kind} lacks its attribute {name!r}")
        return merged

    @classmethod
    def optional_attrs(cls) -> frozenset[str]:
        return cls.schema().optional
