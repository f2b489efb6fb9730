"""Ops that keep every element in its row-major place, and only change the dims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from .. import dims
from ..dims import Dim, Shape
from ..index import Maps
from .registry import op
from .steering import (
    concrete,
    dims_of,
    joined,
    length_of,
    normal_axes,
    present,
    shape_of,
)
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace

Wanted: TypeAlias = Sequence[Dim] | None
"""The elements of a shape or axes operand; None where it is absent."""


class Reshaping(Structured):
    """A change of dims alone; the index maps are the factors that both sides share."""

    linear = ((0,),)
    flops = 0.0
    static: ClassVar[tuple[int, ...]] = (1,)
    arithmetic = True

    def target(self, source: Shape, wanted: Wanted) -> Shape | None:
        """The dims of the result, None where those of the operand must be known for it.

        Raises ValueError where there are none.
        """
        raise NotImplementedError

    def vague(self, source: Shape | None) -> Shape | None:
        """The dims as far as known while operands are not."""
        return None

    def compute(self, xp: Namespace, x: Array, wanted: Array = None) -> Array:
        return xp.reshape(x, self.target(x.shape, concrete(wanted)))

    def result_shapes(self) -> Sequence[Shape | None]:
        source, wanted = shape_of(self), dims_of(self, 1)
        if source is None or (wanted is None and present(self, 1)):
            return [self.vague(source)]
        return [self.target(source, wanted)]

    def index_maps(self) -> Maps | None:
        factors = self._factors()
        if factors is None:
            return None
        left, right, _ = factors
        operands = [left, "-"] if present(self, 1) else [left]
        return self.parse_maps(joined(operands, [right]))

    def extents(self) -> Mapping[str, Dim]:
        factors = self._factors()
        return {} if factors is None else factors[2]

    def _factors(self) -> Factors | None:
        source, target = shape_of(self), self.shape
        return None if source is None or target is None else factored(source, target)


@op("Reshape")
class Reshape(Reshaping):
    """The elements under the dims that ``shape`` asks for.

    There, 0 copies the operand's dim (unless ``allowzero``) and -1 takes what is left.
    """

    def target(self, source: Shape, wanted: Wanted) -> Shape:
        assert wanted is not None
        return wanted_shape(source, wanted, allowzero=bool(self.allowzero))

    def vague(self, source: Shape | None) -> Shape | None:
        wanted, length = dims_of(self, 1), length_of(self, 1)
        if wanted is None:
            return None if length is None else (None,) * length
        open_ = (-1,) if self.allowzero else (-1, 0)
        return tuple([None if dim in open_ else dim for dim in wanted])


def wanted_shape(source: Shape, wanted: Sequence[Dim], *, allowzero: bool) -> Shape:
    """The dims that a Reshape of ``source`` to ``wanted`` gives.

    A wanted expression that might be negative is not known to be a dim: -1 is none.
    Raises ValueError where the elements do not fit.
    """
    wanted = [
        dim if isinstance(dim, int) or dims.nonnegative(dim) else None for dim in wanted
    ]
    shape, rest = list(wanted), list(source)
    given, left = [], []
    for i, dim in enumerate(wanted):
        if dim == 0 and not allowzero:
            if i >= len(source):
                raise ValueError(f"dim {i} is to be copied from rank {len(source)}")
            shape[i], rest[i] = source[i], 1
        elif dim is None or dim == -1:
            left.append(i)
        elif isinstance(dim, int) and dim < 0:
            raise ValueError(f"{dim} is no dim")
        else:
            given.append(dim)
    total, size = dims.product(rest), dims.product(given)
    if not left:
        clash = isinstance(total, int) and isinstance(size, int) and total != size
        if clash and dims.product(source) != dims.product(shape):  # copied zeros
            raise ValueError(f"{total} elements do not fit dims {shape}")
    elif len(left) == 1:
        shape[left[0]] = _quotient(total, size)
    elif shape.count(-1) > 1:
        raise ValueError("only one dim can be -1")
    else:
        shape = [None if dim == -1 else dim for dim in shape]
    return tuple(shape)


def _quotient(total: Dim, size: Dim) -> Dim:
    if total is None or size is None:
        return None
    if size == 0:
        raise ValueError("-1 beside a dim of 0")
    if isinstance(total, int) and isinstance(size, int) and total % size:
        raise ValueError(f"{total} elements do not fill rows of {size}")
    exact = dims.divide_exact(total, size)
    return dims.floordiv(total, size) if exact is None else exact


@op("Flatten")
class Flatten(Reshaping):
    """A matrix: the dims before ``axis`` multiplied together, and the others."""

    static = ()

    def target(self, source: Shape, wanted: Wanted) -> Shape:
        rank, axis = len(source), self.axis
        if not -rank <= axis <= rank:
            raise ValueError(f"axis {axis} is out of range for rank {rank}")
        axis = axis + rank if axis < 0 else axis
        return dims.product(source[:axis]), dims.product(source[axis:])

    def vague(self, source: Shape | None) -> Shape | None:
        return (None, None)


@op("Squeeze")
class Squeeze(Reshaping):
    """Without the given axes, all of extent 1; by default without all such axes."""

    def target(self, source: Shape, wanted: Wanted) -> Shape | None:
        if wanted is None:
            if not all(isinstance(d, int) or dims.at_least(d, 2) for d in source):
                return None
            return tuple([d for d in source if d != 1])
        gone = normal_axes(wanted, len(source))
        for axis in gone:
            if isinstance(source[axis], int) and source[axis] != 1:
                raise ValueError(f"axis {axis} has extent {source[axis]}, not 1")
        return tuple([d for i, d in enumerate(source) if i not in gone])

    def vague(self, source: Shape | None) -> Shape | None:
        count = length_of(self, 1)
        if source is None or count is None:
            return None
        return (None,) * (len(source) - count)


@op("Unsqueeze")
class Unsqueeze(Reshaping):
    """With axes of extent 1 put in, at the given positions of the result."""

    def target(self, source: Shape, wanted: Wanted) -> Shape:
        assert wanted is not None
        rank = len(source) + len(wanted)
        new = normal_axes(wanted, rank)
        rest = iter(source)
        return tuple([1 if i in new else next(rest) for i in range(rank)])

    def vague(self, source: Shape | None) -> Shape | None:
        count = length_of(self, 1)
        if source is None or count is None:
            return None
        return (None,) * (len(source) + count)


# --- factors ------------------------------------------------------------------------

Factors: TypeAlias = tuple[list[str], list[str], dict[str, Dim]]
"""The term of each dim of the operand, of the result, and the extent of each axis."""


def factored(source: Shape, target: Shape) -> Factors:
    """The row-major factors of two shapes of equally many elements.

    ``[b, s, 512] -> [b*s, 8, 64]`` is ``a b (c d) -> (a b) c d``. Dims without common
    factors are whole.
    """
    left = [f"_s{i}" for i in range(len(source))]
    right = [f"_t{j}" for j in range(len(target))]
    extents: dict[str, Dim] = {}
    for i, j in _blocks(source, target):
        found = _refined([source[k] for k in i], [target[k] for k in j])
        if found is None:
            extents |= {f"s{k}": source[k] for k in i} | {f"t{k}": target[k] for k in j}
            continue
        factors, parts, others = found
        names = [f"a{len(extents) + n}" for n in range(len(factors))]
        extents.update(zip(names, factors, strict=True))
        for places, side, pieces in ((i, left, parts), (j, right, others)):
            for k, piece in zip(places, pieces, strict=True):
                side[k] = _term([names[n] for n in piece])
    return left, right, extents


def _term(axes: Sequence[str]) -> str:
    if len(axes) == 1:
        return axes[0]
    return f"({' '.join(axes)})" if axes else "1"


def _blocks(source: Shape, target: Shape) -> Iterator[tuple[range, range]]:
    """The smallest runs of dims, from the back, that hold equally many elements."""
    i, j = len(source), len(target)
    if any(dim == 0 for dim in source + target):
        yield range(i), range(j)
        return
    while i or j:
        low, high = next(_ends(source, target, i, j), (0, 0))
        yield range(low, i), range(high, j)
        i, j = low, high


def _ends(source: Shape, target: Shape, i: int, j: int) -> Iterator[tuple[int, int]]:
    for width in range(1, i + j + 1):
        for count in range(width + 1):
            low, high = i - count, j - (width - count)
            if low < 0 or high < 0:
                continue
            if dims.equal(dims.product(source[low:i]), dims.product(target[high:j])):
                yield low, high


def _refined(
    source: Sequence[Dim], target: Sequence[Dim]
) -> tuple[list[Dim], list[list[int]], list[list[int]]] | None:
    """Extents of the common factors, and which of them make up each dim of both sides.

    None where neither of two dims divides the other, and where there are no elements.
    """
    if 0 in source or 0 in target:
        return None
    found: list[Dim] = []
    parts: list[list[int]] = [[] for _ in source]
    others: list[list[int]] = [[] for _ in target]
    left, right = list(source), list(target)  # what is not factored yet
    rows = [i for i, dim in enumerate(source) if dim != 1]
    columns = [j for j, dim in enumerate(target) if dim != 1]
    while rows and columns:
        i, j = rows[-1], columns[-1]
        quotient = dims.divide_exact(left[i], right[j])
        inverse = dims.divide_exact(right[j], left[i])
        # The last dim of a side is the product of what the other has left.
        if len(rows) == 1 or (quotient is not None and len(columns) > 1):
            factor, left[i] = right[j], quotient
            columns.pop()
        elif len(columns) == 1 or inverse is not None:
            factor, right[j] = left[i], inverse
            rows.pop()
        else:
            return None
        parts[i].insert(0, len(found))
        others[j].insert(0, len(found))
        found.append(factor)
        rows = [k for k in rows if left[k] != 1]
    return found, parts, others
