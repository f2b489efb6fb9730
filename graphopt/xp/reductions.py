"""Reductions, running sums, sorting: functions along axes.

``axis`` is one axis, several, or None for all; an empty sequence reduces nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .elementwise import Elementwise
from .foundation import WIDE, Array, along, normal_axes, normal_axis

Axes: TypeAlias = int | Sequence[int] | None


def lowest(dtype: np.dtype[Any]) -> Any:
    """The value that a maximum starts from."""
    if dtype.kind == "b":
        return False
    return dtype.type(-np.inf if dtype.kind == "f" else np.iinfo(dtype).min)


def highest(dtype: np.dtype[Any]) -> Any:
    """The value that a minimum starts from."""
    if dtype.kind == "b":
        return True
    return dtype.type(np.inf if dtype.kind == "f" else np.iinfo(dtype).max)


class Reductions(Elementwise):
    """Sums, extremes and their positions, running sums, order."""

    def _reduce(
        self, function: Callable[..., Array], x: Array, axis: Axes, keepdims: bool
    ) -> Array:
        axes = normal_axes(axis, x.ndim)
        if not axes:
            return self.asarray(x)
        return self.each(lambda v: function(v, axis=axes, keepdims=keepdims), x)

    def sum(self, x: Array, axis: Axes = None, *, keepdims: bool = False) -> Array:
        def total(x: Array, **options: Any) -> Array:
            return self.lib.sum(x, dtype=x.dtype, **options)

        return self._reduce(total, x, axis, keepdims)

    def prod(self, x: Array, axis: Axes = None, *, keepdims: bool = False) -> Array:
        def product(x: Array, **options: Any) -> Array:
            return self.lib.prod(x, dtype=x.dtype, **options)

        return self._reduce(product, x, axis, keepdims)

    def max(self, x: Array, axis: Axes = None, *, keepdims: bool = False) -> Array:
        """The largest; NaN if any is NaN; of nothing, the lowest value there is."""

        def largest(x: Array, **options: Any) -> Array:
            return self.lib.max(x, initial=lowest(x.dtype), **options)

        return self._reduce(largest, x, axis, keepdims)

    def min(self, x: Array, axis: Axes = None, *, keepdims: bool = False) -> Array:
        """The smallest; NaN if any is NaN; of nothing, the highest value there is."""

        def smallest(x: Array, **options: Any) -> Array:
            return self.lib.min(x, initial=highest(x.dtype), **options)

        return self._reduce(smallest, x, axis, keepdims)

    def mean(self, x: Array, axis: Axes = None, *, keepdims: bool = False) -> Array:
        """Sum over count; of integers, truncated toward zero as C divides."""

        def average(x: Array, **options: Any) -> Array:
            total = self.lib.sum(x, dtype=x.dtype, **options)
            count = math.prod(x.shape[a] for a in options["axis"])
            return self.divide(total, count)

        return self._reduce(average, x, axis, keepdims)

    def all(self, x: Array, axis: Axes = None, *, keepdims: bool = False) -> Array:
        return self._reduce(self.lib.all, x, axis, keepdims)

    def any(self, x: Array, axis: Axes = None, *, keepdims: bool = False) -> Array:
        return self._reduce(self.lib.any, x, axis, keepdims)

    # Positions

    def argmax(
        self,
        x: Array,
        axis: int,
        *,
        keepdims: bool = False,
        select_last: bool = False,
    ) -> Array:
        """Where the largest is along ``axis`` (int64): of equals the first, or last."""
        return self._position("argmax", x, axis, keepdims, select_last)

    def argmin(
        self,
        x: Array,
        axis: int,
        *,
        keepdims: bool = False,
        select_last: bool = False,
    ) -> Array:
        """Where along ``axis`` the smallest is (int64)."""
        return self._position("argmin", x, axis, keepdims, select_last)

    def _position(
        self,
        name: str,
        x: Array,
        axis: int,
        keepdims: bool,
        select_last: bool,
    ) -> Array:
        axis = normal_axis(axis, x.ndim)
        x = self._wide(x)
        if select_last:
            x = self.lib.flip(x, axis)
        found = self.asarray(self.first(name, x, axis), np.int64)
        if keepdims:
            found = self.lib.expand_dims(found, axis)
        return x.shape[axis] - 1 - found if select_last else found

    def first(self, name: str, x: Array, axis: int) -> Array:
        """``argmax`` or ``argmin`` as the library has it: of equals the first."""
        return getattr(self.lib, name)(x, axis=axis)

    def _wide(self, x: Array) -> Array:
        """``x`` in the type in which it computes."""
        wide = WIDE.get(x.dtype)
        return self.asarray(x) if wide is None else self.convert(x, wide)

    # Running sums and products

    def cumsum(
        self, x: Array, axis: int, *, exclusive: bool = False, reverse: bool = False
    ) -> Array:
        """Sums of everything up to each element; without itself if ``exclusive``."""
        return self._running(self.lib.cumsum, 0, x, axis, exclusive, reverse)

    def cumprod(
        self, x: Array, axis: int, *, exclusive: bool = False, reverse: bool = False
    ) -> Array:
        """Products of everything up to each element."""
        return self._running(self.lib.cumprod, 1, x, axis, exclusive, reverse)

    def _running(
        self,
        function: Callable[..., Array],
        first: int,
        x: Array,
        axis: int,
        exclusive: bool,
        reverse: bool,
    ) -> Array:
        axis = normal_axis(axis, x.ndim)

        def run(x: Array) -> Array:
            if reverse:
                x = self.lib.flip(x, axis)
            if exclusive and x.shape[axis]:
                start = along(x.ndim, axis, slice(0, 1))
                rest = along(x.ndim, axis, slice(0, -1))
                x = self.lib.concatenate(
                    [self.lib.full_like(x[start], first), x[rest]], axis=axis
                )
            x = function(x, axis=axis, dtype=x.dtype)
            return self.lib.flip(x, axis) if reverse else x

        return self.each(run, x)

    # Order

    def argsort(self, x: Array, axis: int = -1, *, descending: bool = False) -> Array:
        """The stable order along ``axis`` (int64); NaN counts as the largest."""
        axis = normal_axis(axis, x.ndim)
        x = self._wide(x)
        if descending:
            # Sorted backwards and read backwards, so that equals keep their order.
            x = self.lib.flip(x, axis)
        order = self.asarray(self.lib.argsort(x, axis=axis, stable=True), np.int64)
        return x.shape[axis] - 1 - self.lib.flip(order, axis) if descending else order

    def sort(self, x: Array, axis: int = -1, *, descending: bool = False) -> Array:
        order = self.argsort(x, axis, descending=descending)
        return self.asarray(self.lib.take_along_axis(x, order, axis=axis))

    def topk(
        self, x: Array, k: int, axis: int = -1, *, largest: bool = True
    ) -> tuple[Array, Array]:
        """The ``k`` largest (or smallest), best first, and their positions (int64).

        Of equals, the one at the lower position comes first.
        """
        order = self.argsort(x, axis, descending=largest)
        order = order[along(x.ndim, normal_axis(axis, x.ndim), slice(0, int(k)))]
        values = self.lib.take_along_axis(x, order, axis=axis)
        return self.asarray(values), self.asarray(order)
