"""Cut a part out of a model: the ops between chosen values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .errors import UsageError, nearest
from .ir import Graph, Parameter, Value
from .provenance import place, value_named


def extract(
    graph: Graph,
    inputs: Iterable[str] | None = None,
    outputs: Iterable[str] | None = None,
    rename: Mapping[str, str] | None = None,
) -> Graph:
    """The graph that computes the values ``outputs`` from the values ``inputs``.

    Both are names, by default those of the model. ``rename`` gives inputs and outputs
    of the result new names. Raises UsageError for a name that is not there, an input
    that no output needs, or an output that needs more than the inputs.
    """
    given = list(graph.input_names if inputs is None else inputs)
    wanted = list(graph.output_names if outputs is None else outputs)
    _check_distinct("input", given)
    _check_distinct("output", wanted)
    starts = {name: value_named(graph, name) for name in given}
    ends = [value_named(graph, name) for name in wanted]
    made = cut(graph, starts, ends, wanted)
    if inputs is not None:
        _check_reached(made)
    return renamed(made, rename or {})


def cut(
    graph: Graph,
    starts: Mapping[str, Value],
    ends: Sequence[Value],
    end_names: Sequence[str],
) -> Graph:
    """The ops between ``starts``, which become inputs, and ``ends``."""
    inputs = {
        value: value
        if isinstance(value, Parameter) and value.name == name
        else Parameter(value.type, name)
        for name, value in starts.items()
    }
    declared = dict(zip(graph.outputs, graph.output_types, strict=True))
    part = graph.replace(
        inputs=inputs.values(),
        outputs=ends,
        output_names=end_names,
        output_types=[declared.get(value) for value in ends],
    )
    part = part.substitute({old: new for old, new in inputs.items() if old is not new})
    _check_complete(part, graph)
    return part


def renamed(graph: Graph, rename: Mapping[str, str]) -> Graph:
    """The graph with other names for some of its inputs and outputs."""
    known = (*graph.input_names, *graph.output_names)
    for old in rename:
        if old not in known:
            raise UsageError(
                f"no input or output is called {old!r}{nearest(old, known)}"
            )
    fresh: dict[Value, Parameter] = {
        p: Parameter(p.type, rename[p.name], default=p.default)
        for p in graph.inputs
        if p.name in rename
    }
    _check_distinct("input", [rename.get(n, n) for n in graph.input_names])
    _check_distinct("output", [rename.get(n, n) for n in graph.output_names])
    values = dict(zip(graph.output_names, graph.outputs, strict=True))
    values |= {p.name: p for p in graph.inputs}
    taken: dict[str, Value] = {}
    for name, value in values.items():
        new = rename.get(name, name)
        if taken.setdefault(new, value) is not value:
            raise UsageError(f"{new!r} would name both an input and an output")
    return graph.replace(
        inputs=[fresh.get(p, p) for p in graph.inputs],
        output_names=[rename.get(n, n) for n in graph.output_names],
    ).substitute(fresh)


def _check_distinct(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{what} {name!r} is named twice")


def _check_complete(part: Graph, whole: Graph) -> None:
    """Raise UsageError where the part reads parameters that it was not given."""
    have = set(part.inputs)
    for op in part.ops:
        for value in op.operands:
            if isinstance(value, Parameter) and value not in have:
                raise UsageError(
                    f"the outputs also need the input {value.name!r}: name it as an"
                    " input, or one more value between",
                    where=place(part, op),
                )
    for value, name in zip(part.outputs, part.output_names, strict=True):
        if isinstance(value, Parameter) and value not in have:
            raise UsageError(f"the output {name!r} is an input that is not named")


def _check_reached(part: Graph) -> None:
    for parameter in part.inputs:
        if not part.uses.get(parameter):
            raise UsageError(f"no output needs the input {parameter.name!r}")
