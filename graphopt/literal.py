"""Types, tensors and attributes as text, bit by bit, and back.

f32[batch, 3]  seq(f32[*])  map(i64, string[])       types
f32[2](1.0, -0.0)  f32[](0x7fc00001)  string[1]("a") small tensors; 0x spells bits
f32[784, 10](sha256="9f…", file="w.bin", offset=0)   large ones
3  3.0  -inf  nan:7ff8000000000001  "text"           attributes: ints, floats, strings
b"YmFzZTY0"  [1, 2]  <f32[3]>                        bytes, tuples, types
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from .dims import Dim, read_dim
from .encoding import Array, is_narrow, packed_size
from .errors import InvalidModel
from .external import slice_of
from .ir import Attr
from .types import (
    UNKNOWN,
    DType,
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    TensorType,
    Type,
)
from .weights import Tensor

_DTYPES: Final = {str(dtype): dtype for dtype in DType}
_WORD: Final = re.compile(r"[a-z][a-z0-9]*|\?")
_NUMBER: Final = re.compile(
    r"[-+]?(?:inf|nan(?::[0-9a-f]{16})?|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
)
_ELEMENT: Final = re.compile(r"[^\s,()]+")
_JSON: Final = json.JSONDecoder()
_DIGEST: Final = re.compile(r"[0-9a-f]{64}(?:/\d+)?")


class Weights:
    """Names for tensors that are too large to be written out, and the way back.

    A tensor is called by its digest; others with the same bits, which the graph keeps
    apart, by the digest and a number (``9f…/1``).
    """

    def __init__(
        self, known: Mapping[str, Tensor] | None = None, folder: Path | None = None
    ) -> None:
        self.tensors: dict[str, Tensor] = dict(known or {})
        self.folder = folder
        self._names: dict[Hashable, str] = {}
        self._copies: Counter[str] = Counter()

    def name(self, tensor: Tensor) -> str:
        """The name of a tensor; equal tensors (by `Tensor.key`) share it."""
        found = self._names.get(tensor.key)
        if found is None:
            digest = tensor.digest()
            copy = self._copies[digest]
            self._copies[digest] += 1
            found = self._names[tensor.key] = f"{digest}/{copy}" if copy else digest
            self.tensors[found] = tensor
        return found

    def find(self, name: str, type_: TensorType, facts: Mapping[str, Any]) -> Tensor:
        """The tensor of that name. Raises InvalidModel where it cannot be had."""
        tensor = self.tensors.get(name)
        if tensor is None:
            digest = name.partition("/")[0]
            original = self.tensors.get(digest)
            if original is not None:
                tensor = Tensor(original.dtype, original.shape, original.array())
            elif "file" in facts and self.folder is not None:
                tensor = self._from_file(type_, facts, digest)
            else:
                raise InvalidModel(
                    f"the tensor {digest[:16]} is not written out; pass it in `weights`"
                    " (from `weights_of`), or the `folder` of its data file"
                )
            self.tensors[name] = tensor
        if tensor.type != type_:
            raise InvalidModel(f"weight {name} is {tensor.type}, the text says {type_}")
        return tensor

    def _from_file(
        self, type_: TensorType, facts: Mapping[str, Any], digest: str
    ) -> Tensor:
        dtype, shape = _concrete(type_)
        entries = {
            "location": str(facts["file"]),
            "offset": str(facts.get("offset", 0)),
            "length": str(facts.get("length", "")),
        }
        length = packed_size(dtype, math.prod(shape))
        tensor = Tensor(dtype, shape, slice_of(entries, self.folder, length))
        if tensor.digest() != digest:
            raise InvalidModel(
                f"the bytes in {entries['location']!r} are not those that were printed"
            )
        return tensor


# --- types --------------------------------------------------------------------------


def read_type(text: str, start: int = 0) -> tuple[Type, int]:
    """The type at ``start`` (the inverse of ``str``), and the position after it.

    Raises ValueError where there is none.
    """
    found = _WORD.match(text, start)
    if found is None:
        raise ValueError(f"expected a type before {text[start : start + 40]!r}")
    word, end = found.group(), found.end()
    follows = text[end : end + 1]
    if follows == "[":
        if word != "?" and word not in _DTYPES:
            raise ValueError(f"no element type is called {word!r}")
        return _read_shape(text, end + 1, _DTYPES.get(word))
    if word == "unknown":
        return UNKNOWN, end
    if follows == "(" and word == "map":
        name = _WORD.match(text, end + 1)
        if name is None or name.group() not in _DTYPES:
            raise ValueError("expected the element type of a map's keys")
        value, end = read_type(text, expect(text, name.end(), ", "))
        return MapType(_DTYPES[name.group()], value), expect(text, end, ")")
    if follows == "(" and word in ("sparse", "seq", "optional"):
        element, end = read_type(text, end + 1)
        end = expect(text, end, ")")
        if word == "seq":
            return SequenceType(element), end
        if word == "optional":
            return OptionalType(element), end
        if not isinstance(element, TensorType):
            raise ValueError("only tensors are sparse")
        return SparseType(element), end
    raise ValueError(f"no type is called {word!r}")


def _read_shape(text: str, at: int, dtype: DType | None) -> tuple[Type, int]:
    if text.startswith("*]", at):
        return TensorType(dtype), at + 2
    dims: list[Dim] = []
    while not text.startswith("]", at):
        if dims:
            at = expect(text, at, ", ")
        dim, at = read_dim(text, at)
        dims.append(dim)
    return TensorType(dtype, tuple(dims)), at + 1


def expect(text: str, at: int, sign: str) -> int:
    """The position after ``sign``. Raises ValueError where something else stands."""
    if not text.startswith(sign, at):
        raise ValueError(f"expected {sign!r} before {text[at : at + 40]!r}")
    return at + len(sign)


def _concrete(type_: Type) -> tuple[DType, tuple[int, ...]]:
    if isinstance(type_, TensorType) and type_.dtype and type_.shape is not None:
        shape = tuple(d for d in type_.shape if isinstance(d, int) and d >= 0)
        if len(shape) == len(type_.shape):
            return type_.dtype, shape
    raise ValueError(f"no tensor has the type {type_}")


# --- tensors ------------------------------------------------------------------------


def format_tensor(tensor: Tensor, weights: Weights) -> str:
    """The elements of a tensor that is compared by its bytes, the name of another."""
    if tensor.location is None and tensor.key is not tensor:
        array = tensor.array()
        padded = tensor.dtype is DType.BOOL or is_narrow(tensor.dtype)
        if padded and Tensor.of(array).key != tensor.key:  # odd bits that say nothing
            packed = base64.b64encode(tensor.packed_bytes()).decode()
            return f'{tensor.type}(packed="{packed}")'
        return f"{tensor.type}({', '.join(_spell(array, tensor.dtype))})"
    facts: dict[str, str | int] = {"sha256": weights.name(tensor)}
    if (slice_ := tensor.location) is not None:
        facts["file"] = slice_.file.location
        facts["offset"] = slice_.offset
        facts["length"] = slice_.length
    listed = ", ".join(f"{name}={json.dumps(fact)}" for name, fact in facts.items())
    return f"{tensor.type}({listed})"


def read_tensor(text: str, start: int, weights: Weights) -> tuple[Tensor, int]:
    """The tensor at ``start`` and the position after it.

    Raises ValueError for bad text, InvalidModel for a weight that cannot be had.
    """
    type_, at = read_type(text, start)
    dtype, shape = _concrete(type_)
    at = expect(text, at, "(")
    if text.startswith("sha256=", at):
        facts, at = _read_facts(text, at)
        name = str(facts["sha256"])
        if not _DIGEST.fullmatch(name):
            raise ValueError(f"no SHA-256 digest: {name!r}")
        return weights.find(name, TensorType(dtype, shape), facts), at
    if text.startswith("packed=", at):
        facts, at = _read_facts(text, at)
        packed = base64.b64decode(facts["packed"], validate=True)
        return Tensor(dtype, shape, packed), at
    words: list[str] = []
    while not text.startswith(")", at):
        if words:
            at = expect(text, at, ", ")
        word, at = _read_element(text, at)
        words.append(word)
    if len(words) != math.prod(shape):
        raise ValueError(f"{len(words)} elements for {type_}")
    array = _read_elements(words, dtype)
    return Tensor.of(array.reshape(shape), dtype), at + 1


def _read_element(text: str, at: int) -> tuple[str, int]:
    if text.startswith('"', at):
        return read_json(text, at)
    found = _ELEMENT.match(text, at)
    if found is None:
        raise ValueError(f"expected an element before {text[at : at + 40]!r}")
    return found.group(), found.end()


def _read_facts(text: str, at: int) -> tuple[dict[str, Any], int]:
    facts: dict[str, Any] = {}
    while not text.startswith(")", at):
        if facts:
            at = expect(text, at, ", ")
        end = text.find("=", at)
        facts[text[at:end]], at = read_json(text, end + 1)
    return facts, at + 1


def read_json(text: str, at: int) -> tuple[Any, int]:
    """The JSON value at a position, and the position after it."""
    value, end = _JSON.raw_decode(text, at)
    return value, end


def _spell(array: Array, dtype: DType) -> list[str]:
    flat = array.reshape(-1)
    if dtype is DType.STRING:
        return [json.dumps(element) for element in flat]
    if dtype is DType.BOOL:
        return ["true" if element else "false" for element in flat]
    if dtype.is_integer:
        return [str(int(element)) for element in flat]
    if dtype in (DType.F16, DType.F32, DType.F64):
        words = [str(element) for element in flat]
    elif dtype.is_complex:
        words = [str(complex(element)).strip("()") for element in flat]
    else:
        words = [repr(float(element)) for element in flat]
    back = _read_elements(words, dtype)
    size = flat.dtype.itemsize
    for i, word in enumerate(words):
        bits = flat[i : i + 1].tobytes()
        if back[i : i + 1].tobytes() != bits:  # a NaN's payload, a complex -0.0
            words[i] = f"0x{int.from_bytes(bits, 'little'):0{2 * size}x}"
        elif word.lstrip("-").isdigit():
            words[i] = word + ".0"
    return words


def _read_elements(words: list[str], dtype: DType) -> Array:
    numpy = dtype.numpy
    array: Array
    if dtype is DType.STRING:
        array = np.empty(len(words), np.object_)
        array[:] = words
        return array
    if dtype is DType.BOOL:
        if not {*words} <= {"true", "false"}:
            raise ValueError("a truth value is written true or false")
        return np.array([word == "true" for word in words], np.bool_)
    if dtype.is_integer:
        wide = numpy if dtype.bits >= 8 else np.dtype(np.int64)
        return np.array([int(word) for word in words], wide).astype(numpy)
    numbers = np.empty(len(words), numpy)
    codes = numbers.view(np.uint8).reshape(len(words), numpy.itemsize)
    with np.errstate(all="ignore"):
        for i, word in enumerate(words):
            if word.startswith("0x"):
                bits = int(word, 16).to_bytes(numpy.itemsize, "little")
                codes[i] = np.frombuffer(bits, np.uint8)
            else:
                numbers[i] = complex(word) if dtype.is_complex else float(word)
    return numbers


# --- attributes ---------------------------------------------------------------------


def format_attr(value: Attr, weights: Weights) -> str:
    """An attribute, bit by bit. Raises TypeError for what is none."""
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        bits = struct.pack(">d", value)
        plain = struct.pack(">d", float(repr(value))) == bits
        return repr(value) if plain else f"nan:{bits.hex()}"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bytes):
        return f'b"{base64.b64encode(value).decode()}"'
    if isinstance(value, tuple):
        return f"[{', '.join([format_attr(v, weights) for v in value])}]"
    if isinstance(value, Tensor):
        return format_tensor(value, weights)
    if isinstance(value, Type):
        return f"<{value}>"
    raise TypeError(f"no attribute is a {type(value).__name__}")


def read_attr(text: str, at: int, weights: Weights) -> tuple[Attr, int]:
    """The attribute at a position, and the position after it. Raises ValueError."""
    sign = text[at : at + 1]
    if sign == '"':
        return read_json(text, at)
    if sign == "[":
        return _read_tuple(text, at + 1, weights)
    if sign == "<":
        type_, at = read_type(text, at + 1)
        return type_, expect(text, at, ">")
    if text.startswith('b"', at):
        encoded, at = read_json(text, at + 1)
        return base64.b64decode(encoded, validate=True), at
    found = _NUMBER.match(text, at)
    if found is None:
        return read_tensor(text, at, weights)
    word = found.group()
    if word.startswith("nan:"):
        return struct.unpack(">d", bytes.fromhex(word[4:]))[0], found.end()
    if word.lstrip("-+").isdigit():
        return int(word), found.end()
    return float(word), found.end()


def _read_tuple(text: str, at: int, weights: Weights) -> tuple[Attr, int]:
    values: list[Any] = []
    while not text.startswith("]", at):
        if values:
            at = expect(text, at, ", ")
        value, at = read_attr(text, at, weights)
        values.append(value)
    return tuple(values), at + 1
