"""The memory plan of a graph: an order, and where in one arena each value lies.

Semantics: an op's operands and results are live at the same step; views and ops in
place are the only ones that share bytes. Inputs and constants lie outside of the arena,
outputs too unless the space says otherwise. What an op with bodies needs for these is a
plan of its own, inside of a workspace that lives for its step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

from graphopt.errors import UsageError
from graphopt.ir import Graph, Op, Value
from graphopt.types import Type

from .allocate import STEPS as NODES, pack
from .buffers import Buffer
from .lives import Block, Kind, Lives, lives_of, steps_of
from .order import least_order
from .ranges import Size
from .schedule import STEPS, Schedule
from .sizes import Sizes
from .space import Space
from .twin import Twin, twin_of
from .workspace import workspace


@dataclass(frozen=True)
class Placement:
    """Where a block of the arena lies: bytes [offset, offset + buffer.size).

    ``values`` share it, in the order in which they are computed; without any it is the
    workspace of ``op``.
    """

    buffer: Buffer
    offset: int
    kind: Kind
    values: tuple[Value, ...]
    op: Op | None = None

    @property
    def end(self) -> int:
        return self.offset + self.buffer.size


@dataclass(frozen=True)
class MemoryPlan:
    """Where everything lies, for one device, one memory space and one set of sizes.

    All sizes are in bytes. ``peak`` is what the arena takes, ``lower_bound`` what it
    takes at least in this order: the most that is ``live`` at one step, or more where a
    search proved it. ``proof`` is "optimal" where the peak is that.
    ``inputs``, ``outputs`` and ``constants`` lie outside; so do ``unknown`` values,
    which have no size before the run. ``given`` are the outputs that the caller has by
    each step.
    """

    order: tuple[Op, ...]
    placements: tuple[Placement, ...]
    peak: int
    lower_bound: int
    proof: str
    space: Space
    binding: Mapping[str, Size]
    inputs: int
    outputs: int
    constants: int
    given: tuple[int, ...] = ()
    unknown: tuple[Value, ...] = ()
    nested: Mapping[Op, tuple[MemoryPlan, ...]] = field(default_factory=dict)
    method: str = ""
    schedule: Schedule | None = None
    """What is known of the order, where it was looked for."""
    types: Mapping[Value, Type] = field(default_factory=dict)
    """Types at these sizes, of values in bodies too, where they tell more."""

    @cached_property
    def place_of(self) -> Mapping[Value, Placement]:
        """The placement of each value in the arena."""
        return {value: place for place in self.placements for value in place.values}

    @cached_property
    def workspace_of(self) -> Mapping[Op, Placement]:
        """The workspace of each op that has one."""
        return {place.op: place for place in self.placements if place.op is not None}

    @property
    def resident(self) -> int:
        """All bytes at the worst step: weights, inputs, outputs so far, the arena."""
        return self.constants + self.inputs + self.beside + self.peak

    @cached_property
    def beside(self) -> int:
        """Bytes of outputs beside the peak: what they add to the most that is live.

        An output that is made after the peak takes what was freed since.
        """
        if not self.order:
            return self.outputs
        both = map(sum, zip(self.live, self.given, strict=True))
        return max(both) - max(self.live)

    @cached_property
    def left_out(self) -> int:
        """How many values have no size, those of bodies too."""
        inner = (plan for plans in self.nested.values() for plan in plans)
        return len(self.unknown) + sum(plan.left_out for plan in inner)

    @cached_property
    def live(self) -> tuple[int, ...]:
        """Live bytes of the arena at each step."""
        changes = [0] * (len(self.order) + 1)
        for place in self.placements:
            changes[place.buffer.lower] += place.buffer.size
            changes[place.buffer.upper] -= place.buffer.size
        found, total = [], 0
        for change in changes[:-1]:
            total += change
            found.append(total)
        return tuple(found)

    def at(self, step: int) -> list[Placement]:
        """What is live at a step, the largest first."""
        live = [p for p in self.placements if p.buffer.lower <= step < p.buffer.upper]
        return sorted(live, key=lambda place: -place.buffer.size)


def plan_memory(
    graph: Graph,
    binding: Mapping[str, Size] | None = None,
    *,
    space: Space | None = None,
    order: Sequence[Op] | None = None,
    reorder: bool = False,
    capacity: int | None = None,
    seconds: float = 10.0,
    effort: float = 1.0,
) -> MemoryPlan:
    """Offsets for all values of a graph, ops in the order given, else in the file's.

    With ``reorder`` they are in the best order that is found, bodies too; one that is
    given is then the first to beat. With a ``capacity`` any peak up to that will do;
    where more is live, the best greedy offsets are taken. Those of bodies are searched
    for whatever it is.

    ``binding`` gives symbolic dims their sizes, or ranges (least, greatest) for all of
    which the plan holds; values that stay without a size are listed as unknown. The
    searches end after ``seconds`` each, which only stops them early: then the peak may
    be larger. ``effort`` is the share of the usual steps that they take, by which what
    is found does not vary. Raises UsageError for an order that is none.
    """
    space = space or Space()
    refuse_sizes(binding or {})
    sizes = Sizes(binding or {}, space)
    steps = steps_of(graph, order)
    twin = twin_of(graph, sizes)
    if twin is not None:
        there = {ours: theirs for theirs, ours in twin.ops.items()}
        made = plan_memory(
            twin.graph,
            space=space,
            order=[there[op] for op in steps],
            reorder=reorder,
            capacity=capacity,
            seconds=seconds,
            effort=effort,
        )
        return _of_original(made, twin, sizes.binding)
    nested = _nested(steps, sizes, seconds, reorder, effort)
    need = {
        op: workspace(op, sizes, [plan.peak for plan in nested.get(op, ())])
        for op in steps
    }
    ordered: Schedule | None = None
    if reorder:
        steps, ordered = least_order(
            graph,
            sizes,
            need,
            seconds=seconds,
            steps=int(effort * STEPS),
            baselines=[steps],
        )
    lives = lives_of(graph, sizes, space, order=steps, workspace=need)
    buffers = {number: _buffer(number, b) for number, b in enumerate(lives.planned)}
    packing = pack(
        list(buffers.values()),
        capacity,
        seconds=seconds,
        steps=int(effort * NODES),
        alignment=max(1, space.alignment),
    )
    placements = [
        Placement(
            buffers[i], packing.offsets[i], block.kind, tuple(block.values), block.op
        )
        for i, block in enumerate(lives.planned)
    ]
    return MemoryPlan(
        order=steps,
        placements=tuple(placements),
        peak=packing.peak,
        lower_bound=packing.lower_bound,
        proof=packing.proof,
        space=space,
        binding=sizes.binding,
        inputs=lives.bytes_of(Kind.INPUT),
        outputs=0 if space.outputs else _outputs(graph, sizes),
        constants=sum(tensor.nbytes for tensor in graph.tensors()),
        given=_given(graph, sizes, lives),
        unknown=lives.unknown,
        nested=nested,
        method=packing.method,
        schedule=ordered,
    )


def repacked(
    plan: MemoryPlan,
    capacity: int | None = None,
    *,
    seconds: float = 10.0,
    effort: float = 1.0,
) -> MemoryPlan:
    """The plan with lower offsets, if any are found; its order and its bodies stay.

    With a ``capacity`` they are looked for where that may be kept to, and any peak up
    to it will do. ``seconds`` and ``effort`` are those of `plan_memory`.
    """
    least = plan.lower_bound
    if plan.peak <= max(least, capacity or 0) or least > (capacity or least):
        return plan
    packing = pack(
        [place.buffer for place in plan.placements],
        capacity,
        seconds=seconds,
        steps=int(effort * NODES),
        alignment=max(1, plan.space.alignment),
    )
    if packing.peak >= plan.peak:
        return plan
    return replace(
        plan,
        placements=tuple(
            [replace(p, offset=packing.offsets[p.buffer.id]) for p in plan.placements]
        ),
        peak=packing.peak,
        lower_bound=max(least, packing.lower_bound),
        proof=packing.proof,
        method=packing.method,
    )


def _of_original(
    plan: MemoryPlan, twin: Twin, binding: Mapping[str, Size]
) -> MemoryPlan:
    """The plan of a twin as one of the graph with symbols."""
    return replace(
        plan,
        order=tuple([twin.ops[op] for op in plan.order]),
        placements=tuple(
            [
                replace(
                    place,
                    values=tuple([twin.values[v] for v in place.values]),
                    op=None if place.op is None else twin.ops[place.op],
                )
                for place in plan.placements
            ]
        ),
        binding=binding,
        unknown=tuple([twin.values[v] for v in plan.unknown]),
        nested={
            twin.ops[op]: tuple([_of_original(each, twin, binding) for each in plans])
            for op, plans in plan.nested.items()
        },
        types={ours: theirs.type for theirs, ours in twin.values.items()},
    )


def refuse_sizes(binding: Mapping[str, Size]) -> None:
    """Raises UsageError for what is no size, nor a range of sizes."""
    for name, size in binding.items():
        least, greatest = size if isinstance(size, tuple) else (size, size)
        whole = isinstance(least, int) and isinstance(greatest, int)
        if not whole or not 0 <= least <= greatest:
            raise UsageError(f"{size!r} is no size of {name!r}, nor a range of sizes")


def _buffer(number: int, block: Block) -> Buffer:
    return Buffer(number, block.first, block.last + 1, block.size)


def _outputs(graph: Graph, sizes: Sizes) -> int:
    """Bytes that the caller gets; an output that is an input is a copy."""
    return sum(sizes.of(value) or 0 for value in graph.outputs)


def _given(graph: Graph, sizes: Sizes, lives: Lives) -> tuple[int, ...]:
    """The same by step: what is made late is there from its step on."""
    found = [0] * len(lives.order)
    if not found or sizes.space.outputs:
        return tuple(found)
    for value in graph.outputs:
        block = lives.block_of.get(value)
        late = sizes.space.late and block is not None and block.kind is Kind.OUTPUT
        found[block.first if late and block is not None else 0] += sizes.of(value) or 0
    return tuple(accumulate(found))


def _nested(
    steps: Sequence[Op], sizes: Sizes, seconds: float, reorder: bool, effort: float
) -> dict[Op, tuple[MemoryPlan, ...]]:
    """Plans of the bodies of each op that has any; their outputs are in their arena."""
    inner = replace(sizes.space, outputs=True)
    return {
        op: tuple(
            [
                plan_memory(
                    body,
                    sizes.binding,
                    space=inner,
                    reorder=reorder,
                    seconds=seconds,
                    effort=effort,
                )
                for body in op.bodies
            ]
        )
        for op in steps
        if op.bodies
    }
