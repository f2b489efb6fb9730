"""The namespace over jax.numpy: the same meanings, for XLA.

Every function may be called eagerly or under a trace. 64-bit types hold only inside
`Traced.scope`. XLA may keep more precision than asked where it fuses: narrow results
are then more accurate than the reference, never less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim

from ..errors import NoReference, UnsupportedModel
from . import channels_last
from .control import Arrays
from .drawing import Generator, Size
from .foundation import Array, DTypeLike, ints, normal_axis, numpy_dtype
from .host import Host
from .namespace import Namespace
from .reductions import lowest
from .spatial import Geometry

_HOST = Host()
_ABSENT = ("float6_e2m3fn", "float6_e3m2fn", "object")


class Traced(Namespace):
    """What jax.numpy does differently from NumPy.

    ``precision`` is that of products of float32: "highest" is float32's own, "default"
    what the chip does fastest (a TPU rounds operands to bfloat16, and sums in float32);
    "bfloat16" rounds operands and results to bfloat16 everywhere, those of gradients
    too. With a ``key`` (`jax.random.key`), numbers for which the model states no seed
    are drawn from it.
    """

    lib = jnp
    name = "traced"

    def __init__(self, precision: str = "highest", key: Array | None = None) -> None:
        self.key = key
        self.narrowed = precision == "bfloat16"
        self.precision = lax.Precision("default" if self.narrowed else precision)

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

    def flat_at_zero(self, function: Callable[[Array], Array], x: Array) -> Array:
        zero = x == 0
        return jnp.where(zero, x, function(jnp.where(zero, jnp.ones_like(x), x)))

    def held(self, x: Array) -> Array:
        return lax.stop_gradient(x)

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

    def first(self, name: str, x: Array, axis: int) -> Array:
        # lax.argmax makes its numbers when it is lowered, after the scope: too narrow.
        if x.shape[axis] == 0:
            return super().first(name, x, axis)
        best = getattr(jnp, name.removeprefix("arg"))(x, axis=axis, keepdims=True)
        found = (x == best) | (x != x)
        places = lax.broadcasted_iota(np.int64, x.shape, axis)
        nowhere = np.iinfo(np.int64).max
        return jnp.min(jnp.where(found, places, nowhere), axis=axis)

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
        if reduction == "mul":
            return _multiplied(jnp.asarray(x), index, updates)
        return getattr(at, reduction)(updates)

    def dynamic_slice(self, x: Array, start: Any, size: int, axis: int) -> Array:
        axis = normal_axis(axis, x.ndim)
        start = jnp.clip(start, 0, x.shape[axis] - size)
        return lax.dynamic_slice_in_dim(x, start, size, axis)

    def dynamic_update(self, x: Array, part: Array, start: Any, axis: int) -> Array:
        axis = normal_axis(axis, x.ndim)
        start = jnp.clip(start, 0, x.shape[axis] - part.shape[axis])
        return lax.dynamic_update_slice_in_dim(x, part, start, axis)

    def nonzero(self, x: Array) -> Array:
        if isinstance(x, np.ndarray):
            return _HOST.nonzero(x)
        raise NoReference("nonzero has a data-dependent extent: XLA cannot trace it")

    def unique(
        self, x: Array, axis: int | None = None, *, sorted: bool = True
    ) -> tuple[Array, Array, Array, Array]:
        if isinstance(x, np.ndarray):
            return _HOST.unique(x, axis, sorted=sorted)
        raise NoReference("unique has a data-dependent extent: XLA cannot trace it")

    # Products

    def _product(self, function: Callable[..., Array], a: Array, b: Array) -> Array:
        """A product of two arrays, narrowed where that is the precision."""
        if not self.narrowed or a.dtype != np.float32:
            return function(a, b, precision=self.precision)
        narrow = (jnp.asarray(x).astype(jnp.bfloat16) for x in (a, b))
        return function(*narrow, precision=self.precision).astype(np.float32)

    def multiply_matrices(self, a: Array, b: Array) -> Array:
        return self._product(jnp.matmul, a, b)

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
        correlate = partial(channels_last.correlate, geometry=geometry, groups=groups)
        return self._product(correlate, x, w)

    def spread(self, x: Array, w: Array, geometry: Geometry, groups: int) -> Array:
        spread = partial(channels_last.spread, geometry=geometry, groups=groups)
        return self._product(spread, x, w)

    def pool_windows(self, x: Array, geometry: Geometry, kind: str) -> Array:
        if kind == "max":
            return channels_last.pool(x, geometry, lowest(x.dtype), lax.max)
        return channels_last.pool(x, geometry, 0, lax.add)

    # Types

    def bitcast(self, x: Array, dtype: DTypeLike) -> Array:
        target = self.dtype(dtype)
        if x.dtype == np.bool_:
            x = self.convert(x, np.dtype(np.uint8))
        if target == np.bool_:
            return self.bitcast(x, np.uint8) != 0
        return lax.bitcast_convert_type(x, target)

    def cast_strings(self, x: Array, target: np.dtype[Any]) -> Array:
        raise UnsupportedModel("XLA has no strings")

    # Special functions

    def erf(self, x: Array) -> Array:
        return self.each(lax.erf, x)

    def fft(self, x: Array, n: int | None = None, axis: int = -1) -> Array:
        return _fourier(super().fft, x, n, axis)

    def rfft(self, x: Array, n: int | None = None, axis: int = -1) -> Array:
        return _fourier(super().rfft, x, n, axis)

    # Random numbers

    def generator(self, seed: int, *, stated: bool) -> Generator:
        if stated or self.key is None:
            return super().generator(seed, stated=stated)
        return _Keyed(jax.random.fold_in(self.key, seed))

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


class _Keyed:
    """Draws from a key of JAX.

    Not by `jax.random`, which draws float64 only where 64-bit types hold as the
    program is lowered: that is after the scope.
    """

    def __init__(self, key: Array) -> None:
        self.key = key

    def _fraction(self, size: Size) -> Array:
        """Even over [0, 1), by steps of 2**-53."""
        high, low = jax.random.bits(self.key, (2, *(size or ())), np.uint32)
        high, low = (high >> 5).astype(np.float64), (low >> 6).astype(np.float64)
        return (high * 2**26 + low) * 2.0**-53

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Size = None) -> Array:
        return low + (high - low) * self._fraction(size)

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: Size = None) -> Array:
        # The middle of a step: neither end, whose place is infinite.
        middle = 2 * self._fraction(size) - (1 - 2.0**-53)
        return loc + scale * math.sqrt(2) * lax.erf_inv(middle)

    def gumbel(self, loc: float = 0.0, scale: float = 1.0, size: Size = None) -> Array:
        middle = self._fraction(size) + 2.0**-54
        return loc - scale * jnp.log(-jnp.log(middle))


def _fourier(
    transform: Callable[..., Array], x: Array, n: int | None, axis: int
) -> Array:
    """A transform; on the CPU in double precision, which others lack.

    Errors grow with the length, unlike those of inverses, which are divided by it.
    Slopes stay in single precision: JAX may turn them round outside of any scope.
    """
    x = jnp.asarray(x)
    if x.dtype not in (np.float32, np.complex64):
        return transform(x, n, axis)

    def plain(x: Array) -> Array:
        return transform(x, n, axis)

    def exact(x: Array) -> Array:
        wide = np.complex128 if x.dtype == np.complex64 else np.float64
        return transform(x.astype(wide), n, axis).astype(np.complex64)

    @jax.custom_jvp
    def made(x: Array) -> Array:
        return lax.platform_dependent(x, cpu=exact, default=plain)

    @made.defjvp
    def moved(primals: Arrays, tangents: Arrays) -> tuple[Array, Array]:
        return made(*primals), plain(*tangents)

    return made(x)


@jax.custom_jvp
def _multiplied(x: Array, index: tuple[Array, ...], updates: Array) -> Array:
    """``x`` multiplied at positions, which may repeat. JAX has no gradient of that."""
    return x.at[index].multiply(updates)


@_multiplied.defjvp
def _multiplied_jvp(primals: Arrays, tangents: Arrays) -> tuple[Array, Array]:
    """Each factor moves the product by all the others: one zero leaves only its own."""
    x, index, updates = primals
    moved, _, pushes = tangents
    shape = x[index].shape
    updates, pushes = (jnp.broadcast_to(a, shape) for a in (updates, pushes))
    product = _nonzero(x).at[index].multiply(_nonzero(updates))
    zeros = (x == 0).astype(int).at[index].add((updates == 0).astype(int))

    def others(factor: Array, product: Array, zeros: Array) -> Array:
        nothing = jnp.zeros_like(product)
        alone = zeros == (factor == 0)
        return jnp.where(alone, product / _nonzero(factor), nothing)

    moved = moved * others(x, product, zeros)
    pushed = pushes * others(updates, product[index], zeros[index])
    return _multiplied(*primals), moved.at[index].add(pushed)


def _nonzero(x: Array) -> Array:
    return jnp.where(x == 0, jnp.ones_like(x), x)
