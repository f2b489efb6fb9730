"""Which layout each value of a graph gets: the problem of a graph, and its solution."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

from graphopt.cost import value_bytes
from graphopt.errors import UsageError
from graphopt.index import Combiner, Partial
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Constant
from graphopt.types import DType, TensorType
from graphopt.weights import Tensor

from .choices import Choice, choices
from .folding import ROUNDS, Passed, fold, made_by
from .layout import Layout, larger, layouts, local_bytes, replicated, wire_bytes
from .live import peak, peaks
from .machine import Machine
from .partition import Decisions
from .problem import Carried, Node, Option, Problem, Row
from .resharding import tree
from .room import roomy
from .search import clock
from .signature import signature
from .solve import GAP, SECONDS, NoPlan, Solution, solve
from .states import States
from .ties import tied
from .ways import is_fixed
from .work import exchanges

FEWER: Final = 3
"""Rounds of folding for three mesh axes and more, where a node has many options."""
CUTS: Final = 12
"""How often a plan is made anew whose activations do not fit."""
PEAKS: Final = 24
"""How many peaks of such a plan are looked at."""
MORE: Final = 3
"""How many of these are learned from."""
AGAIN: Final = 3
"""How many more plans that did not fit are learned from each time."""
WHOLE: Final = 2
"""How often, of these, after all was tried."""
FAR: Final = 1e-2
"""The gap from which on it is tried again, as long as that brings plan or bound on."""


@dataclass(frozen=True)
class Sharding:
    """How a graph runs on a mesh, and what that costs by the model.

    ``stored`` are bytes on each device of weights, inputs and outputs as they lie;
    ``memory`` adds the most of activations that are alive at once, copies in other
    layouts apart. ``sent`` are the bytes that a device sends, by kind of collective.
    """

    decisions: Decisions
    seconds: float
    stored: int
    memory: int
    sent: Mapping[str, float]
    solution: Solution


class Planner:
    """The problem of one graph on one machine, to be solved under several conditions.

    ``inputs`` and ``outputs`` fix layouts by name; all others are chosen, none of them
    partial, and those of inputs with a default replicated. ``ties`` are inputs and
    outputs that lie alike, by name. All dims of the graph are known. ``rounds`` is for
    `folding.fold`. Raises UsageError for layouts that the mesh does not divide.
    """

    def __init__(
        self,
        graph: Graph,
        machine: Machine,
        *,
        inputs: Mapping[str, Layout] | None = None,
        outputs: Mapping[str, Layout] | None = None,
        ties: Iterable[tuple[str, str]] = (),
        rounds: int | Literal["auto"] | None = "auto",
    ) -> None:
        self.graph = graph
        self.machine = machine
        whole = replicated(machine.mesh)
        given = {p.name: whole for p in graph.inputs if p.default is not None}
        self._inputs = given | dict(inputs or {})
        self._ends = [(outputs or {}).get(name) for name in graph.output_names]
        labels: dict[Op | Parameter, Layout | None] = {
            p: self._inputs.get(p.name) for p in graph.inputs
        }
        if rounds == "auto":
            rounds = ROUNDS if len(machine.mesh.axes) < 3 else FEWER
        self.folded = fold(graph, rounds, labels, self._ends)
        self.choices: list[Sequence[Choice]] = []
        self._run: dict[object, tuple[list[Choice], list[Option]]] = {}
        self._states: dict[TensorType, States] = {}
        nodes = [self._node(members) for members in self.folded.classes]
        self._combiners = _combiners(nodes)
        self.outputs: dict[tuple[Value, Layout | None], int] = {}
        """The node of each output, by what fixes its layout."""
        carried = [c for p in self.folded.passed if (c := self._carried(p, nodes))]
        self.tied = tied(Problem(nodes, carried), self._pairs(ties))
        self.problem = self.tied.problem
        self._alive: list[Mapping[int, list[float]]] = []
        """What options take where most was alive in plans that did not fit."""

    # --- the problem

    def _node(self, members: Sequence[Op | Parameter]) -> Node:
        item, times = members[0], len(members)
        name = item.name if isinstance(item, Parameter) else item.kind
        if isinstance(item, Parameter | Constant) or is_fixed(item):
            self.choices.append(())
            fixed = self._inputs.get(name) if isinstance(item, Parameter) else None
            kept = [Option((), (x,), 0.0, n) for x, n in self._kept(item, fixed)]
            return Node(name, kept, times)
        key = signature(item)
        if key not in self._run:
            found, taking = choices(item, self.machine.mesh), self.machine.taking
            held = sum(tensor.nbytes for tensor in _inside(item))
            run = [
                Option(c.operands, c.results, taking(c.work or ()), held) for c in found
            ]
            self._run[key] = found, run
        found, run = self._run[key]
        self.choices.append(found)
        return Node(name, run, times)

    def _kept(self, value: Value, fixed: Layout | None) -> list[tuple[Layout, int]]:
        """How what is there all the time may lie, and its bytes on a device.

        What may steer shapes is whole.
        """
        mesh, type_ = self.machine.mesh, value.type
        if not isinstance(type_, TensorType) or type_.shape is None:
            return [(replicated(mesh), 0)]
        possible = list(layouts(type_.shape, mesh))
        if fixed is not None and fixed not in possible:
            raise UsageError(f"the mesh {mesh} does not divide {type_} that way")
        if fixed is not None:
            possible = [fixed]
        elif value.ints is not None or type_.dtype is DType.STRING:
            possible = possible[:1]
        return [(layout, local_bytes(type_, layout, mesh)) for layout in possible]

    def _pairs(self, ties: Iterable[tuple[str, str]]) -> Iterable[tuple[int, int]]:
        """The nodes of inputs and outputs that lie alike; of what is used."""
        inputs = {p.name: self.folded.number.get(p) for p in self.graph.inputs}
        ends = zip(self.graph.outputs, self._ends, strict=True)
        outputs = dict(zip(self.graph.output_names, ends, strict=True))
        for name, output in ties:
            number, end = inputs[name], self.outputs.get(outputs[output])
            if number is not None and end is not None:
                yield number, end

    def _carried(self, passed: Passed, nodes: list[Node]) -> Carried | None:
        """The values of one class; their outputs become nodes."""
        value, times = passed.values[0], len(passed.values)
        sinks: list[tuple[int, int]] = []
        for use in passed.uses:
            if use.reader < 0:
                kept = self._kept(value, use.end)  # type: ignore[arg-type]
                ends = [(v, use.end) for v in passed.values]
                self.outputs.update(dict.fromkeys(ends, len(nodes)))  # type: ignore[arg-type]
                sinks.append((len(nodes), 0))
                options = [Option((x,), (), 0.0, n) for x, n in kept]
                nodes.append(Node("output", options, times))
            elif self.choices[use.reader]:
                sinks.append((use.reader, use.operand))
        if not sinks or value.ints is not None:
            return None
        source = (passed.source, passed.result)
        return Carried(self.states(value), source, tuple(sinks), times)

    def states(self, value: Value) -> States:
        """The layouts of a value; of what is no tensor the one there is."""
        type_, mesh, seconds = value.type, self.machine.mesh, self.machine.seconds
        if not isinstance(type_, TensorType) or type_.dtype in (None, DType.STRING):
            return States(mesh, seconds, TensorType(DType.I64, ()), ())
        found = self._states.get(type_)
        if found is None:
            found = States(mesh, seconds, type_, self._combiners)
            self._states[type_] = found
        return found

    # --- its solution

    def plan(
        self,
        memory: float = math.inf,
        *,
        fix: Mapping[Op, Collection[Choice]] | None = None,
        store: Mapping[Value, Collection[Layout]] | None = None,
        seconds: float = SECONDS,
        gap: float = GAP,
        copies: Callable[[Decisions], int] | None = None,
        below: float = math.inf,
    ) -> Sharding:
        """The cheapest plan that takes at most ``memory`` bytes of each device.

        ``fix`` allows some choices of an op alone, ``store`` some layouts of an input
        or a weight, for the whole class of each. ``copies`` says what a plan makes that
        is alive at once, copies in other layouts too, which then count, though a bound
        knows nothing of them. After ``seconds`` of CPU time it gives what was found;
        a first plan comes in any case. Raises NoPlan where no plan fits, or none that
        costs less than ``below`` seconds.
        """
        allowed = self._allowed(fix or {}, store or {}, memory)
        if not self._alive and self.problem.most > memory:
            self._learn(self._least, memory)
        room = _Room(self, memory, copies)
        best: Solution | None = None
        bound, whole, until = 0.0, 0, clock() + seconds
        for _ in range(CUTS):
            limit = memory - room.kept
            rows = tuple([Row(amounts, limit) for amounts in self._alive])
            try:
                found = solve(
                    replace(self.problem, limit=limit, rows=rows),
                    allowed=allowed,
                    seconds=until - clock(),
                    gap=gap,
                    over=room.over,
                    known=None if best is None else best.chosen,
                    below=below,
                )
            except NoPlan as error:
                if best is None:
                    raise NoPlan(room.reason or str(error)) from None
                break
            before = None if best is None else best.gap
            if not room.kept:
                bound = max(bound, found.bound)
            whole += not found.early
            if found.refused != found.chosen:
                best = min(best or found, found, key=lambda each: each.seconds)
                proved = best.seconds - bound <= gap * best.seconds
                best = replace(best, bound=min(bound, best.seconds), proved=proved)
            late = clock() > until
            if best is not None:
                stays = before is not None and best.gap >= before
                enough = whole >= WHOLE and (stays or best.gap <= FAR)
                if found.refused is None:  # more kept free may let cheaper ones copy
                    enough = best.gap <= FAR or not room.is_short
                if enough or late:
                    return self._sharding(best)
            if found.refused is None:
                room.learn(late=False)
                continue
            for chosen in (found.refused, *room.refused[-AGAIN:]):
                self._learn(chosen, memory)
            if best is None:
                room.learn(late=late)
            room.refused.clear()
        if best is not None:
            return self._sharding(best)
        no_cut = f"activations take more than {memory:g} bytes, and no cut helps"
        raise NoPlan(room.reason or no_cut)

    def _allowed(
        self,
        fix: Mapping[Op, Collection[Choice]],
        store: Mapping[Value, Collection[Layout]],
        memory: float,
    ) -> dict[int, list[int]]:
        mesh = self.machine.mesh
        fits = roomy(self.graph, self.folded, self.choices, self.tied, mesh, memory)
        allowed = {number: set(which) for number, which in fits.items()}

        def keep(number: int, which: set[int]) -> None:
            allowed[number] = allowed[number] & which if number in allowed else which

        for op, some in fix.items():
            number = self.folded.number[op]
            keep(number, {k for k, c in enumerate(self.choices[number]) if c in some})
        for value, lying in store.items():
            number = self.folded.number[made_by(value)[0]]
            number = self.tied.leaders.get(number, number)
            options = self.problem.nodes[number].options
            keep(number, {k for k, o in enumerate(options) if o.gives[0] in lying})
        return {number: sorted(which) for number, which in allowed.items()}

    def decisions(self, chosen: Sequence[int]) -> Decisions:
        """What the chosen options are, by op and value."""
        chosen = self.tied.followed(chosen)
        ways: dict[Op, Choice] = {}
        given: dict[Value, Layout] = {}
        for members, found, node, k in zip(
            self.folded.classes, self.choices, self.problem.nodes, chosen, strict=False
        ):
            for item in members:
                if found:
                    assert isinstance(item, Op)
                    ways[item] = found[k]
                elif isinstance(item, Parameter | Constant):
                    given[item] = node.options[k].gives[0]
        nodes = self.problem.nodes
        pairs = zip(self.graph.outputs, self._ends, strict=True)
        ends = [self.outputs.get(pair) for pair in pairs]
        outputs = tuple(
            [None if n is None else nodes[n].options[chosen[n]].wants[0] for n in ends]
        )
        return Decisions(ways, given, outputs)

    def _sharding(self, solution: Solution) -> Sharding:
        chosen = self.tied.followed(solution.chosen)
        return Sharding(
            self.decisions(chosen),
            solution.seconds,
            self.problem.bytes(chosen),
            self.held(chosen),
            self._sent(chosen),
            replace(solution, chosen=tuple(chosen)),
        )

    def _part_bytes(self, value: Value, chosen: Sequence[int]) -> int:
        """Bytes of a device's part of what an op makes."""
        item, result = made_by(value)
        number = self.folded.number[item]
        if not self.choices[number] or not isinstance(value.type, TensorType):
            return 0
        layout = self.choices[number][chosen[number]].results[result]
        return local_bytes(value.type, layout, self.machine.mesh)

    def held(self, chosen: Sequence[int]) -> int:
        """What is stored on a device, and the most that is alive at once."""
        alive, _ = peak(self.graph, lambda value: self._part_bytes(value, chosen))
        return self.problem.bytes(chosen) + alive

    @cached_property
    def _least(self) -> tuple[int, ...]:
        """By node, the option of which a device holds the least."""
        chosen: list[int] = []
        for members, found, node in itertools.zip_longest(
            self.folded.classes, self.choices, self.problem.nodes
        ):
            held = [float(o.bytes) for o in node.options]
            made = members[0].results if found and isinstance(members[0], Op) else ()
            for number, value in enumerate(made):
                if isinstance(value.type, TensorType):
                    for k, choice in enumerate(found):
                        layout = choice.results[number]
                        held[k] += local_bytes(value.type, layout, self.machine.mesh)
            chosen.append(held.index(min(held)))
        return tuple(chosen)

    def _learn(self, chosen: Sequence[int], memory: float) -> None:
        """See what is alive where a plan takes most, and elsewhere too much."""
        found = peaks(self.graph, lambda v: self._part_bytes(v, chosen))
        fullest = sorted(found, key=lambda each: -each[0])[:PEAKS]
        kept = self.problem.bytes(chosen)
        many = len(self._alive)
        for number, (size, alive) in enumerate(fullest):
            if number and kept + size <= memory:
                break
            if len(self._alive) == many + MORE:
                break
            amounts = self._amounts(alive)
            if amounts not in self._alive:
                self._alive.append(amounts)

    def _amounts(self, alive: Iterable[Value]) -> Mapping[int, list[float]]:
        """What options take: what is stored, and what of these values is alive."""
        amounts: dict[int, list[float]] = {}
        for number, node in enumerate(self.problem.nodes):
            if any(o.bytes for o in node.options):
                amounts[number] = [float(node.times * o.bytes) for o in node.options]
        for value in alive:
            item, result = made_by(value)
            number = self.folded.number[item]
            found = self.choices[number]
            if found and isinstance(value.type, TensorType):
                row = amounts.setdefault(number, [0.0] * len(found))
                for k, choice in enumerate(found):
                    layout = choice.results[result]
                    row[k] += local_bytes(value.type, layout, self.machine.mesh)
        return amounts

    def _sent(self, chosen: Sequence[int]) -> dict[str, float]:
        """The bytes that a device sends, by kind of collective."""
        sent: Counter[str] = Counter()
        mesh, nodes = self.machine.mesh, self.problem.nodes
        for value in self.problem.carried:
            node, result = value.source
            source = nodes[node].options[chosen[node]].gives[result]
            wants = [nodes[n].options[chosen[n]].wants[i] for n, i in value.sinks]
            for step in tree(value.states, source, wants) or ():
                size = larger(step, value.states.type, mesh)
                moved = wire_bytes(step.kind, mesh.sizes[step.axis], size)
                sent[step.kind] += value.times * moved  # type: ignore[assignment]
        for number, found in enumerate(self.choices):
            work = found[chosen[number]].work if found else None
            for deed, times in exchanges(work or ()):
                moved = times * deed.sent
                sent[deed.kind] += nodes[number].times * moved  # type: ignore[assignment]
        return {kind: size for kind, size in sorted(sent.items()) if size}


COPIES: Final = 4
"""No value is alive in so many layouts at once."""


class _Room:
    """Which plans fit, activations and copies in other layouts included.

    ``kept`` bytes are kept free for copies when a plan is looked for.
    """

    def __init__(
        self,
        planner: Planner,
        memory: float,
        copies: Callable[[Decisions], int] | None,
    ) -> None:
        self.planner = planner
        self.memory = memory
        self.kept = 0.0
        self.refused: list[tuple[int, ...]] = []
        self._copies = copies
        made = (value for op in planner.graph.ops for value in op.results)
        values = itertools.chain(planner.graph.inputs, made)
        self._whole = COPIES * sum(value_bytes(value, {}) or 0 for value in values)
        """More than copies can take."""
        self._over = math.inf
        self._least = math.inf

    @property
    def reason(self) -> str:
        """Why no plan fits, where that is for copies."""
        if self._least == math.inf:
            return ""
        least = f"{self._least:,.0f}"
        return f"with copies in other layouts, the least that was found is {least}"

    def over(self, chosen: tuple[int, ...]) -> float:
        """The bytes that a plan takes too many; inf where it is not for copies."""
        held = float(self.planner.held(chosen))
        if held > self.memory:
            self.refused.append(chosen)
            return math.inf
        if self._copies is None or held + self._whole <= self.memory:
            return 0.0
        decisions = self.planner.decisions(chosen)
        alive = float(self.planner.problem.bytes(chosen) + self._copies(decisions))
        self._least = min(self._least, alive)
        if alive > self.memory:
            self._over = min(self._over, alive - self.memory)
        return max(0.0, alive - self.memory)

    @property
    def is_short(self) -> bool:
        """True where plans did not fit for copies since more was kept free."""
        return self._over < math.inf

    def learn(self, *, late: bool) -> None:
        """Keep more free, where plans did not fit for copies.

        Twice as much, as the next plan may copy more; much more where it is ``late``.
        """
        if self._over < math.inf:
            self.kept += (8 if late else 2) * self._over
        self._over = math.inf


def _inside(op: Op) -> Collection[Tensor]:
    """The weights that bodies hold, each once; they count as if never split."""
    return dict.fromkeys(tensor for body in op.bodies for tensor in body.tensors())


def _combiners(nodes: Sequence[Node]) -> frozenset[Combiner]:
    """Those of partial values that occur at all."""
    return frozenset(
        state.combiner
        for node in nodes
        for option in node.options
        for layout in (*option.wants, *option.gives)
        for state in layout
        if isinstance(state, Partial)
    )
