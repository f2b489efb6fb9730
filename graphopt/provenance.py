"""Which names of the source model lead to an op or a value, and back."""

from __future__ import annotations

from collections.abc import Iterator

from .errors import UsageError, nearest
from .ir import Graph, Op, Value


def place(graph: Graph, op: Op) -> str:
    """An op in words: ``Conv node '/stem/Conv'``, or by what it computes."""
    if sources := graph.sources.get(op):
        return f"{op.label} node " + ", ".join(map(repr, sources[:3]))
    for value in op.results:
        if value in graph.names:
            return f"{op.label} that gives {graph.names[value]!r}"
    return op.label


def named_values(graph: Graph) -> dict[str, Value]:
    """Every value of the graph that has a name: inputs, results, outputs."""
    found: dict[str, Value] = {}
    for op in graph.ops:
        for value in op.results:
            if value in graph.names:
                found[graph.names[value]] = value
    found.update(zip(graph.output_names, graph.outputs, strict=True))
    found.update(zip(graph.input_names, graph.inputs, strict=True))
    return found


def value_named(graph: Graph, name: str) -> Value:
    """The value of that name. Raises UsageError, with the nearest names."""
    known = named_values(graph)
    if name not in known:
        raise UsageError(f"no value is called {name!r}{nearest(name, known)}")
    return known[name]


def names_of(graph: Graph, op: Op) -> Iterator[str]:
    """All names that people may know an op by: of its nodes, and of its results."""
    yield from graph.sources.get(op, ())
    for value in op.results:
        if value in graph.names:
            yield graph.names[value]
    for name, output in zip(graph.output_names, graph.outputs, strict=True):
        if output.op is op:
            yield name
