"""What index maps and the operands' dims say together: extents, shapes, volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

from .. import dims
from ..dims import Dim, Shape, format_dim
from .maps import UNIT, Affine, Compound, Lookup, Map, Maps, Term, Whole

if TYPE_CHECKING:
    from .tiling import Tiling

Extents = Mapping[str, Dim]


def extents(
    maps: Maps,
    operand_shapes: Sequence[Shape | None],
    declared: Mapping[str, Dim] | None = None,
) -> dict[str, Dim]:
    """The extent of each axis of the domain.

    Dims that meet on one axis are unified: ints win over symbols, known dims over
    unknown ones. A compound is solved where one factor is left. ``declared`` are the
    extents that operands do not determine. Raises ValueError where dims clash, with the
    axis and the dims, and where an axis is neither in an operand nor declared.
    """
    known: dict[str, Dim] = dict(declared) if declared else {}
    compounds: list[tuple[Compound, Dim]] = []
    for number, (map_, shape) in enumerate(
        zip(maps.operands, operand_shapes, strict=False)
    ):
        if map_ is None or shape is None:
            continue
        if len(map_) != len(shape):
            raise ValueError(
                f"operand {number} is of rank {len(shape)}, not {len(map_)}"
            )
        for term, dim in zip(map_, shape, strict=True):
            name = term.plain if isinstance(term, Affine) else None
            if isinstance(term, Whole):
                name = term.axis
            if name is None:
                if isinstance(term, Compound):
                    compounds.append((term, dim))
                elif isinstance(term, Affine):
                    _check_segment(term, dim, number)
            elif name not in known:
                known[name] = dim
            else:
                old = known[name]
                if old is not dim and (old != dim or old is None):
                    known[name] = _unified(maps, name, old, dim)
    if compounds:
        _solve(compounds, known)
    for name in maps.axes:
        if name not in known:
            if name not in maps.operand_axes:
                raise ValueError(f"no operand has axis {name}: declare its extent")
            known[name] = None
    return known


def _unified(maps: Maps, name: str, old: Dim, new: Dim) -> Dim:
    """The one dim that both are, or broadcast to."""
    if name in maps.broadcast:
        try:
            return dims.broadcast(old, new)
        except ValueError:
            raise ValueError(f"axis {name}: {old} and {new} do not broadcast") from None
    if isinstance(old, int) and isinstance(new, int):
        raise ValueError(f"axis {name} is both {old} and {new}")
    return new if old is None or isinstance(new, int) else old


def _check_segment(term: Affine, dim: Dim, operand: int) -> None:
    extent = 1 if term == UNIT else term.extent
    if isinstance(extent, int) and isinstance(dim, int) and extent != dim:
        raise ValueError(f"operand {operand} has dim {dim} where {extent} belongs")


def _solve(compounds: list[tuple[Compound, Dim]], known: dict[str, Dim]) -> None:
    """Divide what is known out of each compound until nothing new comes of it."""
    while compounds:
        left: list[tuple[Compound, Dim]] = []
        for term, dim in compounds:
            unknown = [a for a in term.axes if known.get(a) is None]
            rest = dims.product(known[a] for a in term.axes if a not in unknown)
            if len(unknown) > 1:
                left.append((term, dim))
            elif isinstance(dim, int) and isinstance(rest, int):
                fits = dim == rest if not unknown or not rest else not dim % rest
                if not fits:
                    parts = ", ".join(
                        f"{a}={format_dim(known.get(a))}" for a in term.axes
                    )
                    raise ValueError(f"compound {term} of {parts} is no {dim}")
                if unknown and rest:
                    known[unknown[0]] = dim // rest
            elif unknown:
                known[unknown[0]] = _divided(dim, rest)
        if len(left) == len(compounds):
            return
        compounds = left


def _divided(dim: Dim, rest: Dim) -> Dim:
    """The dim by factors that divide it wherever operands are legal."""
    exact = dims.divide_exact(dim, rest)
    if exact is not None or rest is None or rest == 0:
        return exact
    return dims.floordiv(dim, rest)


def result_shapes(maps: Maps, extents: Extents) -> tuple[Shape, ...]:
    """The dims of each result; None where a term does not tell."""
    return tuple(
        tuple([_result_dim(term, extents) for term in map_]) for map_ in maps.results
    )


def _result_dim(term: Term, extents: Extents) -> Dim:
    match term:
        case Affine(plain=str() as name) | Whole(axis=name):
            return extents[name]
        case Affine():
            return 1 if term == UNIT else term.extent
        case Compound():
            return dims.product([extents[a] for a in term.axes])
        case _:
            return None


@dataclass(frozen=True)
class Domain:
    """An op's iteration space for operands of known shapes; made by `domain`.

    ``maps`` are free of broadcasting: an operand that is repeated along an axis has a
    unit dim there. Where it is not known whether it is, the axis is whole.
    """

    maps: Maps
    operand_shapes: tuple[Shape | None, ...]
    extents: Extents
    tilings: dict[str, Tiling] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """How axes may be tiled, once that was found out (`tiling`)."""

    @cached_property
    def size(self) -> Dim:
        """The number of points."""
        return dims.product(self.extents[name] for name in self.maps.axes)


def domain(
    maps: Maps,
    operand_shapes: Sequence[Shape | None],
    declared: Mapping[str, Dim] | None = None,
) -> Domain:
    """The domain of an op on operands of these shapes; arguments as for `extents`."""
    sizes = extents(maps, operand_shapes, declared)
    shapes = tuple(operand_shapes)
    if not maps.broadcast:
        return Domain(maps, shapes, sizes)
    padded = [*shapes, *[None] * (len(maps.operands) - len(shapes))]
    undecided = {
        term.plain
        for map_, shape in zip(maps.operands, padded, strict=True)
        for term, dim in zip(map_ or (), shape or (), strict=False)
        if isinstance(term, Affine)
        and term.plain in maps.broadcast
        and dim != 1
        and not dims.equal(dim, sizes[term.plain])
    }

    def resolved(term: Term, dim: Dim) -> Term:
        name = term.plain if isinstance(term, Affine) else None
        if name is None or name not in maps.broadcast:
            return term
        if dim == 1 and sizes[name] != 1:
            return UNIT
        return Whole(name) if name in undecided else term

    operands = [
        map_
        if map_ is None or shape is None
        else tuple(resolved(t, d) for t, d in zip(map_, shape, strict=True))
        for map_, shape in zip(maps.operands, padded, strict=True)
    ]
    results = [tuple(resolved(t, None) for t in map_) for map_ in maps.results]
    exact = replace(
        maps,
        operands=tuple(operands),
        results=tuple(results),
        broadcast=frozenset(),
    )
    return Domain(exact, shapes, sizes)


# --- volumes ------------------------------------------------------------------------


def flops(domain: Domain) -> Dim:
    """Floating-point operations: points of the domain times the cost of one."""
    return _scaled(domain.size, domain.maps.cost)


def bytes_moved(domain: Domain, itemsizes: Sequence[float]) -> Dim:
    """Bytes read and written, each element once.

    ``itemsizes`` are bytes per element, of the operands and then of the results (half a
    byte is 0.5). Of a looked-up dim as many positions count as are looked up, and of a
    dim that windows or segments read, those within it. Operands that are not indexed
    count nothing.
    """
    total: Dim = 0
    maps = (*domain.maps.operands, *domain.maps.results)
    for i, (map_, itemsize) in enumerate(zip(maps, itemsizes, strict=True)):
        if map_ is not None:
            shape = domain.operand_shapes[i] if i < len(domain.operand_shapes) else None
            read = _footprint(domain, map_, shape)
            total = dims.add(total, _scaled(read, itemsize))
    return total


def _footprint(domain: Domain, map_: Map, shape: Shape | None) -> Dim:
    """The number of elements that the domain touches, at most those there are."""
    size: Dim = 1
    own = {name for term in map_ for name in term.axes}
    telling: set[str] = set()
    for i, term in enumerate(map_):
        if isinstance(term, Lookup):  # one position per point of the operand that tells
            for other in domain.maps.operands[term.by] or ():
                telling.update(other.axes)
            continue
        dim = None if shape is None else shape[i]
        reach = _touched(term, domain.extents, dim)
        size = dims.mul(size, reach)
    return dims.product([size, *(domain.extents[a] for a in sorted(telling - own))])


def _touched(term: Term, extents: Extents, dim: Dim) -> Dim:
    """How many positions of a dim the domain reads or writes."""
    count = dims.product(extents[a] for a in term.axes)
    if isinstance(term, Affine):
        if len(term.coefficients) > 1:
            count = dims.minimum(count, _window(term, extents))
        for limit in (term.extent, dim):
            count = count if limit is None else dims.minimum(count, limit)
    return count


def _window(term: Affine, extents: Extents) -> Dim:
    """From the least position to the greatest, both included."""
    reach: Dim = 1
    for name, step in term.coefficients:
        size = dims.maximum(step, dims.mul(-1, step))
        reach = dims.add(reach, dims.mul(size, dims.sub(extents[name], 1)))
    return reach


def _scaled(size: Dim, factor: float) -> Dim:
    """size * factor, rounded up."""
    if isinstance(size, int):
        return math.ceil(size * factor)
    ratio = Fraction(factor).limit_denominator(1000)
    return dims.ceildiv(dims.mul(size, ratio.numerator), ratio.denominator)
