"""What an op may know of its operands when it is built: dims, axes, sizes.

Operands that steer shapes hold ints or dims (`Value.contents`). `present` tells an
absent operand from an unknown one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .. import dims
from ..dims import Dim, Shape
from ..ir import Op


def present(op: Op, index: int) -> bool:
    """True where the op has the operand."""
    return op.operand(index) is not None


def shape_of(op: Op, index: int = 0) -> Shape | None:
    """Dims of an operand; None where it is absent or of unknown rank."""
    value = op.operand(index)
    return None if value is None else value.shape


def dims_of(op: Op, index: int) -> tuple[Dim, ...] | None:
    """The elements of an operand in order; None where it is absent or unknown."""
    value = op.operand(index)
    if value is None or value.contents is None:
        return None
    return tuple(value.contents.ravel().tolist())


def ints_of(op: Op, index: int) -> tuple[int, ...] | None:
    """The elements of an operand in order, where all of them are known integers."""
    value = op.operand(index)
    return None if value is None else value.ints


def length_of(op: Op, index: int) -> int | None:
    """The extent of an operand of rank 1, where it is known."""
    shape = shape_of(op, index)
    if shape is None or len(shape) != 1 or not isinstance(shape[0], int):
        return None
    return shape[0]


def concrete(array: Any) -> list[Any] | None:
    """The elements of an array that steers `compute`; None for an absent one."""
    return None if array is None else array.ravel().tolist()


def normal_axis(axis: Dim, rank: int) -> int:
    """``axis`` counted from the front. Raises ValueError where it is out of range."""
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def normal_axes(axes: Iterable[Dim], rank: int) -> tuple[int, ...]:
    """Axes counted from the front. Raises ValueError where one is repeated."""
    result = tuple([normal_axis(axis, rank) for axis in axes])
    if len(set(result)) != len(result):
        raise ValueError(f"axes {result} repeat one")
    return result


def agreed(*found: Dim) -> Dim:
    """The plainest of several dims that must be equal: an int if there is one.

    Raises ValueError where ints differ.
    """
    ints = {dim for dim in found if isinstance(dim, int)}
    if len(ints) > 1:
        raise ValueError(f"dims {sorted(ints)} must be equal")
    symbolic = [dim for dim in found if isinstance(dim, dims.Expr)]
    plainest = min(symbolic, key=lambda dim: dim.polynomial.size, default=None)
    return min(ints, default=plainest)


def cost_among(flops: float, whole: Iterable[Dim]) -> float:
    """The cost of a point of a domain that has whole axes of which few are touched.

    ``flops`` are those of a point without them.
    """
    points = dims.product(whole)
    return flops / points if isinstance(points, int) and points else 0.0


def axis_names(count: int, prefix: str = "i") -> list[str]:
    """Names for so many axes of an index map."""
    return [f"{prefix}{i}" for i in range(count)]


def joined(parts: Sequence[Sequence[str]], results: Sequence[Sequence[str]]) -> str:
    """The notation of index maps, from the words of each operand and result."""
    sides = (", ".join(" ".join(words) for words in side) for side in (parts, results))
    return " -> ".join(sides)
