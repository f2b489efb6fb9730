"""Decisions that travel beside a graph because they are not program text.

Orders, offsets, shardings, tile sizes and chosen kernels belong to values of one graph;
in a file they are keyed by written names, as versioned JSON in the model's metadata.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, TypedDict

from .errors import InvalidModel
from .ir import Graph, Op, Value

METADATA_KEY: Final = "graphopt.plan"
"""The entry of ONNX's ``metadata_props`` that holds a plan."""

SCHEMA: Final = 1

LIBRARY: Final = "library"
"""A decision about a whole graph: how XLA's library runs the ops of a program whose
memory is planned; see `graphopt.interface.PLANNED`."""

LAYOUTS: Final = "layouts"
"""A decision about a whole graph: whether ONNX Runtime lays out its convolutions anew;
by default it does, where there are any, and so keeps no order."""

REUSE: Final = "reuse"
"""A decision about a whole graph: whether ONNX Runtime gives a buffer that is free to a
value of the same shape, with no way back to its arena; by default it does not."""

MEMORY: Final = "memory"
"""A decision about a whole graph: bytes that ONNX Runtime's arena on a GPU may hold,
weights, inputs and outputs among them; by default as many as there are."""


class Opening(TypedDict):
    """How ONNX Runtime opens a graph, by `LAYOUTS`, `REUSE` and `MEMORY`."""

    layouts: bool
    reuse: bool
    memory: int | None


def opening(whole: Mapping[str, Any]) -> Opening:
    """How ONNX Runtime opens a graph about which as a whole this was decided."""
    return Opening(
        layouts=bool(whole.get(LAYOUTS, True)),
        reuse=bool(whole.get(REUSE, False)),
        memory=whole.get(MEMORY),
    )


@dataclass(frozen=True)
class Plan:
    """What was decided about values: by value, then by the name of the decision.

    Decisions are JSON values; ``whole`` are those about the graph as a whole, by name.
    ``order`` is that in which the ops of the graph run; it needs no text of its own, as
    a file has its nodes in that order. An empty plan is false.
    """

    decisions: Mapping[Value, Mapping[str, Any]] = field(default_factory=dict)
    order: tuple[Op, ...] = ()
    whole: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.decisions or self.order or self.whole)

    def follow(self, new: Mapping[Value, Value]) -> Plan:
        """The plan after a rewrite that put ``new[v]`` in the place of ``v``.

        Where two values became one, the decisions of the later one win, and its op runs
        where the earlier one did.
        """
        moved: dict[Value, dict[str, Any]] = {}
        for value, decided in self.decisions.items():
            moved.setdefault(new.get(value, value), {}).update(decided)
        order = [new.get(op.results[0], op.results[0]).op for op in self.order]
        kept = dict.fromkeys(op for op in order if op is not None)
        return Plan(moved, tuple(kept), self.whole)

    def to_json(self, name_of: Callable[[Value], str]) -> str:
        """The plan as text, keyed by the names that the values are written under."""
        values = {name_of(v): dict(decided) for v, decided in self.decisions.items()}
        found: dict[str, Any] = {"schema": SCHEMA, "values": values}
        if self.whole:
            found["graph"] = dict(self.whole)
        return json.dumps(found, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, named: Mapping[str, Value]) -> Self:
        """The plan in ``text``, for the values of a graph by their names.

        Raises InvalidModel for text that is not a plan of this schema, or that names
        values which are not there.
        """
        try:
            found = json.loads(text)
            schema, values = found["schema"], found["values"]
            if schema == SCHEMA:
                decisions = {named[name]: dict(d) for name, d in values.items()}
                return cls(decisions, whole=dict(found.get("graph", {})))
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidModel(f"not a plan: {error}", where=METADATA_KEY) from None
        except KeyError as error:
            raise InvalidModel(
                f"the plan lacks or names {error}, which is not there",
                where=METADATA_KEY,
            ) from None
        raise InvalidModel(
            f"a plan of schema {schema}; this version reads {SCHEMA}",
            where=METADATA_KEY,
        )


def annotated(graph: Graph, plan: Plan, source: Graph | None = None) -> Graph:
    """The graph with a plan in its metadata; planned values get names of their own.

    How a runtime opens it is not told there, but in its recipe. Without a plan it keeps
    that which ``source`` brought along only where it still is that graph: a plan is
    about the values of one.
    """
    told = {k: v for k, v in plan.whole.items() if k not in Opening.__annotations__}
    plan = replace(plan, whole=told)
    if not plan.decisions and not plan.whole:
        metadata = dict(graph.header.metadata)
        if source is None or graph.outputs == source.outputs:
            return graph
        if metadata.pop(METADATA_KEY, None) is None:
            return graph
        return graph.with_header(metadata=metadata)
    names = dict(graph.names)
    taken = {*names.values(), *graph.input_names, *graph.output_names}
    # Of a value that is several outputs, only the first is written by its op.
    outputs = [*zip(graph.outputs, graph.output_names, strict=True)]
    declared = dict(reversed(outputs))
    declared |= dict(zip(graph.inputs, graph.input_names, strict=True))
    uses = Counter(names.values())
    for value in plan.decisions:
        if value not in declared and uses[names.get(value, "")] != 1:
            number = len(taken)
            while f"planned_{number}" in taken:
                number += 1
            names[value] = f"planned_{number}"
            taken.add(names[value])
    text = plan.to_json(lambda value: declared.get(value) or names[value])
    metadata = {**graph.header.metadata, METADATA_KEY: text}
    return graph.replace(names=names).with_header(metadata=metadata)


def plan_of(graph: Graph, named: Mapping[str, Value]) -> Plan:
    """The plan that a model brought along; an empty one where there is none.

    ``named`` are the graph's values by name. Raises InvalidModel.
    """
    text = graph.header.metadata.get(METADATA_KEY)
    return Plan() if text is None else Plan.from_json(text, named)
