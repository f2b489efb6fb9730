"""Index maps: how the results of an op index its operands.

An op runs over a *domain*, the product of named *axes*. A map says for each dim of a
tensor which position a point of the domain reads or writes there.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from ..dims import Dim, format_dim


class Combiner(enum.Enum):
    """How partial results over parts of a reduced axis make the whole one."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    PROD = "prod"
    LOGSUMEXP = "logsumexp"

    def __repr__(self) -> str:
        return f"Combiner.{self.name}"


@dataclass(frozen=True, slots=True)
class Affine:
    """Position ``sum(c * axis) + offset``: ``2*y + 3*r - 1``, ``i``, ``4 - i``.

    Positions outside of the dim are not read (padding, or a part of a Concat) and not
    written. ``extent`` is the length of the dim where the axes do not tell it: the term
    is then a segment, ``c-5:3``.
    """

    coefficients: tuple[tuple[str, Dim], ...] = ()
    offset: Dim = 0
    extent: Dim = None
    plain: str | None = field(init=False, compare=False, default=None)
    """The axis, where the term is just that one."""
    axes: tuple[str, ...] = field(init=False, compare=False, repr=False, default=())

    def __post_init__(self) -> None:
        names = tuple([name for name, _ in self.coefficients])
        object.__setattr__(self, "axes", names)
        if len(self.coefficients) == 1 and self.offset == 0 and self.extent is None:
            (name, step) = self.coefficients[0]
            if step == 1:
                object.__setattr__(self, "plain", name)

    def __str__(self) -> str:
        text = ""
        for name, step in self.coefficients:
            sign = "-" if isinstance(step, int) and step < 0 else "+"
            size = abs(step) if isinstance(step, int) else step
            text += sign + (name if size == 1 else f"{_factor(size)}*{name}")
        if self.offset != 0 or not text:
            value = 1 if self == UNIT else self.offset
            text += str(value) if str(value).startswith("-") else f"+{_factor(value)}"
        extent = "" if self.extent is None else f":{_factor(self.extent)}"
        return text.removeprefix("+") + extent


def _factor(dim: Dim) -> str:
    return str(dim) if isinstance(dim, int) else f"[{format_dim(dim)}]"


@dataclass(frozen=True, slots=True)
class Compound:
    """Row-major position of several axes, the major one first: ``(h d)``."""

    axes: tuple[str, ...]

    def __str__(self) -> str:
        return f"({' '.join(self.axes)})"


@dataclass(frozen=True, slots=True)
class Lookup:
    """The position is read from operand ``by``: ``@1``."""

    by: int

    @property
    def axes(self) -> tuple[str, ...]:
        return ()

    def __str__(self) -> str:
        return f"@{self.by}"


@dataclass(frozen=True, slots=True)
class Whole:
    """Any position of an axis, which therefore stays whole: ``_v``."""

    axis: str

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.axis,)

    def __str__(self) -> str:
        return f"_{self.axis}"


Term: TypeAlias = Affine | Compound | Lookup | Whole
Map: TypeAlias = tuple[Term, ...]

UNIT = Affine()
"""A dim of extent 1."""


def axis(name: str) -> Affine:
    """The term of a plain axis."""
    return Affine(((name, 1),))


@dataclass(frozen=True)
class Maps:
    """The index maps of an op, and what they leave open about its arithmetic.

    Made by `parse`, or by `build` where terms have symbolic coefficients.
    """

    operands: tuple[Map | None, ...]
    """None for an operand that is absent or not indexed (a shape, an axis)."""
    results: tuple[Map, ...]
    combiners: tuple[tuple[str, Combiner | None], ...] = ()
    """For each reduced axis; None where partial results cannot be combined (ArgMax)."""
    broadcast: frozenset[str] = frozenset()
    """Axes for which an operand may have extent 1 and is then repeated."""
    carried: frozenset[str] = frozenset()
    """Axes whose points are computed in order, each from the one before (CumSum)."""
    positional: frozenset[str] = frozenset()
    """Axes whose positions the op itself looks at: a tile must be told its offset."""
    linear: tuple[frozenset[int], ...] = ()
    """Operand sets in which the op is jointly linear while the others are fixed.

    A bias that is added to a sum must be in a set with what is summed.
    """
    cost: float = 1.0
    """Floating-point operations per point of the domain."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.operands, self.results)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined, no-any-return]

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The axes of the domain, in order of appearance."""
        return tuple(dict.fromkeys(_axes_of([*self.operands, *self.results])))

    @cached_property
    def operand_axes(self) -> frozenset[str]:
        return frozenset(_axes_of(self.operands))

    @cached_property
    def reduced(self) -> frozenset[str]:
        """Axes of operands that some result is without."""
        return frozenset(_reduced(self.operands, self.results))

    @cached_property
    def whole(self) -> frozenset[str]:
        """Axes any position of which may be read or written."""
        terms = [t for m in (*self.operands, *self.results) for t in m or ()]
        return frozenset(t.axis for t in terms if isinstance(t, Whole))

    def combiner(self, axis: str) -> Combiner | None:
        """The combiner of an axis; None where there is none."""
        return dict(self.combiners).get(axis)

    def added(self, axis: str) -> frozenset[int]:
        """Operands without a summed axis that are added to the sum, not multiplied.

        The op is linear in each together with an operand that has the axis. A part of
        the sum that brought them along would count them once too often.
        """
        if axis not in self.reduced or self.combiner(axis) is not Combiner.SUM:
            return frozenset()
        summed = {i for i, m in enumerate(self.operands) if axis in _axes_of([m])}
        sets = [group - summed for group in self.linear if group & summed]
        return frozenset().union(*sets)

    def __str__(self) -> str:
        def text(map_: Map | None) -> str:
            return "-" if map_ is None else " ".join(map(str, map_))

        left, right = (", ".join(map(text, m)) for m in (self.operands, self.results))
        return f"{left} -> {right}"


def _axes_of(maps: Iterable[Map | None]) -> Iterable[str]:
    return (name for m in maps for term in m or () for name in term.axes)


def _reduced(operands: Iterable[Map | None], results: Iterable[Map]) -> list[str]:
    kept = [set(_axes_of([map_])) for map_ in results]
    every = set.intersection(*kept) if kept else set()
    return [a for a in dict.fromkeys(_axes_of(operands)) if a not in every]


def build(
    operands: Sequence[Map | None],
    results: Sequence[Map],
    *,
    combiner: Combiner | None = Combiner.SUM,
    combiners: Mapping[str, Combiner | None] | None = None,
    broadcast: Iterable[str] = (),
    carried: Iterable[str] = (),
    positional: Iterable[str] = (),
    linear: Iterable[Iterable[int]] = (),
    cost: float = 1.0,
) -> Maps:
    """Maps from terms. ``combiner`` is for the reduced axes not in ``combiners``."""
    special = combiners or {}
    return Maps(
        tuple(operands),
        tuple(results),
        tuple((a, special.get(a, combiner)) for a in _reduced(operands, results)),
        frozenset(broadcast),
        frozenset(carried),
        frozenset(positional),
        tuple(map(frozenset, linear)),
        cost,
    )
