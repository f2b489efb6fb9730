"""What is done for a limit of memory, step by step, and the smallest plan of all.

The cheapest comes first. An order costs nothing; sums of partial products cost
additions; copies of cheap values cost few operations; tiles cost calls, and what is
computed twice at their borders. Each step says what it saved, and what it costs.
XLA keeps neither an order nor offsets: there its compiler says what a program takes,
its kernels take more on a CPU, and tiles become finer until both fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from .fitted import FAR, SECONDS, Counter, Fitted, Limits
from .ir import Graph, Op
from .lowering.ort.advice import runs_otherwise
from .lowering.xla.platforms import PLATFORMS
from .opened import opened
from .passes.memory import SPACES, plan_memory, recomputed, summed
from .passes.memory.biases import biases_apart, is_biased
from .passes.memory.order import most_held
from .passes.memory.sizes import Sizes
from .passes.tiling import Tile
from .passes.tiling.strips import lapping
from .passes.tiling.written import written_out

TRIES: Final = 6
"""How often tiles are made again where a plan shows that they were too large."""

FINER: Final = 0.75
"""The share of what was asked of tiles that is asked next, where that came to nothing:
what kernels take for themselves is not seen before they are chosen."""

FEWER: Final = 2
"""The same where only a smaller plan is looked for."""

SMALL: Final = 16
"""Limits of less than one part in so many of a plan without tiles are likely out of
reach: the finest tiles, which are made anyway then, say first whether they are."""

TIGHTER: Final = (0.95, 0.8)
"""The shares of the smallest plan that are asked for next, to find a smaller one."""

ROUNDS: Final = 8
"""How often a smaller one is looked for."""


@dataclass
class Savings:
    """Plans of one graph, for any limit; what was made once is kept.

    ``sizes`` are those of symbolic dims. ``remade`` makes the graph again with a pass
    that tiles. ``counter`` asks the target. Without ``rounding`` sums stay as they are.
    """

    graph: Graph
    sizes: Mapping[str, int]
    target: str
    remade: Callable[[Tile], Graph]
    counter: Counter | None
    rounding: bool
    _tiles: dict[int, Graph] = field(default_factory=dict)
    _runs: dict[object, tuple[Graph, Sequence[Op]]] = field(default_factory=dict)
    _cuts: dict[int, Fitted] = field(default_factory=dict)
    _planned: dict[object, Fitted] = field(default_factory=dict)
    _made: dict[object, tuple[int, int, Fitted]] = field(default_factory=dict)

    def towards(
        self, limits: Limits, tries: int = TRIES, *, however_far: bool = False
    ) -> Iterator[Fitted]:
        """The plans that are tried, the cheapest first; what fits may be slow.

        Tiles that are far from them are not planned, unless asked for ``however_far``.
        """
        first = self._asked(replace(self._first, limits=limits))
        yield first
        ordered, best = replace(self._ordered, limits=limits), first
        if first.counted is None:  # which hangs on no order
            ordered = self._asked(ordered)
            best = min(best, ordered, key=_activations)
            yield ordered
        wanted = limits.left(ordered.plan)
        if wanted < 1:
            return
        if self.rounding:
            with_sums = self._asked(self._with_sums(ordered, wanted))
            best = min(best, with_sums, key=_activations)
            yield with_sums
        if not self.target.startswith("xla"):  # which merges equal ops
            copied = self._with_copies(_with_biases_apart(best))
            yield self._asked(copied)
        last, before = ordered, None
        for _ in range(tries):
            if wanted < 1 or (not however_far and self._is_far(wanted, limits)):
                return
            cut = self._tiled(wanted, limits)
            yield cut
            less = cut.activations < last.activations
            if not less and (cut.activations > FAR * wanted or _is_stuck(cut, before)):
                return  # it wants more than tiles can do
            before = cut
            share = limits.left(cut.plan) / max(1, cut.activations)
            share = share if less and not cut.fits else FINER
            wanted, last = min(int(wanted * share), wanted - 1), cut if less else last

    def least(self, limits: Limits) -> Fitted:
        """The smallest plan that is found, or the first on the way that is enough.

        It is looked for from what is smallest where nothing is enough, so that it is
        the same for limits that nothing keeps to.
        """
        whole = limits.memory is not None
        tried = self.towards(Limits(activations=1), however_far=True)
        best = min(tried, key=_activations)
        best = self._counted(self._lowered(best))
        for _ in range(ROUNDS):
            if best.activations <= limits.left(best.plan):
                break
            for share in TIGHTER:
                most = int(share * best.activations)
                beside = best.resident - best.activations
                asked = Limits(most + beside, None) if whole else Limits(None, most)
                other = self._smaller(asked, best)
                if other is not best:
                    break
            else:
                break
            best = self._lowered(other)
        return replace(best, limits=limits)

    def coarser(self, limits: Limits, least: Fitted) -> Iterator[Fitted]:
        """Tiles that are no finer than they must be, where the smallest plan fits.

        A budget near the peak may be out of reach of every tile, and a far one not. The
        smallest plan is the last.
        """
        wanted = limits.left(least.plan)
        while wanted > least.plan.peak:
            yield self._tiled(wanted, limits)
            wanted = int(FINER * wanted)
        yield least

    def packed(self, each: Fitted) -> Fitted:
        """With offsets as low as are found, and opened as that asks for."""
        return self._asked(each.packed()) if each.rough else each

    def _lowered(self, each: Fitted) -> Fitted:
        lower = each.lowered()
        return each if lower is each else self._asked(lower)

    def _smaller(self, asked: Limits, best: Fitted) -> Fitted:
        """What is smaller than the best of what is tried for a limit; else the best."""
        size = _activations if asked.memory is None else _resident
        for each in self.towards(asked, FEWER):
            if self._is_known(each):
                best = min(best, each, key=size)
            if each.fits:
                break
        return best

    def _is_known(self, each: Fitted) -> bool:
        """True where what it takes is counted, if anything is."""
        if self.counter is None or each.uncounted:
            return True
        if self.target in PLATFORMS:
            return each.counted is not None
        return each.executed is not None or not runs_otherwise(each.graph)

    def _counted(self, each: Fitted) -> Fitted:
        """The same with what its target says, however large it is."""
        if self._is_known(each):
            return each
        return self._asked(replace(each, limits=Limits(activations=each.activations)))

    @cached_property
    def _first(self) -> Fitted:
        """The graph in the order of its file."""
        space = SPACES[self.target]
        plan = plan_memory(self.graph, self.sizes, space=space, seconds=SECONDS)
        return Fitted(self.graph, plan, Limits(activations=1), target=self.target)

    @cached_property
    def _ordered(self) -> Fitted:
        found = self._first.improved("another order of the ops", self.graph, None)
        if self.target in PLATFORMS:  # whose compilers choose an order themselves
            return replace(found, savings=())
        return found

    def _asked(self, each: Fitted) -> Fitted:
        return opened(each.within(), self.counter)

    def _tiled(self, wanted: int, limits: Limits) -> Fitted:
        """With tiles of the budget ``wanted``; with copies where these are too much."""
        cut = self._cuts.get(wanted)
        if cut is None:
            cut = self._cuts[wanted] = self._cut(wanted)
        cut = replace(cut, limits=limits).within()
        if self.target not in PLATFORMS and not cut.fits:
            cut = self._with_copies(_with_biases_apart(cut))
        return self._asked(cut)

    @cached_property
    def _tile(self) -> Tile:
        """What makes tiles, of one budget after the other."""
        return Tile(sizes=tuple(sorted(self.sizes.items())))

    def _is_far(self, wanted: int, limits: Limits) -> bool:
        """True where an op of the tiles alone holds far more than the limits leave."""
        if self.target in PLATFORMS or wanted in self._cuts:
            return False
        plan = self._ordered.plan
        finest = SMALL * limits.left(plan) < plan.peak
        made = self._written(1 if finest else wanted)[1]
        held = most_held(made, Sizes(plan.binding, plan.space))
        return held > FAR * limits.left(plan)

    def _written(self, wanted: int) -> tuple[Graph, Graph, Sequence[Op] | None]:
        """Tiles of a budget, the same as the target runs them, and in which order."""
        if wanted not in self._tiles:
            self._tiles[wanted] = self.remade(replace(self._tile, budget=wanted))
        tiled = self._tiles[wanted]
        if self.target in PLATFORMS:
            return tiled, tiled, None
        same = tiled.outputs  # equal ops are one op
        if same not in self._runs:  # by a budget that is nearly this one
            self._runs[same] = written_out(tiled)
        return tiled, *self._runs[same]

    def _cut(self, wanted: int) -> Fitted:
        tiled, made, order = self._written(wanted)
        same = tiled.outputs
        if same not in self._planned:
            tile = replace(self._tile, budget=wanted, known={})
            self._planned[same] = self._ordered.improved(
                "tiles", made, tile, order, lapping(tiled)
            )
        return self._planned[same]

    def _with_sums(self, best: Fitted, wanted: int) -> Fitted:
        """With sums of partial products where that takes less, else as it is."""
        plan = best.plan

        def make() -> tuple[int, Fitted]:
            made = summed(
                best.graph,
                plan.binding,
                wanted,
                space=plan.space,
                onto=best.target == "ort-cpu",
                seconds=SECONDS,
            )
            if made.graph is best.graph:
                return made.peak, best
            what = "sums of partial products"
            return made.peak, best.improved(what, made.graph, None, made.order)

        return self._less("sums", best, wanted, make)

    def _with_copies(self, best: Fitted) -> Fitted:
        """With cheap values made again where that takes less, else as it is."""
        plan, left = best.plan, max(0, best.limits.left(best.plan))

        def make() -> tuple[int, Fitted]:
            made = recomputed(
                best.graph, plan.binding, left, space=plan.space, order=plan.order
            )
            if made.graph is best.graph:
                return made.after, best
            key = best.graph, plan.order, made.graph.outputs, made.order
            if key not in self._planned:  # for a limit that is nearly this one
                what, again = "cheap values made again", (made.order, best.lapping)
                other = best.improved(what, made.graph, best.tile, *again)
                self._planned[key] = other
            return made.after, self._planned[key]

        return self._less("copies", best, left, make)

    def _less(
        self,
        what: str,
        best: Fitted,
        wanted: int,
        make: Callable[[], tuple[int, Fitted]],
    ) -> Fitted:
        """What is made for so many live bytes, if it takes less than the best.

        All that is too little for it gives the same, once.
        """
        key = what, best.graph, best.plan.order
        asked, reached, made = self._made.get(key, (-1, -1, best))
        if asked != wanted and reached < max(asked, wanted):
            reached, made = make()
            self._made[key] = wanted, reached, made
        if made.graph is best.graph:  # nothing was made
            return best
        made = made.packed_to(best.plan.peak - 1)
        if made.plan.peak >= best.plan.peak:
            return best
        return replace(made, limits=best.limits)


def _activations(each: Fitted) -> int:
    return each.activations


def _resident(each: Fitted) -> int:
    return each.resident


def _is_stuck(finer: Fitted, before: Fitted | None) -> bool:
    """True where finer tiles hold as much at once: what is at the peak has none.

    Where offsets alone are in the way, they may be others next time.
    """
    if before is None or finer.plan.peak != before.plan.peak:
        return False
    return all(each.plan.peak == each.plan.lower_bound for each in (finer, before))


def _with_biases_apart(best: Fitted) -> Fitted:
    """With an op more where an activation and its bias are over the limit."""
    plan, left = best.plan, best.limits.left(best.plan)
    live = zip(plan.order, plan.live, strict=True)
    over = {op for op, size in live if size > left and is_biased(op)}
    if not over:
        return best
    made, order = biases_apart(best.graph, plan.order, over)
    other = best.improved("biases apart", made, best.tile, order, best.lapping)
    other = other.packed_to(plan.peak)
    return other if other.plan.peak <= plan.peak else best
