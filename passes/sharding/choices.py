"""The choices to run an op on a mesh: a way for each mesh axis, together legal."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.index import Domain, Replicated
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ir.rebuild import postorder
from graphopt.ops import Constant
from graphopt.ops.structured import Composite, Structured
from graphopt.rewrite import Miss
from graphopt.types import TensorType

from .layout import Layout, local_type
from .local import Local, Place
from .mesh import Mesh
from .placed import Placed
from .regions import fed
from .signature import signature
from .spanning import built
from .ways import (
    Spread,
    Way,
    domain_of,
    inside,
    is_fixed,
    left_by,
    spread_of,
    spreads_of,
    ways_of,
)
from .work import Deed, Shared, deeds


@dataclass(frozen=True)
class Choice:
    """One way to run an op on a mesh: the layouts that it takes and gives.

    An absent operand counts as replicated. ``ways`` are one per mesh axis. ``work`` is
    what each device does, collectives among it, as `choices` finds; None where nobody
    looked.
    """

    ways: tuple[Way, ...]
    operands: tuple[Layout, ...]
    results: tuple[Layout, ...]
    work: tuple[Deed, ...] | None = field(default=None, compare=False)

    def __str__(self) -> str:
        def sides(layouts: Iterable[Layout]) -> str:
            return ", ".join(f"[{' '.join(map(str, x))}]" for x in layouts)

        return f"{sides(self.operands)} -> {sides(self.results)}"


# --- the mesh -----------------------------------------------------------------------


def choices(op: Op, mesh: Mesh) -> list[Choice]:
    """Every legal way to run an op on the mesh, replicated first.

    Each way was built once on parts of these types, along its mesh axis alone, and
    several at once where devices run more than the op itself; others hold together
    where the devices divide what they share out. An op of which little is known has one
    choice: to run replicated.
    """
    return list(_choices(op, mesh))


_KNOWN: Final[dict[Hashable, tuple[Choice, ...]]] = {}
_MOST: Final = 4096  # kinds of ops that are remembered


def _choices(op: Op, mesh: Mesh) -> tuple[Choice, ...]:
    key = (signature(op), mesh)
    found = _KNOWN.get(key)
    if found is None:
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        found = _KNOWN[key] = tuple(_found(op, mesh))
    return found


def _found(op: Op, mesh: Mesh) -> Iterator[Choice]:
    ways, count, shared = ways_of(op), len(mesh.axes), Shared(op)
    legal: list[list[Way]] = []
    alone: dict[tuple[Way, ...], Choice] = {}
    for axis in range(count):
        legal.append([])
        for way in ways:
            if any(way.strategy == other.strategy for other in legal[axis]):
                continue
            row = tuple([way if i == axis else ways[0] for i in range(count)])
            choice = _built_once(op, choice_of(op, row), mesh, shared)
            if choice is not None:
                legal[axis].append(way)
                alone[row] = choice
    for row in itertools.product(*legal):
        choice = alone.get(row) or _joined(op, choice_of(op, row), mesh, shared)
        if choice is not None:
            yield choice


def choice_of(op: Op, ways: Sequence[Way]) -> Choice:
    """The choice of a strategy for each mesh axis."""
    operands = tuple(
        [tuple([w.strategy.operands[i] for w in ways]) for i in range(len(op.operands))]
    )
    results = tuple(
        [tuple([w.strategy.results[i] for w in ways]) for i in range(op.outs)]
    )
    return Choice(tuple(ways), operands, results)


def _built_once(op: Op, choice: Choice, mesh: Mesh, shared: Shared) -> Choice | None:
    """The choice with its work, from the op on a device's parts.

    None where the mesh does not divide everything, or the op takes no such parts.
    """
    if not any(way.shares for way in choice.ways):  # replicated, or jointly linear
        return _alone(choice, mesh, shared)
    if not _divided(op, choice, mesh):
        return None
    pairs = zip(op.operands, choice.operands, strict=True)
    parts = [None if v is None else _part(v, layout, mesh) for v, layout in pairs]
    made = localized(op, choice, mesh, parts)
    if isinstance(made, Miss):
        return None
    if shared.even and all(way.form == "plain" for way in choice.ways):
        return _alone(choice, mesh, shared)
    ran = deeds(list(postorder(made)))
    return replace(choice, work=tuple([deed for _, deed in ran]))


def _alone(choice: Choice, mesh: Mesh, shared: Shared) -> Choice:
    """The choice with its work, where each device runs the op itself on its parts."""
    work = shared.work((*choice.operands, *choice.results), mesh)
    return replace(choice, work=(work,))


def _part(value: Value, layout: Layout, mesh: Mesh) -> Value:
    """What stands for a device's part; what is known of a whole value stays so."""
    if any(not isinstance(state, Replicated) for state in layout):
        return Parameter(part_type(value, layout, mesh) or value.type)
    if isinstance(value, Constant):
        return value
    if value.ints is not None and value.dtype is not None:
        return Constant(np.array(value.ints, value.dtype.numpy).reshape(value.shape))
    return Parameter(value.type)


def _joined(op: Op, choice: Choice, mesh: Mesh, shared: Shared) -> Choice | None:
    """`_built_once` for ways of which each is so by itself.

    Where all run the op itself nothing is built: it is enough that the devices divide.
    """
    if not shared.even or any(way.form != "plain" for way in choice.ways):
        return _built_once(op, choice, mesh, shared)
    if not _divided(op, choice, mesh):
        return None
    domain = domain_of(op)
    if domain is not None and _local(domain, choice, mesh) is None:
        return None
    return _alone(choice, mesh, shared)


def part_type(value: Value, layout: Layout, mesh: Mesh) -> TensorType | None:
    """The type of a device's part; None where the mesh does not divide a dim."""
    type_ = value.type
    return local_type(type_, layout, mesh) if isinstance(type_, TensorType) else None


def _divided(op: Op, choice: Choice, mesh: Mesh) -> bool:
    """True where the mesh divides all that the op takes and gives."""
    pairs = [
        *zip(op.operands, choice.operands, strict=True),
        *zip(op.results, choice.results, strict=True),
    ]
    return all(
        value is None
        or all(isinstance(state, Replicated) for state in layout)
        or part_type(value, layout, mesh) is not None
        for value, layout in pairs
    )


def localized(
    op: Op, choice: Choice, mesh: Mesh, operands: Sequence[Value | None]
) -> tuple[Value, ...] | Miss:
    """The results of an op on a device, from its parts of the operands."""
    if any(way.form == "opened" for way in choice.ways):
        return _opened(op, choice, mesh, operands)
    if any(way.form == "region" for way in choice.ways):
        return _in_bodies(op, choice, mesh, operands)
    domain = domain_of(op)
    if domain is None or not any(way.shares for way in choice.ways):
        return op.with_operands(operands).results
    assert isinstance(op, Structured)
    local = _local(domain, choice, mesh)
    if local is None:
        return Miss("the devices do not divide an axis")
    try:
        forms = [(way.form, way.strategy) for way in choice.ways]
        made = built(op, forms, mesh, operands, local)
    except (GraphoptError, ValueError) as error:
        return Miss(f"{op.label} does not take parts: {error}")
    if isinstance(made, Miss):
        return made
    if isinstance(made, tuple):
        results = made
    else:
        results = made.results if isinstance(made, Op) else (made,)
    for value, layout, new in zip(op.results, choice.results, results, strict=True):
        if new.type != part_type(value, layout, mesh):
            return Miss(f"{op.label} gives {new.type} for a part of {value.type}")
    return results


def _local(domain: Domain, choice: Choice, mesh: Mesh) -> Local | None:
    """What each device has of the domain; None where the mesh does not divide it."""
    shared: dict[str, list[tuple[str, int]]] = {}
    for way, axis in zip(choice.ways, mesh.axes, strict=True):
        if way.axis is not None:
            shared.setdefault(way.axis, []).append(axis)
    extents, places = dict(domain.extents), dict[str, Place]()
    for name, axes in shared.items():
        size = extents[name]
        for _, ways in axes:
            if not isinstance(size, int) or size % ways:
                return None
            size //= ways
        extents[name] = size
        places[name] = Place(name, tuple(axes), cast(int, size))
    return Local(domain, places, extents)


# --- opened -------------------------------------------------------------------------


def _opened(
    op: Op, choice: Choice, mesh: Mesh, operands: Sequence[Value | None]
) -> tuple[Value, ...] | Miss:
    """The body of a composite op on a device's parts of its operands."""
    assert isinstance(op, Composite)
    assert op.expansion is not None
    made = Placed(mesh)
    for value, layout, part in zip(op.operands, choice.operands, operands, strict=True):
        if value is not None and part is not None:
            made.put(value, layout, part)
    obstacle = _through(_inner(op, choice), made)
    if obstacle is not None:
        return obstacle
    return tuple(
        [
            made.get(value, layout)
            for value, layout in zip(op.expansion, choice.results, strict=False)
        ]
    )


def _inner(op: Op, choice: Choice) -> Iterator[tuple[Op, Choice]]:
    """How the ops of a body run where the op itself does so."""
    assert isinstance(op, Composite)
    spreads = [spread_of(op, way.strategy.operands) for way in choice.ways]
    return _chosen(inside(op), spreads)


def _chosen(
    ops: Iterable[Op], spreads: Sequence[Spread]
) -> Iterator[tuple[Op, Choice]]:
    """The choice of each op, from its way along each mesh axis."""
    for inner in ops:
        if not isinstance(inner, Constant) and not is_fixed(inner):
            yield inner, choice_of(inner, [found.ways[inner] for found in spreads])


def _through(steps: Iterable[tuple[Op, Choice]], placed: Placed) -> Miss | None:
    """Run ops on what is placed, and place what they give; or why that cannot be."""
    for inner, chosen in steps:
        if not _divided(inner, chosen, placed.mesh):
            return Miss(f"the devices do not divide {inner.label} inside")
        given = [
            None if v is None else placed.get(v, layout)
            for v, layout in zip(inner.operands, chosen.operands, strict=True)
        ]
        results = localized(inner, chosen, placed.mesh, given)
        if isinstance(results, Miss):
            return results
        for value, layout, new in zip(
            inner.results, chosen.results, results, strict=True
        ):
            placed.put(value, layout, new)
    return None


# --- bodies -------------------------------------------------------------------------


def _in_bodies(
    op: Op, choice: Choice, mesh: Mesh, operands: Sequence[Value | None]
) -> tuple[Value, ...] | Miss:
    """An op of control flow whose bodies run on a device's parts."""
    given, spreads = [], []
    for way in choice.ways:
        states = fed(op, way.strategy.operands)
        through = spreads_of(op, way)
        if states is None or through is None:
            return Miss(f"the bodies of {op.label} do not run on parts")
        given.append(states)
        spreads.append(through)
    bodies = []
    lefts = [left_by(op, way) for way in choice.ways]
    ends = list(zip(*[row for row in lefts if row is not None], strict=True))
    try:
        for number, body in enumerate(op.bodies):
            layouts = list(zip(*given, strict=True))
            inner = [row[number] for row in spreads]
            made = _body(body, layouts, inner, ends, mesh)
            if isinstance(made, Miss):
                return made
            bodies.append(made)
        return op.copy(operands=operands, bodies=bodies).results
    except GraphoptError as error:
        return Miss(f"{op.label} does not take parts: {error}")


def _body(
    body: Graph,
    layouts: Sequence[Layout],
    spreads: Sequence[Spread],
    ends: Sequence[Layout],
    mesh: Mesh,
) -> Graph | Miss:
    """A body on parts of its parameters, which brings its outputs to layouts."""
    placed, parameters = Placed(mesh), []
    for parameter, layout in zip(body.inputs, layouts, strict=True):
        type_ = parameter.type
        if any(not isinstance(state, Replicated) for state in layout):
            part = part_type(parameter, layout, mesh)
            if part is None:
                return Miss(f"the devices do not divide {type_} inside")
            type_ = part
        parameters.append(Parameter(type_, parameter.name))
        placed.put(parameter, layout, parameters[-1])
    obstacle = _through(_chosen(body.ops, spreads), placed)
    if obstacle is not None:
        return obstacle
    outputs = [placed.get(v, x) for v, x in zip(body.outputs, ends, strict=True)]
    return Graph(parameters, outputs, output_names=body.output_names, name=body.name)
