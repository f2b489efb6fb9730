"""What ONNX Runtime's own ops share.

ONNX has no schemas for them: `Declared.facts` says what those would. Meanings are those
of ContribOperators.md in microsoft/onnxruntime, and tested against its kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from ...ir import Value, canonical
from ..elementwise import Add
from ..movement import Transpose
from ..registry import Modelled
from ..schema import Schema
from ..structured import Composite

DOMAIN = "com.microsoft"

MANY = (1 << 31) - 1
"""Most operands of an op whose last one stands for many."""


class Declared(Modelled):
    """An op that brings its own schema.

    ``facts`` are the least and the most operands, and the most results. It has the
    attributes ``defaults``, must have those named ``required``, and may have those
    named ``others``.
    """

    __slots__ = ()

    facts: ClassVar[tuple[int, int, int]]
    defaults: ClassVar[Mapping[str, Any]] = {}
    required: ClassVar[frozenset[str]] = frozenset()
    others: ClassVar[frozenset[str]] = frozenset()
    optional_results: ClassVar[bool] = False
    """True where results that nobody reads may go unnamed; many kernels mind that."""

    @classmethod
    @cache
    def schema(cls) -> Schema:
        least, most, results = cls.facts
        named = least if most == MANY else most
        return Schema(
            defaults={name: canonical(v) for name, v in cls.defaults.items()},
            required=cls.required,
            optional=cls.others,
            min_operands=least,
            max_operands=most,
            min_results=1,
            max_results=results,
            operand_names=tuple(f"operand_{i}" for i in range(named)),
            variadic_operand=most == MANY,
            variadic_result=False,
            result_types=(0,) * results,
        )

    def default_outs(self) -> int:
        return 1


class Contrib(Declared, Composite):
    """An op of ONNX Runtime that means a body of simpler ops."""

    __slots__ = ()


def summed(first: Value | None, *others: Value | None) -> Value:
    """The sum of what is there."""
    assert first is not None
    for other in others:
        first = first if other is None else Add(first, other)
    return first


def swapped(x: Value | None, turn: int) -> Value | None:
    """x, or its matrices transposed; None where its rank is not known."""
    if x is None or not turn:
        return x
    if x.rank is None or x.rank < 2:
        return None
    *leading, row, column = range(x.rank)
    return Transpose(x, perm=(*leading, column, row))
