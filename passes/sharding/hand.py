"""Plans as people make them, from what ops contract and along which dims they run.

Each mesh axis has one role. A role walks through the graph once and says how each op
runs along its axis; it looks at index maps and weights, never at names. The plans fix
choices of the planner's own, so that it can be compared with them.

- data: the inputs' first dim. fsdp: likewise, each weight stored in parts and gathered.
- context: the second dim (of images, rows), weights whole.
- megatron: a weight's columns, then the rows of the next, whose results are added up
  (Shoeybi et al., "Megatron-LM", 2019); all else as it comes.
- sequence: the same, and context between the two (Korthikanti et al., 2022).
- ulysses: context, but heads where activations meet (Jacobs et al., 2023).
- experts: data, but a weight that is many of them, one for each part of its activation,
  is shared out by these (Lepikhin et al., "GShard", 2020).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from graphopt.errors import GraphoptError
from graphopt.index import Partial, Replicated, Split, State
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Attention, Constant, Einsum, MatMul

from .choices import Choice, choice_of
from .layout import REPLICATED, Layout, layouts
from .planner import Planner, Sharding
from .ways import Way, is_fixed, value_bytes, ways_of

Usual: TypeAlias = Literal["data", "fsdp", "context", "megatron", "sequence", "ulysses"]
Role: TypeAlias = Usual | Literal["experts"]
ROLES: Final[tuple[Role, ...]] = get_args(Usual)
"""Those that any network may have."""


class NoHandPlan(GraphoptError):
    """The recipe does not apply to the graph on this mesh; the message says why."""

    exit_code = 6


@dataclass(frozen=True)
class Walk:
    """How the ops run along one axis, and the state in which each value is left."""

    ways: Mapping[Op, Way]
    states: Mapping[Value, State]


def hand_plan(
    planner: Planner, roles: Sequence[Role], memory: float = float("inf")
) -> Sharding:
    """The plan with a role for each mesh axis, as cheap as it can be made.

    Weights lie as they are used, but for fsdp. Raises NoHandPlan where a role does not
    apply, NoPlan where it takes more memory.
    """
    graph, mesh = planner.graph, planner.machine.mesh
    walks = [
        walk(graph, role, size) for role, size in zip(roles, mesh.sizes, strict=True)
    ]
    axes = len(roles)
    used: set[int] = set()
    fix: dict[Op, list[Choice]] = {}
    store: dict[Value, set[Layout]] = {}
    for members, found in zip(planner.folded.classes, planner.choices, strict=True):
        op = members[0]
        if not found or isinstance(op, Parameter):
            continue
        choice = _together(op, [w.ways[op] for w in walks], found)
        fix[op] = [choice]
        used |= {
            a for a, s in itertools.product(range(axes), choice.operands) if _cuts(s, a)
        }
        for value, layout in zip(op.operands, choice.operands, strict=True):
            if isinstance(value, Constant) and value.ints is None:
                first = planner.folded.classes[planner.folded.number[value]][0]
                lying = _lying(value, layout, roles, planner)
                store.setdefault(first, set()).add(lying)
    for axis in set(range(axes)) - used:
        raise NoHandPlan(
            f"{roles[axis]} shares nothing out along the axis {mesh.names[axis]!r}"
        )
    return planner.plan(memory, fix=fix, store=store)


def role_rows(axes: int, graph: Graph | None = None) -> Iterator[tuple[Role, ...]]:
    """The roles of plans worth a try: at most two different ones, on adjacent axes."""
    roles = ROLES
    if graph is not None and any(map(_has_experts, graph.ops)):
        roles = (*ROLES, "experts")
    for row in itertools.product(roles, repeat=axes):
        if len([key for key, _ in itertools.groupby(row)]) <= 2:
            yield row


def _cuts(layout: Layout, axis: int) -> bool:
    return isinstance(layout[axis], Split)


def _together(op: Op, ways: Sequence[Way], found: Sequence[Choice]) -> Choice:
    """The choice of a way for each axis; the last axes give way where they clash."""
    whole = ways_of(op)[0]
    legal = set(found)
    for kept in itertools.product((True, False), repeat=len(ways)):
        row = [way if keep else whole for way, keep in zip(ways, kept, strict=True)]
        choice = choice_of(op, row)
        if choice in legal:
            return choice
    return found[0]


def _lying(
    value: Constant, used: Layout, roles: Sequence[Role], planner: Planner
) -> Layout:
    """How a weight is stored that is used in a layout.

    fsdp takes its largest dim, of those that no other axis splits.
    """
    possible = set(layouts(value.tensor.shape, planner.machine.mesh))
    found = tuple([s if isinstance(s, Split) else REPLICATED for s in used])
    shape = value.tensor.shape
    order = sorted(range(len(shape)), key=lambda d: (Split(d) in used, -shape[d]))
    for axis, role in enumerate(roles):
        if role == "fsdp" and isinstance(found[axis], Replicated):
            options = [(*found[:axis], Split(d), *found[axis + 1 :]) for d in order]
            found = next((x for x in options if x in possible), found)
    return found


# --- along one axis -----------------------------------------------------------------


def walk(graph: Graph, role: Role, size: int) -> Walk:
    """How all ops run along an axis of so many devices. Raises NoHandPlan."""
    if role in ("data", "fsdp"):
        return _Walker(graph, size).go(_first(graph, size, 0))
    if role == "experts":
        return _Experts(graph, size).go(_first(graph, size, 0))
    if role == "megatron":
        return _Tensor(graph, size, {}).go({})
    seeds = _first(graph, size, 1)
    along = _Walker(graph, size).go(seeds)
    if role == "context":
        return along
    if role == "sequence":
        return _Tensor(graph, size, along.states).go(seeds)
    return _Heads(graph, size, along).go(seeds)


def _first(graph: Graph, size: int, dim: int) -> dict[Value, State]:
    """Inputs split along their first dim, or the second: of four dims, the third.

    Raises NoHandPlan where the devices divide that dim of no input.
    """
    seeds: dict[Value, State] = {}
    for value in graph.inputs:
        at = 2 if dim and value.rank == 4 else dim
        shape = value.shape or ()
        if at < len(shape) and shape[at] and not shape[at] % size:
            seeds[value] = Split(at)
    if not seeds:
        word = "second" if dim else "first"
        raise NoHandPlan(f"no input has a {word} dim that {size} devices divide")
    return seeds


class _Walker:
    """Each op runs in the way that moves least, its first operand least of all."""

    def __init__(self, graph: Graph, size: int) -> None:
        self.graph = graph
        self.size = size
        self.states: dict[Value, State] = {}

    def go(self, seeds: Mapping[Value, State]) -> Walk:
        """Through the graph, from inputs in these states; others are replicated."""
        self.states = dict(seeds)
        ways: dict[Op, Way] = {}
        shared = 0
        for op in self.graph.ops:
            if isinstance(op, Constant) or is_fixed(op):
                continue
            possible = [way for way in ways_of(op) if self._divides(op, way)]
            way = ways[op] = self.choose(op, possible)
            shared += any(isinstance(s, Split) for s in way.strategy.operands)
            for value, state in zip(op.results, way.strategy.results, strict=True):
                settled = self.settle(value, state)
                self.states[value] = settled
        if not shared:
            raise NoHandPlan("no op can be shared out that way")
        return Walk(ways, self.states)

    def choose(self, op: Op, possible: Sequence[Way]) -> Way:
        return min(possible, key=lambda way: self.moved(op, way))

    def settle(self, value: Value, state: State) -> State:
        """The state in which users find a result: sums are added up."""
        return REPLICATED if isinstance(state, Partial) else state

    def moved(self, op: Op, way: Way) -> tuple[float, int, bool]:
        """Bytes of operands that move, operands that are cut, if nothing is shared."""
        total, cut = 0.0, 0
        lead = True
        for value, wanted in zip(op.operands, way.strategy.operands, strict=True):
            if value is None or _is_weight(value):
                continue
            if isinstance(wanted, Partial):
                return (float("inf"), 0, True)
            has = self.states.get(value, REPLICATED)
            if isinstance(has, Split) and has != wanted:
                total += value_bytes(value) * (4 if lead else 1)
            cut += isinstance(has, Replicated) and has != wanted
            lead = False
        if any(isinstance(state, Partial) for state in way.strategy.results):
            total += 2 * sum(map(value_bytes, op.results))
        shares = any(isinstance(s, Split) for s in self._activations(op, way))
        return (total, cut, not shares)

    def _activations(self, op: Op, way: Way) -> list[State]:
        """The states that a way wants of operands that are no weights."""
        return [
            state
            for value, state in zip(op.operands, way.strategy.operands, strict=True)
            if value is not None and not _is_weight(value)
        ]

    def _divides(self, op: Op, way: Way) -> bool:
        for value, state in zip(
            (*op.operands, *op.results),
            (*way.strategy.operands, *way.strategy.results),
            strict=True,
        ):
            if isinstance(state, Split) and value is not None:
                extent = (value.shape or ())[state.dim]
                if not isinstance(extent, int) or extent % self.size:
                    return False
        return True


class _Tensor(_Walker):
    """Columns of a weight, and the rows of the next where the columns arrive there.

    ``between`` are states that values have elsewhere, where not replicated.
    """

    def __init__(self, graph: Graph, size: int, between: Mapping[Value, State]) -> None:
        super().__init__(graph, size)
        self.between = between
        self.columns = 0

    def go(self, seeds: Mapping[Value, State]) -> Walk:
        found = super().go(seeds)
        if not self.columns:
            raise NoHandPlan("no weight is contracted whose columns devices divide")
        return found

    def choose(self, op: Op, possible: Sequence[Way]) -> Way:
        rows = [way for way in possible if self._is_row(op, way)]
        arrive = [way for way in rows if not self.moved_in(op, way)]
        if arrive:
            return arrive[0]
        columns = [way for way in possible if rows and self._is_column(op, way)]
        if columns:
            self.columns += 1
            return columns[-1]
        return super().choose(op, possible)

    def settle(self, value: Value, state: State) -> State:
        if isinstance(state, Partial):
            return self.between.get(value, REPLICATED)
        return state

    def moved_in(self, op: Op, way: Way) -> bool:
        """True where an activation is not in the state that the way wants."""
        return any(
            self.states.get(value, REPLICATED) != wanted
            for value, wanted in zip(op.operands, way.strategy.operands, strict=True)
            if value is not None and not _is_weight(value)
        )

    def _is_row(self, op: Op, way: Way) -> bool:
        """A weight and an activation are split where they are contracted."""
        shared = [isinstance(s, Split) for s in self._activations(op, way)]
        split = self._weight_split(op, way)
        added = [isinstance(s, Partial) for s in way.strategy.results]
        return way.form == "plain" and split and any(shared) and all(added)

    def _is_column(self, op: Op, way: Way) -> bool:
        """Only weights are split, and so are the results."""
        whole = [isinstance(s, Replicated) for s in self._activations(op, way)]
        made = [isinstance(s, Split) for s in way.strategy.results]
        return self._weight_split(op, way) and all(whole) and all(made)

    def _weight_split(self, op: Op, way: Way) -> bool:
        return any(
            isinstance(state, Split) and value is not None and _is_matrix(value)
            for value, state in zip(op.operands, way.strategy.operands, strict=True)
        )


class _Heads(_Walker):
    """As another walk, but where activations meet along a dim that all of them have."""

    def __init__(self, graph: Graph, size: int, along: Walk) -> None:
        super().__init__(graph, size)
        self.along = along
        self.met = 0

    def go(self, seeds: Mapping[Value, State]) -> Walk:
        found = super().go(seeds)
        if not self.met:
            raise NoHandPlan("no activations meet along a dim that devices divide")
        return found

    def choose(self, op: Op, possible: Sequence[Way]) -> Way:
        if any(value is not None and _is_matrix(value) for value in op.operands):
            return self.along.ways[op]
        if _meet(op):
            shared = [way for way in possible if self._all_split(op, way)]
            if shared:
                self.met += 1
                return shared[-1]
        return super().choose(op, possible)

    def _all_split(self, op: Op, way: Way) -> bool:
        """Split along a dim behind the first, results too."""
        states = [*self._activations(op, way)[:3], *way.strategy.results]
        return all(isinstance(s, Split) and s.dim for s in states)


class _Experts(_Walker):
    """By the first dim of inputs, but by experts where weights have some."""

    def __init__(self, graph: Graph, size: int) -> None:
        super().__init__(graph, size)
        self.met = 0

    def go(self, seeds: Mapping[Value, State]) -> Walk:
        found = super().go(seeds)
        if not self.met:
            raise NoHandPlan("no weight has experts that devices divide")
        return found

    def choose(self, op: Op, possible: Sequence[Way]) -> Way:
        shared = [way for way in possible if _by_expert(op, way)]
        self.met += bool(shared)
        return shared[0] if shared else super().choose(op, possible)


def _has_experts(op: Op) -> bool:
    """True for a product of activations and weights in pairs."""
    found = any(_is_weight(v) and (v.rank or 0) > 2 for v in op.operands if v)
    return found and any(_by_expert(op, way) for way in ways_of(op))


def _by_expert(op: Op, way: Way) -> bool:
    """True where the experts of a weight are split, with what they get and give."""
    split = all(
        isinstance(s, Split) for s in (*way.strategy.operands, *way.strategy.results)
    )
    pairs = zip(op.operands, way.strategy.operands, strict=True)
    leads = [s == Split(0) for v, s in pairs if v and _is_weight(v) and v.rank == 3]
    return split and isinstance(op, Einsum | MatMul) and any(leads)


def _meet(op: Op) -> bool:
    """True where an op contracts activations with each other."""
    if isinstance(op, Attention):
        return True
    given = [v for v in op.operands if v is not None and not _is_weight(v)]
    return len(given) > 1 and any(
        all(isinstance(s, Split) for s in way.strategy.operands)
        and all(isinstance(s, Partial) for s in way.strategy.results)
        for way in ways_of(op)
    )


def _is_weight(value: Value) -> bool:
    return isinstance(value, Constant)


def _is_matrix(value: Value) -> bool:
    return _is_weight(value) and (value.rank or 0) > 1
