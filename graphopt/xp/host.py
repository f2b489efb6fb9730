"""The namespace over NumPy: the reference, and constant folding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from . import contraction, convolution, extremes, half, strings
from .control import Arrays
from .error_function import erf
from .foundation import WIDE, Array, DTypeLike, along, normal_axis
from .namespace import Namespace
from .spatial import Geometry

_AT = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


class Host(Namespace):
    """What NumPy does differently from jax.numpy."""

    lib = np
    name = "host"

    def scope(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")

    def asarray(self, value: Any, dtype: DTypeLike | None = None) -> Array:
        return np.asarray(value, None if dtype is None else self.dtype(dtype))

    def convert(self, x: Array, dtype: np.dtype[Any]) -> Array:
        if x.dtype == half.FLOAT16 and dtype == half.FLOAT32:
            return half.to_single(x)
        return x.astype(dtype, copy=False)

    def add_into(self, total: Array, x: Array) -> Array:
        return np.add(total, x, out=total) if _holds(total, x) else self.add(total, x)

    def multiply_into(self, total: Array, x: Array) -> Array:
        if _holds(total, x):
            return np.multiply(total, x, out=total)
        return self.multiply(total, x)

    def maximum(self, a: Any, b: Any) -> Array:
        a, b = self.same(a, b)
        if a.dtype == half.FLOAT16 and a.size + b.size > half.FEW:
            picked = half.larger(a, b)
            if picked is not None:
                return picked
        return self.each(lambda a, b: extremes.pick(np.maximum, a, b), a, b)

    def minimum(self, a: Any, b: Any) -> Array:
        return self.each(lambda a, b: extremes.pick(np.minimum, a, b), a, b)

    def same(self, *operands: Any) -> tuple[Array, ...]:
        # What most calls come to; to look at everything would take longer than to add.
        first = operands[0]
        if type(first) is np.ndarray and self.dtype(first.dtype) is first.dtype:
            made = [first]
            for other in operands[1:]:
                kind = type(other)
                if kind is int or kind is float:
                    other = np.asarray(other, first.dtype)
                elif kind is not np.ndarray or other.dtype is not first.dtype:
                    break
                made.append(other)
            else:
                return tuple(made)
        return super().same(*operands)

    def integer_power(self, a: Array, b: Array) -> Array:
        return np.power(a, b)

    def complex(self, real: Any, imaginary: Any) -> Array:
        real, imaginary = self.same(real, imaginary)
        kind = np.complex128 if real.dtype == np.float64 else np.complex64
        result = np.empty(np.broadcast_shapes(real.shape, imaginary.shape), kind)
        result.real, result.imag = real, imaginary
        return result

    def fill_around(
        self, x: Array, pads: Sequence[tuple[int, int]], value: Any
    ) -> Array:
        shape = [before + n + after for n, (before, after) in zip(x.shape, pads)]  # noqa: B905
        result = np.full(shape, value, x.dtype)
        result[tuple(slice(b, b + n) for n, (b, _) in zip(x.shape, pads))] = x  # noqa: B905
        return result

    # Positions that are data

    def take(self, x: Array, indices: Array, axis: int = 0) -> Array:
        indices = np.asarray(indices)
        if x.flags.c_contiguous or indices.size >= x.size:
            return np.asarray(np.take(x, indices, axis=axis))
        # `np.take` would copy all of it first.
        before = (slice(None),) * normal_axis(axis, x.ndim)
        return np.asarray(x[(*before, indices)])

    def pick(self, x: Array, index: tuple[Array, ...]) -> Array:
        return np.asarray(x[index])

    def put(
        self, x: Array, index: tuple[Array, ...], updates: Array, reduction: str
    ) -> Array:
        result = x.copy()
        if reduction == "none":
            result[index] = updates
        else:
            _AT[reduction].at(result, index, updates)
        return result

    def dynamic_slice(self, x: Array, start: Any, size: int, axis: int) -> Array:
        axis = normal_axis(axis, x.ndim)
        start = min(max(int(start), 0), x.shape[axis] - size)
        return x[along(x.ndim, axis, slice(start, start + size))]

    def dynamic_update(self, x: Array, part: Array, start: Any, axis: int) -> Array:
        axis = normal_axis(axis, x.ndim)
        size = part.shape[axis]
        start = min(max(int(start), 0), x.shape[axis] - size)
        result = x.copy()
        result[along(x.ndim, axis, slice(start, start + size))] = part
        return result

    def nonzero(self, x: Array) -> Array:
        # Of a scalar ONNX wants no coordinates, however many elements are not zero.
        return np.array(np.nonzero(np.atleast_1d(x)), np.int64)[: x.ndim]

    def unique(
        self, x: Array, axis: int | None = None, *, sorted: bool = True
    ) -> tuple[Array, Array, Array, Array]:
        values, first, inverse, counts = np.unique(x, True, True, True, axis)
        inverse = inverse.reshape(-1)
        if not sorted:
            order = np.argsort(first)
            values = np.take(values, order, axis=axis or 0)
            inverse = np.argsort(order)[inverse]
            first, counts = first[order], counts[order]
        return values, *(np.asarray(v, np.int64) for v in (first, inverse, counts))  # type: ignore[return-value]

    # Products

    def multiply_matrices(self, a: Array, b: Array) -> Array:
        return contraction.matmul(a, b)

    def slide(self, x: Array, geometry: Geometry) -> Array:
        return convolution.slide(x, geometry)

    def correlate(self, x: Array, w: Array, geometry: Geometry, groups: int) -> Array:
        return convolution.correlate(x, w, geometry, groups)

    def spread(self, x: Array, w: Array, geometry: Geometry, groups: int) -> Array:
        return convolution.spread(x, w, geometry, groups)

    def pool_windows(self, x: Array, geometry: Geometry, kind: str) -> Array:
        return convolution.pool(x, geometry, kind)

    # Types

    def bitcast(self, x: Array, dtype: DTypeLike) -> Array:
        return x.view(self.dtype(dtype))

    def cast_strings(self, x: Array, target: np.dtype[Any]) -> Array:
        return strings.cast(self, x, target)

    # Special functions

    def erf(self, x: Array) -> Array:
        return self.each(erf, x)

    # Control

    def cond(
        self,
        predicate: Array,
        yes: Callable[..., Any],
        no: Callable[..., Any],
        *operands: Any,
    ) -> Any:
        return (yes if np.asarray(predicate).item() else no)(*operands)

    def while_loop(
        self,
        test: Callable[[Arrays], Array],
        body: Callable[[Arrays], Arrays],
        carried: Arrays,
    ) -> Arrays:
        while np.asarray(test(carried)).item():
            carried = body(carried)
        return carried

    def scan(
        self,
        body: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]],
        carried: Arrays,
        sequences: Sequence[Array],
        length: int | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Arrays, Arrays]:
        steps = len(sequences[0]) if length is None else length
        if not steps:
            # Only a run of the body can tell the shapes of what it puts out.
            zeros = tuple(np.zeros(s.shape[1:], s.dtype) for s in sequences)
            _, shapes = body(carried, zeros)
            return carried, tuple(np.zeros((0, *s.shape), s.dtype) for s in shapes)
        columns: list[Arrays] = []
        for step in reversed(range(steps)) if reverse else range(steps):
            slices = tuple(np.asarray(s[step]) for s in sequences)
            carried, outputs = body(carried, slices)
            columns.append(outputs)
        if reverse:
            columns.reverse()
        return carried, tuple(np.stack(column) for column in zip(*columns, strict=True))


def _holds(total: Array, x: Array) -> bool:
    """True where a result of both, computed without widening, fits into ``total``."""
    return (
        total.dtype == x.dtype
        and total.dtype not in WIDE
        and total.flags.writeable
        and np.broadcast_shapes(total.shape, x.shape) == total.shape
    )
