"""Products that sum: matmul, tensordot, einsum.

``accumulate`` states the type in which products are summed, and that of the result;
the operands may then be of any narrower types. Without it the result has the operands'
type, and narrow types accumulate in their wide one.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

from ..errors import TypeMismatch
from .foundation import Array, DTypeLike, Foundation, normal_axes


class Products(Foundation):
    """Contractions; integer ones are exact modulo the width of their type."""

    def matmul(
        self, a: Array, b: Array, *, accumulate: DTypeLike | None = None
    ) -> Array:
        """Matrix product of the last two axes; the leading ones broadcast."""
        if accumulate is None:
            return self.each(self.multiply_matrices, a, b)
        kind = self.dtype(accumulate)
        return self.multiply_matrices(self.convert(a, kind), self.convert(b, kind))

    @abstractmethod
    def multiply_matrices(self, a: Array, b: Array) -> Array:
        """`matmul` of two arrays of one type that is not narrow."""

    def det(self, x: Array) -> Array:
        """The determinant over the last two axes."""
        return self.each(self.lib.linalg.det, x)

    def inverse(self, x: Array) -> Array:
        """The inverse of the matrices in the last two axes."""
        return self.each(self.lib.linalg.inv, x)

    def tensordot(
        self,
        a: Array,
        b: Array,
        axes: tuple[Sequence[int], Sequence[int]],
        *,
        accumulate: DTypeLike | None = None,
    ) -> Array:
        """Sum of products over pairs of axes; then the axes left of ``a``, of ``b``."""
        left, right = normal_axes(axes[0], a.ndim), normal_axes(axes[1], b.ndim)
        rows = [axis for axis in range(a.ndim) if axis not in left]
        columns = [axis for axis in range(b.ndim) if axis not in right]
        shape = [a.shape[i] for i in rows] + [b.shape[i] for i in columns]
        depth = _size(a, left)
        if depth != _size(b, right):
            raise TypeMismatch(f"axes of {a.shape} and {b.shape} to sum over differ")
        a = self.lib.transpose(a, [*rows, *left]).reshape(_size(a, rows), depth)
        b = self.lib.transpose(b, [*right, *columns]).reshape(depth, _size(b, columns))
        return self.matmul(a, b, accumulate=accumulate).reshape(shape)

    def einsum(
        self, equation: str, *operands: Array, accumulate: DTypeLike | None = None
    ) -> Array:
        """Einstein summation as ONNX has it: ``"bij, bjk -> bik"``, ``...``, diagonals.

        Operands are contracted in the order in which they are given.
        """
        arrays = [self.asarray(operand) for operand in operands]
        if accumulate is None:
            return self.each(lambda *wide: self._einsum(equation, wide), *arrays)
        kind = self.dtype(accumulate)
        return self._einsum(equation, [self.convert(x, kind) for x in arrays])

    def _einsum(self, equation: str, arrays: Sequence[Array]) -> Array:
        terms, result = _terms(equation, [array.ndim for array in arrays])
        x, axes = self._diagonal_of(arrays[0], terms[0])
        for i in range(1, len(arrays)):
            y, others = self._diagonal_of(arrays[i], terms[i])
            wanted = set(result).union(*terms[i + 1 :])
            x, axes = self._pair(x, axes, y, others, wanted)
        lone = tuple(i for i, axis in enumerate(axes) if axis not in result)
        if lone:
            x = self.lib.sum(x, axis=lone, dtype=x.dtype)
            axes = [axis for axis in axes if axis in result]
        return self.asarray(self.lib.transpose(x, [axes.index(a) for a in result]))

    def _diagonal_of(self, x: Array, axes: list[str]) -> tuple[Array, list[str]]:
        """``x`` with each axis once: the diagonal of those named twice."""
        for axis in dict.fromkeys(axes):
            while axes.count(axis) > 1:
                first = axes.index(axis)
                second = axes.index(axis, first + 1)
                x = self.lib.diagonal(x, axis1=first, axis2=second)
                axes = [a for i, a in enumerate(axes) if i not in (first, second)]
                axes.append(axis)
        return x, axes

    def _pair(
        self, x: Array, left: list[str], y: Array, right: list[str], wanted: set[str]
    ) -> tuple[Array, list[str]]:
        """Two operands contracted by one batched matrix product."""
        # What only one of them has, and nobody wants, is summed first.
        for array, axes, others in ((x, left, right), (y, right, left)):
            lone = [
                i for i, a in enumerate(axes) if a not in wanted and a not in others
            ]
            if lone:
                summed = self.lib.sum(array, axis=tuple(lone), dtype=array.dtype)
                kept = [a for i, a in enumerate(axes) if i not in lone]
                if axes is left:
                    x, left = summed, kept
                else:
                    y, right = summed, kept
        batch = [a for a in left if a in right and a in wanted]
        depth = [a for a in left if a in right and a not in wanted]
        rows = [a for a in left if a not in right]
        columns = [a for a in right if a not in left]
        size = dict(zip(right, y.shape, strict=True))
        for axis, extent in zip(left, x.shape, strict=True):
            # An axis of extent 1 broadcasts against the same axis of the other operand.
            other = size.setdefault(axis, extent)
            if 1 not in (extent, other) and extent != other:
                raise TypeMismatch(f"einsum: an axis of {extent} and of {other}")
            size[axis] = other if extent == 1 else extent
        x = self._arranged(x, left, (batch, rows, depth), size)
        y = self._arranged(y, right, (batch, depth, columns), size)
        product = self.multiply_matrices(x, y)
        axes = [*batch, *rows, *columns]
        return product.reshape([size[axis] for axis in axes]), axes

    def _arranged(
        self,
        x: Array,
        axes: list[str],
        groups: tuple[list[str], list[str], list[str]],
        size: dict[str, int],
    ) -> Array:
        """``x`` as three axes, each a group of the named ones."""
        order = [axis for group in groups for axis in group]
        x = self.lib.transpose(x, [axes.index(axis) for axis in order])
        shape = tuple(size[axis] for axis in order)
        if x.shape != shape:
            x = self.lib.broadcast_to(x, shape)
        return x.reshape([math.prod(size[a] for a in g) for g in groups])


def _size(x: Array, axes: Sequence[int]) -> int:
    return math.prod(x.shape[axis] for axis in axes)


def _terms(equation: str, ranks: list[int]) -> tuple[list[list[str]], list[str]]:
    """The axes of each operand and of the result; those of ``...`` become numbers.

    Raises TypeMismatch where the equation does not fit the ranks.
    """
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        raise TypeMismatch(f"einsum {equation!r} has {len(ranks)} operands")
    terms, spread = [], 0
    for part, rank in zip(parts, ranks, strict=True):
        head, dots, tail = part.partition("...")
        free = rank - len(head) - len(tail)
        if free < 0 or (free and not dots) or not (head + tail + "a").isalpha():
            raise TypeMismatch(
                f"einsum {equation!r}: {part!r} does not fit rank {rank}"
            )
        spread = max(spread, free)
        # Broadcast axes are aligned at their end: the last of them is "1".
        terms.append([*head, *map(str, range(free, 0, -1)), *tail])
    ellipsis = list(map(str, range(spread, 0, -1)))
    if arrow:
        head, dots, tail = right.partition("...")
        result = [*head, *(ellipsis if dots else ()), *tail]
    else:
        letters = [axis for term in terms for axis in term if axis.isalpha()]
        result = ellipsis + sorted(a for a in set(letters) if letters.count(a) == 1)
    known = {axis for term in terms for axis in term}
    if len(set(result)) != len(result) or not known.issuperset(result):
        raise TypeMismatch(f"einsum {equation!r}: bad result {right!r}")
    return terms, result
