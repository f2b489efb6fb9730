"""Elements as bytes: ONNX's packed little-endian layout, and its typed proto fields.

Types of 8 bits and more lie as in memory. Narrow ones (int4, float6, ...) are one
stream of bits, the first element lowest (onnx.proto, ``TensorProto.raw_data``); as
arrays they take a byte each, upper bits zero.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from .types import DType

if sys.byteorder != "little":
    raise ImportError("graphopt runs on little-endian hosts only")

Array = np.ndarray[Any, np.dtype[Any]]

CHUNK = 3 << 18
"""Bytes handled at a time; whole elements of every type, whole pages."""


def packed_size(dtype: DType, size: int) -> int:
    """Bytes that ``size`` elements take in a file. Strings have no such size."""
    return (size * dtype.bits + 7) // 8


def is_narrow(dtype: DType) -> bool:
    """True where several elements share bytes."""
    return 0 < dtype.bits < 8


def unpack(
    data: bytes | memoryview | Array, dtype: DType, shape: tuple[int, ...]
) -> Array:
    """The read-only array behind packed bytes; a view of ``data`` where possible."""
    stored = np.frombuffer(data, np.uint8)
    if is_narrow(dtype):
        array = _unpack_narrow(stored, dtype, shape)
    elif dtype is DType.BOOL:
        array = (stored != 0).reshape(shape)
    else:
        array = stored.view(dtype.numpy).reshape(shape)
        if not array.flags.aligned:
            array = array.copy()
    array.flags.writeable = False
    return array


def pack(array: Array, dtype: DType) -> memoryview:
    """The packed bytes of a contiguous array; a view of it if not narrow."""
    codes = array.reshape(-1).view(np.uint8)
    return (_pack_narrow(codes, dtype.bits) if is_narrow(dtype) else codes).data


# 24 bits hold whole elements of 2, 4 and 6 bits alike, so one formula serves all.


def _pack_narrow(codes: Array, bits: int) -> Array:
    shifts = np.arange(0, 24, bits, dtype=np.uint32)
    words = np.zeros((-(-codes.size // shifts.size), shifts.size), np.uint32)
    words.reshape(-1)[: codes.size] = codes & ((1 << bits) - 1)
    joined: Array = np.bitwise_or.reduce(words << shifts, axis=1).view(np.uint8)
    return joined.reshape(-1, 4)[:, :3].reshape(-1)[: (codes.size * bits + 7) // 8]


def _unpack_narrow(stored: Array, dtype: DType, shape: tuple[int, ...]) -> Array:
    codes = np.empty(shape, np.uint8)
    flat = codes.reshape(-1)
    shifts = np.arange(0, 24, dtype.bits, dtype=np.uint32)
    for start in range(0, stored.size, CHUNK):
        part = stored[start : start + CHUNK]
        words = np.zeros((-(-part.size // 3), 4), np.uint8)
        whole = part.size // 3
        words[:whole, :3] = part[: whole * 3].reshape(-1, 3)
        words[whole:, : part.size % 3] = part[whole * 3 :]
        split = (words.view(np.uint32) >> shifts) & ((1 << dtype.bits) - 1)
        first = start * 8 // dtype.bits
        target = flat[first : first + split.size]
        target[:] = split.reshape(-1)[: target.size]
    return codes.view(dtype.numpy)


# Which typed field of a TensorProto may hold which element type (onnx.proto).
FIELDS: dict[str, frozenset[DType]] = {
    "float_data": frozenset({DType.F32, DType.C64}),
    "double_data": frozenset({DType.F64, DType.C128}),
    "int64_data": frozenset({DType.I64}),
    "uint64_data": frozenset({DType.U64, DType.U32}),
    "string_data": frozenset({DType.STRING}),
}
FIELDS["int32_data"] = frozenset(DType) - frozenset().union(*FIELDS.values())

_STORED_AS = {"float_data": np.float32, "double_data": np.float64}


def field_length(dtype: DType, size: int) -> int:
    """Entries of the typed field that ``size`` elements need.

    Complex numbers take two; two int4, or four int2, share one; float6 takes one.
    """
    if dtype.is_complex:
        return 2 * size
    if dtype.bits in (2, 4):
        return packed_size(dtype, size)
    return size


def unpack_field(
    field: str, entries: Sequence[Any], dtype: DType, shape: tuple[int, ...]
) -> Array:
    """The array that a typed field spells: values, or bit patterns in `int32_data`.

    Entries too wide for the element type lose their upper bits, as in onnx itself.
    """
    if field != "int32_data":
        array = np.array(entries, _STORED_AS.get(field, field.removesuffix("_data")))
        if not dtype.is_complex:
            array = array.astype(dtype.numpy, copy=False)
        array = array.view(dtype.numpy).reshape(shape)
        array.flags.writeable = False
        return array
    patterns = np.array(entries, np.int32)
    if dtype.bits in (2, 4):
        return unpack(patterns.astype(np.uint8), dtype, shape)
    if dtype.bits == 6:
        codes = patterns.astype(np.uint8) & 0x3F
    else:
        codes = patterns.astype(f"u{dtype.bits // 8}").view(np.uint8)
    if dtype is DType.BOOL:
        return unpack(codes, dtype, shape)
    array = codes.view(dtype.numpy).reshape(shape)
    array.flags.writeable = False
    return array
