"""Memory that a run may take, and what is done until it does.

The cheapest comes first. An order costs nothing; sums of partial products cost
additions; copies of cheap values cost few operations; tiles cost calls, and what is
computed twice at their borders. Each step says what it saved, and what it costs.
XLA keeps neither an order nor offsets: there its compiler says what a program takes,
and tiles become finer until that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from .cost import cost
from .debug import timed
from .errors import GraphoptError, UsageError
from .exporter import source_order
from .fitting import fitting
from .ir import Graph, Op, Value, rebuild
from .lowering import temporaries
from .lowering.ort.allocation import Facts, inside, predicted
from .lowering.ort.tiling import TileCausal
from .lowering.xla.platforms import PLATFORMS
from .ops import Strips, Tiled
from .ops.schema import LATEST
from .ops.tiled import WRITTEN_OUT
from .passes.memory import SPACES, MemoryPlan, plan_memory, recomputed, summed
from .passes.tiling import Flash, Tile
from .passes.tiling.strips import lapping
from .pipeline import Pipeline
from .report import sized, table

TRIES: Final = 4
"""How often tiles are made again where a plan shows that they were too large."""

FAR: Final = 2
"""A program is not compiled whose plan takes so many times the limit: of 14 models the
compiler of XLA took 0.7 to 2.4 times what was planned."""

Counter: TypeAlias = Callable[[Graph, Mapping[str, int]], int]
"""Bytes that a compiler takes for what a graph computes, at these sizes of dims; raises
GraphoptError where it cannot be asked."""

SECONDS: Final = 10.0
"""For the search for one order, and for the offsets of one plan."""


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
    """One step: bytes of the arena before and after, floating-point operations more."""

    what: str
    before: int
    after: int
    flops: int


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
    """Bytes of activations by the target's compiler; None where it was not asked."""
    uncounted: str = ""
    """Why it could not be asked."""

    @property
    def activations(self) -> int:
        """Bytes of activations: as the compiler counts them, else as planned."""
        return self.plan.peak if self.counted is None else self.counted

    @property
    def resident(self) -> int:
        """The same with weights, inputs and outputs."""
        return self.plan.resident - self.plan.peak + self.activations

    @cached_property
    def arena(self) -> int | None:
        """Bytes that ONNX Runtime's arena takes, outputs apart; None where not known.

        Buffers are not reused, as its recipe says; what lies between pieces is lost.
        """
        if self.target != "ort-cpu":
            return None
        plan, known = self.plan, Facts.of(_numbers(self.plan.binding))
        work = {op: place.buffer.size for op, place in plan.workspace_of.items()}

        def own(op: Op) -> int:  # what bodies take is counted beside it
            return max(0, work.get(op, 0) - inside(op, known))

        facts = replace(known, workspace=own)
        found = predicted(self.graph, plan.order, facts=facts, reuse=False)
        return None if found is None else max(0, found.block - plan.outputs)

    @property
    def needed(self) -> int:
        """Bytes of activations, with what is lost between pieces of an arena."""
        return max(self.activations, self.arena or 0)

    @property
    def fits(self) -> bool:
        return self.needed <= self.limits.left(self.plan)

    def compiled(self, counter: Counter | None) -> Fitted:
        """The same with what the compiler counts, unless the plan is far too large."""
        if counter is None or self.plan.peak > FAR * self.limits.left(self.plan):
            return self
        sizes = _numbers(self.plan.binding)
        try:
            return replace(self, counted=counter(self.graph, sizes))
        except GraphoptError as error:
            return replace(self, uncounted=error.message)

    def improved(
        self,
        what: str,
        graph: Graph,
        tile: Tile | None,
        order: Sequence[Op] | None = None,
        lapping: Mapping[str, int] = MappingProxyType({}),
    ) -> Fitted:
        """Another graph in its best order, what that saves and what it costs.

        ``order`` is one that is known to be good.
        """
        old = self.plan
        plan = plan_memory(
            graph,
            old.binding,
            space=old.space,
            order=order,
            reorder=True,
            seconds=SECONDS,
        )
        if graph is self.graph and plan.peak > old.peak:
            plan = old
        flops = [cost(g, _numbers(old.binding)).flops for g in (self.graph, graph)]
        more = [f for f in flops if isinstance(f, int)]
        saving = Saving(
            what, old.peak, plan.peak, more[1] - more[0] if len(more) == 2 else 0
        )
        savings = (*self.savings, saving)
        return Fitted(graph, plan, self.limits, savings, tile, self.target, lapping)

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
            "without_size": len(plan.unknown),
            "sizes": dict(plan.binding),
            "steps": [vars(saving).copy() for saving in self.savings],
        }

    def lines(self) -> Iterator[str]:
        """What people read."""
        plan = self.plan
        at = ", ".join(f"{name} = {size}" for name, size in plan.binding.items())
        yield (
            f"memory{f' with {at}' if at else ''}: {sized(self.resident)} resident, of"
            f" which {sized(self.activations)} activations"
        )
        if self.counted is not None:
            yield f"  as the compiler counts them; the plan takes {sized(plan.peak)}"
        elif self.uncounted:
            yield f"  as planned; the compiler was not asked: {self.uncounted}"
        rows = [
            (
                f"  {s.what}",
                sized(s.before),
                "-->",
                sized(s.after),
                _flops(s.flops),
            )
            for s in self.savings
            if s.after != s.before
        ]
        if rows:
            yield from table(rows)
        if self.needed > max(self.activations, self.limits.left(plan)):
            yield (
                f"  ONNX Runtime's arena is foreseen to take {sized(self.needed)}, as"
                " room between its pieces is lost"
            )
        if plan.unknown:
            yield (
                f"  not counted: {len(plan.unknown)} values whose size is not known"
                " before a run"
            )


def counter_of(target: str, precision: str | None) -> Counter | None:
    """What asks the compiler of a target; None where it has none that counts."""

    def counter(graph: Graph, sizes: Mapping[str, int]) -> int:
        with timed(f"compiling for {target}"):
            return temporaries(graph, target, sizes, precision)

    return counter if target in PLATFORMS else None


def fitted_to(
    limits: Limits,
    graph: Graph,
    original: Graph,
    target: str,
    remade: Callable[[Tile], Graph],
    counter: Counter | None = None,
    *,
    rounding: bool = True,
) -> Fitted:
    """The graph with a plan that keeps to the limits, the cheapest that is found.

    Symbolic dims have sizes that are usual and that the ``original`` takes, but those
    of the limits; ``remade`` makes the graph again with a pass that tiles. Where a
    compiler has the last word, ``counter`` asks it. Without ``rounding`` sums stay as
    they are. Raises DoesNotFit, which says what the smallest plan takes.
    """
    sizes, space = fitting(original, limits.sizes)[0], SPACES[target]
    plan = plan_memory(graph, sizes, space=space, seconds=SECONDS)
    best = Fitted(graph, plan, limits, target=target).compiled(counter)
    found = [best]

    def better(other: Fitted) -> bool:
        """True for what takes less than the best, which it is then."""
        nonlocal best
        found.append(other)
        less = other.needed < best.needed
        best = other if less else best
        return less

    def tiled(tile: Tile) -> Fitted:
        made, order = remade(tile), None
        several = lapping(made)
        if target not in PLATFORMS:
            made, order = written_out(made)
        cut = ordered.improved("tiles", made, tile, order, several)
        return cut.compiled(counter)

    if best.fits:
        return best
    ordered = best.improved("another order of the ops", graph, None)
    if best.counted is None:  # which hangs on no order
        ordered = ordered.compiled(counter)
        better(ordered)
    wanted = limits.left(ordered.plan)
    known = tuple(sorted(sizes.items()))
    if not best.fits and rounding:
        better(_with_sums(ordered, wanted).compiled(counter))
    if not best.fits and not target.startswith("xla"):  # which merges equal ops
        better(_with_copies(best, wanted))
    last = ordered
    for _ in range(TRIES):
        if best.fits:
            return best
        cut = tiled(Tile(wanted, sizes=known)) if wanted >= 1 else last
        better(cut)
        if cut.needed >= last.needed:
            break
        share = limits.left(cut.plan) / max(1, cut.needed)
        wanted, last = min(int(wanted * share), wanted - 1), cut
    if not best.fits:
        better(tiled(Tile(1, sizes=known)))
    if not best.fits:  # but for what lies between the pieces of an arena
        kept = [each for each in found if each.activations <= limits.left(each.plan)]
        if not kept:
            raise _refusal(min(found, key=lambda each: each.activations))
        best = min(kept, key=lambda each: each.needed)
    return best


def written_out(graph: Graph) -> tuple[Graph, list[Op]]:
    """The graph with its tiles as ops of their own, as ONNX has them, and their order.

    So a plan sees all of them, and the order is one of these ops: tile after tile.
    """
    order = source_order(graph)
    while any(isinstance(op, Tiled | Strips) for op in graph.ops):
        made: dict[Op, list[Sequence[Value]]] = {}

        def build(op: Op, operands: tuple[Value | None, ...]) -> Op | Sequence[Value]:
            new = op.with_operands(operands)
            turns, results = [], new.results
            if isinstance(new, Tiled) and new.count <= WRITTEN_OUT:
                turns = new.turns()
                results = new.joined(turns)
            elif isinstance(new, Tiled | Strips):
                results = new.body()
            made[op] = [*turns, results]  # noqa: B023
            return results

        graph = rebuild(graph, build)
        order = _in_turn([values for op in order for values in made[op]], graph)
    return graph, order


def _in_turn(values: Iterable[Sequence[Value]], graph: Graph) -> list[Op]:
    """The ops of a graph, those that some values need before those of later ones."""
    left, order = set(graph.ops), list[Op]()
    for some in values:
        pending = [(v.op, False) for v in reversed(some)]
        while pending:
            op, ready = pending.pop()
            if op is None or op not in left:
                continue
            if ready:
                left.discard(op)
                order.append(op)
                continue
            pending.append((op, True))
            pending += [(v.op, False) for v in reversed(op.operands) if v is not None]
    return order


def _with_sums(best: Fitted, wanted: int) -> Fitted:
    """With sums of partial products where that takes less, else as it is."""
    plan = best.plan
    made = summed(
        best.graph,
        plan.binding,
        wanted,
        space=plan.space,
        onto=best.target == "ort-cpu",
        seconds=SECONDS,
    )
    if made.graph is best.graph:
        return best
    other = best.improved("sums of partial products", made.graph, None, made.order)
    return other if other.plan.peak < plan.peak else best


def _with_copies(best: Fitted, wanted: int) -> Fitted:
    """With cheap values made again where that takes less, else as it is."""
    plan = best.plan
    made = recomputed(
        best.graph, plan.binding, wanted, space=plan.space, order=plan.order
    )
    if made.graph is best.graph:
        return best
    other = best.improved("cheap values made again", made.graph, None, made.order)
    return other if other.plan.peak < plan.peak else best


def _refusal(best: Fitted) -> DoesNotFit:
    plan, limits = best.plan, best.limits
    what = "plan" if best.counted is None else "program"
    parts = []
    if limits.memory is not None and best.resident > limits.memory:
        parts.append(
            f"the smallest {what} found takes {sized(best.resident)} with weights,"
            f" inputs and outputs, over the {sized(limits.memory)} that it may:"
            f" --max-memory {best.resident} would do"
        )
    if limits.activations is not None and best.activations > limits.activations:
        parts.append(
            f"the smallest {what} found takes {sized(best.activations)} for"
            f" activations, over the {sized(limits.activations)} that they may:"
            f" --max-activations {best.activations} would do"
        )
    sizes = {n.removeprefix("?"): s for n, s in _numbers(plan.binding).items()}
    at = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    return DoesNotFit(f"{f'with {at}, ' if at else ''}{'; '.join(parts)}", sizes=sizes)


def with_tiles(pipeline: Pipeline, tile: Tile, target: str) -> Pipeline:
    """The pipeline with tiles between what improves a graph and what lowers it.

    Causal attention is in parts by then: those save work, too. Where a loop over blocks
    costs nothing, attention keeps no scores at all.
    """
    then = pipeline.then
    if then is not None and {p.name for p in then.passes} == {TileCausal.name}:
        return replace(pipeline, then=with_tiles(then, tile, target))
    tile = replace(tile, target=target)
    if target not in PLATFORMS:
        return replace(pipeline, then=Pipeline((tile,), rounds=1, then=then))
    made = Pipeline((Flash(target=target), tile), rounds=1, then=then)
    return replace(pipeline, then=made, opset=LATEST)


def parse_size(text: str) -> int:
    """Bytes, as people write them: ``512MiB``, ``64 kB``, ``1.5GB``, ``1000``.

    Raises UsageError.
    """
    stripped = text.strip()
    number = stripped.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = stripped[len(number) :].strip().lower()
    try:
        size = float(number) * _UNITS[unit]
        if 0 < size < 2**63:
            return int(size)
    except (KeyError, ValueError):
        pass
    raise UsageError(f"{text!r} is no size; write 512MiB, 64kB, 1.5GB or bytes")


_UNITS: Final = {
    **{"": 1, "b": 1},
    **{f"{letter}ib": 1024 ** (i + 1) for i, letter in enumerate("kmgt")},
    **{f"{letter}b": 1000 ** (i + 1) for i, letter in enumerate("kmgt")},
}


def _numbers(binding: Mapping[str, Any]) -> dict[str, int]:
    return {name: size for name, size in binding.items() if isinstance(size, int)}


def _flops(more: int) -> str:
    return f"{more:+,} operations" if more else "no operation more"
