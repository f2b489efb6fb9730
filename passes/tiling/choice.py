"""Which region to tile next, and how finely: for the least, to come under a budget."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from graphopt.errors import TypeMismatch
from graphopt.ir import Graph, Op, Value
from graphopt.rewrite import Miss
from graphopt.substitution import RewriteLimit, substitute

from .copies import makers
from .follow import Followed, follow
from .growth import coarsest, grown
from .needs import Needs, Profile
from .price import ALIGNED, Prices
from .splice import Spliced
from .tiles import in_tiles
from .twins import twins

LARGE: Final = 0.1
"""A value of less than this share of the peak is no reason to tile."""

THRESHOLDS: Final = (0.5, 0.25, 0.125, 0.0625)
"""Values of such a share of the largest one belong inside of a region."""

GAIN: Final = 0.05
"""Tiles that need less memory by less than this share are no gain."""

NEARER: Final = 0.995
"""A step leaves at most this share of what is over the budget."""

FINEST: Final = 512
"""More tiles are not tried."""


@dataclass(frozen=True)
class Candidate:
    """Regions in tiles, and what that brings and costs."""

    region: Followed
    value: Value
    dim: int
    size: int
    made: Spliced
    fits: bool
    over: int
    """Bytes over the budget at what was put in the place of the region."""
    price: int
    """What it takes on the device, in operations, less what it takes without tiles."""

    @property
    def key(self) -> object:
        """Equal for candidates of one region."""
        return frozenset(self.region.axes.items())

    @property
    def text(self) -> str:
        """What is cut, and how."""
        ops, shape = self.region.axes, self.value.shape
        assert shape is not None
        kinds = list(dict.fromkeys(op.label for op in ops))
        shown = ", ".join(kinds[:4]) + (", …" if len(kinds) > 4 else "")
        return f"{len(ops)} ops ({shown}) by {self.size} of {shape[self.dim]}"


@dataclass(frozen=True)
class Step:
    """A graph with more regions in tiles."""

    needs: Needs
    flops: int
    regions: int
    text: str


def best(
    needs: Needs, budget: int, prices: Prices, copies: Collection[int] = ()
) -> Step | None:
    """The best step towards the budget; None where no tiling gets nearer to it.

    Regions that are like the best one are cut like it, where they are over the budget.
    Copies of the instances ``copies`` go into the tiles of what reads them.
    """
    refused: set[object] = set()
    while (found := _best(needs, budget, prices, copies, refused)) is not None:
        alike = _alike(needs, found, budget)
        for new in [alike, [found.made.new]] if alike else [[found.made.new]]:
            after = _built(needs, new)
            if after is not None and _nearer(needs, after, budget):
                meter = needs.meter
                more = meter.flops(after.graph) - meter.flops(needs.graph)
                return Step(after, more, len(new), found.text)
        refused.add(found.key)
    return None


def _best(
    needs: Needs,
    budget: int,
    prices: Prices,
    copies: Collection[int],
    refused: Collection[object],
) -> Candidate | None:
    """The best region around the peak, without those of the keys ``refused``."""
    found: Candidate | None = None
    for region, value, dim in _regions(needs, copies):
        key = frozenset(region.axes.items())
        if key in refused:
            continue
        last = cheapest = math.inf  # two tiles may need more than none
        price = prices.of(region.axes)
        extent = prices.meter.extent(value.shape[dim])  # type: ignore[index]
        for size in sizes(extent or 0, prices.aligned(value, dim)):
            new = in_tiles(needs.graph, region.axes, value, dim, size)
            if isinstance(new, Miss):
                break
            if any(v.type != other.type for v, other in new.items()):
                try:
                    substitute(needs.graph, new)
                except TypeMismatch:  # what reads it takes no tiles
                    break
            made = Spliced(needs, new)
            local = made.beside
            candidate = Candidate(
                region,
                value,
                dim,
                size,
                made,
                made.peak <= budget,
                max(0, local - budget),
                prices.of(made.fresh) - price,
            )
            if _nearer(needs, made, budget) and (
                found is None or _better(candidate, found, int(GAIN * budget))
            ):
                found = candidate
            if candidate.over and local > (1 - GAIN) * last:
                break
            dearer = candidate.price >= cheapest
            if not candidate.over and dearer and prices.near(made.fresh):
                break
            last = min(last, local)
            if not candidate.over:
                cheapest = min(cheapest, candidate.price)
    return found


def _alike(
    needs: Needs, found: Candidate, budget: int
) -> list[Mapping[Value, Value]] | None:
    """What stands for this and for like regions over the budget; None without any."""
    over = {
        op for op, step in zip(needs.ops, needs.steps, strict=True) if step > budget
    }
    news = [found.made.new]
    for region, value in twins(needs.graph, found.region, found.value):
        if over.isdisjoint(region):
            continue
        new = in_tiles(needs.graph, region, value, found.dim, found.size)
        if not isinstance(new, Miss):
            news.append(new)
    return news if len(news) > 1 else None


def _built(needs: Needs, news: Sequence[Mapping[Value, Value]]) -> Needs | None:
    """The graph with these values; None where it cannot be."""
    merged: dict[Value, Value] = {}
    for new in news:
        merged |= new
    try:
        return needs.meter.needs(substitute(needs.graph, merged))
    except (RewriteLimit, TypeMismatch):
        return None


def _nearer(before: Needs, after: Profile, budget: int) -> bool:
    left = after.excess(budget)
    return after.peak <= before.peak and left < NEARER * before.excess(budget)


def _better(one: Candidate, other: Candidate, gain: int) -> bool:
    """True for what comes under the budget for less, or nearer to it."""
    if one.fits != other.fits:
        return one.fits
    if abs(one.over - other.over) > gain:
        return one.over < other.over
    return one.price < other.price


def _regions(
    needs: Needs, copies: Collection[int]
) -> Iterator[tuple[Followed, Value, int]]:
    """Regions around what is large at the peak, with the dim that is followed."""
    graph, meter = needs.graph, needs.meter
    step = max(range(len(needs.steps)), key=needs.steps.__getitem__)
    op = needs.ops[step]
    seen: set[object] = set()
    large = [v for v in needs.at(step) if meter.bytes(v) >= LARGE * needs.peak]
    for value in dict.fromkeys([*op.results, *large[:4]]):
        for dim, extent in enumerate(value.shape or ()):
            known = isinstance(extent, int) or meter.strips
            if not known or (meter.extent(extent) or 0) < 2:
                continue
            found = []
            if value in op.results:
                found.append(_alone(graph, op, value, dim, copies))
            top = max(map(meter.bytes, [*op.results, *large]))
            for share in THRESHOLDS:
                least = max(1, int(share * top))
                found.append(grown(graph, meter, value, dim, least, copies))
            for region in found:
                if isinstance(region, Miss):
                    continue
                key = frozenset(region.axes.items())
                if key in seen:
                    continue
                seen.add(key)
                yield region, *(coarsest(region) or (value, dim))


def _alone(
    graph: Graph, op: Op, value: Value, dim: int, copies: Collection[int]
) -> Followed | Miss:
    """The region of one op, with what was copied for it."""
    copied = [made for v in op.operands for made in makers(v, copies)]
    region = follow(graph, [op, *copied], value, dim) if copied else None
    return region or follow(graph, [op], value, dim)


def sizes(extent: int, aligned: int = ALIGNED) -> list[int]:
    """Sizes of tiles to try, the largest first: equal ones, and one remainder.

    They are multiples of ``aligned`` where they are larger.
    """
    found: dict[int, None] = {}
    count = 2
    while count <= min(extent, FINEST):
        size = -(-extent // count)
        if size > aligned and (extent % size or size % aligned):
            size = -(-size // aligned) * aligned
        if size < extent:
            found[size] = None
        count *= 2
    return list(found)
