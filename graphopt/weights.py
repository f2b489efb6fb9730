"""Constant tensors: element type, shape, and data that is read as late as possible."""

from __future__ import annotations

import hashlib
import math
import weakref
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias

import numpy as np

from .encoding import (
    CHUNK,
    FIELDS,
    Array,
    field_length,
    pack,
    packed_size,
    unpack,
    unpack_field,
)
from .errors import InvalidModel
from .external import ExternalSlice, slice_of
from .types import DType, TensorType

if TYPE_CHECKING:
    from onnx import TensorProto

SMALL = 256
"""Up to so many bytes, tensors are the same constant if their bytes are."""

MAX_BYTES = 1 << 36
"""No tensor of a model may claim more bytes than this (64 GiB)."""

MAX_RANK = 64
"""NumPy's limit on axes."""

_READ_AT_ONCE = 4096  # bytes; below, a read is cheaper than a map, and worth keeping

_Data: TypeAlias = bytes | Array | ExternalSlice | tuple[bytes, ...]


class Tensor:
    """An immutable constant.

    ``dtype`` and ``shape`` are known; the data comes from an array, from a proto's
    bytes, or from a file that is mapped when `array` is called. Tensors are equal only
    if they are the same object: compare ``key`` (cheap) or `same_bits` (reads all).
    """

    __slots__ = ("__weakref__", "_cached", "_data", "_digest", "doc", "dtype", "shape")

    dtype: Final[DType]
    shape: Final[tuple[int, ...]]
    doc: Final[str]

    def __init__(
        self, dtype: DType, shape: tuple[int, ...], data: _Data, doc: str = ""
    ) -> None:
        """Trusts its arguments; use `of` or `from_proto`."""
        self.dtype = dtype
        self.shape = shape
        self.doc = doc
        self._data: Final = data
        self._cached: Array | weakref.ref[Array] | None = None
        self._digest: str | None = None

    @classmethod
    def of(cls, value: object, dtype: DType | None = None) -> Tensor:
        """A tensor of an array, or of Python numbers, strings and nested lists.

        An array keeps its element type, Python ints become i64 and floats f32 (as in
        ONNX attributes), unless ``dtype`` casts. A large contiguous array that owns its
        data is taken without a copy and made read-only. Raises TypeError where ONNX has
        no such element type, OverflowError for Python ints beyond it.
        """
        if not isinstance(value, (np.ndarray, np.generic)):
            array: Array = np.asarray(value, None if dtype is None else dtype.numpy)
            if dtype is None and array.dtype == np.float64:
                array = array.astype(np.float32)
            elif array.dtype.kind in "US":  # which would drop trailing NULs
                array = np.asarray(value, np.object_)
        else:
            array = np.asarray(value)
        found = DType.of(array.dtype.newbyteorder("="))
        dtype = dtype or found
        if DType.STRING in (dtype, found):
            if dtype is not found:
                raise TypeError(f"cannot make {dtype} of {found}")
            return cls(dtype, array.shape, tuple(map(_encode, array.flat)))
        if array.dtype != dtype.numpy:
            array = array.astype(dtype.numpy)
        # Small ones are interned by their bytes: no view of somebody's may change them.
        interned = array.nbytes <= SMALL and array is value
        if interned or not array.flags.c_contiguous or _shares_writeable(array):
            array = array.copy(order="C")
        array.flags.writeable = False
        return cls(dtype, array.shape, array)

    @classmethod
    def from_proto(
        cls, proto: TensorProto, *, folder: Path | None = None, where: str = ""
    ) -> Tensor:
        """The tensor of a TensorProto; external data lies beneath ``folder``.

        All that the proto claims is checked before anything is allocated for it, and
        external data is not read. ``where`` names the tensor in messages where its own
        name says too little. Raises InvalidModel.
        """
        try:
            return cls._checked(proto, folder)
        except InvalidModel as error:
            where = where or f"tensor {proto.name!r}"
            raise InvalidModel(error.message, where=where) from None

    @classmethod
    def _checked(cls, proto: TensorProto, folder: Path | None) -> Tensor:
        dtype = _DTYPES.get(proto.data_type)
        if dtype is None:
            raise InvalidModel(f"unknown element type {proto.data_type}")
        shape = tuple(proto.dims)
        size = checked_size(dtype, shape)
        if proto.HasField("segment"):
            raise InvalidModel("data in segments is not supported")
        data = {field: getattr(proto, field) for field in _DATA_FIELDS}  # copied once
        inline = [field for field, content in data.items() if content]
        doc = proto.doc_string
        if proto.data_location == proto.EXTERNAL:
            if inline:
                raise InvalidModel(f"external data and {inline[0]}: one must go")
            return cls(dtype, shape, _external(proto, dtype, size, folder), doc)
        if len(inline) > 1:
            raise InvalidModel(f"data in both {inline[0]} and {inline[1]}")
        if not inline:
            if size:
                raise InvalidModel(f"no data for {size} elements")
            return cls(dtype, shape, () if dtype is DType.STRING else b"", doc)
        field = inline[0]
        content = data[field]
        _check_field(field, len(content), dtype, size)
        if field == "raw_data":
            return cls(dtype, shape, content, doc)
        if field == "string_data":
            return cls(dtype, shape, tuple(content), doc)
        return cls(dtype, shape, unpack_field(field, content, dtype, shape), doc)

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, self.shape)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes as ONNX stores them; for strings, of their UTF-8."""
        if isinstance(self._data, tuple):
            return sum(map(len, self._data))
        return packed_size(self.dtype, self.size)

    @property
    def location(self) -> ExternalSlice | None:
        """Where the data lies (``file``, ``offset``, ``length``) if in a data file."""
        return self._data if isinstance(self._data, ExternalSlice) else None

    @property
    def key(self) -> Hashable:
        """What interning compares: equal keys mean equal tensors, bit by bit.

        Small inline tensors go by their bytes, slices by file and offset, the rest by
        identity.
        """
        data = self._data
        if isinstance(data, ExternalSlice):
            return (self.dtype, self.shape, data.key)
        if isinstance(data, tuple):
            small = len(data) * 8 <= SMALL and self.nbytes <= SMALL
            return (self.dtype, self.shape, data) if small else self
        if self.nbytes > SMALL:
            return self
        return (self.dtype, self.shape, self.packed_bytes())

    def array(self) -> Array:
        """The data as a read-only array of ``dtype.numpy``; strings as ``str`` objects.

        Large external data is a view of the mapped file: pages of the file, not private
        memory, and unmapped with the last array. Raises InvalidModel if the file
        changed since the tensor was made.
        """
        cached = self._cached
        if isinstance(cached, weakref.ref):
            cached = cached()
        if cached is not None:
            return cached
        data = self._data
        if isinstance(data, np.ndarray):
            return data
        if isinstance(data, tuple):
            array = np.empty(len(data), np.object_)
            array[:] = [text.decode("utf-8", "surrogateescape") for text in data]
            array = array.reshape(self.shape)
            array.flags.writeable = False
        elif isinstance(data, ExternalSlice):
            at_once = data.length <= _READ_AT_ONCE
            array = unpack(
                data.read() if at_once else data.view(), self.dtype, self.shape
            )
        else:
            array = unpack(data, self.dtype, self.shape)
        self._cached = array if self.nbytes <= _READ_AT_ONCE else weakref.ref(array)
        return array

    def chunks(self) -> Iterator[memoryview]:
        """The packed bytes in parts of at most `CHUNK`, each valid until the next.

        Files are read, not mapped, so no page stays with the process. Raises TypeError
        for strings, which have no packed form.
        """
        data = self._data
        if isinstance(data, tuple):
            raise TypeError("strings have no packed bytes")
        if isinstance(data, ExternalSlice):
            yield from data.chunks()
        elif isinstance(data, bytes):
            view = memoryview(data)
            for start in range(0, len(data), CHUNK):
                yield view[start : start + CHUNK]
        else:
            flat = data.reshape(-1)
            step = CHUNK * 8 // self.dtype.bits
            for start in range(0, flat.size, step):
                yield pack(flat[start : start + step], self.dtype)

    def packed_bytes(self) -> bytes:
        """All of `chunks` as one object."""
        return self._data if isinstance(self._data, bytes) else b"".join(self.chunks())

    def write_to(self, file: BinaryIO) -> None:
        """Write the packed bytes to a file, chunk by chunk."""
        for chunk in self.chunks():
            file.write(chunk)

    def digest(self) -> str:
        """SHA-256, in hex, of element type, shape and bytes."""
        if self._digest is None:
            running = hashlib.sha256(f"{self.type}:".encode())
            if isinstance(self._data, tuple):
                for text in self._data:
                    running.update(b"%d:" % len(text) + text)
            else:
                for chunk in self.chunks():
                    running.update(chunk)
            self._digest = running.hexdigest()
        return self._digest

    def same_bits(self, other: Tensor) -> bool:
        """True if element type, shape and every bit agree; reads until they differ."""
        if self.dtype is not other.dtype or self.shape != other.shape:
            return False
        if self is other or self.key == other.key:
            return True
        if isinstance(self._data, tuple) or isinstance(other._data, tuple):
            return self._data == other._data
        return all(
            np.array_equal(np.frombuffer(mine, np.uint8), np.frombuffer(its, np.uint8))
            for mine, its in zip(self.chunks(), other.chunks(), strict=True)
        )

    def to_proto(self, name: str = "") -> TensorProto:
        """An inline TensorProto: ``raw_data``, or ``string_data`` for strings."""
        from onnx import TensorProto

        proto = TensorProto(data_type=self.dtype.value, dims=self.shape)
        if name:
            proto.name = name
        if isinstance(self._data, tuple):
            proto.string_data.extend(self._data)
        else:
            proto.raw_data = self.packed_bytes()
        if self.doc:
            proto.doc_string = self.doc
        return proto

    def __repr__(self) -> str:
        return f"Tensor({self.type})"


def checked_size(dtype: DType, shape: Sequence[int]) -> int:
    """The number of elements of a claimed shape, which is only now believed.

    Raises InvalidModel for a negative dim, more than `MAX_RANK` axes or `MAX_BYTES`
    bytes. Zero dims do not excuse the others: NumPy cannot hold (0, 2**62, 2**62).
    """
    if len(shape) > MAX_RANK:
        raise InvalidModel(f"{len(shape)} axes, at most {MAX_RANK} work")
    extent = 1
    for dim in shape:
        if dim < 0:
            raise InvalidModel(f"negative dim in {list(shape)}")
        extent *= dim or 1
    if extent * dtype.numpy.itemsize > MAX_BYTES:
        raise InvalidModel(
            f"dims {list(shape)} of {dtype} claim over {MAX_BYTES >> 30} GiB"
        )
    return math.prod(shape)


_DTYPES = {dtype.value: dtype for dtype in DType}
_DATA_FIELDS = (*FIELDS, "raw_data")


def _check_field(field: str, have: int, dtype: DType, size: int) -> None:
    if field == "raw_data":
        legal = dtype is not DType.STRING
        need = packed_size(dtype, size)
    else:
        legal = dtype in FIELDS[field]
        need = field_length(dtype, size)
    if not legal:
        raise InvalidModel(f"{dtype} cannot lie in {field}")
    if have != need:
        unit = "bytes" if field == "raw_data" else "entries"
        raise InvalidModel(
            f"{field} has {have} {unit}, dims and element type need {need}"
        )


def _external(
    proto: TensorProto, dtype: DType, size: int, folder: Path | None
) -> ExternalSlice:
    if dtype is DType.STRING:
        raise InvalidModel("strings cannot lie in external data")
    entries: dict[str, str] = {}
    for entry in proto.external_data:
        # protobuf hands out bytes where text is not UTF-8
        if not isinstance(entry.key, str) or not isinstance(entry.value, str):
            raise InvalidModel("external data entry is not UTF-8")
        if entry.key in entries:
            raise InvalidModel(f"external data has two {entry.key!r}")
        entries[entry.key] = entry.value
    return slice_of(entries, folder, packed_size(dtype, size))


def _shares_writeable(array: Array) -> bool:
    base = array.base
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return True
        base = base.base
    return base is not None and array.flags.writeable


def _encode(element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode("utf-8", "surrogateescape")
    raise TypeError(f"a string tensor cannot hold {type(element).__name__}")
