"""Memory that a run may take, and what is done until it does.

The cheapest comes first. An order costs nothing; sums of partial products cost
additions; copies of cheap values cost few operations; tiles cost calls, and what is
computed twice at their borders. Each step says what it saved, and what it costs.
XLA keeps neither an order nor offsets: there its compiler says what a program takes,
its kernels take more on a CPU, and tiles become finer until both fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from .debug import timed
from .fitted import FAR, SECONDS, Counter, DoesNotFit, Fitted, Limits
from .fitting import fitting
from .ir import Graph
from .lowering import temporaries
from .lowering.ort.tiling import TileCausal
from .lowering.xla.platforms import PLATFORMS
from .opened import opened
from .ops.schema import LATEST
from .passes.memory import SPACES, plan_memory, recomputed, summed
from .passes.memory.biases import biases_apart, is_biased
from .passes.tiling import Flash, Tile
from .passes.tiling.strips import lapping
from .passes.tiling.written import written_out
from .pipeline import Pipeline
from .plan import LAYOUTS, LIBRARY, REUSE, Plan
from .report import sized

TRIES: Final = 6
"""How often tiles are made again where a plan shows that they were too large."""

FINER: Final = 0.75
"""The share of what was asked of tiles that is asked next, where that came to nothing:
what kernels take for themselves is not seen before they are chosen."""


def counter_of(target: str, precision: str | None) -> Counter | None:
    """What asks a target; None where nothing counts there."""

    def compiling(graph: Graph, sizes: Mapping[str, int], plan: Plan) -> int:
        library = str(plan.whole.get(LIBRARY, "single"))
        with timed(f"compiling for {target}"):
            return temporaries(graph, target, sizes, precision, library)

    ran: dict[object, Sequence[int]] = {}

    def running(graph: Graph, sizes: Mapping[str, int], plan: Plan) -> int:
        from .lowering.ort.executed import arena_of  # only for that runtime

        layouts = bool(plan.whole.get(LAYOUTS, True))
        reuse = bool(plan.whole.get(REUSE, False))
        key = graph, plan.order, layouts
        if key not in ran:
            with timed(f"running once in {target}"):
                ran[key] = arena_of(graph, sizes, plan.order, layouts=layouts)
        return ran[key][reuse]

    if target in PLATFORMS:
        return compiling
    return running if target == "ort-cpu" else None


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

    def found(limits: Limits) -> Fitted:
        return _fitted(limits, graph, original, target, remade, counter, rounding)

    best = found(limits)
    if not best.fits:
        raise _refusal(best if target in PLATFORMS else _that_does(best, found))
    return best.with_library(counter)


def _fitted(
    limits: Limits,
    graph: Graph,
    original: Graph,
    target: str,
    remade: Callable[[Tile], Graph],
    counter: Counter | None,
    rounding: bool,
) -> Fitted:
    sizes, space = fitting(original, limits.sizes)[0], SPACES[target]
    plan = plan_memory(graph, sizes, space=space, seconds=SECONDS)
    best = opened(Fitted(graph, plan, limits, target=target), counter)
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
        if target not in PLATFORMS and not cut.fits:
            cut = _with_copies(_with_biases_apart(cut))
        return opened(cut, counter)

    if best.fits:
        return best
    ordered = best.improved("another order of the ops", graph, None)
    if target in PLATFORMS:  # whose compilers choose an order themselves
        ordered = replace(ordered, savings=())
    if best.counted is None:  # which hangs on no order
        ordered = opened(ordered, counter)
        better(ordered)
    wanted = limits.left(ordered.plan)
    known = tuple(sorted(sizes.items()))
    if not best.fits and rounding:
        better(opened(_with_sums(ordered, wanted), counter))
    if not best.fits and not target.startswith("xla"):  # which merges equal ops
        better(opened(_with_copies(_with_biases_apart(best)), counter))
    last = ordered
    for _ in range(TRIES):
        if best.fits:
            return best
        if wanted < 1:
            break
        cut = tiled(Tile(wanted, sizes=known))
        better(cut)
        less = cut.needed < last.needed
        if not less and cut.needed > FAR * wanted:
            break  # it wants more than tiles can do
        share = limits.left(cut.plan) / max(1, cut.needed) if less else FINER
        wanted, last = min(int(wanted * share), wanted - 1), cut if less else last
    if not best.fits:
        better(tiled(Tile(1, sizes=known)))
    if not best.fits:  # tiles for this limit may not be found for another
        sure = [each for each in found if each.tile is None or each.tile.budget == 1]
        best = min(sure, key=lambda each: each.needed)
    return best


def _with_biases_apart(best: Fitted) -> Fitted:
    """With an op more where an activation and its bias are over the limit."""
    plan, left = best.plan, best.limits.left(best.plan)
    live = zip(plan.order, plan.live, strict=True)
    over = {op for op, size in live if size > left and is_biased(op)}
    if not over:
        return best
    made, order = biases_apart(best.graph, plan.order, over)
    other = best.improved("biases apart", made, best.tile, order, best.lapping)
    return other if other.plan.peak <= plan.peak else best


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


def _with_copies(best: Fitted) -> Fitted:
    """With cheap values made again where that takes less, else as it is."""
    plan, left = best.plan, max(0, best.limits.left(best.plan))
    made = recomputed(
        best.graph, plan.binding, left, space=plan.space, order=plan.order
    )
    if made.graph is best.graph:
        return best
    what = "cheap values made again"
    other = best.improved(what, made.graph, best.tile, made.order, best.lapping)
    return other if other.plan.peak < plan.peak else best


def _that_does(best: Fitted, found: Callable[[Limits], Fitted]) -> Fitted:
    """A plan that is found where the limit is what it takes, or nearly the best's.

    Runs are asked of plans that fit alone, and sums and copies are as many as a limit
    asks for: what was found for one limit is not always found for another.
    """
    limits = best.limits
    for _ in range(TRIES):
        whole = best.resident + best.needed - best.activations
        asked = Limits(
            None if limits.memory is None else max(whole, limits.memory),
            None
            if limits.activations is None
            else max(best.needed, limits.activations),
            limits.sizes,
        )
        other = found(asked)
        if other.fits:
            break
        best = other
    return replace(best, limits=limits)


def _refusal(best: Fitted) -> DoesNotFit:
    limits, lost = best.limits, best.needed - best.activations
    what = "plan" if best.counted is None else "program"
    between = (
        f", {sized(lost)} of it between the pieces of ONNX Runtime's arena,"
        if lost
        else ","
    )
    whole, parts = best.resident + lost, []
    if limits.memory is not None and whole > limits.memory:
        parts.append(
            f"the smallest {what} found takes {sized(whole)} with weights,"
            f" inputs and outputs{between} over the {sized(limits.memory)} that it may:"
            f" --max-memory {whole} would do"
        )
    if limits.activations is not None and best.needed > limits.activations:
        parts.append(
            f"the smallest {what} found takes {sized(best.needed)} for"
            f" activations{between} over the {sized(limits.activations)} that they may:"
            f" --max-activations {best.needed} would do"
        )
    sizes = {n.removeprefix("?"): s for n, s in best.sizes.items()}
    at = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    return DoesNotFit(f"{f'with {at}, ' if at else ''}{'; '.join(parts)}", sizes=sizes)


def with_tiles(pipeline: Pipeline, tile: Tile, target: str) -> Pipeline:
    """The pipeline with tiles between what improves a graph and what lowers it.

    Causal attention is in parts by then: those save work, too. Where a loop over blocks
    costs nothing, attention keeps no scores at all.
    """
    then = pipeline.then
    if then is not None and {p.name for p in then.passes} == {TileCausal.name}:
        parted = replace(then, passes=(TileCausal(sizes=tile.sizes),))
        return replace(pipeline, then=with_tiles(parted, tile, target))
    tile = replace(tile, target=target)
    if target not in PLATFORMS:
        return replace(pipeline, then=Pipeline((tile,), rounds=1, then=then))
    made = Pipeline((Flash(target=target), tile), rounds=1, then=then)
    return replace(pipeline, then=made, opset=LATEST)
