"""Gather and scatter: elements picked or replaced at positions that are data.

Negative positions count from the back. The host raises IndexError for a position out
of range; traced code cannot see it, and clamps (gather) or drops (scatter).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from ..errors import TypeMismatch
from .foundation import WIDE, Array, Foundation, ints, normal_axis

REDUCTIONS = ("none", "add", "mul", "min", "max")


class Indexing(Foundation):
    """`take`, `gather_nd`, the scatters, dynamic slices; `nonzero` and `unique`."""

    @abstractmethod
    def take(self, x: Array, indices: Array, axis: int = 0) -> Array:
        """Slices of ``x`` along ``axis``: ONNX's Gather."""

    @abstractmethod
    def pick(self, x: Array, index: tuple[Array, ...]) -> Array:
        """``x[index]`` for integer arrays that broadcast, one for each leading axis."""

    @abstractmethod
    def put(
        self, x: Array, index: tuple[Array, ...], updates: Array, reduction: str
    ) -> Array:
        """A copy of ``x``, ``x[index]`` replaced by, or reduced with, ``updates``."""

    def take_along_axis(self, x: Array, indices: Array, axis: int) -> Array:
        """ONNX's GatherElements: ``indices`` may be smaller along the other axes."""
        return self.pick(x, self._mesh(x, indices, axis))

    def _mesh(self, x: Array, indices: Array, axis: int) -> tuple[Array, ...]:
        """The positions that elementwise indices along ``axis`` stand for."""
        axis = normal_axis(axis, x.ndim)
        if x.ndim != indices.ndim:
            raise TypeMismatch(f"indices of rank {indices.ndim} into rank {x.ndim}")
        mesh = self._places(indices.shape)
        mesh[axis] = indices
        return tuple(mesh)

    def _places(self, extents: Sequence[int]) -> list[Array]:
        """Positions along each axis, which broadcast: `np.ogrid`, traced too."""
        rank = len(extents)
        return [
            self.lib.arange(extent).reshape([-1 if i == j else 1 for j in range(rank)])
            for i, extent in enumerate(extents)
        ]

    def gather_nd(self, x: Array, indices: Array, batch_dims: int = 0) -> Array:
        """Slices of ``x`` at the index tuples along the last axis of ``indices``."""
        if indices.shape[-1] == 0 and not batch_dims:
            return self.lib.broadcast_to(x, indices.shape[:-1] + x.shape)
        batch = self._places(indices.shape[:batch_dims])
        spread = indices.ndim - 1 - batch_dims
        leading = [b.reshape(b.shape + (1,) * spread) for b in batch]
        tuples = [indices[..., i] for i in range(indices.shape[-1])]
        return self.pick(x, (*leading, *tuples))

    def scatter_elements(
        self,
        x: Array,
        indices: Array,
        updates: Array,
        axis: int = 0,
        reduction: str = "none",
    ) -> Array:
        """`put` at elementwise positions along ``axis``."""
        return self._scatter(x, self._mesh(x, indices, axis), updates, reduction)

    def scatter_nd(
        self, x: Array, indices: Array, updates: Array, reduction: str = "none"
    ) -> Array:
        """`put` at the index tuples that the last axis of ``indices`` holds."""
        index = tuple(indices[..., i] for i in range(indices.shape[-1]))
        return self._scatter(x, index, updates, reduction)

    def _scatter(
        self, x: Array, index: tuple[Array, ...], updates: Array, reduction: str
    ) -> Array:
        if reduction not in REDUCTIONS:
            raise TypeMismatch(f"reduction {reduction!r} is not one of {REDUCTIONS}")
        x, updates = self.same(x, updates)
        if reduction == "none" or WIDE.get(x.dtype) is None:
            return self.put(x, index, updates, reduction)
        return self.each(lambda v, u: self.put(v, index, u, reduction), x, updates)

    @abstractmethod
    def dynamic_slice(self, x: Array, start: Any, size: int, axis: int) -> Array:
        """``size`` elements of ``axis`` from ``start``, which may be traced.

        ``start`` is clamped so that the slice lies inside.
        """

    @abstractmethod
    def dynamic_update(self, x: Array, part: Array, start: Any, axis: int) -> Array:
        """A copy of ``x`` in which ``part`` replaces the slice from ``start``."""

    # Results whose extents are data: the host only.

    @abstractmethod
    def nonzero(self, x: Array) -> Array:
        """Positions of what is not zero: ``int64[rank, count]``, row-major."""

    @abstractmethod
    def unique(
        self, x: Array, axis: int | None = None, *, sorted: bool = True
    ) -> tuple[Array, Array, Array, Array]:
        """Distinct elements, or slices along ``axis``; then int64 first positions,
        which of them each one is, and how often each occurs. Unsorted: as they come.
        """

    def reverse_sequence(
        self, x: Array, lengths: Array, batch_axis: int, time_axis: int
    ) -> Array:
        """The first ``lengths[b]`` steps of each sequence backwards, the rest as is."""
        batch_axis = normal_axis(batch_axis, x.ndim)
        time_axis = normal_axis(time_axis, x.ndim)
        at = self.lib.arange(x.shape[time_axis])
        lengths = self.asarray(lengths)[:, None]
        at = self.lib.where(at < lengths, lengths - 1 - at, at)
        shape = [1] * x.ndim
        shape[batch_axis], shape[time_axis] = x.shape[batch_axis], x.shape[time_axis]
        at = self.lib.reshape(at if batch_axis < time_axis else at.T, ints(shape))
        mesh = self._places(x.shape)
        mesh[time_axis] = at
        return self.pick(x, tuple(mesh))
