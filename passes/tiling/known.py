"""What was found out of graphs on the way to a budget, which holds for any other.

A limit is searched for by the same pass with one budget after the other. These take the
same first steps, and try the same regions in tiles of the same sizes.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from graphopt.errors import TypeMismatch
from graphopt.ir import Graph, Op, Value
from graphopt.rewrite import Miss
from graphopt.substitution import RewriteLimit, substitute

from .copies import makers
from .follow import Followed, follow
from .growth import coarsest, grown
from .needs import Needs, Profile
from .price import Prices
from .splice import Spliced
from .tiles import in_tiles
from .twins import twins

GRAPHS: Final = 128
"""So many are known, those that were asked for last."""

LARGE: Final = 0.1
"""A value of less than this share of the peak is no reason to tile."""

THRESHOLDS: Final = (0.5, 0.25, 0.125, 0.0625)
"""Values of such a share of the largest one belong inside of a region."""


class Known:
    """What is known of graphs on one device, at one set of sizes."""

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self._around: dict[object, Around] = {}

    def around(self, graph: Graph) -> Around:
        """What is known of a graph; of an equal one it is the same."""
        key = (
            *(graph.inputs, graph.outputs, tuple(graph.sources.items())),
            *(graph.output_names, graph.output_types, tuple(graph.names.items())),
            *(graph.name, graph.doc, id(graph.header)),  # alive with what is known
        )
        found = self._around.pop(key, None)
        if found is None:
            found = Around(self.prices.meter.needs(graph), self)
        self._around[key] = found
        if len(self._around) > GRAPHS:
            del self._around[next(iter(self._around))]
        return found


@dataclass(frozen=True, eq=False)
class Cut(Profile):
    """A region in tiles of one size: ``new`` stands for what is read outside of it.

    ``fresh`` are the ops that the graph has not now, of that ``price``; ``beside`` the
    most bytes at one of them.
    """

    new: Mapping[Value, Value]
    heights: Sequence[int]
    fresh: frozenset[Op]
    beside: int
    price: int

    @property
    def steps(self) -> Sequence[int]:
        """The bytes, by op."""
        return self.heights


@dataclass(frozen=True, eq=False)
class Region:
    """What may be cut around a peak, and along which dim; cuts by their sizes."""

    followed: Followed
    value: Value
    dim: int
    price: int
    """What it takes without tiles."""
    cuts: dict[int, Cut | None] = field(default_factory=dict)
    twins: dict[int, list[tuple[list[Op], Mapping[Value, Value]]]] = field(
        default_factory=dict
    )

    @cached_property
    def key(self) -> object:
        """Equal for equal regions."""
        return frozenset(self.followed.axes.items())


class Around:
    """One graph: what is alive in it, what may be cut, and what comes of that."""

    def __init__(self, needs: Needs, known: Known) -> None:
        self.needs, self._known = needs, known
        self._regions: dict[Collection[int], list[Region]] = {}
        self._after: dict[object, Graph | None] = {}

    def regions(self, copies: Collection[int]) -> list[Region]:
        """Regions around what is large at the peak, with the dim that is followed."""
        if copies not in self._regions:
            price = self._known.prices.of
            self._regions[copies] = [
                Region(followed, value, dim, price(followed.axes))
                for followed, value, dim in _regions(self.needs, copies)
            ]
        return self._regions[copies]

    def cut(self, region: Region, size: int) -> Cut | None:
        """The region in tiles of a size; None where that cannot be."""
        if size not in region.cuts:
            region.cuts[size] = self._cut(region, size)
        return region.cuts[size]

    def _cut(self, region: Region, size: int) -> Cut | None:
        graph, axes = self.needs.graph, region.followed.axes
        new = in_tiles(graph, axes, region.value, region.dim, size)
        if isinstance(new, Miss):
            return None
        if any(v.type != other.type for v, other in new.items()):
            try:
                substitute(graph, new)
            except TypeMismatch:  # what reads it takes no tiles
                return None
        made = Spliced(self.needs, new)
        price = self._known.prices.of(made.fresh)
        return Cut(new, array("q", made.steps), made.fresh, made.beside, price)

    def alike(
        self, region: Region, size: int
    ) -> list[tuple[list[Op], Mapping[Value, Value]]]:
        """The regions like this one, and what stands for their values in such tiles."""
        if size not in region.twins:
            graph = self.needs.graph
            found = [
                (ops, in_tiles(graph, ops, value, region.dim, size))
                for ops, value in twins(graph, region.followed, region.value)
            ]
            region.twins[size] = [
                (ops, new) for ops, new in found if not isinstance(new, Miss)
            ]
        return region.twins[size]

    def after(self, news: Iterable[Mapping[Value, Value]]) -> Around | None:
        """The graph with these values; None where it cannot be."""
        merged: dict[Value, Value] = {}
        for new in news:
            merged |= new
        key = frozenset(merged.items())
        if key not in self._after:
            try:
                self._after[key] = substitute(self.needs.graph, merged)
            except (RewriteLimit, TypeMismatch):
                self._after[key] = None
        made = self._after[key]
        return None if made is None else self._known.around(made)


def _regions(
    needs: Needs, copies: Collection[int]
) -> Iterator[tuple[Followed, Value, int]]:
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
