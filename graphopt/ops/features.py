"""Features of classical models: codes for labels, columns that are picked.

Source: the domain ai.onnx.ml, its newest version.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Shape, product
from ..index import Maps
from ..types import DType
from ..weights import Tensor
from .movement import Movement
from .registry import op
from .steering import axis_names, joined, shape_of
from .structured import Array, Elementwise

if TYPE_CHECKING:
    from ..xp import Namespace

DOMAIN = "ai.onnx.ml"


@op("LabelEncoder", domain=DOMAIN)
class LabelEncoder(Elementwise):
    """The value that belongs to each key; others have a default.

    Keys and values come as tensors, or as lists of one type. All NaN are one key; of
    equal keys the last one counts.
    """

    def _stated(self, kind: str) -> tuple[str, Any]:
        """The attribute that holds the keys or values, by its suffix."""
        for suffix in ("tensor", "int64s", "floats", "strings"):
            found = self.attrs.get(f"{kind}_{suffix}")
            if found is not None:
                return suffix, found
        raise ValueError(f"no {kind} are given")

    def _values(self) -> tuple[Array, Any]:
        """The values, and the default one."""
        suffix, found = self._stated("values")
        if isinstance(found, Tensor):
            default = self.attrs.get("default_tensor")
            array = found.array()
            if isinstance(default, Tensor):
                return array, default.array().item()
            return array, _DEFAULTS[array.dtype.kind]
        dtype = {"int64s": np.int64, "floats": np.float32, "strings": object}[suffix]
        return np.array(found, dtype), self.attrs[f"default_{suffix[:-1]}"]

    def result_dtypes(self) -> Sequence[DType | None]:
        return [DType.of(self._values()[0].dtype)]

    def compute(self, xp: Namespace, x: Array) -> Array:
        _, keys = self._stated("keys")
        keys = keys.array().tolist() if isinstance(keys, Tensor) else keys
        values, default = self._values()
        table = dict(zip(map(_key, keys), values.tolist(), strict=True))
        result = np.empty(x.shape, values.dtype)
        flat = x.reshape(-1).tolist()
        result.reshape(-1)[:] = [table.get(_key(key), default) for key in flat]
        return result


_DEFAULTS = {"O": "_Unused", "f": -0.0, "i": -1}
"""What keys without a value become, by the kind of the values."""


def _key(value: Any) -> Any:
    """A key as a dictionary holds it."""
    return "NaN" if isinstance(value, float) and isnan(value) else value


@op("ArrayFeatureExtractor", domain=DOMAIN)
class ArrayFeatureExtractor(Movement):
    """Columns of the last axis; of a vector, as one row."""

    def index_maps(self) -> Maps | None:
        source, columns = shape_of(self), shape_of(self, 1)
        if source is None or columns is None or len(columns) != 1:
            return None
        rows = axis_names(len(source) - 1)
        return self.parse_maps(joined([[*rows, "@1"], "j"], [[*(rows or "1"), "j"]]))

    def compute(self, xp: Namespace, x: Array, columns: Array) -> Array:
        found = xp.take(x, xp.reshape(columns, (-1,)), x.ndim - 1)
        return xp.reshape(found, (1, -1)) if x.ndim == 1 else found

    def result_shapes(self) -> Sequence[Shape | None]:
        source, columns = shape_of(self), shape_of(self, 1)
        if source is None:
            return [None]
        count = None if columns is None else product(columns)
        return [(*(source[:-1] or (1,)), count)]


@op("Binarizer", domain=DOMAIN)
class Binarizer(Elementwise):
    """1 where an element is above ``threshold``, else 0."""

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.cast(xp.greater(x, self.threshold), x.dtype)
