"""Caches: inputs that come back as outputs, longer by what a step has added.

A pair is found by what ops move. From an output it goes back through those that put an
operand whole into what they make (a concatenation, a scattering into a buffer, a change
of shape, attention that joins keys to those of the past, the last state of a recurrent
layer), to an input of the same type but for the one dim that grows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from graphopt import dims
from graphopt.dims import Dim
from graphopt.errors import UsageError, nearest
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import (
    Concat,
    Gather,
    Identity,
    If,
    LinearAttention,
    Pad,
    Slice,
    Split,
    TensorScatter,
    Transpose,
    Where,
)
from graphopt.ops.indexing import Scattering
from graphopt.ops.recurrent import Recurrent
from graphopt.ops.reshaping import Reshaping
from graphopt.ops.structured import Composite
from graphopt.types import TensorType

from .folding import made_by


@dataclass(frozen=True)
class Cache:
    """An input that a step reads, and the output that the next step reads as that.

    ``axis`` is the dim that grows, ``added`` by how much: None where neither does.
    ``against`` are pairs that the graph shows, which this one, being named, replaces.
    """

    past: Parameter
    present: Value
    name: str
    axis: int | None = None
    added: Dim = None
    against: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, str]:
        """Of the input and of the output."""
        return self.past.name, self.name


def caches(
    graph: Graph, ties: Mapping[str, str] = MappingProxyType({})
) -> tuple[Cache, ...]:
    """The caches of a graph, those first that ``ties`` names: an output for an input.

    Names decide only where an input could come back as several outputs, or several
    inputs as one; where they do not either, there is none. Raises UsageError for ties
    that cannot be.
    """
    told = _told(graph, ties)
    taken = {name for cache in told for name in cache.names}
    found: dict[Cache, None] = {}
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        for source in _sources(value):
            cache = _cache(source, value, name)
            if cache is not None:
                found[cache] = None
    shown = _one_to_one(found) if told else []
    told = tuple([replace(cache, against=_against(cache, shown)) for cache in told])
    others = [cache for cache in found if taken.isdisjoint(cache.names)]
    return (*told, *_one_to_one(others))


def _against(told: Cache, shown: Iterable[Cache]) -> tuple[tuple[str, str], ...]:
    """Of the pairs that the graph shows those that have the input or the output."""
    pairs = [cache.names for cache in shown if cache.names != told.names]
    return tuple([p for p in pairs if p[0] == told.past.name or p[1] == told.name])


def replaced(found: Iterable[Cache]) -> Iterator[str]:
    """What is told of caches that were named against what the graph shows."""
    for cache in found:
        for past, present in cache.against:
            yield (
                f"--tie {cache.past.name}={cache.name} replaces {past}={present}, which"
                " the graph shows"
            )


def _told(graph: Graph, ties: Mapping[str, str]) -> tuple[Cache, ...]:
    """Caches that somebody names. Raises UsageError where that cannot be."""
    inputs = {p.name: p for p in graph.inputs}
    outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
    found: list[Cache] = []
    for past, present in ties.items():
        if past not in inputs and past in outputs and present in inputs:
            raise UsageError(
                f"{past!r} is an output, and {present!r} an input: the input comes"
                f" first, {present}={past}"
            )
        for name, known, what in (
            (past, inputs, "input"),
            (present, outputs, "output"),
        ):
            if name not in known:
                raise UsageError(f"no {what} is called {name!r}{nearest(name, known)}")
        if any(present == cache.name for cache in found):
            raise UsageError(f"the output {present!r} is tied twice")
        cache = _cache(inputs[past], outputs[present], present)
        if cache is None:
            raise UsageError(
                f"{past!r} ({inputs[past].type}) is no past of {present!r}"
                f" ({outputs[present].type}): they differ in more than one dim"
            )
        if isinstance(cache.added, int) and cache.added < 0:
            raise UsageError(
                f"{past!r} ({inputs[past].type}) is no past of {present!r}"
                f" ({outputs[present].type}), which is shorter"
            )
        found.append(cache)
    return tuple(found)


def _cache(past: Value, present: Value, name: str) -> Cache | None:
    """The two as a cache; None where their types differ in more than one dim."""
    old, new = past.type, present.type
    if not isinstance(past, Parameter) or past.default is not None:
        return None
    if not isinstance(old, TensorType) or not isinstance(new, TensorType):
        return None
    if old.dtype != new.dtype or old.shape is None or new.shape is None:
        return None
    if not old.shape or len(old.shape) != len(new.shape):
        return None
    grown = [
        axis
        for axis, (a, b) in enumerate(zip(old.shape, new.shape, strict=True))
        if not dims.equal(a, b)
    ]
    if not grown:
        return Cache(past, present, name)
    axis, *more = grown
    added = dims.sub(new.shape[axis], old.shape[axis])
    return None if more else Cache(past, present, name, axis, added)


# --- what ops move ------------------------------------------------------------------

_WHOLE: Final = (
    *(Identity, Reshaping, Transpose, Slice, Split, Pad, Gather),
    *(Scattering, TensorScatter),
)
"""Ops that make their result of elements of the first operand."""

_STATES: Final[Mapping[type, Mapping[int, int]]] = {
    Recurrent: {1: 5, 2: 6},
    LinearAttention: {1: 3},
}
"""By kind of op, which operand is the state that a result is after all steps."""


def _moved(value: Value) -> Iterator[Value | None]:
    """The operands of which elements come into a value as they are."""
    item, result = made_by(value)
    if isinstance(item, Parameter):
        return
    for kind, states in _STATES.items():
        if isinstance(item, kind):
            if result in states:
                yield item.operand(states[result])
            return
    if isinstance(item, _WHOLE):
        yield item.operands[0]
    elif isinstance(item, Concat):
        yield from item.operands
    elif isinstance(item, Where):
        yield from item.operands[1:]
    elif isinstance(item, If):
        captured = item.operands[1:]
        for body in item.bodies:
            for source in _sources(body.outputs[result]):
                yield captured[body.inputs.index(source)]
    elif isinstance(item, Composite) and item.expansion is not None:
        yield item.expansion[result]


def _sources(value: Value) -> Iterator[Parameter]:
    """The inputs of which elements come into an output as they are."""
    seen: set[Value] = set()
    stack = [value]
    while stack:
        at = stack.pop()
        if at in seen:
            continue
        seen.add(at)
        if isinstance(at, Parameter):
            yield at
        stack += [v for v in _moved(at) if v is not None]


# --- one output for each input ------------------------------------------------------


def _one_to_one(found: Collection[Cache]) -> list[Cache]:
    """Those that no other contradicts, then those that their names tell apart."""
    kept, rivals = _apart(list(found))
    alike = [c for c in rivals if _core(c.past.name) == _core(c.name)]
    more, _ = _apart(alike)
    order = {cache: i for i, cache in enumerate(found)}
    return sorted([*kept, *more], key=order.__getitem__)


def _apart(found: list[Cache]) -> tuple[list[Cache], list[Cache]]:
    """Caches whose input and output are in no other, and the others."""
    by: dict[object, list[Cache]] = defaultdict(list)
    for cache in found:
        by[cache.past].append(cache)
        by[cache.name].append(cache)
    kept = [c for c in found if len(by[c.past]) == len(by[c.name]) == 1]
    return kept, [c for c in found if c not in kept]


_ROLE: Final = re.compile(
    r"past|present|prev(ious)?|new|next|old|updated?|(in|out)(put)?"
    r"|caches?|states?",
    re.IGNORECASE,
)


def _core(name: str) -> str:
    """What is left of a name without words for what comes in and what goes out."""
    return re.sub(r"[\W_]+", "", _ROLE.sub("", name)).lower()
