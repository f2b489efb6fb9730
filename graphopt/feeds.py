"""What a caller feeds a graph, held against the types that the graph declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from . import dims
from .dims import Dim, Expr
from .errors import UsageError
from .ir import Graph, Parameter
from .types import (
    DType,
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    TensorType,
    Type,
    UnknownType,
)

Feeds = dict[Parameter, Any]

Adopt: TypeAlias = Callable[[Any, DType | None], Any]
"""Makes an array of what a caller gave for a tensor of some element type."""


def _on_host(value: Any, dtype: DType | None) -> Any:
    return np.asarray(value)


def widened(value: Any, dtype: DType | None) -> Any:
    """An array, also of JAX; integers of fewer bits, and float32, are widened.

    They stay what they are. It gives back the 64 bits that `jax.jit` takes away, too.
    """
    is_array = hasattr(value, "dtype") and not isinstance(value, np.generic)
    array = value if is_array else np.asarray(value)
    if dtype is None or array.dtype == dtype.numpy:
        return array
    have, wanted = array.dtype, dtype.numpy
    if have == np.float32:
        exact = wanted == np.float64
    else:
        exact = have.kind + wanted.kind in ("ii", "ui", "uu")
    return array.astype(wanted) if exact and np.can_cast(have, wanted) else array


def bind(
    graph: Graph,
    inputs: Mapping[str, Any] | Sequence[Any],
    adopt: Adopt = _on_host,
) -> tuple[Feeds, dict[str, int]]:
    """A value for every parameter, and the size of every symbol that they settle.

    ``inputs`` are arrays (or lists, for sequences; None, for an empty optional) by name
    or in order. Raises UsageError for names that are missing or unknown, and for rank,
    dims or element type that clash with the declared ones or with each other.
    """
    named = _named(graph, inputs)
    symbols: dict[str, int] = {}
    feeds: Feeds = {}
    later: list[tuple[str, Dim, int]] = []
    for parameter in graph.inputs:
        if parameter.name in named:
            value = _adopted(
                named[parameter.name],
                parameter.type,
                f"input {parameter.name!r}",
                adopt,
            )
        elif parameter.default is not None:
            value = parameter.default.array()
        else:
            raise UsageError(
                f"input {parameter.name!r} ({parameter.type}) is missing; "
                f"the model has {_listed(graph)}"
            )
        feeds[parameter] = value
        later += _settle(parameter, value, symbols)
    for name, dim, size in later:
        if dim is not None and dims.symbols(dim) <= symbols.keys():
            wanted = dims.evaluate(dim, symbols)
            if wanted != size:
                raise UsageError(f"input {name!r}: {dim} is {wanted}, but got {size}")
    return feeds, symbols


def _named(graph: Graph, inputs: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        unknown = sorted(inputs.keys() - set(graph.input_names))
        if unknown:
            raise UsageError(
                f"no input is called {unknown[0]!r}; the model has {_listed(graph)}"
            )
        return dict(inputs)
    if len(inputs) > len(graph.inputs):
        raise UsageError(f"{len(inputs)} values for {len(graph.inputs)} inputs")
    return dict(zip(graph.input_names, inputs, strict=False))


def _listed(graph: Graph) -> str:
    return ", ".join(f"{p.name!r}: {p.type}" for p in graph.inputs) or "no inputs"


def _adopted(value: Any, type_: Type, what: str, adopt: Adopt) -> Any:
    """The value as the evaluator has it. Raises UsageError where it does not fit."""
    if isinstance(type_, OptionalType):
        return None if value is None else _adopted(value, type_.element, what, adopt)
    if isinstance(type_, SequenceType):
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{what} is a list: {type_}")
        return [_adopted(element, type_.element, what, adopt) for element in value]
    if isinstance(type_, MapType | SparseType | UnknownType):
        return value
    if value is None:
        raise UsageError(f"{what} is None, not {type_}")
    array = adopt(value, type_.dtype)
    if array.dtype.kind in "SUT":
        array = array.astype(object)
    try:
        dtype = DType.of(array.dtype)
    except TypeError as error:
        raise UsageError(f"{what}: {error}") from None
    if type_.dtype is not None and dtype is not type_.dtype:
        raise UsageError(f"{what} has elements of {dtype}, not of {type_.dtype}")
    if type_.shape is not None:
        fits = len(type_.shape) == array.ndim and all(
            not isinstance(dim, int) or dim == size
            for dim, size in zip(type_.shape, array.shape, strict=True)
        )
        if not fits:
            raise UsageError(f"{what} has the shape {list(array.shape)}, not {type_}")
    return array


def _settle(
    parameter: Parameter, value: Any, symbols: dict[str, int]
) -> list[tuple[str, Dim, int]]:
    """Bind the symbols that stand alone; the other dims, with their sizes."""
    type_ = parameter.type
    if not isinstance(type_, TensorType) or type_.shape is None:
        return []
    later: list[tuple[str, Dim, int]] = []
    for dim, size in zip(type_.shape, value.shape, strict=True):
        if not isinstance(dim, Expr):
            continue
        names = dims.symbols(dim)
        if len(names) == 1 and dim == dims.symbol(next(iter(names))):
            (name,) = names
            if symbols.setdefault(name, size) != size:
                raise UsageError(
                    f"input {parameter.name!r}: {dim} is {symbols[name]} in another"
                    f" input, but {size} here"
                )
        else:
            later.append((parameter.name, dim, size))
    return later
