"""Pipeline stages: a graph cut along its order into graphs that follow each other.

Values join them by name. What crosses a cut is what earlier ops made and later ones
read; weights lie where they are read, inputs of the model are given to whoever reads
them, and outputs taken from whoever makes them. A value that crosses several cuts is
handed on by the stages between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from graphopt import dims
from graphopt.cost import OpCost, op_cost, peak_memory, roofline, value_bytes
from graphopt.errors import UsageError
from graphopt.exporter import source_order
from graphopt.exporter.naming import Names
from graphopt.exporter.order import ranks_of
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Constant
from graphopt.types import DType, Type
from graphopt.weights import Tensor

from .cuts import Cut, NoCut, cut
from .machine import Link, Machine
from .mesh import Mesh


@dataclass(frozen=True)
class Rates:
    """What a device does in a second, and what a link between two of them takes.

    ``flops`` and ``bandwidth`` (bytes) are per second, ``link`` too, after ``latency``
    seconds; ``memory`` are the bytes of a device, None for as many as it takes.
    """

    flops: float
    bandwidth: float
    link: float
    latency: float = 0.0
    memory: int | None = None

    @classmethod
    def of(
        cls,
        target: str,
        count: int,
        link: Link | None = None,
        dtype: DType = DType.F32,
    ) -> Rates:
        """Those of a target's devices (``ort-cuda:h100``), ``count`` in a row.

        ``link`` is the one between two of them, by default the device's own; ``dtype``
        that of products. Raises UsageError for an unknown device.
        """
        line = Mesh((("stage", count),))
        machine = Machine.of(target, line, {} if link is None else {"stage": link})
        (between,) = machine.links
        device = machine.device
        flops = machine.efficiency * device.flops_per_second(dtype)
        bandwidth, memory = device.bandwidth, device.memory
        return cls(flops, bandwidth, between.beta, between.alpha, memory)


@dataclass(frozen=True)
class Line:
    """What a pipeline is cut by: the ops in order, and what they take on a device.

    ``seconds`` are those of each op, ``crossing`` the bytes between each op and the
    next, None where a size is not known. ``unknown`` are ops of which the time is not
    known, and not counted.
    """

    ops: tuple[Op, ...]
    seconds: tuple[float, ...]
    crossing: tuple[int | None, ...]
    unknown: tuple[Op, ...] = ()

    @classmethod
    def of(
        cls,
        graph: Graph,
        rates: Rates,
        sizes: Mapping[str, int],
        order: Sequence[Op] | None = None,
    ) -> Line:
        """Of a graph; ``sizes`` are those of its symbols in one micro-batch."""
        ops = ordered(graph, order)
        times = [roofline(_cost(op, sizes), rates.flops, rates.bandwidth) for op in ops]
        return cls(
            tuple(ops),
            tuple([time or 0.0 for time in times]),
            tuple(_crossing(ops, sizes)),
            tuple(op for op, time in zip(ops, times, strict=True) if time is None),
        )


def planned(
    graph: Graph,
    count: int,
    rates: Rates,
    *,
    micro_batches: int = 1,
    sizes: Mapping[str, int] | None = None,
    order: Sequence[Op] | None = None,
) -> Cut:
    """Where to cut a graph for up to ``count`` devices; see `cuts.cut`.

    ``sizes`` are those of the graph's symbols in one micro-batch; ``order`` is that of
    the ops, by default the source's. A stage's device holds its weights, each once, and
    what is alive at most. Raises NoCut where no cut fits into its memory.
    """
    sizes = sizes or {}
    line = Line.of(graph, rates, sizes, order)
    earliest = None
    if rates.memory is not None:
        earliest = list(_earliest(line.ops, rates.memory, sizes))
    sends = [
        float("inf") if size is None else rates.latency + size / rates.link
        for size in line.crossing
    ]
    try:
        return cut(line.seconds, sends, count, micro_batches, earliest)
    except NoCut:
        assert rates.memory is not None
        raise NoCut(_short(line, count, rates.memory, sizes)) from None


def _short(line: Line, count: int, memory: int, sizes: Mapping[str, int]) -> str:
    """Why there is no cut, and what would do: so much memory, or so many stages."""
    places = [i + 1 for i, size in enumerate(line.crossing) if size is not None]
    ends = [*places, len(line.ops)]

    def stages(bytes_: int) -> float:
        """The fewest; inf where an op does not fit, or what must stay together."""
        earliest = list(_earliest(line.ops, bytes_, sizes))
        start, number = 0, 0
        while start < len(line.ops):
            reached = [end for end in ends if end > start and earliest[end] <= start]
            if not reached:
                return math.inf
            start, number = reached[-1], number + 1
        return number

    low, high = memory, max(memory, 1)
    while stages(high) > count:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if stages(middle) <= count else (middle, high)
    more = stages(memory)
    others = "" if more == math.inf else f", or {more} stages"
    return (
        f"no cut of {len(line.ops)} ops into {count} stages keeps to {memory:,} bytes"
        f" of each device; {high:,} are enough{others}"
    )


def ordered(graph: Graph, order: Sequence[Op] | None = None) -> list[Op]:
    """The ops that stages share out, constants apart. Raises UsageError."""
    if order is None:
        order = source_order(graph)
    ranks_of(order, graph)
    return [op for op in order if not isinstance(op, Constant)]


def _cost(op: Op, sizes: Mapping[str, int]) -> OpCost:
    """In numbers; an op of which the work is not known moves its bytes at least."""
    each = op_cost(op)
    return OpCost(
        dims.substitute(each.flops or 0, sizes), dims.substitute(each.bytes, sizes)
    )


def _lives(ops: Sequence[Op]) -> dict[Value, tuple[int, int]]:
    """For each value that an op reads or makes, where it begins and is last read.

    Constants apart; inputs of the graph begin where they are first read.
    """
    lives: dict[Value, tuple[int, int]] = {}
    for i, op in enumerate(ops):
        for value in op.operands:
            if value is not None and not isinstance(value, Constant):
                lives[value] = (lives.get(value, (i, i))[0], i)
        for value in op.results:
            lives[value] = (i, i)
    return lives


def _crossing(ops: Sequence[Op], sizes: Mapping[str, int]) -> list[int | None]:
    """Bytes that cross the cut behind each op but the last."""
    change = [0] * (len(ops) + 1)
    unknown = [0] * (len(ops) + 1)
    for value, (made, read) in _lives(ops).items():
        if isinstance(value, Parameter) or made == read:
            continue
        size = value_bytes(value, sizes)
        row = unknown if size is None else change
        row[made] += 1 if size is None else size
        row[read] -= 1 if size is None else size
    found: list[int | None] = []
    size, lacking = 0, 0
    for i in range(len(ops) - 1):
        size, lacking = size + change[i], lacking + unknown[i]
        found.append(None if lacking else size)
    return found


def _earliest(
    ops: Sequence[Op], memory: int, sizes: Mapping[str, int]
) -> Iterator[int]:
    """For each end, where a stage may begin at the earliest to fit into memory.

    A weight counts once in a stage, at its last use in it; of activations the most that
    are alive while one op runs, those that are only handed on included.
    """
    alive = _alive(ops, sizes)
    held = [0] * len(ops)
    last: dict[Tensor, int] = {}
    yield 0
    for end, op in enumerate(ops, 1):
        for tensor in _weights(op):
            if tensor in last:
                held[last[tensor]] -= tensor.nbytes
            last[tensor] = end - 1
            held[end - 1] += tensor.nbytes
        start, weights, most = end, 0, 0
        while start > 0:
            weights += held[start - 1]
            most = max(most, alive[start - 1])
            if weights + most > memory:
                break
            start -= 1
        yield start


def _alive(ops: Sequence[Op], sizes: Mapping[str, int]) -> list[int]:
    """Bytes that are alive while each op runs, those inside of its bodies too."""
    change = [0] * (len(ops) + 1)
    for value, (made, read) in _lives(ops).items():
        size = value_bytes(value, sizes) or 0
        change[made] += size
        change[read + 1] -= size
    found: list[int] = []
    size = 0
    for i, op in enumerate(ops):
        size += change[i]
        peaks = [peak_memory(body, sizes) for body in op.bodies]
        inside = [peak for peak in peaks if isinstance(peak, int)]
        found.append(size + max(inside, default=0))
    return found


def _weights(op: Op) -> Iterable[Tensor]:
    """The weights that an op reads, each once."""
    own = [v.tensor for v in op.operands if isinstance(v, Constant)]
    return dict.fromkeys([*own, *(t for body in op.bodies for t in body.tensors())])


# --- graphs -------------------------------------------------------------------------


@dataclass(frozen=True)
class Stages:
    """Graphs that compute a model one after the other; values join them by name.

    A stage's inputs are inputs of the model and outputs of earlier stages. ``inputs``
    and ``outputs`` are the names of the model's.
    """

    graphs: tuple[Graph, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def joined(self, model: Graph) -> Graph:
        """The stages put together again, with the interface of ``model``.

        Of stages that were read from files, only where no op is random or opaque: each
        file numbers those by itself.
        """
        named: dict[str, Value] = {p.name: p for p in model.inputs}
        for graph in self.graphs:
            given: dict[Value, Value] = {p: named[p.name] for p in graph.inputs}
            whole = graph.substitute({p: v for p, v in given.items() if p is not v})
            outputs = [given.get(v, v) for v in whole.outputs]
            named |= dict(zip(graph.output_names, outputs, strict=True))
        outputs = [named[name] for name in self.outputs]
        return model.replace(outputs=outputs, output_names=self.outputs)

    @property
    def whole(self) -> Graph:
        """The stages put together by themselves; raises KeyError where they do not."""
        given = {p.name: p for graph in self.graphs for p in graph.inputs}
        types: dict[str, Type | None] = {}
        for graph in self.graphs:
            types |= dict(zip(graph.output_names, graph.output_types, strict=True))
        made = self.joined(Graph([given[name] for name in self.inputs], ()))
        declared = [types.get(name) for name in self.outputs]
        return made.replace(output_types=declared, header=self.graphs[0].header)


def split(
    graph: Graph, cuts: Sequence[int], order: Sequence[Op] | None = None
) -> Stages:
    """The graph in stages; those after the first begin at ``cuts``, places of ops.

    ``order`` is that of the ops, constants apart, by default the source's. Raises
    UsageError for cuts that do not rise within it, and for an order that is none.
    """
    ops = ordered(graph, order)
    bounds = [0, *cuts, len(ops)]
    if any(start >= end for start, end in pairwise(bounds)) and cuts:
        raise UsageError(f"cuts rise from 1 to {len(ops) - 1}, unlike {list(cuts)}")
    parts = [ops[start:end] for start, end in pairwise(bounds)]
    idle = [p for p in graph.inputs if not graph.uses.get(p)]
    home = {op: stage for stage, part in enumerate(parts) for op in part}
    crossing = _names(graph, _read_elsewhere(parts, home))
    joints = {v: Parameter(v.type, name) for v, name in crossing.items()}
    outputs = _outputs(graph, home, len(parts))
    return Stages(
        tuple(
            _stage(graph, part, outputs[stage], joints, () if stage else idle)
            for stage, part in enumerate(parts)
        ),
        graph.input_names,
        graph.output_names,
    )


def _read_elsewhere(
    parts: Sequence[Sequence[Op]], home: Mapping[Op, int]
) -> dict[Value, None]:
    """Results that a later stage reads, in the order in which they are read."""
    return dict.fromkeys(
        value
        for stage, part in enumerate(parts)
        for op in part
        for value in op.operands
        if value is not None
        and value.op is not None
        and home.get(value.op, stage) != stage
    )


def _names(graph: Graph, values: Iterable[Value]) -> dict[Value, str]:
    """A name for each of some results: that of an output, its own, or a new one."""
    names = Names(taken=[*graph.input_names, *graph.output_names])
    declared = dict(zip(graph.outputs, graph.output_names, strict=True))
    return {
        value: declared.get(value) or names.take(graph.names.get(value, "joint"))
        for value in values
    }


def _outputs(
    graph: Graph, home: Mapping[Op, int], count: int
) -> list[list[tuple[str, int]]]:
    """The outputs of the model by the stage that gives them, with their places.

    The last one gives those that nothing computes.
    """
    found: list[list[tuple[str, int]]] = [[] for _ in range(count)]
    for i, (name, value) in enumerate(
        zip(graph.output_names, graph.outputs, strict=True)
    ):
        stage = count - 1 if value.op is None else home.get(value.op, count - 1)
        found[stage].append((name, i))
    return found


def _stage(
    graph: Graph,
    part: Sequence[Op],
    outputs: Sequence[tuple[str, int]],
    joints: Mapping[Value, Parameter],
    idle: Sequence[Parameter],
) -> Graph:
    """The graph of one stage: what it reads of others are its parameters.

    ``idle`` are inputs of the model that nobody reads; the first stage takes them.
    """
    inside = set(part)
    read = {v: None for op in part for v in op.operands if v is not None}
    read |= {graph.outputs[place]: None for _, place in outputs}
    read |= dict.fromkeys(idle)
    given = {v: joints[v] for v in read if v in joints and v.op not in inside}
    names = [name for name, _ in outputs]
    ends = [graph.outputs[place] for _, place in outputs]
    types = [graph.output_types[place] for _, place in outputs]
    for value, joint in joints.items():
        if value.op in inside and joint.name not in names:
            names.append(joint.name)
            ends.append(value)
            types.append(None)
    return graph.replace(
        inputs=[*(p for p in graph.inputs if p in read), *given.values()],
        outputs=ends,
        output_names=names,
        output_types=types,
    ).substitute(dict(given))
