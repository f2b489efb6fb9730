"""Element types and value types: what a Value may hold.

A type may know less than everything: a tensor's rank (``shape is None``), one of its
dims (``None`` inside the shape) or its element type (``dtype is None``) can be unknown.
Rules that need more miss; nothing guesses.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from .dims import Dim, Shape, format_dim

MAX_NESTING = 64
"""Bodies within bodies, functions calling functions, types within types."""


class DType(enum.Enum):
    """ONNX element types (``TensorProto.DataType``); the value is ONNX's number."""

    F32 = 1
    U8 = 2
    I8 = 3
    U16 = 4
    I16 = 5
    I32 = 6
    I64 = 7
    STRING = 8
    BOOL = 9
    F16 = 10
    F64 = 11
    U32 = 12
    U64 = 13
    C64 = 14
    C128 = 15
    BF16 = 16
    F8E4M3FN = 17
    F8E4M3FNUZ = 18
    F8E5M2 = 19
    F8E5M2FNUZ = 20
    U4 = 21
    I4 = 22
    F4E2M1 = 23
    F8E8M0 = 24
    U2 = 25
    I2 = 26
    F6E2M3 = 27
    F6E3M2 = 28

    def __str__(self) -> str:
        return self.name.lower()

    def __repr__(self) -> str:
        return f"DType.{self.name}"

    @cached_property
    def numpy(self) -> np.dtype[np.generic]:
        """The array element type; narrow types take a byte, strings are objects."""
        dtype: np.dtype[np.generic] = np.dtype(_NUMPY[self.name])
        return dtype

    @cached_property
    def bits(self) -> int:
        """Bits of one element as ONNX stores it; 0 for strings."""
        if self is DType.STRING:
            return 0
        return _NARROW_BITS.get(self.name, 8 * self.numpy.itemsize)

    @property
    def is_float(self) -> bool:
        return self.name[0] in "FB" and self is not DType.BOOL

    @property
    def is_integer(self) -> bool:
        return self.name[0] in "UI"

    @property
    def is_complex(self) -> bool:
        return self.name[0] == "C"

    @property
    def is_signed(self) -> bool:
        return self.name[0] in "IFBC" and self is not DType.BOOL

    def holds(self, other: DType) -> bool:
        """True where each value of the other type is also one of this.

        Said of integers, truth values, and the floats of 16 bits and more.
        """
        if self is other:
            return True
        wide, narrow = _FLOAT_BITS.get(self.name), _FLOAT_BITS.get(other.name)
        if other is DType.BOOL:
            return self.is_integer or wide is not None
        if wide is not None and narrow is not None:
            return all(a >= b for a, b in zip(wide, narrow, strict=True))
        if not other.is_integer:
            return False
        if self.is_integer:
            if other.is_signed and not self.is_signed:
                return False
            spare = 1 if self.is_signed and not other.is_signed else 0
            return self.bits >= other.bits + spare
        if wide is None:
            return False
        bits = other.bits - (1 if other.is_signed else 0)
        return bits <= wide[1] + 1 and bits <= 2 ** (wide[0] - 1) - 1

    @classmethod
    def of(cls, dtype: np.dtype[np.generic] | type[np.generic]) -> DType:
        """The element type of a NumPy dtype. Raises TypeError where ONNX has none."""
        dtype = np.dtype(dtype)
        if dtype.kind in "OSUT":
            return cls.STRING
        try:
            return _FROM_NUMPY[dtype]
        except KeyError:
            raise TypeError(f"ONNX has no element type for NumPy's {dtype}") from None


_NUMPY: dict[str, Any] = {
    "F32": np.float32,
    "F64": np.float64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
    "STRING": np.object_,
    "C64": np.complex64,
    "C128": np.complex128,
    "F8E4M3FN": ml_dtypes.float8_e4m3fn,
    "F8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8E5M2": ml_dtypes.float8_e5m2,
    "F8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8E8M0": ml_dtypes.float8_e8m0fnu,
    "F4E2M1": ml_dtypes.float4_e2m1fn,
    "F6E2M3": ml_dtypes.float6_e2m3fn,
    "F6E3M2": ml_dtypes.float6_e3m2fn,
    "U4": ml_dtypes.uint4,
    "I4": ml_dtypes.int4,
    "U2": ml_dtypes.uint2,
    "I2": ml_dtypes.int2,
} | {
    f"{sign}{bits}": f"{'u' if sign == 'U' else ''}int{bits}"
    for sign in "UI"
    for bits in (8, 16, 32, 64)
}
_NARROW_BITS = {"U4": 4, "I4": 4, "F4E2M1": 4, "U2": 2, "I2": 2, "F6E2M3": 6}
_NARROW_BITS["F6E3M2"] = 6
_FLOAT_BITS = {"F64": (11, 52), "F32": (8, 23), "BF16": (8, 7), "F16": (5, 10)}
"""Exponent and mantissa bits."""
_FROM_NUMPY = {d.numpy: d for d in DType if d is not DType.STRING}


@dataclass(frozen=True, slots=True)
class TensorType:
    """``f32[batch, 128]``; ``?`` is an unknown dim, ``f32[*]`` has an unknown rank."""

    dtype: DType | None = None
    shape: Shape | None = None

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        """True where rank and all dims are known integers."""
        return self.shape is not None and all(isinstance(d, int) for d in self.shape)

    def __str__(self) -> str:
        inner = "*" if self.shape is None else ", ".join(map(format_dim, self.shape))
        return f"{self.dtype or '?'}[{inner}]"


@dataclass(frozen=True, slots=True)
class SparseType:
    """A sparse tensor: ``sparse(f32[3, 4])``."""

    tensor: TensorType

    def __str__(self) -> str:
        return f"sparse({self.tensor})"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A list of values of one type: ``seq(f32[*])``."""

    element: Type

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value or nothing: ``optional(f32[3])``."""

    element: Type

    def __str__(self) -> str:
        return f"optional({self.element})"


@dataclass(frozen=True, slots=True)
class MapType:
    """A dictionary, as `ai.onnx.ml` makes them: ``map(i64, f32[*])``."""

    key: DType
    value: Type

    def __str__(self) -> str:
        return f"map({self.key}, {self.value})"


@dataclass(frozen=True, slots=True)
class UnknownType:
    """Nothing is known: the result of an op that is not modelled."""

    def __str__(self) -> str:
        return "unknown"


Type: TypeAlias = (
    TensorType | SparseType | SequenceType | OptionalType | MapType | UnknownType
)
UNKNOWN = UnknownType()


def tensor(dtype: DType | None, *shape: Dim) -> TensorType:
    """Short form: ``tensor(DType.F32, symbol("n"), 3)``."""
    return TensorType(dtype, shape)


def clash(a: Type, b: Type) -> bool:
    """True where no value can have both types."""
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        if None not in (a.dtype, b.dtype) and a.dtype is not b.dtype:
            return True
        if a.shape is None or b.shape is None:
            return False
        return len(a.shape) != len(b.shape) or any(
            isinstance(m, int) and isinstance(n, int) and m != n
            for m, n in zip(a.shape, b.shape, strict=True)
        )
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        return clash(a.element, b.element)
    if isinstance(a, OptionalType) or isinstance(b, OptionalType):
        # A value may stand for an optional one.
        left, right = (t.element if isinstance(t, OptionalType) else t for t in (a, b))
        return clash(left, right)
    return UNKNOWN not in (a, b) and type(a) is not type(b)
