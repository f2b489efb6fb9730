"""What every family of functions rests on: one array library, and the narrow types.

An op's meaning is written once, against a `Namespace`. Where NumPy and jax.numpy agree
the function is written once too, over ``self.lib``; where they do not, `Host` and
`Traced` each say it. Three laws hold in both, and settle what the libraries dispute:

- results have the element type of the operands; nothing becomes float64 by itself, a
  Python number takes the type of the array beside it, and two arrays of different
  types are an error;
- narrow types (`WIDE`) compute in float32 or int32 and round back once per function;
- integers wrap, and dividing them by zero gives zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from ..errors import TypeMismatch
from ..types import DType

Array: TypeAlias = Any
"""An ``np.ndarray`` on the host, a ``jax.Array`` or tracer when traced."""

DTypeLike: TypeAlias = DType | np.dtype[Any] | type[Any]

WIDE: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(narrow): np.dtype(wide)
    for wide, narrows in {
        np.float32: (
            np.float16,
            ml_dtypes.bfloat16,
            ml_dtypes.float8_e4m3fn,
            ml_dtypes.float8_e4m3fnuz,
            ml_dtypes.float8_e5m2,
            ml_dtypes.float8_e5m2fnuz,
            ml_dtypes.float8_e8m0fnu,
            ml_dtypes.float6_e2m3fn,
            ml_dtypes.float6_e3m2fn,
            ml_dtypes.float4_e2m1fn,
        ),
        np.int32: (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2),
    }.items()
    for narrow in narrows
}
"""The type in which each narrow type computes."""


def numpy_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The array element type that a `DType` or a NumPy type stands for."""
    return dtype.numpy if isinstance(dtype, DType) else np.dtype(dtype)


_INT = {int}


def ints(values: Any) -> tuple[int, ...]:
    """Shapes, axes, sizes as Python ints: from a number, a sequence or an array.

    Symbolic dims, which `jax.export` has, are left as they are.
    """
    if type(values) is tuple and {*map(type, values)} <= _INT:
        return values
    array = np.asarray(values)
    exact = array if array.dtype == object else array.astype(np.int64)
    return tuple(exact.ravel().tolist())


def normal_axes(axes: Any, rank: int) -> tuple[int, ...]:
    """Axes counted from the front; all of them for None."""
    if axes is None:
        return tuple(range(rank))
    return tuple(normal_axis(axis, rank) for axis in ints(axes))


def normal_axis(axis: int, rank: int) -> int:
    """``axis`` counted from the front. Raises TypeMismatch where it is out of range."""
    if not -rank <= axis < rank:
        raise TypeMismatch(f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def along(rank: int, axis: int, part: slice) -> tuple[slice, ...]:
    """The index that takes ``part`` of one axis and everything of the others."""
    index = [slice(None)] * rank
    index[axis] = part
    return tuple(index)


class Foundation(ABC):
    """One array library under the three laws of this module."""

    lib: Any
    """``numpy`` or ``jax.numpy``."""

    name: str

    @abstractmethod
    def scope(self) -> AbstractContextManager[Any]:
        """The context in which whoever calls these functions must run them.

        On the host it silences floating-point warnings; traced, it makes 64-bit types
        hold. An evaluator enters it once around a whole graph.
        """

    def dtype(self, dtype: DTypeLike) -> np.dtype[Any]:
        """The array element type that stands for ``dtype`` here."""
        return numpy_dtype(dtype)

    @abstractmethod
    def asarray(self, value: Any, dtype: DTypeLike | None = None) -> Array:
        """``value`` as an array; a copy is made only where needed."""

    @abstractmethod
    def convert(self, x: Array, dtype: np.dtype[Any]) -> Array:
        """Plain element conversion, as the library does it; `cast` has ONNX's rules."""

    def larger(self, a: int, b: int) -> int:
        """The larger of two extents; traced, either may be symbolic."""
        return max(a, b)

    def smaller(self, a: int, b: int) -> int:
        """The smaller of two extents; traced, either may be symbolic."""
        return min(a, b)

    def same(self, *operands: Any) -> tuple[Array, ...]:
        """The operands as arrays of one element type; Python numbers take that type.

        Raises TypeMismatch where two arrays differ: an op casts where ONNX allows it.
        """
        dtype: np.dtype[Any] | None = None
        for operand in operands:
            other = getattr(operand, "dtype", None)
            # NumPy takes None for float64: ask for it first.
            if other is None or (dtype is not None and other == dtype):
                continue
            if dtype is not None:
                raise TypeMismatch(f"operands have types {dtype} and {other}; cast one")
            dtype = np.dtype(other)
        return tuple(self.asarray(operand, dtype) for operand in operands)

    def each(self, function: Callable[..., Array], *operands: Any) -> Array:
        """``function(*operands)``, computed wide, rounded once to the operands' type.

        A result of another type (a comparison's bool, an index) is left as it is.
        """
        arrays = self.same(*operands)
        narrow = arrays[0].dtype
        wide = WIDE.get(narrow)
        if wide is None:
            return self.asarray(function(*arrays))
        result = function(*(self.convert(array, wide) for array in arrays))
        if result.dtype == wide:
            result = self.convert(result, narrow)
        return self.asarray(result)
