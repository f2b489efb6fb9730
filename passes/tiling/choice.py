"""Which region to tile next, and how finely: for the least, to come under a budget."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from graphopt.ir import Value

from .known import Around, Cut, Region
from .needs import Needs, Profile
from .price import ALIGNED, Prices

GAIN: Final = 0.05
"""Tiles that need less memory by less than this share are no gain."""

NEARER: Final = 0.995
"""A step leaves at most this share of what is over the budget."""

SAME: Final = 0.02
"""Prices that differ by less than this share of a graph's operations are the same: so
much do medians of interleaved runs of one file differ."""

FINEST: Final = 512
"""More tiles are not tried."""


@dataclass(frozen=True)
class Candidate:
    """Regions in tiles, and what that brings and costs."""

    region: Region
    size: int
    made: Cut
    fits: bool
    over: int
    """Bytes over the budget at what was put in the place of the region."""
    price: int
    """What it takes on the device, in operations, less what it takes without tiles."""

    @property
    def text(self) -> str:
        """What is cut, and how."""
        ops, shape = self.region.followed.axes, self.region.value.shape
        assert shape is not None
        kinds = list(dict.fromkeys(op.label for op in ops))
        shown = ", ".join(kinds[:4]) + (", …" if len(kinds) > 4 else "")
        return f"{len(ops)} ops ({shown}) by {self.size} of {shape[self.region.dim]}"


@dataclass(frozen=True)
class Step:
    """A graph with more regions in tiles."""

    around: Around
    flops: int
    regions: int
    text: str


def best(
    around: Around, budget: int, prices: Prices, copies: Collection[int] = ()
) -> Step | None:
    """The best step towards the budget; None where no tiling gets nearer to it.

    Regions that are like the best one are cut like it, where they are over the budget.
    Copies of the instances ``copies`` go into the tiles of what reads them.
    """
    needs = around.needs
    refused: set[object] = set()
    while (found := _best(around, budget, prices, copies, refused)) is not None:
        alike = _alike(around, found, budget)
        for new in [alike, [found.made.new]] if alike else [[found.made.new]]:
            after = around.after(new)
            if after is not None and _nearer(needs, after.needs, budget):
                flops = needs.meter.flops
                more = flops(after.needs.graph) - flops(needs.graph)
                return Step(after, more, len(new), found.text)
        refused.add(found.region.key)
    return None


def _best(
    around: Around,
    budget: int,
    prices: Prices,
    copies: Collection[int],
    refused: Collection[object],
) -> Candidate | None:
    """The best region around the peak, without those of the keys ``refused``.

    Of those that fit for the same price it is the one that starts the fewest ops more.
    """
    found: Candidate | None = None
    fitting: list[Candidate] = []
    for region in around.regions(copies):
        if region.key in refused:
            continue
        last = cheapest = math.inf  # two tiles may need more than none
        value, dim = region.value, region.dim
        extent = prices.meter.extent(value.shape[dim])  # type: ignore[index]
        for size in sizes(extent or 0, prices.aligned(value, dim)):
            made = around.cut(region, size)
            if made is None:
                break
            local = made.beside
            candidate = Candidate(
                region,
                size,
                made,
                made.peak <= budget,
                max(0, local - budget),
                made.price - region.price,
            )
            if _nearer(around.needs, made, budget):
                if found is None or _better(candidate, found, int(GAIN * budget)):
                    found = candidate
                if candidate.fits:
                    fitting.append(candidate)
            if candidate.over and local > (1 - GAIN) * last:
                break
            dearer = candidate.price >= cheapest
            if not candidate.over and dearer and prices.near(made.fresh):
                break
            last = min(last, local)
            if not candidate.over:
                cheapest = min(cheapest, candidate.price)
    if found is None or not found.fits:
        return found
    most = found.price + SAME * prices.meter.flops(around.needs.graph)
    same = [candidate for candidate in fitting if candidate.price <= most]

    def more(each: Candidate) -> int:
        before = prices.starts(each.region.followed.axes)
        return prices.starts(each.made.fresh) - before

    return min(same, key=lambda each: (more(each), each.price))


def _alike(
    around: Around, found: Candidate, budget: int
) -> list[Mapping[Value, Value]] | None:
    """What stands for this and for like regions over the budget; None without any."""
    steps = zip(around.needs.ops, around.needs.steps, strict=True)
    over = {op for op, step in steps if step > budget}
    others = around.alike(found.region, found.size)
    news = [found.made.new, *(new for ops, new in others if not over.isdisjoint(ops))]
    return news if len(news) > 1 else None


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
