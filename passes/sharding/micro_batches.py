"""Micro-batches: a batch in parts that go through a model one after the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt import dims
from graphopt.check import CheckResult, check
from graphopt.errors import UsageError
from graphopt.ir import Graph, Value
from graphopt.ops import Concat, Constant, Slice
from graphopt.specialize import specialize
from graphopt.types import TensorType


def batch_axes(graph: Graph, symbol: str) -> dict[str, int]:
    """The axis of each input and output that has the dim ``symbol``, by its name."""
    wanted = dims.symbol(symbol)
    found: dict[str, int] = {}
    for name, type_ in (
        *((p.name, p.type) for p in graph.inputs),
        *zip(graph.output_names, (v.type for v in graph.outputs), strict=True),
    ):
        if isinstance(type_, TensorType) and wanted in (type_.shape or ()):
            found[name] = list(type_.shape or ()).index(wanted)
    return found


def in_parts(graph: Graph, symbol: str, size: int, count: int) -> Graph:
    """The graph on a batch of ``size * count``, computed part by part.

        f(x)   -->   concat(f(x[:size]), f(x[size:2*size]), …)

    ``symbol`` is the dim of the batch. Raises UsageError where an output does not have
    it, or the graph does not take such a batch.
    """
    axes = batch_axes(graph, symbol)
    for name in graph.output_names:
        if name not in axes:
            raise UsageError(f"the output {name!r} has no dim {symbol!r} to join along")
    part = specialize(graph, {symbol: size}).graph
    whole = specialize(graph, {symbol: size * count}).graph
    rows: list[tuple[Value, ...]] = []
    for i in range(count):
        given: dict[Value, Value] = {
            inner: _slice(outer, axes[inner.name], i * size, (i + 1) * size)
            if inner.name in axes
            else outer
            for inner, outer in zip(part.inputs, whole.inputs, strict=True)
        }
        made = part.substitute(given)
        rows.append(tuple([given.get(v, v) for v in made.outputs]))
    outputs = [
        Concat(*values, axis=axes[name])
        for name, values in zip(
            graph.output_names, zip(*rows, strict=True), strict=True
        )
    ]
    return Graph(
        whole.inputs, outputs, output_names=graph.output_names, header=graph.header
    )


def check_micro_batches(
    graph: Graph,
    symbol: str,
    *,
    size: int = 1,
    count: int = 2,
    sizes: Mapping[str, int] | None = None,
) -> CheckResult:
    """Whether parts of a batch give what the batch gives, by running both.

    They do not where samples are mixed, as in a norm over the batch. ``sizes`` are
    those of other symbols. Raises CheckFailed, and as `in_parts`.
    """
    whole = specialize(graph, {symbol: size * count}).graph
    result = check(whole, in_parts(graph, symbol, size, count), sizes=sizes)
    result.raise_if_failed()
    return result


def _slice(value: Value, axis: int, start: int, end: int) -> Value:
    starts, ends, axes = (
        Constant(np.array([number], np.int64)) for number in (start, end, axis)
    )
    return Slice(value, starts, ends, axes)
