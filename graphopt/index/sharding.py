"""Placements over one mesh axis, derived from index maps.

A tensor on the devices of a mesh axis is replicated, split along a dim, or partial:
each device holds an addend, or another part that a combiner merges. A strategy gives a
state to each operand, such that the op, run by every device on what it has, leaves
each result in the stated one; an attribute or steering operand that holds an extent
(a number of heads, the dims of a Reshape) holds that of the part. Strategies for
several mesh axes are products of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .domain import Domain
from .maps import Affine, Combiner, Compound, Map, Maps, Term


@dataclass(frozen=True, slots=True)
class Replicated:
    """Every device holds all of it."""

    def __str__(self) -> str:
        return "R"


@dataclass(frozen=True, slots=True)
class Split:
    """Every device holds an equal, contiguous part of one dim, in device order."""

    dim: int

    def __str__(self) -> str:
        return f"S({self.dim})"


@dataclass(frozen=True, slots=True)
class Partial:
    """Every device holds a part of full size; the combiner merges them."""

    combiner: Combiner = Combiner.SUM

    def __str__(self) -> str:
        return f"P({self.combiner.value})"


State: TypeAlias = Replicated | Split | Partial


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to run an op on all devices of a mesh axis.

    ``axis`` is the axis of the domain that the devices share out; it must be a multiple
    of their number. None where they share out nothing.
    """

    axis: str | None
    operands: tuple[State, ...]
    results: tuple[State, ...]

    def __str__(self) -> str:
        left, right = (", ".join(map(str, x)) for x in (self.operands, self.results))
        return f"{left} -> {right}"


def strategies(domain: Domain) -> list[Strategy]:
    """Every strategy that the maps prove: replicated first.

    - A parallel axis: operands and results that have it are split along it.
    - A reduced axis: operands are split along it, the results partial. An operand
      without it that is added to the sum, and not multiplied, is partial too.
    - A jointly linear set of operands: they are partial, and so are the results.
    """
    maps = domain.maps
    replicated: tuple[State, ...] = (Replicated(),) * len(maps.operands)
    found = [Strategy(None, replicated, (Replicated(),) * len(maps.results))]
    for axis in maps.axes:
        strategy = _split(maps, axis)
        if strategy is not None:
            found.append(strategy)
    partial: tuple[State, ...] = (Partial(),) * len(maps.results)
    for operands in maps.linear:
        states = [
            Partial() if i in operands else Replicated()
            for i in range(len(maps.operands))
        ]
        found.append(Strategy(None, tuple(states), partial))
    return list(dict.fromkeys(found))


def _split(maps: Maps, axis: str) -> Strategy | None:
    """The strategy that shares out one axis; None where the maps prove none."""
    if axis not in maps.operand_axes or axis in (
        maps.whole | maps.carried | maps.positional
    ):
        return None
    added = maps.added(axis)
    operands: list[State] = []
    for i, map_ in enumerate(maps.operands):
        dim = _place(map_ or (), axis)
        if dim is None:
            return None
        if dim >= 0:
            operands.append(Split(dim))
        else:
            operands.append(Partial() if i in added else Replicated())
    results: list[State] = []
    for map_ in maps.results:
        dim = _place(map_, axis)
        combiner = maps.combiner(axis)
        if dim is None or (dim < 0 and combiner is None):
            return None
        results.append(Split(dim) if dim >= 0 else Partial(combiner or Combiner.SUM))
    if added and any(isinstance(x, Split) for x in results):
        return None
    return Strategy(axis, tuple(operands), tuple(results))


def _place(map_: Map, axis: str) -> int | None:
    """The dim to split for an axis; -1 where there is none to; None if it cannot be."""
    found = [i for i, term in enumerate(map_) if axis in term.axes]
    if not found:
        return -1
    if len(found) > 1 or _major(map_[found[0]]) != axis:
        return None
    return found[0]


def _major(term: Term) -> str | None:
    """The axis that a dim can be cut along into contiguous parts."""
    if isinstance(term, Compound):
        return term.axes[0] if term.axes else None
    return term.plain if isinstance(term, Affine) else None


Collective: TypeAlias = Literal[
    "none",
    "slice",
    "all-gather",
    "all-to-all",
    "all-reduce",
    "reduce-scatter",
    "pad",
    "mask",
]


def reshard(source: State, target: State) -> Collective:
    """What takes a tensor from one state to another.

    "slice", "pad" and "mask" are local: take the device's own part, put it among
    neutral elements, or keep the value on one device only. A partial tensor changes its
    combiner by an "all-reduce" and a mask.
    """
    if source == target:
        return "none"
    match source, target:
        case Replicated(), Split():
            return "slice"
        case Replicated(), Partial():
            return "mask"
        case Split(), Replicated():
            return "all-gather"
        case Split(), Split():
            return "all-to-all"
        case Split(), Partial():
            return "pad"
        case Partial(), Split():
            return "reduce-scatter"
        case _:
            return "all-reduce"


@dataclass(frozen=True, slots=True)
class ShardyRule:
    """An op's sharding rule in the form that Shardy reads.

    The fields are arguments of JAX's ``custom_partitioning.def_partition``, which also
    wants the sizes of factors that no dim has for itself.
    """

    sharding_rule: str
    reduction_factors: tuple[str, ...] = ()
    need_replication_factors: tuple[str, ...] = ()
    permutation_factors: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.sharding_rule


def shardy_rule(domain: Domain) -> ShardyRule:
    """The Shardy rule of an op: its maps, with a factor for each axis.

    Windows stand for the axis that they move along, whose factor is a permutation. A
    dim without an axis, as one that is looked up, has a factor of its own.
    """
    maps = domain.maps
    tensors = (*maps.operands, *maps.results)
    bound = set(maps.whole | maps.carried | maps.positional)
    bound.update(a for a in maps.reduced if maps.combiner(a) is None)
    moved: set[str] = set()
    for term in (t for map_ in tensors for t in map_ or ()):
        if isinstance(term, Affine) and term.plain is None:
            moved.update(a for a in term.axes if a not in maps.reduced)
            bound.update(a for a in term.axes if a in maps.reduced)
    names = _factor_names(maps.axes)
    loose: list[str] = []

    def factors(term: Term) -> str:
        if isinstance(term, Compound) and len(term.axes) > 1:
            return f"({' '.join(names[a] for a in term.axes)})"
        window = isinstance(term, Affine) and term.plain is None
        for name in term.axes:
            if not window or name in moved:
                return names[name]
        loose.append(f"loose{len(loose)}")
        return loose[-1]

    texts = [" ".join(map(factors, map_ or ())) for map_ in tensors]
    count = len(maps.operands)
    return ShardyRule(
        f"{', '.join(texts[:count])} -> {', '.join(texts[count:])}",
        tuple(names[a] for a in maps.axes if a in maps.reduced - bound),
        (*(names[a] for a in maps.axes if a in bound), *loose),
        tuple(names[a] for a in maps.axes if a in moved - bound),
    )


def _factor_names(axes: tuple[str, ...]) -> dict[str, str]:
    """Shardy's factors start with a letter, which `...0` and `_1` do not."""
    names: dict[str, str] = {}
    for name in axes:
        factor = name if name[0].isalpha() else f"b{name.strip('._')}"
        while factor in names.values() or (factor in axes and factor != name):
            factor += "_"
        names[name] = factor
    return names
