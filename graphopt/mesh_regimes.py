"""What a step of a language model is: a prompt read, or one token behind a cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from .dims import Dim, Expr, symbols
from .errors import GraphoptError
from .fitting import fitting
from .inputs import random_inputs
from .ir import Graph, Op, Value
from .ops import Attention, Constant, Einsum, MatMul, Softmax
from .passes.sharding.caches import Cache, caches, replaced
from .passes.sharding.layout import Layout, local_bytes, path, replicated
from .reference import evaluate
from .report import sized
from .sharded import Sharded
from .specialize import Impossible
from .types import TensorType
from .weights import Tensor

LIMIT: Final = 1 << 30
"""Bytes that finding out what a first attention hides may take."""

NEAR: Final = 32
"""So many values before a softmax are looked at for the product that it is of."""


@dataclass(frozen=True)
class Regime:
    """``tokens`` are those that a step reads, ``past`` those that its cache holds.

    None where the graph does not show how many. ``other`` is what has no cache, and
    attends to later tokens or not at all.
    """

    name: Literal["decode", "prefill", "other"]
    tokens: Dim = None
    past: Dim = None

    def __str__(self) -> str:
        if self.name == "other":
            return "neither prefill nor decode of a language model"
        if self.name == "decode":
            said = "decode of one token with a cache"
            return said if self.past is None else f"{said} of {self.past}"
        said = "prefill" if self.tokens is None else f"prefill of {self.tokens} tokens"
        return f"{said} behind {self.past} of the past" if self.past else said


def regime(graph: Graph, found: Sequence[Cache] | None = None) -> Regime:
    """That of a graph, by the ``found`` caches; of symbolic dims prefill."""
    kept = caches(graph) if found is None else found
    kept = [cache for cache in kept if not _is_state(cache)]
    for cache in kept:
        if cache.axis is not None and cache.past.shape is not None:
            past = cache.past.shape[cache.axis]
            one = cache.added == 1 and past != 0
            return Regime("decode" if one else "prefill", cache.added, past)
    tokens = next(_lengths(graph), None)
    if kept:  # buffers that are written into
        return Regime("decode" if tokens == 1 else "prefill", tokens)
    if tokens is not None and tokens != 1 and _is_causal(graph):
        return Regime("prefill", tokens)
    return Regime("other")


def dims_of_regimes(graph: Graph) -> dict[str, dict[str, int]]:
    """Of a graph that can do both, the sizes that make it prefill and decode.

    None of them where the graph does one alone.
    """
    for cache in caches(graph):
        added = cache.added
        if cache.axis is None or not isinstance(added, Expr):
            continue
        name, *more = symbols(added)
        if more or str(added) != name:
            continue
        found = {"decode": {name: 1}, "prefill": {name: fitting(graph)[0][name]}}
        if found["prefill"] == found["decode"]:
            return {}
        return found if all(_fits(graph, sizes) for sizes in found.values()) else {}
    return {}


def _fits(graph: Graph, sizes: Mapping[str, int]) -> bool:
    try:
        fitting(graph, sizes)  # some exporters bake one token in
    except Impossible:
        return False
    return True


def _is_causal(graph: Graph) -> bool:
    """True where the first attention hides later keys, whatever its scores are."""
    for op in graph.ops:
        if isinstance(op, Attention):
            return bool(op.is_causal)
        if isinstance(op, Softmax) and (op.rank or 0) > 2:
            return _hides(graph, op)
    return False


def _hides(graph: Graph, op: Softmax) -> bool:
    """What a run of it shows, with all scores 0: only what makes the mask is run."""
    scores = _scores(op)
    if scores is None or not isinstance(scores.type, TensorType):
        return False
    shape, dtype = scores.shape or (), scores.dtype
    if dtype is None or not all(isinstance(dim, int) for dim in shape):
        return False
    zero = np.broadcast_to(np.zeros((), dtype.numpy), shape)
    level = Constant(Tensor(dtype, zero.shape, zero))
    alone = Graph(graph.inputs, [op]).substitute({scores: level})
    try:
        (seen,) = evaluate(alone, random_inputs(alone), limit_bytes=LIMIT)
    except GraphoptError:
        return False
    return _is_triangle(seen)


def _scores(op: Op) -> Value | None:
    """The product that a softmax is of, behind what is added to it."""
    row: deque[Value | None] = deque(op.operands)
    for _ in range(NEAR):
        value = row.popleft() if row else None
        if value is None or value.op is None:
            continue
        if isinstance(value.op, MatMul | Einsum):
            return value
        row += value.op.operands
    return None


def _is_triangle(seen: Any) -> bool:
    """True where all is 0 above the diagonal that ends in the last corner."""
    queries, keys = seen.shape[-2:]
    return 1 < queries <= keys and not np.triu(seen, keys - queries + 1).any()


def regime_facts(sharded: Sharded) -> dict[str, Any]:
    """The regime of a planned model and what its caches take, as plain data.

    Bytes are those after the step. ``moved_seconds`` is what the next step would have
    to exchange first, as a cache goes out in another layout than it comes in: 0 where
    they are tied, None where no collectives do it.
    """
    kept, mesh = sharded.caches, sharded.machine.mesh
    found = regime(sharded.graph, kept)
    names = sharded.graph.output_names
    outputs = dict(zip(names, sharded.program.outputs, strict=True))
    given, whole = sharded.decisions.given, replicated(mesh)
    held, in_all, apart, moved = 0, 0, 0, 0.0
    for cache in kept:
        left, found_as = outputs[cache.name], given.get(cache.past, whole)
        type_ = cache.present.type
        assert isinstance(type_, TensorType)
        held += local_bytes(type_, left, mesh)
        in_all += local_bytes(type_, whole, mesh)
        if left != found_as:
            apart += 1
            moved += _seconds(sharded, cache, left, found_as)
    return {
        "regime": {
            "name": found.name,
            "tokens": _plain(found.tokens),
            "past": _plain(found.past),
            "said": str(found),
        },
        "cache": {
            "count": len(kept),
            "bytes": held,
            "whole_bytes": in_all,
            "apart": apart,
            "moved_seconds": moved if moved < float("inf") else None,
            "replaced": list(replaced(kept)),
        },
    }


def _seconds(sharded: Sharded, cache: Cache, left: Layout, wanted: Layout) -> float:
    """What it takes to bring a cache from one layout to another; inf without a way."""
    type_, cost = cache.past.type, sharded.machine.seconds
    assert isinstance(type_, TensorType)
    steps = path(left, wanted, type_, sharded.machine.mesh, cost)
    if steps is None:
        return float("inf")
    return sum(cost(step, type_) for step in steps)


def regime_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The facts for people."""
    cache = found["cache"]
    if found["regime"]["name"] != "other":
        yield f"regime: {found['regime']['said']}"
    if not cache["count"]:
        return
    values = "1 value" if cache["count"] == 1 else f"{cache['count']} values"
    held, whole = sized(cache["bytes"]), sized(cache["whole_bytes"])
    yield f"cache: {held} on each device, of {whole} in {values}"
    yield from cache["replaced"]
    if not cache["apart"]:
        yield "it goes out in the layouts in which the next step finds it"
        return
    seconds = cache["moved_seconds"]
    spent = (
        "more than collectives can" if seconds is None else f"{seconds * 1e3:,.3f} ms"
    )
    yield (
        f"{cache['apart']} of them go out in other layouts than they come in: {spent} a"
        " step, which no plan counts"
    )


def other_regimes(regimes: Mapping[str, Mapping[str, int]], now: str) -> Iterator[str]:
    """How to plan what `dims_of_regimes` found besides what is planned, for people."""
    for name, sizes in regimes.items():
        if name != now:
            dims = " ".join(f"--dim {dim}={size}" for dim, size in sizes.items())
            yield f"{name} is a plan of its own: {dims}"


def _plain(dim: Dim) -> int | str | None:
    return dim if dim is None or isinstance(dim, int) else str(dim)


def _is_state(cache: Cache) -> bool:
    """True for the state of a recurrent layer, which has no length."""
    return cache.axis is None and (cache.past.rank or 0) < 4


def _lengths(graph: Graph) -> Iterator[Dim]:
    """The second dims of inputs of whole numbers, as ids of tokens are."""
    for parameter in graph.inputs:
        type_ = parameter.type
        if not isinstance(type_, TensorType) or not type_.dtype or not type_.shape:
            continue
        if type_.dtype.is_integer and len(type_.shape) == 2:
            yield type_.shape[1]
