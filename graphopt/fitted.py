"""Limits of memory, and a graph that keeps to them: its plan, and what that cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from .byte_sizes import parse_size
from .cost import graph_flops
from .dim_names import said, shown
from .errors import GraphoptError, UsageError
from .ir import Graph, Op
from .lowering.ort.advice import has_convolutions
from .lowering.ort.allocation import Facts, events, inside, rounding
from .lowering.ort.arena import BY_REQUEST, IN_ONE_BLOCK, Growth
from .lowering.xla.platforms import PLATFORMS
from .memory_words import without_size
from .passes.memory import MemoryPlan, plan_memory, repacked
from .passes.tiling import Tile
from .plan import LAYOUTS, LIBRARY, MEMORY, REUSE, Plan
from .report import sized, table

FAR: Final = 2
"""A program is not compiled whose plan takes so many times the limit: of 14 models the
compiler of XLA took 0.7 to 2.4 times what was planned."""

ARENAS: Final = {"ort-cpu": IN_ONE_BLOCK, "ort-cuda": BY_REQUEST}
"""The targets whose activations lie in an arena. On a CPU what is not touched takes
nothing; a GPU's is held, so that there it grows by what is asked for."""

Counter: TypeAlias = Callable[[Graph, Mapping[str, int], Plan], int]
"""Bytes that a runtime takes for what a graph computes, at these sizes of dims and as
decided: XLA's compiler for activations, ONNX Runtime for its arena. Raises
GraphoptError where it cannot be asked."""

SECONDS: Final = 60.0
"""For the search for one order, and for the offsets of one plan; steps end it before,
unless others use the machine, too, so that what is found does not vary."""

AGAIN: Final = 1 / 3
"""The share of the steps where a good order is known, as that of tiles, which come in
turn."""

HOPELESS: Final = 1.1
"""So many times a limit: of six models no order had an arena smaller by a tenth."""


class DoesNotFit(GraphoptError):
    """No plan was found that keeps to the limits; says what the smallest one takes.

    ``sizes`` are those of symbolic dims that it was made for.
    """

    exit_code = 6

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message, where=where)
        self.details = {} if sizes is None else {"sizes": dict(sizes)}


@dataclass(frozen=True)
class Limits:
    """Bytes that a run may take at its peak.

    ``memory`` is all that is resident: weights, inputs, outputs, activations.
    ``activations`` are what the graph computes and does not give out, alone. ``sizes``
    are those of symbolic dims that it is planned for; others have usual ones.
    """

    memory: int | None = None
    activations: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.memory is None and self.activations is None:
            raise UsageError("limits of memory need one: memory or activations")
        for size in (self.memory, self.activations):
            if size is not None and size <= 0:
                raise UsageError(f"{size} bytes are no limit of memory")

    @classmethod
    def of(
        cls,
        memory: int | str | None,
        activations: int | str | None,
        sizes: Mapping[str, int] | None = None,
    ) -> Limits:
        """Bytes, as numbers or in words. Raises UsageError."""
        if isinstance(memory, str):
            memory = parse_size(memory)
        if isinstance(activations, str):
            activations = parse_size(activations)
        return cls(memory, activations, dict(sizes or {}))

    def left(self, plan: MemoryPlan) -> int:
        """Bytes that the arena may take."""
        found = [] if self.activations is None else [self.activations]
        if self.memory is not None:
            found.append(self.memory - (plan.resident - plan.peak))
        return min(found)


@dataclass(frozen=True)
class Saving:
    """One step: bytes of the arena before and after, operations and ops more.

    Operations are of floating-point numbers; ops are nodes that a runtime calls.
    """

    what: str
    before: int
    after: int
    flops: int
    ops: int = 0


@dataclass(frozen=True)
class Fitted:
    """A graph that keeps to limits, by this plan, at the sizes of the plan."""

    graph: Graph
    plan: MemoryPlan
    limits: Limits
    savings: tuple[Saving, ...] = ()
    tile: Tile | None = None
    """What made the tiles; None where there are none."""
    target: str = ""
    lapping: Mapping[str, int] = field(default_factory=dict)
    """Sizes at which strips are several, and the last lies over another."""
    counted: int | None = None
    """Bytes of activations by the target's compiler, with what kernels take; None where
    it was not asked."""
    executed: int | None = None
    """Bytes of ONNX Runtime's arena, outputs in it, where a run was asked."""
    layouts: bool = True
    """Whether ONNX Runtime lays out convolutions anew, where there are any."""
    reuse: bool = False
    """Whether it gives buffers to values of their own shape."""
    opening: tuple[Saving, ...] = ()
    """What is done so that its arena loses less; not for another graph."""
    uncounted: str = ""
    """Why it could not be asked."""
    library: str = ""
    """How XLA's library runs the ops of the program."""
    rough: bool = False
    """Whether offsets are only the best greedy ones, to be lowered where it matters."""
    packings: dict[object, MemoryPlan] = field(
        default_factory=dict, repr=False, compare=False
    )
    """Plans with lower offsets, once these were looked for."""
    blocks: dict[object, int | None] = field(
        default_factory=dict, repr=False, compare=False
    )
    """What ONNX Runtime's arena is foreseen to take, once it was found out."""

    @property
    def sizes(self) -> dict[str, int]:
        """Those of the symbolic dims that it is planned for."""
        binding = self.plan.binding
        return {name: size for name, size in binding.items() if isinstance(size, int)}

    @property
    def activations(self) -> int:
        """Bytes of activations: as the compiler counts them, else as planned.

        In ONNX Runtime its arena counts, with what is lost between pieces.
        """
        return (
            max(self.plan.peak, self.arena or 0)
            if self.counted is None
            else self.counted
        )

    @property
    def lost(self) -> str:
        """What an arena takes beside what is planned, in words."""
        if self.counted is not None or self.activations == self.plan.peak:
            return ""
        what = "between pieces of ONNX Runtime's arena"
        if self.executed is not None:
            what = "for layouts and kernels of ONNX Runtime, and between its pieces"
            if self.plan.unknown:
                what = f"for values whose size only a run tells, {what}"
        elif self.growth is BY_REQUEST:
            what = "between blocks of ONNX Runtime's arena, and in their pieces"
        return f"{sized(self.activations - self.plan.peak)} of it {what}"

    @property
    def is_partial(self) -> bool:
        """True where what is said to be taken leaves out values without a size."""
        run = self.executed is not None and self.plan.left_out == len(self.plan.unknown)
        return bool(self.plan.left_out) and not run and self.counted is None

    @property
    def beside(self) -> int:
        """Bytes of weights, inputs, and outputs as they are made."""
        return self.plan.resident - self.plan.peak

    @property
    def resident(self) -> int:
        """All bytes: activations, and what is `beside` them."""
        return self.beside + self.activations

    @cached_property
    def arena(self) -> int | None:
        """Bytes that ONNX Runtime's arena takes, less what outputs add to the most.

        Outputs lie in it, too; on a GPU weights and inputs, of which only what they are
        rounded up by counts here. What lies between pieces is lost. None where it is
        not known.
        """
        size = self.executed
        if size is None and self.growth is not None:
            key = self.graph, self.plan.order, self.reuse
            if key not in self.blocks:
                found = events(self.graph, self.plan.order, self.facts, self.reuse)
                least = None if found is None else self.growth.least(found)
                if least is not None and self.growth is BY_REQUEST:
                    least += rounding(self.graph, self.facts)
                self.blocks[key] = least
            size = self.blocks[key]
        return None if size is None else max(0, size - self.plan.beside)

    @property
    def growth(self) -> Growth | None:
        """How the target's arena comes by its bytes; None where there is none."""
        return ARENAS.get(self.target)

    @property
    def facts(self) -> Facts:
        """What ONNX Runtime's arena is foreseen by."""
        known = Facts.of(self.sizes, self.plan.types)
        work = {op: p.buffer.size for op, p in self.plan.workspace_of.items()}

        def own(op: Op) -> int:  # what bodies take is counted beside it
            return max(0, work.get(op, 0) - inside(op, known))

        return replace(known, workspace=own)

    @property
    def allowed(self) -> int:
        """Bytes that a run may take, with weights, inputs and outputs."""
        return self.limits.left(self.plan) + self.beside

    @property
    def fits(self) -> bool:
        return self.activations <= self.limits.left(self.plan)

    def within(self) -> Fitted:
        """With offsets that keep to the limit, where they alone are in the way.

        Of most plans of a search more is live than they may take, or their arena takes
        more: no offsets help there.
        """
        left = self.limits.left(self.plan)
        if not self._may_take(left):
            return self
        arenas = (replace(self, reuse=reuse).arena or 0 for reuse in (False, True))
        return self if min(arenas) > HOPELESS * left else self.packed_to(left)

    def packed_to(self, most: int) -> Fitted:
        """With offsets that take at most so many bytes, if there may be and are any."""
        return self._repacked(most) if self._may_take(most) else self

    def _may_take(self, most: int) -> bool:
        """Whether lower offsets, not looked for yet, may bring it to so many bytes."""
        return self.rough and self.plan.lower_bound <= most < self.plan.peak

    def lowered(self) -> Fitted:
        """The same where it takes less then; a larger arena takes its own bytes."""
        return self if self.plan.peak <= (self.arena or 0) else self.packed()

    def packed(self) -> Fitted:
        """With offsets as low as are found."""
        return replace(self._repacked(None), rough=False) if self.rough else self

    def _repacked(self, capacity: int | None) -> Fitted:
        key = self.plan.order, self.plan.peak, capacity
        if key not in self.packings:
            self.packings[key] = repacked(
                self.plan, capacity, seconds=SECONDS, effort=AGAIN
            )
        plan = self.packings[key]
        *before, last = self.savings
        return replace(
            self, plan=plan, savings=(*before, replace(last, after=plan.peak))
        )

    def compiled(self, counter: Counter | None) -> Fitted:
        """The same with what the compiler counts, unless the plan is far too large.

        ONNX Runtime counts otherwise (`opened`).
        """
        plan = self.plan
        if counter is None or self.target not in PLATFORMS:
            return self
        if plan.peak > FAR * self.limits.left(plan):
            return self
        try:
            found = counter(self.graph, self.sizes, self.decided)
        except GraphoptError as error:
            return replace(self, uncounted=error.message)
        return replace(self, counted=found)

    def with_library(self, counter: Counter | None) -> Fitted:
        """The same with joined ops, which run faster, where these keep to the limit.

        It is found with single ones, of which the compiler counts nearly all.
        """
        if counter is None or self.target not in PLATFORMS:
            return self
        single, joined = (
            replace(self, library=library) for library in ("single", "joined")
        )
        if self.counted is None:
            return single
        try:
            found = counter(self.graph, self.sizes, joined.decided)
        except GraphoptError:  # what is known to compile stays
            return single
        if found > self.limits.left(self.plan):
            return single
        return replace(joined, counted=found)

    @property
    def decided(self) -> Plan:
        """What goes with the graph: the order, and how a runtime runs its ops."""
        whole: dict[str, Any] = {LIBRARY: self.library} if self.library else {}
        whole |= {} if self.layouts else {LAYOUTS: False}
        whole |= {REUSE: True} if self.reuse else {}
        if self.growth is BY_REQUEST:
            whole[MEMORY] = self.allowed
        return Plan(order=self.plan.order, whole=whole)

    def improved(
        self,
        what: str,
        graph: Graph,
        tile: Tile | None,
        order: Sequence[Op] | None = None,
        lapping: Mapping[str, int] = MappingProxyType({}),
    ) -> Fitted:
        """Another graph in its best order, what that saves and what it costs.

        ``order`` is one that is known to be good; offsets of tiles are `rough` then.
        """
        old, rough = self.plan, order is not None and tile is not None
        plan = plan_memory(
            graph,
            old.binding,
            space=old.space,
            order=order,
            reorder=True,
            capacity=0 if rough else None,
            seconds=SECONDS,
            effort=1.0 if order is None else AGAIN,
        )
        if graph is self.graph and plan.peak > old.peak:
            plan = old
        flops = [graph_flops(g, self.sizes) for g in (self.graph, graph)]
        more = [f for f in flops if isinstance(f, int)]
        saving = Saving(
            what,
            old.peak,
            plan.peak,
            more[1] - more[0] if len(more) == 2 else 0,
            len(plan.order) - len(old.order),
        )
        savings = (*self.savings, saving)
        return Fitted(
            *(graph, plan, self.limits, savings, tile, self.target, lapping),
            rough=rough,
        )

    @property
    def ops(self) -> int:
        """How many a run starts."""
        return len(self.plan.order)

    @property
    def ops_before(self) -> int:
        """The same before all steps."""
        return self.ops - sum(saving.ops for saving in self.savings)

    def to_json(self) -> dict[str, Any]:
        """As a part of a report; all sizes in bytes."""
        plan, limits = self.plan, self.limits
        return {
            "limit_bytes": limits.memory,
            "activation_limit_bytes": limits.activations,
            "resident_bytes": self.resident,
            "activation_bytes": self.activations,
            "planned_bytes": plan.peak,
            "compiled_bytes": self.counted,
            "arena_bytes": self.arena,
            "lower_bound_bytes": plan.lower_bound,
            "constant_bytes": plan.constants,
            "input_bytes": plan.inputs,
            "output_bytes": plan.outputs,
            "output_bytes_at_peak": plan.beside,
            "without_size": plan.left_out,
            "sizes": {shown(name): size for name, size in plan.binding.items()},
            "ops": self.ops,
            "ops_before": self.ops_before,
            "steps": [vars(s).copy() for s in (*self.savings, *self.opening)],
        }

    def lines(self) -> Iterator[str]:
        """What people read."""
        plan = self.plan
        at = said(plan.binding)
        yield (
            f"memory{f' with {at}' if at else ''}: {'at least ' * self.is_partial}"
            f"{sized(self.resident)} resident, of which {sized(self.activations)}"
            " activations"
        )
        if plan.left_out:
            who = "this" if self.is_partial else "the plan"
            said_of = without_size(plan, self.graph, counted=not self.is_partial)
            yield f"  {who} leaves out {said_of}"
        if self.counted is not None:
            yield (
                "  as the compiler counts them, with what kernels take; the plan takes"
                f" {sized(plan.peak)}"
            )
        elif self.uncounted:
            who = "compiler" if self.target in PLATFORMS else "runtime"
            yield f"  as planned; the {who} was not asked: {self.uncounted}"
        elif self.lost:
            yield f"  {self.lost}; the plan takes {sized(plan.peak)}"
        elif self.target == "onnx":
            yield (
                "  in the order of the file, which ONNX Runtime keeps for --target"
                " ort-cpu; by itself it may take more"
            )
        rows = [
            (
                f"  {s.what}",
                sized(s.before),
                "-->",
                sized(s.after),
                _flops(s.flops),
                f"{s.ops:+,} ops" if s.ops else "",
            )
            for s in (*self.savings, *self.opening)
            if sized(s.after) != sized(s.before)
        ]
        if rows:
            yield "  planned activations, of the optimized model and after each step:"
            yield from table(rows)
        if self.ops_before != self.ops:
            yield (
                f"  {self.ops_before:,} ops before these steps, {self.ops:,} after:"
                " each call of one costs time, too"
            )
        if self.growth is BY_REQUEST:
            yield (
                f"  its recipe holds the GPU's arena to {sized(self.allowed)}, weights"
                " and inputs in it: a run that takes more fails"
                + (", as may one with larger dims" if self.sizes else "")
            )
            if has_convolutions(self.graph):
                yield (
                    "  what cuDNN works in comes on top and is not foreseen: leave room"
                    " for it"
                )


def _flops(more: int) -> str:
    return f"{more:+,} operations" if more else "no operation more"
