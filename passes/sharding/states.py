"""All layouts of values of one shape, and what it costs to get from each to each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from graphopt.dims import Shape
from graphopt.index import Combiner, Partial, Split, State
from graphopt.types import TensorType

from .layout import (
    REPLICATED,
    Cost,
    Layout,
    Step,
    is_partial,
    local_bytes,
    local_shape,
    steps,
)
from .mesh import Mesh


@dataclass(frozen=True)
class Arcs:
    """Steps between layouts by number, and their seconds; arrays of one length."""

    tails: Any
    heads: Any
    seconds: Any

    def __len__(self) -> int:
        return len(self.tails)

    def where(self, keep: Any) -> Arcs:
        """Those for which ``keep`` is true."""
        return Arcs(self.tails[keep], self.heads[keep], self.seconds[keep])


class States:
    """The layouts of values of one type, numbered, and the steps between them.

    Each layout is there that the mesh divides; ``combiners`` are those of partial
    values that may occur. ``cost`` is in seconds, or whatever else is to be little.
    """

    def __init__(
        self,
        mesh: Mesh,
        cost: Cost,
        type_: TensorType,
        combiners: Iterable[Combiner] = (Combiner.SUM,),
    ) -> None:
        self.mesh = mesh
        self.cost = cost
        self.type = type_
        self.shape: Shape = type_.shape or ()
        one: list[State] = [REPLICATED, *map(Split, range(len(self.shape)))]
        one += map(Partial, sorted(combiners, key=lambda c: c.value))
        self.layouts: Sequence[Layout] = [
            layout
            for layout in itertools.product(one, repeat=len(mesh.axes))
            if local_shape(self.shape, layout, mesh) is not None
        ]
        self.number = {layout: i for i, layout in enumerate(self.layouts)}

    def __len__(self) -> int:
        return len(self.layouts)

    @cached_property
    def bytes(self) -> Any:
        """Of a device's part, by layout."""
        found = [local_bytes(self.type, x, self.mesh) for x in self.layouts]
        return np.asarray(found)

    @cached_property
    def whole(self) -> Any:
        """By layout, true where no axis is partial."""
        return np.asarray([not is_partial(x) for x in self.layouts])

    @cached_property
    def steps(self) -> Sequence[Step]:
        """The single steps, in the order of `arcs`."""
        return [
            step
            for layout in self.layouts
            for step in steps(layout, self.shape, self.mesh)
            if step.target in self.number
        ]

    @cached_property
    def arcs(self) -> Arcs:
        number, cost = self.number, self.cost
        rows = [
            (number[s.source], number[s.target], cost(s, self.type)) for s in self.steps
        ]
        tails, heads, costs = zip(*rows, strict=True) if rows else ((), (), ())
        return Arcs(np.asarray(tails, int), np.asarray(heads, int), np.asarray(costs))

    @cached_property
    def distances(self) -> Any:
        """The seconds of the cheapest way from each layout to each; inf without one."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import dijkstra

        arcs, count = self.arcs, len(self)
        if not len(arcs):
            return np.where(np.eye(count, dtype=bool), 0.0, np.inf)
        ends = (arcs.tails.astype(np.int32), arcs.heads.astype(np.int32))
        matrix = coo_array((arcs.seconds, ends), (count, count))
        return dijkstra(matrix.tocsr())

    @cached_property
    def needed(self) -> Any:
        """By arc, true where no way over another layout is as cheap."""
        arcs, far = self.arcs, self.distances
        detour = np.full(len(arcs), np.inf)
        for a, (tail, head) in enumerate(zip(arcs.tails, arcs.heads, strict=True)):
            through = far[tail] + far[:, head]
            through[[tail, head]] = np.inf
            detour[a] = through.min()
        return detour > arcs.seconds * (1 + 1e-9)
