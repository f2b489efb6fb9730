"""Tensors made of dims, positions and numbers: Shape, Range, EyeLike, Trilu, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import dims
from ..dims import Dim, Shape as Dims
from ..index import Maps
from ..ir import Contents
from ..types import DType
from ..weights import Tensor
from .registry import op
from .steering import axis_names, dims_of, joined, length_of, shape_of
from .structured import Array, Computed, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


# --- dims as data -------------------------------------------------------------------


@op("Shape")
class Shape(Structured):
    """The dims of x from ``start`` to ``end``, as int64."""

    maps = "- -> i"
    flops = 0.0

    def part(self, rank: int) -> slice:
        """Which dims of a tensor of this rank are asked for."""
        return slice(_clamped(self.start, rank), _clamped(self.end, rank))

    def extents(self) -> Mapping[str, Dim]:
        shape = shape_of(self)
        return {"i": None if shape is None else len(shape[self.part(len(shape))])}

    def result_shapes(self) -> Sequence[Dims | None]:
        return [(self.extents()["i"],)]

    def infer_contents(self) -> tuple[Contents | None, ...]:
        shape = shape_of(self)
        if shape is None:
            return (None,)
        wanted = shape[self.part(len(shape))]
        known: Contents = np.empty(len(wanted), object)
        known[:] = wanted
        return (known,)

    def compute(self, xp: Namespace, x: Array) -> Array:
        # Known also while x is traced, and so NumPy's.
        return np.array(x.shape[self.part(x.ndim)], np.int64)


def _clamped(bound: int | None, rank: int) -> int | None:
    """A bound of a slice of dims: negative ones count from the back."""
    if bound is None:
        return None
    return min(max(bound + rank if bound < 0 else bound, 0), rank)


@op("Size")
class Size(Structured):
    """How many elements x has, as int64."""

    maps = "- -> "
    flops = 0.0

    def infer_contents(self) -> tuple[Contents | None, ...]:
        shape = shape_of(self)
        if shape is None:
            return (None,)
        return (np.array(dims.product(shape), object),)

    def compute(self, xp: Namespace, x: Array) -> Array:
        return np.array(x.size, np.int64)


# --- positions as data --------------------------------------------------------------


@op("Range")
class Range(Structured):
    """start, start + delta, ... before limit."""

    static = (0, 1, 2)
    arithmetic = True

    def index_maps(self) -> Maps | None:
        return self.parse_maps("-, -, - -> i", positional=["i"])

    def extents(self) -> Mapping[str, Dim]:
        return {"i": self.count()}

    def result_shapes(self) -> Sequence[Dims | None]:
        return [(self.count(),)]

    def count(self) -> Dim:
        """How many elements there are; None where the operands are not known."""
        known = [dims_of(self, i) for i in range(3)]
        if None not in known:
            start, limit, delta = (bound[0] for bound in known if bound)
            if not isinstance(delta, int) or not delta:
                return None
            reach = dims.sub(limit, start)
            if delta < 0:
                reach, delta = dims.mul(-1, reach), -delta
            count = dims.ceildiv(reach, delta)
            return count if dims.nonnegative(count) else dims.maximum(count, 0)
        constants = [None if v is None else v.constant for v in self.operands]
        if any(c is None for c in constants):
            return None
        low, high, step = (float(c.array()) for c in constants if c is not None)
        steps = (high - low) / step if step else np.nan
        return max(int(np.ceil(steps)), 0) if np.isfinite(steps) else None

    def compute(self, xp: Namespace, start: Array, limit: Array, delta: Array) -> Array:
        return xp.arange(start, limit, delta, start.dtype)


@op("EyeLike")
class EyeLike(Structured):
    """Ones on the ``k``-th diagonal, zeros elsewhere, in the dims of x."""

    flops = 0.0

    def result_dtypes(self) -> Sequence[DType | None]:
        return [chosen_dtype(self)]

    def index_maps(self) -> Maps | None:
        return self.parse_maps("- -> r c", positional=["r", "c"])

    def extents(self) -> Mapping[str, Dim]:
        rows, columns = shape_of(self) or (None, None)
        return {"r": rows, "c": columns}

    def compute(self, xp: Namespace, x: Array) -> Array:
        chosen = self.attrs.get("dtype")
        dtype = DType.of(x.dtype) if chosen is None else DType(chosen)
        return xp.eye(x.shape[0], x.shape[1], self.k, dtype=dtype)


def chosen_dtype(like: Computed) -> DType | None:
    """The element type that the attribute ``dtype`` names, by default operand 0's."""
    chosen = like.attrs.get("dtype")
    if chosen is not None:
        return DType(chosen)
    x = like.operand(0)
    return None if x is None else x.dtype


@op("Trilu")
class Trilu(Structured):
    """x with zeros below the ``k``-th diagonal (``upper``), or above it."""

    static = (1,)
    linear = ((0,),)
    flops = 0.0

    def index_maps(self) -> Maps | None:
        steering = ", -" * (len(self.operands) - 1)
        return self.parse_maps(f"... r c{steering} -> ... r c", positional=["r", "c"])

    def result_shapes(self) -> Sequence[Dims | None]:
        return [shape_of(self)]

    def compute(self, xp: Namespace, x: Array, k: Array | None = None) -> Array:
        diagonal = 0 if k is None else int(k.item())
        return xp.triu(x, diagonal) if self.upper else xp.tril(x, diagonal)


# --- one number ---------------------------------------------------------------------


@op("ConstantOfShape")
class ConstantOfShape(Structured):
    """The dims that the operand holds, filled with one ``value``; 0.0 by default."""

    static = (0,)
    arithmetic = True
    flops = 0.0

    def filling(self) -> Tensor:
        """The number, as a tensor of one element."""
        given = self.attrs.get("value")
        return given if isinstance(given, Tensor) else ZERO

    def result_dtypes(self) -> Sequence[DType | None]:
        return [self.filling().dtype]

    def wanted(self) -> Dims | None:
        """The dims; None where not even the rank is known."""
        known, length = dims_of(self, 0), length_of(self, 0)
        if known is None and length is not None:
            return (None,) * length
        return known

    def index_maps(self) -> Maps | None:
        wanted = self.wanted()
        if wanted is None:
            return None
        return self.parse_maps(joined(["-"], [axis_names(len(wanted))]))

    def extents(self) -> Mapping[str, Dim]:
        wanted = self.wanted() or ()
        return dict(zip(axis_names(len(wanted)), wanted, strict=True))

    def result_shapes(self) -> Sequence[Dims | None]:
        return [self.wanted()]

    def compute(self, xp: Namespace, wanted: Array) -> Array:
        filling = self.filling()
        number: Any = filling.array().reshape(())
        return xp.full(wanted, number, filling.dtype)


ZERO = Tensor.of(np.zeros(1, np.float32))
