"""The array namespace over dims: `compute` on these arrays is shape arithmetic.

Arrays are object arrays of ints, bools and `dims.Expr`; None marks an unknown dim and
may be moved about but not computed with. Only what shape arithmetic needs is here,
under the names of the other namespaces; what cannot be decided raises `Undecided`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .. import dims
from ..types import DType, TensorType, Type

Dims: TypeAlias = np.ndarray[Any, np.dtype[np.object_]]

namespace = sys.modules[__name__]


class Undecided(Exception):
    """The result depends on more than is known."""


def __getattr__(name: str) -> Any:
    """What is not here cannot be decided."""
    if name.startswith("__"):
        raise AttributeError(name)
    raise Undecided(name)


def lift(array: Any) -> Dims:
    """A known array as dims: plain Python ints and bools."""
    array = np.asarray(array)
    result = np.empty(array.shape, object)
    result.ravel()[:] = array.ravel().tolist()
    return result


def checked(array: Dims, type_: Type) -> Dims | None:
    """The array, where it has the type's static shape and nothing but dims.

    None where a number does not fit the element type, in which integers wrap, or where
    one in an expression is so large that the whole might not.
    """
    array = np.asarray(array, dtype=object)
    if not isinstance(type_, TensorType) or array.shape != type_.shape:
        return None
    if type_.dtype is not None and type_.dtype.is_integer:
        bits = type_.dtype.bits - type_.dtype.is_signed
        low, high = -(1 << bits) if type_.dtype.is_signed else 0, (1 << bits) - 1
        for x in array.ravel().tolist():
            spare = 0 if isinstance(x, int) else 1
            least, most = low >> spare, high >> spare
            if not all(least <= number <= most for number in dims.numbers(x)):
                return None
    return array


def _each(function: Callable[..., Any], *arrays: Dims) -> Dims:
    result: Dims = np.frompyfunc(function, len(arrays), 1)(*arrays)
    return np.asarray(result, dtype=object)


def _known(function: Callable[..., dims.Dim]) -> Callable[..., Dims]:
    def apply(*arrays: Dims) -> Dims:
        def one(*values: Any) -> Any:
            result = function(*values)
            if result is None:
                raise Undecided
            return result

        return _each(one, *arrays)

    return apply


def _truncated(a: Any, b: Any) -> dims.Dim:
    """ONNX's integer division rounds towards zero."""
    if type(a) is int and type(b) is int:
        if b == 0:
            return None
        quotient = abs(a) // abs(b)
        return quotient if (a < 0) == (b < 0) else -quotient
    if dims.nonnegative(a) and dims.at_least(b, 1):
        return dims.floordiv(a, b)
    return None


def _modulo(a: Any, b: Any) -> dims.Dim:
    if type(a) is int and type(b) is int:
        return None if b == 0 else a % b
    return dims.mod(a, b) if dims.at_least(b, 1) else None


def _rest(a: Any, b: Any) -> dims.Dim:
    """What truncating division leaves, with the sign of a."""
    if type(a) is int and type(b) is int:
        return None if b == 0 else abs(a) % abs(b) * (-1 if a < 0 else 1)
    return _modulo(a, b) if dims.nonnegative(a) else None


def _compare(decide: Callable[[Any], bool | None]) -> Callable[..., Dims]:
    def one(a: Any, b: Any) -> bool:
        if isinstance(a, bool) or isinstance(b, bool):
            a, b = int(a), int(b)
        answer = None if a is None or b is None else decide(dims.sub(a, b))
        if answer is None:
            raise Undecided
        return answer

    return lambda a, b: _each(one, a, b)


def _sign(difference: Any, *, strict: bool) -> bool | None:
    """Is it negative (strict), or at most zero?"""
    if type(difference) is int:
        return difference < 0 if strict else difference <= 0
    if dims.at_least(difference, 0 if strict else 1):
        return False
    if dims.at_least(dims.mul(-1, difference), 1 if strict else 0):
        return True
    return None


def _zero(difference: Any) -> bool | None:
    if type(difference) is int:
        return difference == 0
    far = dims.at_least(difference, 1) or dims.at_least(dims.mul(-1, difference), 1)
    return False if far else None


add = _known(dims.add)
subtract = _known(dims.sub)
multiply = _known(dims.mul)
maximum = _known(dims.maximum)
minimum = _known(dims.minimum)
divide = floor_divide = _known(_truncated)
remainder = _known(_modulo)
fmod = _known(_rest)
less = _compare(lambda d: _sign(d, strict=True))
less_equal = _compare(lambda d: _sign(d, strict=False))
equal = _compare(_zero)


def greater(a: Dims, b: Dims) -> Dims:
    return less(b, a)


def greater_equal(a: Dims, b: Dims) -> Dims:
    return less_equal(b, a)


def negative(x: Dims) -> Dims:
    return multiply(x, lift(-1))


def logical_not(x: Dims) -> Dims:
    return _each(lambda v: not _bool(v), x)


def logical_and(a: Dims, b: Dims) -> Dims:
    return _each(lambda v, w: _bool(v) and _bool(w), a, b)


def logical_or(a: Dims, b: Dims) -> Dims:
    return _each(lambda v, w: _bool(v) or _bool(w), a, b)


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise Undecided


def where(condition: Dims, a: Dims, b: Dims) -> Dims:
    return _each(lambda c, x, y: x if _bool(c) else y, condition, a, b)


def cast(x: Dims, dtype: DType, **_: Any) -> Dims:
    if dtype is DType.BOOL:
        return _each(_truth, x)
    if not dtype.is_integer:
        raise Undecided
    return _each(lambda v: _fit(v, dtype), x)


def _truth(value: Any) -> bool:
    answer = value if isinstance(value, bool) else _zero(value)
    if answer is None:
        raise Undecided
    return answer if isinstance(value, bool) else not answer


def _fit(value: Any, dtype: DType) -> Any:
    """Dims fit 32 bits; anything else must be seen to fit."""
    if isinstance(value, bool):
        return int(value)
    if type(value) is int:
        high = 2 ** (dtype.bits - dtype.is_signed)
        if not -high * dtype.is_signed <= value < high:
            raise Undecided
    elif dtype not in (DType.I64, DType.I32):
        raise Undecided
    return value


def _ints(values: Any) -> list[int]:
    result = np.asarray(values, dtype=object).ravel().tolist()
    if not all(type(v) is int for v in result):
        raise Undecided
    return result


def reshape(x: Dims, shape: Sequence[int]) -> Dims:
    try:
        return np.reshape(x, _ints(shape))
    except ValueError:
        raise Undecided from None


def transpose(x: Dims, axes: Sequence[int] | None = None) -> Dims:
    return np.transpose(x, axes)


def expand(x: Dims, shape: Sequence[int]) -> Dims:
    try:
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(_ints(shape))))
    except ValueError:
        raise Undecided from None


def concat(arrays: Sequence[Dims], axis: int) -> Dims:
    return np.concatenate(arrays, axis=axis)


def take(x: Dims, indices: Any, axis: int = 0) -> Dims:
    picked = np.asarray(indices, dtype=object)
    flat = _ints(picked)
    extent = x.shape[axis]
    if any(not -extent <= i < extent for i in flat):
        raise Undecided
    where_ = np.array(flat, np.int64).reshape(picked.shape)
    return np.asarray(np.take(x, where_, axis=axis), dtype=object)


def take_along_axis(x: Dims, indices: Any, axis: int) -> Dims:
    return np.asarray(x[_mesh(indices, axis)], dtype=object)


def _mesh(indices: Any, axis: int) -> tuple[Any, ...]:
    """The positions that elementwise indices along an axis stand for."""
    known = _positions(indices)
    mesh = list(np.ogrid[tuple(slice(0, extent) for extent in known.shape)])
    mesh[axis] = known
    return tuple(mesh)


def gather_nd(x: Dims, indices: Any, batch_dims: int = 0) -> Dims:
    if batch_dims:
        raise Undecided
    places = _positions(indices)
    return np.asarray(x[tuple(np.moveaxis(places, -1, 0))], dtype=object)


def scatter_elements(
    x: Dims, indices: Any, updates: Dims, axis: int = 0, reduction: str = "none"
) -> Dims:
    if reduction != "none":
        raise Undecided
    result = x.copy()
    result[_mesh(indices, axis)] = updates
    return result


def scatter_nd(x: Dims, indices: Any, updates: Dims, reduction: str = "none") -> Dims:
    if reduction != "none":
        raise Undecided
    result = x.copy()
    result[tuple(np.moveaxis(_positions(indices), -1, 0))] = updates
    return result


def _positions(indices: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    known = np.asarray(indices, dtype=object)
    return np.array(_ints(known), np.int64).reshape(known.shape)


def strided_slice(
    x: Dims, starts: Any, ends: Any, steps: Any = None, axes: Any = None
) -> Dims:
    low, high = _ints(starts), _ints(ends)
    stride = [1] * len(low) if steps is None else _ints(steps)
    which = list(range(len(low))) if axes is None else _ints(axes)
    index: list[slice] = [slice(None)] * x.ndim
    for start, end, step, axis in zip(low, high, stride, which, strict=True):
        extent = x.shape[axis]
        back = -1 if step < 0 else 0
        start = min(max(start + extent * (start < 0), 0), extent + back)
        end = min(max(end + extent * (end < 0), back), extent)
        index[axis] = slice(start, None if end < 0 else end, step)
    return x[tuple(index)]


def split(x: Dims, sizes: Sequence[int], axis: int) -> tuple[Dims, ...]:
    return tuple(np.split(x, np.cumsum(_ints(sizes))[:-1], axis=axis))


def tile(x: Dims, repeats: Any) -> Dims:
    return np.tile(x, _ints(repeats))


def full(shape: Any, value: Any, dtype: Any = None) -> Dims:
    result = np.empty(_ints(shape), object)
    result.fill(np.asarray(value).ravel().tolist()[0])
    return result


def arange(start: Any, stop: Any, step: Any, dtype: Any = None) -> Dims:
    bounds = [_ints(bound)[0] for bound in (start, stop, step)]
    if bounds[2] == 0:
        raise Undecided
    return lift(np.arange(*bounds))


def _fold(function: Callable[..., dims.Dim], first: int) -> Callable[..., Dims]:
    step = _known(function)

    def reduce(
        x: Dims, axis: Sequence[int] | None = None, *, keepdims: bool = False
    ) -> Dims:
        axes = tuple(range(x.ndim)) if axis is None else tuple(np.ravel(axis).tolist())
        axes = tuple(a % x.ndim for a in axes) if x.ndim else ()
        rest = [a for a in range(x.ndim) if a not in axes]
        kept = [x.shape[a] for a in rest]
        flat = np.transpose(x, rest + sorted(axes)).reshape([*kept, -1])
        result = full(kept, first)
        for i in range(flat.shape[-1]):
            result = step(result, flat[..., i])
        if keepdims:
            shape = [1 if a in axes else x.shape[a] for a in range(x.ndim)]
            result = result.reshape(shape)
        return result

    return reduce


sum = _fold(dims.add, 0)
prod = _fold(dims.mul, 1)
