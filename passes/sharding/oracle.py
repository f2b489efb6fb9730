"""The oracle: a program of all devices, run on NumPy in one process.

Every value is one array per device; collectives are what their ops say of these. What
is the same on all devices is computed once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeAlias, cast

import numpy as np

from graphopt.feeds import bind
from graphopt.index import Partial, Split
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Constant
from graphopt.ops.mesh import MERGES, OverMesh
from graphopt.reference import EvaluationFailed, Evaluator
from graphopt.types import TensorType

from .layout import Layout
from .mesh import Mesh
from .program import Program

Array: TypeAlias = Any
Parts: TypeAlias = list[Array]
"""One array per device; the same object where devices have the same."""


def run(
    program: Program, inputs: Mapping[str, Array] | Sequence[Array], *, seed: int = 0
) -> dict[str, Array]:
    """The outputs of a program by name, from whole inputs.

    Raises UsageError where inputs do not fit, and EvaluationFailed.
    """
    mesh = program.mesh
    whole, _ = bind(_whole(program), inputs)
    env: dict[Value, Parts] = {}
    given = {p.name: array for p, array in whole.items()}
    for parameter, layout in zip(program.graph.inputs, program.inputs, strict=True):
        env[parameter] = scattered(given[parameter.name], layout, mesh)
    outputs = execute(program.graph, mesh, env, seed=seed)
    rows = zip(program.graph.output_names, outputs, program.outputs, strict=True)
    return {name: gathered(parts, layout, mesh) for name, parts, layout in rows}


def execute(
    graph: Graph, mesh: Mesh, given: Mapping[Value, Parts], *, seed: int = 0
) -> list[Parts]:
    """The outputs of a local graph on every device, from parts of its inputs."""
    env = dict(given)
    evaluator = Evaluator(seed=seed)
    last = _last_uses(graph)
    with evaluator.xp.scope():
        for op in graph.ops:
            results = _apply(op, env, mesh, evaluator)
            env.update(zip(op.results, results, strict=True))
            for value in last.get(op, ()):
                env.pop(value, None)
    return [env[value] for value in graph.outputs]


def _whole(program: Program) -> Graph:
    """A graph with the inputs of the model, to bind arrays to."""
    inputs = []
    for parameter, layout in zip(program.graph.inputs, program.inputs, strict=True):
        type_ = parameter.type
        if isinstance(type_, TensorType) and type_.shape is not None:
            shape: list[Any] = list(type_.shape)
            for state, size in zip(layout, program.mesh.sizes, strict=True):
                if isinstance(state, Split):
                    shape[state.dim] *= size
            type_ = TensorType(type_.dtype, tuple(shape))
        inputs.append(Parameter(type_, parameter.name, default=parameter.default))
    return Graph(inputs, [])


def _last_uses(graph: Graph) -> dict[Op, list[Value]]:
    kept = set(graph.outputs)
    last: dict[Value, Op] = {}
    for op in graph.ops:
        for value in (*op.operands, *op.results):
            if value is not None:
                last[value] = op
    found: dict[Op, list[Value]] = {}
    for value, op in last.items():
        if value not in kept:
            found.setdefault(op, []).append(value)
    return found


def _apply(
    op: Op, env: Mapping[Value, Parts], mesh: Mesh, evaluator: Evaluator
) -> list[Parts]:
    """The results of an op, each on all devices."""
    count = mesh.devices
    if isinstance(op, Constant):
        return [[op.tensor.array()] * count]
    rows = [None if v is None else env[v] for v in op.operands]
    if isinstance(op, OverMesh):
        return [_exchanged(op, rows[0] if rows else None, mesh)]
    inner = [o for body in op.bodies for _, o in body.walk() if isinstance(o, OverMesh)]
    if any(o.communicates for o in inner):
        return _together(op, rows, mesh, evaluator.seed)
    runners = [evaluator] * count
    if inner:
        runners = [_Device(mesh, i, evaluator.seed) for i in range(count)]
    known: dict[tuple[int, ...], tuple[Array, ...]] = {}
    columns = []
    for device in range(count):
        operands = [None if row is None else row[device] for row in rows]
        key = (id(runners[device]), *map(id, operands))
        if key not in known:
            known[key] = runners[device].apply(op, operands)
        columns.append(known[key])
    return [list(row) for row in zip(*columns, strict=True)]


class _Device(Evaluator):
    """One device by itself, for regions: it knows where it is.

    What others have it hears of at a ``meeting``.
    """

    def __init__(
        self, mesh: Mesh, device: int, seed: int | None, meeting: _Meeting | None = None
    ) -> None:
        super().__init__(seed=seed)
        self.device = device
        self.at = dict(zip(mesh.names, mesh.positions(device), strict=True))
        self.meeting = meeting

    def apply(self, op: Op, operands: Sequence[Array]) -> tuple[Array, ...]:
        if not isinstance(op, OverMesh):
            return super().apply(op, operands)
        x = operands[0] if operands else None
        if op.communicates:
            assert self.meeting is not None
            return (self.meeting.exchange(op, self.device, x),)
        return (op.exchange([x] * int(op.ways))[self.at[op.axis]],)


class _Meeting:
    """Where devices that run bodies side by side exchange what they have."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._brought: list[tuple[OverMesh | None, Array]] = [
            (None, None)
        ] * mesh.devices
        self._all = threading.Barrier(mesh.devices)

    def exchange(self, op: OverMesh, device: int, part: Array) -> Array:
        """What a device gets for its part; waits for all others."""
        self.come(op, device, part)
        row = next(r for r in rows_along(self.mesh, op.axis) if device in r)
        made = op.exchange([self._brought[other][1] for other in row])
        self._all.wait()  # before anybody brings the next
        return made[row.index(device)]

    def come(self, op: OverMesh | None, device: int, part: Array = None) -> None:
        """Bring a part, or nothing at the end; all come for the same.

        Raises EvaluationFailed where they do not.
        """
        self._brought[device] = op, part
        self._all.wait()
        if any(other is not op for other, _ in self._brought):
            raise EvaluationFailed("devices do not take the same turns")

    def run(self, device: Callable[[int], tuple[Array, ...]], number: int) -> Any:
        """What a device makes; an error of one ends the meeting for all."""
        try:
            made = device(number)
            self.come(None, number)
        except BaseException:
            self._all.abort()
            raise
        return made


def _together(
    op: Op, rows: Sequence[Parts | None], mesh: Mesh, seed: int | None
) -> list[Parts]:
    """The results of an op in whose bodies devices meet: each is a thread."""
    meeting = _Meeting(mesh)

    def device(number: int) -> tuple[Array, ...]:
        operands = [None if row is None else row[number] for row in rows]
        return _Device(mesh, number, seed, meeting).apply(op, operands)

    with ThreadPoolExecutor(mesh.devices) as pool:
        runs = [
            pool.submit(copy_context().run, meeting.run, device, number)
            for number in range(mesh.devices)
        ]
    errors = [run.exception() for run in runs]
    for error in sorted(
        (e for e in errors if e is not None),
        key=lambda e: isinstance(e, threading.BrokenBarrierError),
    ):
        raise error  # the one that ended it
    return [list(row) for row in zip(*(run.result() for run in runs), strict=True)]


def _exchanged(op: OverMesh, parts: Parts | None, mesh: Mesh) -> Parts:
    found: Parts = [None] * mesh.devices
    for row in rows_along(mesh, cast(str, op.axis)):
        given = [None if parts is None else parts[device] for device in row]
        for device, made in zip(row, op.exchange(given), strict=True):
            found[device] = made
    return found


def rows_along(mesh: Mesh, axis: str) -> Iterator[list[int]]:
    """The devices of each row along a mesh axis, in order."""
    numbers = np.arange(mesh.devices).reshape(mesh.sizes)
    at = mesh.names.index(axis)
    rows = np.moveaxis(numbers, at, -1).reshape(-1, mesh.sizes[at])
    yield from rows.tolist()


# --- whole arrays and parts ---------------------------------------------------------


def where(shape: Sequence[int], layout: Layout, mesh: Mesh, device: int) -> Any:
    """The index of a device's part in a whole array."""
    starts, sizes = [0] * len(shape), list(shape)
    for state, at, size in zip(layout, mesh.positions(device), mesh.sizes, strict=True):
        if isinstance(state, Split):
            sizes[state.dim] //= size
            starts[state.dim] += at * sizes[state.dim]
    pairs = zip(starts, sizes, strict=True)
    return tuple([slice(start, start + size) for start, size in pairs])


def scattered(whole: Array, layout: Layout, mesh: Mesh) -> Parts:
    """Each device's part of an array; the same object where parts are the same."""
    if not any(isinstance(state, Split) for state in layout):
        return [whole] * mesh.devices
    known: dict[str, Array] = {}
    parts = []
    for device in range(mesh.devices):
        index = where(whole.shape, layout, mesh, device)
        parts.append(known.setdefault(str(index), whole[index]))
    return parts


def gathered(parts: Parts, layout: Layout, mesh: Mesh) -> Array:
    """The whole array of parts; partial ones are merged by their combiner."""
    for at in reversed(range(len(mesh.axes))):
        state = layout[at]
        merged = list(parts)
        for row in rows_along(mesh, mesh.names[at]):
            if isinstance(state, Split):
                whole = np.concatenate([parts[device] for device in row], state.dim)
            elif isinstance(state, Partial):
                whole = parts[row[0]]
                for device in row[1:]:
                    merge = MERGES[state.combiner.value]
                    whole = merge(whole, parts[device])
            else:
                whole = parts[row[0]]
            for device in row:
                merged[device] = whole
        parts = merged
    return parts[0]
