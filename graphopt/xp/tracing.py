"""The namespace over jax.numpy: the same meanings, for XLA.

Every function may be called eagerly or under a trace. 64-bit types hold only inside
`Traced.scope`. XLA may keep more precision than asked where it fuses: narrow results
are then more accurate than the reference, never less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim

from ..errors import NoReference, UnsupportedModel
from .control import Arrays
from .foundation import Array, DTypeLike, ints, normal_axis, numpy_dtype
from .namespace import Namespace
from .reductions import lowest
from .spatial import Geometry

_ABSENT = ("float6_e2m3fn", "float6_e3m2fn", "object")


class Traced(Namespace):
    """What jax.numpy does differently from NumPy.

    ``precision`` is that of products of float32: "highest" is float32's own, "default"
    what the chip does fastest (a TPU rounds operands to bfloat16, and sums in float32).
    """

    lib = jnp
    name = "traced"

    def __init__(self, precision: str = "highest") -> None:
        self.precision = lax.Precision(precision)

    def scope(self) -> AbstractContextManager[Any]:
        scope: AbstractContextManager[Any] = jax.enable_x64(True)
        return scope

    def dtype(self, dtype: DTypeLike) -> np.dtype[Any]:
        held = numpy_dtype(dtype)
        if held.name in _ABSENT:
            raise UnsupportedModel(f"XLA has no element type {held}")
        return held

    def asarray(self, value: Any, dtype: DTypeLike | None = None) -> Array:
        return jnp.asarray(value, None if dtype is None else self.dtype(dtype))

    def larger(self, a: int, b: int) -> int:
        found: int = jax.core.max_dim(a, b)
        return found

    def smaller(self, a: int, b: int) -> int:
        found: int = jax.core.min_dim(a, b)
        return found

    def convert(self, x: Array, dtype: np.dtype[Any]) -> Array:
        return lax.convert_element_type(x, self.dtype(dtype))

    def integer_power(self, a: Array, b: Array) -> Array:
        # jnp.power looks at six bits of the exponent only.
        def step(carried: Arrays) -> Arrays:
            power, base, left = carried
            power = jnp.where(left & 1, power * base, power)
            return (
                power,
                base * base,
                lax.shift_right_logical(left, jnp.ones_like(left)),
            )

        a, b = jnp.broadcast_arrays(a, b)
        start = (jnp.ones_like(a), a, b)
        return self.while_loop(lambda carried: jnp.any(carried[2] != 0), step, start)[0]

    def complex(self, real: Any, imaginary: Any) -> Array:
        return lax.complex(*jnp.broadcast_arrays(*self.same(real, imaginary)))

    def reshape(self, x: Array, shape: Any) -> Array:
        sizes = ints(shape)
        if -1 not in sizes and math.prod(sizes) != math.prod(x.shape):
            # JAX believes symbolic sizes, and fails when it has the numbers.
            raise ValueError(f"a shape of {x.shape} does not become {sizes}")
        return jnp.reshape(x, sizes)

    def arange(self, start: Any, stop: Any, step: Any, dtype: DTypeLike) -> Array:
        first, last, stride = (np.asarray(v).item() for v in (start, stop, step))
        if not any(map(is_symbolic_dim, (first, last, stride))):
            return super().arange(start, stop, step, dtype)
        kind = self.dtype(dtype)
        count = self.larger(-((first - last) // stride), 0)
        first, stride = (self.asarray(v, kind) for v in (first, stride))
        return jnp.arange(count, dtype=kind) * stride + first

    def fill_around(
        self, x: Array, pads: Sequence[tuple[int, int]], value: Any
    ) -> Array:
        x = jnp.asarray(x)
        return lax.pad(x, jnp.asarray(value, x.dtype), [(*pad, 0) for pad in pads])

    # Positions that are data

    def take(self, x: Array, indices: Array, axis: int = 0) -> Array:
        axis = normal_axis(axis, x.ndim)
        return jnp.asarray(x)[(slice(None),) * axis + (jnp.asarray(indices),)]

    def pick(self, x: Array, index: tuple[Array, ...]) -> Array:
        return jnp.asarray(x)[index]

    def put(
        self, x: Array, index: tuple[Array, ...], updates: Array, reduction: str
    ) -> Array:
        at = jnp.asarray(x).at[index]
        if reduction == "none":
            return at.set(updates)
        name = "multiply" if reduction == "mul" else reduction
        return getattr(at, name)(updates)

    def dynamic_slice(self, x: Array, start: Any, size: int, axis: int) -> Array:
        axis = normal_axis(axis, x.ndim)
        start = jnp.clip(start, 0, x.shape[axis] - size)
        return lax.dynamic_slice_in_dim(x, start, size, axis)

    def dynamic_update(self, x: Array, part: Array, start: Any, axis: int) -> Array:
        axis = normal_axis(axis, x.ndim)
        start = jnp.clip(start, 0, x.shape[axis] - part.shape[axis])
        return lax.dynamic_update_slice_in_dim(x, part, start, axis)

    def nonzero(self, x: Array) -> Array:
        raise NoReference("nonzero has a data-dependent extent: XLA cannot trace it")

    def unique(
        self, x: Array, axis: int | None = None, *, sorted: bool = True
    ) -> tuple[Array, Array, Array, Array]:
        raise NoReference("unique has a data-dependent extent: XLA cannot trace it")

    # Products

    def multiply_matrices(self, a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=self.precision)

    def slide(self, x: Array, geometry: Geometry) -> Array:
        rank = len(geometry.kernel)
        lead = x.ndim - rank
        extents = geometry.extents(x.shape[lead:])
        for i, extent in reversed(list(enumerate(extents))):
            starts = np.arange(extent) * geometry.strides[i]
            taps = np.arange(geometry.kernel[i]) * geometry.dilations[i]
            x = self.take(x, starts[:, None] + taps, lead + i)
        # Positions and taps alternate: positions come first.
        order = [*range(lead, lead + 2 * rank, 2), *range(lead + 1, lead + 2 * rank, 2)]
        return jnp.transpose(x, [*range(lead), *order])

    def correlate(self, x: Array, w: Array, geometry: Geometry, groups: int) -> Array:
        return lax.conv_general_dilated(
            x,
            w,
            geometry.strides,
            geometry.pads,
            rhs_dilation=geometry.dilations,
            feature_group_count=groups,
            precision=self.precision,
        )

    def spread(self, x: Array, w: Array, geometry: Geometry, groups: int) -> Array:
        rank = len(geometry.kernel)
        c, m = w.shape[:2]
        w = jnp.reshape(w, (groups, c // groups, m, *geometry.kernel))
        w = jnp.swapaxes(w, 1, 2).reshape(groups * m, c // groups, *geometry.kernel)
        return lax.conv_general_dilated(
            x,
            jnp.flip(w, range(2, 2 + rank)),
            (1,) * rank,
            [
                (span - 1 - before, span - 1 - after)
                for span, (before, after) in zip(
                    geometry.spans, geometry.pads, strict=True
                )
            ],
            lhs_dilation=geometry.strides,
            rhs_dilation=geometry.dilations,
            feature_group_count=groups,
            precision=self.precision,
        )

    def pool_windows(self, x: Array, geometry: Geometry, kind: str) -> Array:
        lead = (1,) * (x.ndim - len(geometry.kernel))
        first = lowest(x.dtype) if kind == "max" else 0
        crops = [(min(b, 0), min(a, 0)) for b, a in geometry.pads]
        return lax.reduce_window(
            self.pad(x, [(0, 0)] * len(lead) + crops),
            np.asarray(first, x.dtype),
            lax.max if kind == "max" else lax.add,
            (*lead, *geometry.kernel),
            (*lead, *geometry.strides),
            [(0, 0)] * len(lead) + [(max(b, 0), max(a, 0)) for b, a in geometry.pads],
            window_dilation=(*lead, *geometry.dilations),
        )

    # Types

    def bitcast(self, x: Array, dtype: DTypeLike) -> Array:
        return lax.bitcast_convert_type(x, self.dtype(dtype))

    def cast_strings(self, x: Array, target: np.dtype[Any]) -> Array:
        raise UnsupportedModel("XLA has no strings")

    # Special functions

    def erf(self, x: Array) -> Array:
        return self.each(lax.erf, x)

    # Control

    def cond(
        self,
        predicate: Array,
        yes: Callable[..., Any],
        no: Callable[..., Any],
        *operands: Any,
    ) -> Any:
        return lax.cond(jnp.reshape(predicate, ()), yes, no, *operands)

    def while_loop(
        self,
        test: Callable[[Arrays], Array],
        body: Callable[[Arrays], Arrays],
        carried: Arrays,
    ) -> Arrays:
        looped: Arrays = lax.while_loop(
            lambda carried: jnp.reshape(test(carried), ()), body, carried
        )
        return looped

    def scan(
        self,
        body: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]],
        carried: Arrays,
        sequences: Sequence[Array],
        length: int | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Arrays, Arrays]:
        scanned: tuple[Arrays, Arrays] = lax.scan(
            body, carried, tuple(sequences), length, reverse
        )
        return scanned
