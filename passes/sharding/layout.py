"""How a value lies on a mesh, and the single steps from one layout to another."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final, TypeAlias

from graphopt.dims import Shape
from graphopt.index import Combiner, Partial, Replicated, Split, State, reshard
from graphopt.ir import Value
from graphopt.ops.mesh import (
    Addend,
    AllGather,
    AllReduce,
    AllToAll,
    ReduceScatter,
    Shard,
)
from graphopt.types import TensorType

from .mesh import Mesh

Layout: TypeAlias = tuple[State, ...]
"""The state of a value along each axis of the mesh, in the mesh's order.

A dim that several axes split has the parts of the first of them outermost.
"""

REPLICATED: Final = Replicated()


def replicated(mesh: Mesh) -> Layout:
    """The layout of what every device has."""
    return (REPLICATED,) * len(mesh.axes)


def local_shape(shape: Shape, layout: Layout, mesh: Mesh) -> Shape | None:
    """The dims of what a device holds; None where the devices do not divide a dim."""
    local = list(shape)
    for state, size in zip(layout, mesh.sizes, strict=True):
        if isinstance(state, Split):
            extent = local[state.dim] if state.dim < len(local) else None
            if not isinstance(extent, int) or extent % size or 0 in local:
                return None  # nothing is not shared out
            local[state.dim] = extent // size
    return tuple(local)


def is_partial(layout: Layout) -> bool:
    """True where no device has a part of the value itself."""
    return any(isinstance(state, Partial) for state in layout)


def layouts(shape: Shape, mesh: Mesh, *, partial: bool = False) -> Iterator[Layout]:
    """Every layout that the mesh divides, with partial sums or without."""
    states: list[State] = [REPLICATED, *map(Split, range(len(shape)))]
    if partial:
        states.append(Partial())
    for layout in itertools.product(states, repeat=len(mesh.axes)):
        if local_shape(shape, layout, mesh) is not None:
            yield layout


def text(layout: Layout) -> str:
    """``[S(0), R]``"""
    return f"[{', '.join(map(str, layout))}]"


# --- steps --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """A change of state along one mesh axis: a collective, or something local.

    ``kind`` is the name of an op of `graphopt.ops.mesh`; "None" changes nothing but
    what the value is called (a replicated maximum is a partial one).
    """

    kind: str
    axis: int
    source: Layout
    target: Layout

    def applied(self, x: Value, mesh: Mesh) -> Value:
        """The local value after the step, from that before it."""
        name, ways = mesh.axes[self.axis]
        place: dict[str, Any] = {"axis": name, "ways": ways}
        old, new = self.source[self.axis], self.target[self.axis]
        match old, new:
            case Replicated(), Split(dim):
                return Shard(x, dim=dim, **place)
            case Replicated(), Partial(Combiner.SUM):
                return Addend(x, **place)
            case Split(dim), Replicated():
                return AllGather(x, dim=dim, **place)
            case Split(joined), Split(dim):
                return AllToAll(x, dim=dim, joined=joined, **place)
            case Partial(combiner), Replicated():
                return AllReduce(x, combiner=combiner.value, **place)
            case Partial(combiner), Split(dim):
                return ReduceScatter(x, dim=dim, combiner=combiner.value, **place)
        return x


_KINDS: Final = {
    "slice": "Shard",
    "mask": "Addend",
    "all-gather": "AllGather",
    "all-to-all": "AllToAll",
    "all-reduce": "AllReduce",
    "reduce-scatter": "ReduceScatter",
}
"""The op of each change of state that `graphopt.index.reshard` names."""


def steps(
    source: Layout, shape: Shape, mesh: Mesh, towards: Layout | None = None
) -> Iterator[Step]:
    """The single steps from a layout of a value of these dims.

    Those ``towards`` a layout leave out what is on no cheapest way to it: nothing is
    made partial that is not partial there, as what is replicated goes wherever what is
    partial goes, and links are no faster than memory.

    Parts of a dim are contiguous only if no later mesh axis splits it as well, so of
    several axes that split one, the last is the first to give it up.
    """
    for axis in range(len(mesh.axes)):
        for state in _next(source, axis, len(shape)):
            partial = isinstance(state, Partial)
            if partial and towards is not None and state != towards[axis]:
                continue
            target = (*source[:axis], state, *source[axis + 1 :])
            if isinstance(state, Split) and local_shape(shape, target, mesh) is None:
                continue
            kind = _KINDS[reshard(source[axis], state)]
            if kind == "Addend" and state != Partial():
                kind = "None"
            yield Step(kind, axis, source, target)


def _next(source: Layout, axis: int, rank: int) -> Iterator[State]:
    """The states that one step along an axis may end in."""
    state, later = source[axis], source[axis + 1 :]
    if isinstance(state, Split) and state in later:
        return
    if not isinstance(state, Replicated):
        yield REPLICATED
    for dim in range(rank):
        if Split(dim) != state and Split(dim) not in later:
            yield Split(dim)
    if isinstance(state, Replicated):
        yield from map(Partial, (Combiner.SUM, Combiner.MAX, Combiner.MIN))


LOCAL: Final = ("None", "Shard", "Addend")
"""The kinds of steps in which nothing is sent."""

Cost: TypeAlias = Callable[[Step, TensorType], float]
"""What a step costs for a value of this type, its dims those of the whole."""


@lru_cache(maxsize=1 << 16)
def path(
    source: Layout, target: Layout, type_: TensorType, mesh: Mesh, cost: Cost
) -> list[Step] | None:
    """The cheapest steps from one layout to another; None where there are none.

    Dijkstra over layouts; of equally cheap ways the one with fewer steps. All dims of
    the type are known.
    """
    shape = type_.shape
    assert shape is not None
    best: dict[Layout, tuple[float, int]] = {source: (0.0, 0)}
    came: dict[Layout, Step] = {}
    heap: list[tuple[float, int, int, Layout]] = [(0.0, 0, 0, source)]
    number = itertools.count(1)
    while heap:
        spent, length, _, at = heapq.heappop(heap)
        if at == target:
            found: list[Step] = []
            while at != source:
                found.append(came[at])
                at = came[at].source
            return found[::-1]
        if best[at] < (spent, length):
            continue
        for step in steps(at, shape, mesh, target):
            new = (spent + cost(step, type_), length + 1)
            if new < best.get(step.target, (float("inf"), 0)):
                best[step.target] = new
                came[step.target] = step
                heapq.heappush(heap, (*new, next(number), step.target))
    return None


def local_type(type_: TensorType, layout: Layout, mesh: Mesh) -> TensorType | None:
    """The type of a device's part; None where the mesh does not divide a dim."""
    if type_.shape is None:
        return None
    shape = local_shape(type_.shape, layout, mesh)
    return None if shape is None else TensorType(type_.dtype, shape)


@cache
def known_size(shape: Shape) -> int:
    """The product of the dims that do not depend on data."""
    return math.prod(dim for dim in shape if isinstance(dim, int))


@cache  # so that what `path` knows of one is known of all
def sent(mesh: Mesh) -> Cost:
    """The bytes that each device sends in a step."""

    def cost(step: Step, type_: TensorType) -> float:
        if step.kind in LOCAL:
            return 0.0
        return wire_bytes(step.kind, mesh.sizes[step.axis], larger(step, type_, mesh))

    return cost


def larger(step: Step, type_: TensorType, mesh: Mesh) -> int:
    """Bytes of the larger of what a device has before a step and after it."""
    return max(
        local_bytes(type_, layout, mesh) for layout in (step.source, step.target)
    )


def local_bytes(type_: TensorType, layout: Layout, mesh: Mesh) -> int:
    """Bytes of a device's part; all of them where the mesh does not divide it.

    A dim that depends on data counts as 1.
    """
    return type_bytes(local_type(type_, layout, mesh) or type_)


def type_bytes(type_: TensorType) -> int:
    """Bytes of a tensor, of which a dim that depends on data counts as 1."""
    bits = 0 if type_.dtype is None else type_.dtype.bits
    return -(-known_size(type_.shape or ()) * bits // 8)


@cache
def wire_bytes(kind: str, ways: int, local_bytes: int) -> float:
    """Bytes that each device sends in a collective; 0 for what is local.

    ``local_bytes`` are those of the larger of operand and result on one device. Ring
    algorithms: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for
    clusters of workstations", JPDC 69 (2009).
    """
    share = (ways - 1) / ways
    factor = {
        "AllGather": share,
        "ReduceScatter": share,
        "AllToAll": share,
        "AllReduce": 2 * share,
        "Shift": 1.0,
        "Permute": 1.0,
    }
    return factor.get(kind, 0.0) * local_bytes


def resharded_bytes(source: State, target: State, size: int, ways: int) -> float:
    """Bytes that each device sends to bring a value from a state to another.

    ``size`` are those of the whole, which ``ways`` devices are taken to divide. Parts
    that shall be addends are gathered first, as by `steps`.
    """
    change = reshard(source, target)
    kind = "AllGather" if change == "pad" else _KINDS.get(change, "None")
    return wire_bytes(kind, ways, -(-size // ways) if kind == "AllToAll" else size)
