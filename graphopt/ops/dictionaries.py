"""Dictionaries of features and scores, and tensors (domain ai.onnx.ml)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Shape
from ..types import DType, MapType, SequenceType, TensorType, Type
from .registry import op
from .scores import DOMAIN
from .structured import Array, Computed

if TYPE_CHECKING:
    from ..xp import Namespace


@op("ZipMap", domain=DOMAIN)
class ZipMap(Computed):
    """A dictionary for each row: from the labels to the elements of its columns."""

    def labels(self) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self.classlabels_int64s or self.classlabels_strings
        if not found:
            raise self.error("no labels are given")
        return found

    def infer(self) -> Sequence[Type]:
        key = DType.STRING if isinstance(self.labels()[0], str) else DType.I64
        return [SequenceType(MapType(key, TensorType(DType.F32, ())))]

    def compute(self, xp: Namespace, x: Array) -> Any:
        rows = x.reshape((1, -1)) if x.ndim == 1 else x
        labels = self.labels()
        if rows.shape[1] != len(labels):
            raise ValueError(f"{len(labels)} labels for {rows.shape[1]} columns")
        return [dict(zip(labels, row, strict=True)) for row in rows]


class FromDictionary(Computed):
    """A tensor of the values of a dictionary."""

    def value_dtype(self) -> DType | None:
        """The element type of the values."""
        given = self.operands[0]
        type_ = None if given is None else given.type
        value = type_.value if isinstance(type_, MapType) else None
        return value.dtype if isinstance(value, TensorType) else None


@op("DictVectorizer", domain=DOMAIN)
class DictVectorizer(FromDictionary):
    """The values of the keys in a vocabulary, zero (or nothing) where there is none."""

    def vocabulary(self) -> tuple[Any, ...]:
        return self.int64_vocabulary or self.string_vocabulary or ()

    def result_dtypes(self) -> Sequence[DType | None]:
        return [self.value_dtype()]

    def result_shapes(self) -> Sequence[Shape | None]:
        return [(1, len(self.vocabulary()))]

    def compute(self, xp: Namespace, x: Any) -> Array:
        kinds = {np.asarray(value).dtype for value in x.values()}
        text = any(kind.kind in "OSU" for kind in kinds)
        dtype = self.value_dtype()
        numpy = dtype.numpy if dtype is not None else next(iter(kinds), np.float32)
        made = np.array(
            [x.get(key, "" if text else 0) for key in self.vocabulary()],
            object if text else numpy,
        )
        return made.reshape(1, -1)


@op("CastMap", domain=DOMAIN)
class CastMap(FromDictionary):
    """The values in the order of their integer keys: all, or each at its place.

    With ``map_form`` SPARSE there are ``max_map`` places.
    """

    def result_dtypes(self) -> Sequence[DType | None]:
        return [_TARGETS[self.cast_to]]

    def result_shapes(self) -> Sequence[Shape | None]:
        return [(1, self.max_map if self.map_form == "SPARSE" else None)]

    def compute(self, xp: Namespace, x: Any) -> Array:
        target = _TARGETS[self.cast_to]
        filler = "0" if target is DType.STRING else 0
        if self.map_form == "SPARSE":
            if any(not 0 <= key < self.max_map for key in x):
                raise ValueError(f"a key is not below max_map, {self.max_map}")
            row = [x.get(key, filler) for key in range(self.max_map)]
        else:
            row = [x[key] for key in sorted(x)]
        cells = [xp.cast(_array(value), target).reshape(()).item() for value in row]
        return np.array(cells, target.numpy).reshape(1, -1)


_TARGETS = {"TO_FLOAT": DType.F32, "TO_STRING": DType.STRING, "TO_INT64": DType.I64}


def _array(value: Any) -> Array:
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "SU" else array
