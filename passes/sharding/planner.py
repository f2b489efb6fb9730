"""Which layout each value of a graph gets: the problem of a graph, and its solution."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Generic, Protocol, TypeVar

from graphopt.index import Combiner, Partial
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Constant
from graphopt.types import DType

from .folding import ROUNDS, Folded, Item, fold, made_by
from .layout import Layout, layouts, replicated, wire_bytes
from .live import peak
from .machine import Machine
from .mesh import Mesh
from .problem import Carried, Node, Option, Problem, Row
from .resharding import tree
from .solve import GAP, SECONDS, Solution, solve
from .states import States
from .timing import Timing

CUTS: Final = 12
"""How often a plan whose activations do not fit is made anew."""


class Way(Protocol):
    """How an op may run: layouts of its operands and results."""

    @property
    def operands(self) -> tuple[Layout, ...]: ...
    @property
    def results(self) -> tuple[Layout, ...]: ...


W = TypeVar("W", bound=Way)


@dataclass(frozen=True)
class Sharding(Generic[W]):
    """A way for each op, where inputs and weights lie, and what it all costs.

    ``memory`` is the most bytes on a device at once: weights, inputs and outputs as they
    lie, and activations that are alive, those of resharding apart. ``sent`` are the
    bytes that a device sends in each kind of collective.
    """

    ways: Mapping[Op, W]
    given: Mapping[Value, Layout]
    outputs: tuple[Layout, ...]
    seconds: float
    memory: int
    stored: int
    sent: Mapping[str, float]
    solution: Solution


class Planner(Generic[W]):
    """The problem of one graph on one machine; solved under several conditions.

    ``ways`` lists how an op may run. ``inputs`` and ``outputs`` fix layouts by name;
    others are the planner's choice, without partial values. All dims are known.
    """

    def __init__(
        self,
        graph: Graph,
        machine: Machine,
        ways: Callable[[Op, Mesh], Sequence[W]],
        *,
        inputs: Mapping[str, Layout] | None = None,
        outputs: Mapping[str, Layout] | None = None,
        rounds: int | None = ROUNDS,
    ) -> None:
        self.graph = graph
        self.machine = machine
        fixed = inputs or {}
        self.ends = [(outputs or {}).get(name) for name in graph.output_names]
        labels = {p: fixed.get(p.name) for p in graph.inputs}
        self.folded: Folded = fold(graph, rounds, labels, self.ends)
        self.ways: list[Sequence[W]] = []
        self._states: dict[tuple[object, DType | None], States] = {}
        nodes: list[Node] = []
        for members in self.folded.classes:
            item = members[0]
            if isinstance(item, Parameter | Constant):
                self.ways.append(())
                only = fixed.get(item.name) if isinstance(item, Parameter) else None
                options = self._stored(item, only)
            else:
                self.ways.append(ways(item, machine.mesh))
                timing = Timing(item, machine)
                options = [
                    Option(w.operands, w.results, timing.seconds(w.operands, w.results))
                    for w in self.ways[-1]
                ]
            nodes.append(Node(_name(item), options, len(members)))
        self._combiners = frozenset(_combiners(nodes))
        self.problem = self._linked(nodes)

    # --- the problem

    def _stored(self, value: Value, only: Layout | None) -> list[Option]:
        """How a weight, an input or an output may lie; whole where it steers shapes."""
        whole = replicated(self.machine.mesh)
        shape = value.shape
        if only is not None:
            found = [only]
        elif shape is None or value.dtype is DType.STRING or value.ints is not None:
            found = [whole]
        else:
            found = list(layouts(shape, self.machine.mesh))
        size = self.machine.local_bytes
        return [Option((x,), (x,), 0.0, size(shape or (), x, value.dtype)) for x in found]

    def _linked(self, nodes: list[Node]) -> Problem:
        """With the outputs as nodes, and what goes from one to another."""
        self.output_nodes: dict[Value, int] = {}
        carried: list[Carried] = []
        kinds = list(dict.fromkeys(self.ends))
        for passed in self.folded.passed:
            value, times = passed.values[0], len(passed.values)
            sinks = [(use.reader, use.operand) for use in passed.uses if use.reader >= 0]
            for use in passed.uses:
                if use.reader < 0:
                    options = self._stored(value, kinds[use.operand])
                    if passed.source_is_input:
                        options = [Option(o.wants, (), 0.0) for o in options]
                    options = [Option(o.wants, (), 0.0, o.bytes) for o in options]
                    sinks.append((len(nodes), 0))
                    self.output_nodes.update(dict.fromkeys(passed.values, len(nodes)))
                    nodes.append(Node("output", options, times))
            source = (passed.source, passed.result)
            carried.append(Carried(self.states(value), source, tuple(sinks), times))
        return Problem(nodes, carried)

    def states(self, value: Value) -> States:
        """The layouts of a value."""
        key = (value.shape or (), value.dtype)
        if key not in self._states:
            self._states[key] = States(
                self.machine, value.shape or (), value.dtype, self._combiners
            )
        return self._states[key]
