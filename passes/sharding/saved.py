"""How a graph lies on a mesh, and in which stages it runs, as a plan that files keep.

Layouts are text, ``S(0),R``: a state for each mesh axis. What stands beside a value is
the choice of the op that makes it (``operands``, ``results``), how it is stored or
given (``layout``), and the stage that makes it (``stage``); beside the graph the
``mesh``, the layouts of its ``outputs``, and the ``limit`` of bytes that each device
was to keep to. Replicated is what nothing is said of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from graphopt.errors import InvalidModel, UsageError
from graphopt.index import Combiner, Partial, Replicated, Split, State
from graphopt.ir import Graph, Op, Value
from graphopt.plan import METADATA_KEY, Plan
from graphopt.provenance import place

from .choices import Choice, choices
from .layout import Layout, replicated
from .mesh import Mesh
from .partition import Decisions
from .stages import ordered
from .ways import is_fixed


@dataclass(frozen=True)
class Restored:
    """What a plan says of a graph: a mesh, how the graph lies on it, and stages.

    ``cuts`` are places of ops in the order of the graph, as `stages.split` takes them;
    ``limit`` is what each device may hold, in bytes, None for all it has.
    """

    mesh: Mesh
    decisions: Decisions
    cuts: tuple[int, ...] = ()
    limit: int | None = None


def saved(
    graph: Graph,
    mesh: Mesh,
    decisions: Decisions,
    cuts: Sequence[int] = (),
    limit: int | None = None,
) -> Plan:
    """The plan that says so; `restored` reads it, from this graph or from its file.

    ``cuts`` are where stages begin, places in the source's order of the ops; ``limit``
    is what each device may hold, in bytes. Raises UsageError for decisions about what
    is not of the graph.
    """
    whole = replicated(mesh)
    found: dict[Value, dict[str, Any]] = {}
    inside = {*graph.inputs, *graph.ops}
    for each in (*decisions.choices, *decisions.given):
        if each not in inside:
            raise UsageError(f"the plan is about {each!r}, which is not of the graph")
    for op, choice in decisions.choices.items():
        layouts = (*choice.operands, *choice.results)
        if any(layout != whole for layout in layouts) and not is_fixed(op):
            about = found.setdefault(_read(graph, op), {})
            about["operands"] = [layout_text(x) for x in choice.operands]
            about["results"] = [layout_text(x) for x in choice.results]
    for value, layout in decisions.given.items():
        if layout != whole and value.ints is None:
            found.setdefault(value, {})["layout"] = layout_text(layout)
    bounds = [0, *cuts, len(graph.ops)] if cuts else []
    ops = ordered(graph)
    for stage, (start, end) in enumerate(pairwise(bounds)):
        for op in ops[start:end]:
            found.setdefault(_read(graph, op), {})["stage"] = stage
    about_all: dict[str, Any] = {"mesh": str(mesh)}
    if limit is not None:
        about_all["limit"] = limit
    if decisions.outputs:
        outputs = decisions.outputs
        about_all["outputs"] = [None if x is None else layout_text(x) for x in outputs]
    return Plan(found, whole=about_all)


def restored(graph: Graph, plan: Plan) -> Restored | None:
    """What a plan of `saved` says of a graph; None where it says nothing of a mesh.

    Raises InvalidModel where it does not fit the graph.
    """
    if "mesh" not in plan.whole:
        return None
    try:
        mesh = Mesh.parse(plan.whole["mesh"])
    except (UsageError, AttributeError) as error:
        raise InvalidModel(f"the plan's mesh: {error}", where=METADATA_KEY) from None
    made: dict[Op, Choice] = {}
    given: dict[Value, Layout] = {}
    stages: dict[Op, int] = {}
    for value, about in plan.decisions.items():
        if "layout" in about:
            given[value] = _layout(about["layout"], mesh)
        op = value.op
        if "results" in about:
            if op is None:
                raise InvalidModel("the plan runs an input", where=METADATA_KEY)
            made[op] = _choice(graph, op, about, mesh)
        if "stage" in about and op is not None:
            stages[op] = about["stage"]
    outputs = plan.whole.get("outputs") or []
    if not isinstance(outputs, list) or len(outputs) not in (0, len(graph.outputs)):
        raise InvalidModel(
            f"the plan has layouts of {outputs!r:.80}, not of {len(graph.outputs)}"
            " outputs",
            where=METADATA_KEY,
        )
    ends = tuple(None if x is None else _layout(x, mesh) for x in outputs)
    limit = plan.whole.get("limit")
    if limit is not None and type(limit) is not int:
        raise InvalidModel(f"the plan's limit is {limit!r:.80}", where=METADATA_KEY)
    return Restored(mesh, Decisions(made, given, ends), _cuts(graph, stages), limit)


def _read(graph: Graph, op: Op) -> Value:
    """The first result of an op that a file is sure to have."""
    return next((v for v in op.results if graph.uses.get(v)), op.results[0])


def _choice(graph: Graph, op: Op, about: Mapping[str, Any], mesh: Mesh) -> Choice:
    rows: list[tuple[Layout, ...]] = []
    for side in ("operands", "results"):
        row = about.get(side)
        if not isinstance(row, list):
            raise InvalidModel(f"the plan lacks {side}", where=place(graph, op))
        rows.append(tuple([_layout(text, mesh) for text in row]))
    for choice in choices(op, mesh):
        # A file drops results that nobody reads, and absent operands at the end.
        pairs = [
            *zip(choice.operands, rows[0], strict=False),
            *zip(choice.results, rows[1], strict=False),
        ]
        if all(ours == theirs for ours, theirs in pairs):
            return choice
    said = ", ".join(about["operands"])
    raise InvalidModel(
        f"the plan does not fit: on the mesh {mesh} nothing takes [{said}]",
        where=place(graph, op),
    )


def _cuts(graph: Graph, stages: Mapping[Op, int]) -> tuple[int, ...]:
    """Where stages begin; ops of which nothing is said are of the stage before."""
    cuts: list[int] = []
    if not stages:
        return ()
    for i, op in enumerate(ordered(graph)):
        stage = stages.get(op, len(cuts))
        if stage == len(cuts) + 1 and i:
            cuts.append(i)
        elif stage != len(cuts):
            raise InvalidModel(
                f"the plan has stage {stage!r} behind stage {len(cuts)}",
                where=place(graph, op),
            )
    return tuple(cuts)


# --- layouts as text ----------------------------------------------------------------

_STATE: Final = re.compile(r"R|S\((\d{1,3})\)|P\((\w+)\)")


def layout_text(layout: Layout) -> str:
    """``S(0),R``"""
    return ",".join(map(str, layout))


def read_layout(text: str, mesh: Mesh) -> Layout:
    """The layout of a text. Raises UsageError for what is none on this mesh."""
    states: list[State] = []
    for part in text.split(",") if text else []:
        found = _STATE.fullmatch(part.strip())
        if found is None:
            raise UsageError(f"{part!r} is no state; they are R, S(dim) and P(sum)")
        dim, combiner = found.groups()
        if dim is not None:
            states.append(Split(int(dim)))
        elif combiner is not None:
            known = [c.value for c in Combiner]
            if combiner not in known:
                raise UsageError(f"{combiner!r} combines nothing; {known} do")
            states.append(Partial(Combiner(combiner)))
        else:
            states.append(Replicated())
    if len(states) != len(mesh.axes):
        raise UsageError(f"the layout {text!r} is not one on the mesh {mesh}")
    return tuple(states)


def _layout(text: object, mesh: Mesh) -> Layout:
    try:
        return read_layout(str(text), mesh)
    except UsageError as error:
        raise InvalidModel(error.message, where=METADATA_KEY) from None
