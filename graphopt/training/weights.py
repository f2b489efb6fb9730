"""Which weights of a model are trained, and why the others are not."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, NoReturn, TypeAlias

from ..errors import UnsupportedModel, UsageError, nearest
from ..ir import Graph, Op, Value
from ..ops.random import Random
from ..types import DType, TensorType

Frozen: TypeAlias = "str | Collection[str] | Callable[[str], bool]"
"""Names of weights, with * and ? for any letters; or what says it of a name."""

MASTER: Final = {DType.F16: DType.F32, DType.BF16: DType.F32}
"""The type in which a narrow weight is kept while it is trained."""

_TRAINED: Final = (DType.F16, DType.BF16, DType.F32, DType.F64)
_PASSING: Final = ("Cast", "Identity", "Reshape")
_ROLES: Final[Mapping[str, tuple[str, frozenset[int]]]] = {
    "BatchNormalization": ("a running statistic of {}", frozenset({3, 4})),
    "QuantizeLinear": ("a scale of {}", frozenset({1})),
    "DequantizeLinear": ("a scale of {}", frozenset({1})),
    "QLinearConv": ("a scale of {}", frozenset({1, 4, 6})),
    "QLinearMatMul": ("a scale of {}", frozenset({1, 4, 6})),
}
"""Operands that are float, and nothing that a gradient should move."""


def kept(graph: Graph, weights: Mapping[str, Value], frozen: Frozen) -> dict[str, str]:
    """The weights that are not trained, each with the reason.

    Raises UsageError where a name or pattern in ``frozen`` fits no weight.
    """
    reasons: dict[str, str] = {}
    roles = dict(_roles(graph))
    chosen = _chosen(weights, frozen)
    for name, value in weights.items():
        type_ = value.type
        dtype = type_.dtype if isinstance(type_, TensorType) else None
        if dtype not in _TRAINED:
            reasons[name] = f"of type {dtype}"
        elif value in roles:
            reasons[name] = roles[value]
        elif name in chosen:
            reasons[name] = "frozen"
    return reasons


def refuse_none(graph: Graph, untrained: Mapping[str, str]) -> NoReturn:
    """Raises UsageError: there is no weight to train, and why."""
    why = "; ".join(f"{name} is {reason}" for name, reason in untrained.items())
    if not why:
        held = {t.dtype for t in graph.tensors()}
        dtypes = ", ".join(sorted(map(str, held))) or "nothing"
        why = (
            "floats with axes (f16, bf16, f32, f64) are trained, and the model has none"
            f" (its constants are of {dtypes})"
        )
    raise UsageError(f"no weight is left to train: {why}")


def refuse_stated(graph: Graph) -> None:
    """Raises UnsupportedModel for an op that would draw the same numbers every step."""
    for _, op in graph.walk():
        if isinstance(op, Random) and not op.deterministic and op.stated:
            raise UnsupportedModel(
                f"{op.label} states a seed, and so draws the same numbers in every step"
                " of training; export the model without it",
                where=graph.names.get(op),
            )


def _roles(graph: Graph) -> Iterator[tuple[Value, str]]:
    for _, op in graph.walk():
        if op.kind not in _ROLES:
            continue
        text, places = _ROLES[op.kind]
        for i, value in enumerate(op.operands):
            if value is not None and i in places:
                yield behind(value), text.format(op.kind)


def behind(value: Value) -> Value:
    """What a value is, also through ops that only pass it on."""
    while isinstance(value, Op) and value.kind in _PASSING:
        operand = value.operands[0]
        assert operand is not None
        value = operand
    return value


def _chosen(names: Collection[str], frozen: Frozen) -> set[str]:
    if callable(frozen):
        return {name for name in names if frozen(name)}
    patterns = [frozen] if isinstance(frozen, str) else frozen
    found: set[str] = set()
    for pattern in patterns:
        fitting = {n for n in names if n == pattern or fnmatch.fnmatchcase(n, pattern)}
        if not fitting:
            raise UsageError(
                f"no weight is called {pattern!r}{nearest(pattern, names)}"
            )
        found |= fitting
    return found
