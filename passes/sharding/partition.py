"""Make the program that every device runs, from a choice for each op."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.errors import UsageError
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Constant
from graphopt.rewrite import Miss

from .choices import Choice, localized, part_type
from .layout import Cost, Layout, is_partial, replicated, text
from .mesh import Mesh
from .placed import Placed
from .program import Program
from .ways import is_fixed


@dataclass(frozen=True)
class Decisions:
    """How a graph runs on a mesh.

    ``choices`` say how each op runs; those of which nothing is said run replicated.
    ``given`` says how inputs, and constants as they are stored, lie on the mesh: by
    default replicated. ``outputs`` likewise, by default in the cheapest layout without
    partial sums that what makes them leaves.
    """

    choices: Mapping[Op, Choice] = field(default_factory=dict)
    given: Mapping[Value, Layout] = field(default_factory=dict)
    outputs: tuple[Layout | None, ...] = ()


def partition(
    graph: Graph, mesh: Mesh, decisions: Decisions, cost: Cost | None = None
) -> Program:
    """The program of all devices; steps between layouts are the cheapest by ``cost``.

    Every value is brought into each layout at most once. ``cost`` is by default the
    bytes that devices send. Raises UsageError for decisions that the mesh or an op does
    not allow.
    """
    whole = replicated(mesh)
    placed, wants = Placed(mesh, cost), _wants(graph, decisions, whole)
    parameters: dict[Parameter, Parameter] = {}
    inputs: list[Layout] = []
    for parameter in graph.inputs:
        layout = decisions.given.get(parameter, whole)
        inputs.append(layout)
        if layout == whole:
            part = Parameter(parameter.type, parameter.name, default=parameter.default)
        else:
            type_ = part_type(parameter, layout, mesh)
            if parameter.default is not None:
                raise UsageError(
                    f"input {parameter.name!r} has a default, of which every device has"
                    f" all; it cannot lie as {text(layout)}"
                )
            if type_ is None or is_partial(layout):
                raise UsageError(
                    f"input {parameter.name!r} of {parameter.type} cannot lie as"
                    f" {text(layout)} on the mesh {mesh}"
                )
            part = Parameter(type_, parameter.name)
        parameters[parameter] = part
        placed.put(parameter, layout, part)
        placed.spread(parameter, wants[parameter])
    for op in graph.ops:
        if isinstance(op, Constant):
            layout = decisions.given.get(op, whole)
            if layout != whole and op.ints is None:  # else it may steer shapes
                stored = placed.get(op, layout)
                placed.keep(op, layout, stored)
                placed.spread(op, wants[op])
            continue
        if is_fixed(op):
            continue
        _run(op, decisions.choices.get(op), placed)
        for value in op.results:
            placed.spread(value, wants[value])
    outputs, results = [], []
    wanted = decisions.outputs or (None,) * len(graph.outputs)
    for value, asked in zip(graph.outputs, wanted, strict=True):
        at = asked or placed.settled(value)
        outputs.append(at)
        results.append(placed.get(value, at))
    local = Graph(
        [parameters[p] for p in graph.inputs],
        results,
        output_names=graph.output_names,
    )
    return Program(mesh, local, tuple(inputs), tuple(outputs), placed.layouts())


def _wants(
    graph: Graph, decisions: Decisions, whole: Layout
) -> Mapping[Value, Sequence[Layout]]:
    """The layouts in which each value is read, as far as they are decided."""
    found: dict[Value, list[Layout]] = defaultdict(list)
    for op in graph.ops:
        choice = decisions.choices.get(op)
        taken = choice.operands if choice else (whole,) * len(op.operands)
        for value, layout in zip(op.operands, taken, strict=True):
            if value is not None and not is_fixed(op):
                found[value].append(layout)
    for value, asked in zip(graph.outputs, decisions.outputs):  # noqa: B905
        if asked is not None:
            found[value].append(asked)
    return found


def _run(op: Op, choice: Choice | None, placed: Placed) -> None:
    """Put the results of an op on the devices."""
    mesh = placed.mesh
    whole = replicated(mesh)
    taken = choice.operands if choice else (whole,) * len(op.operands)
    given = [
        None if v is None else placed.get(v, layout)
        for v, layout in zip(op.operands, taken, strict=True)
    ]
    if choice is None:
        made: tuple[Value, ...] | Miss = op.with_operands(given).results
        left: tuple[Layout, ...] = (whole,) * op.outs
    else:
        made, left = localized(op, choice, mesh, given), choice.results
    if isinstance(made, Miss):
        raise UsageError(f"{op.label} cannot run as {choice}: {made.reason}")
    for value, layout, part in zip(op.results, left, made):  # noqa: B905
        placed.put(value, layout, part)
