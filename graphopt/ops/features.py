"""Features of classical models: codes for labels, columns that are picked.

Source: the domain ai.onnx.ml, its newest version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import dims
from ..dims import Dim, Shape, product
from ..errors import NoReference
from ..index import Maps
from ..types import DType
from ..weights import Tensor
from .bodies import WholeAxes
from .movement import Movement
from .registry import op
from .scores import DOMAIN
from .steering import agreed, axis_names, joined, normal_axis, shape_of
from .structured import Array, Elementwise, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


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


@op("CategoryMapper", domain=DOMAIN)
class CategoryMapper(Elementwise):
    """The integer of each string, or the string of each integer, by a table.

    What has none becomes ``default_int64`` or ``default_string``; of equal ones the
    last counts.
    """

    def result_dtypes(self) -> Sequence[DType | None]:
        dtype = self._dtype(0)
        if dtype is None:
            return [None]
        return [DType.I64 if dtype is DType.STRING else DType.STRING]

    def compute(self, xp: Namespace, x: Array) -> Array:
        ints, strings = self.cats_int64s or (), self.cats_strings or ()
        result: Array
        if x.dtype.kind == "O":
            table: dict[Any, Any] = dict(zip(strings, ints, strict=True))
            default, result = self.default_int64, np.empty(x.shape, np.int64)
        else:
            table = dict(zip(ints, strings, strict=True))
            default, result = self.default_string, np.empty(x.shape, object)
        found = [table.get(key, default) for key in x.reshape(-1).tolist()]
        result.reshape(-1)[:] = found
        return result


class ByFeature(WholeAxes):
    """An op of elements, whose numbers are those of each feature, or one for all.

    Features are along the last axis.
    """

    def numbers(self) -> Sequence[float]:
        """One number for each feature, or one."""
        raise NotImplementedError

    def whole_axes(self, rank: int) -> tuple[int, ...]:
        return (normal_axis(-1, rank),) if len(self.numbers()) > 1 else ()


@op("Scaler", domain=DOMAIN)
class Scaler(ByFeature):
    """``(x - offset) * scale``."""

    def numbers(self) -> Sequence[float]:
        return self.scale or ()

    def result_dtypes(self) -> Sequence[DType | None]:
        return [DType.F32]

    def compute(self, xp: Namespace, x: Array) -> Array:
        x = x if x.dtype == np.float64 else xp.cast(x, DType.F32)
        for name, function in (("offset", xp.subtract), ("scale", xp.multiply)):
            numbers = np.array(self.attrs[name], np.float32)
            x = function(x, xp.cast(xp.asarray(numbers), DType.of(x.dtype)))
        return x


@op("Imputer", domain=DOMAIN)
class Imputer(ByFeature):
    """Elements that equal a value become another. All NaN are equal here."""

    def numbers(self) -> Sequence[float]:
        return self.imputed_value_floats or self.imputed_value_int64s or ()

    def compute(self, xp: Namespace, x: Array) -> Array:
        integers = DType.of(x.dtype).is_integer
        replaced = self.replaced_value_int64 if integers else self.replaced_value_float
        values = self.imputed_value_int64s if integers else self.imputed_value_floats
        if not values:
            raise ValueError("no imputed values for this type are given")
        wanted = xp.cast(xp.asarray(np.array(values)), DType.of(x.dtype))
        old = xp.asarray(replaced, DType.of(x.dtype))
        lost = xp.isnan(x) if isnan(replaced) else xp.equal(x, old)
        return xp.where(lost, wanted, x)


@op("Normalizer", domain=DOMAIN)
class Normalizer(WholeAxes):
    """Each row over its largest element, its absolute sum or its length.

    Rows are along the last axis. One whose divisor is zero stays.
    """

    def whole_axes(self, rank: int) -> tuple[int, ...]:
        return (normal_axis(-1, rank),)

    def result_dtypes(self) -> Sequence[DType | None]:
        return [DType.F32]

    def compute(self, xp: Namespace, x: Array) -> Array:
        x = x if x.dtype == np.float64 else xp.cast(x, DType.F32)
        if self.norm == "MAX":
            size = xp.max(x, -1, keepdims=True)
        elif self.norm == "L1":
            size = xp.sum(xp.abs(x), -1, keepdims=True)
        elif self.norm == "L2":
            squares = xp.sum(xp.square(x), -1, keepdims=True)
            size = xp.flat_at_zero(xp.sqrt, squares)
        else:
            raise ValueError(f"norm {self.norm!r} is not MAX, L1 or L2")
        one = xp.ones(size.shape, DType.of(x.dtype))
        return xp.divide(x, xp.where(xp.equal(size, 0.0), one, size))


@op("OneHotEncoder", domain=DOMAIN)
class OneHotEncoder(Structured):
    """1 at the place of each element among the categories, along a new last axis.

    Where it is none of them there are zeros, or with ``zeros`` 0 an error.
    """

    combiner = None

    def result_dtypes(self) -> Sequence[DType | None]:
        return [DType.F32]

    def categories(self) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self.cats_int64s or self.cats_strings or ()
        if not found:
            raise ValueError("no categories are given")
        return found

    def index_maps(self) -> Maps | None:
        return self.parse_maps("... -> ... _c")

    def extents(self) -> Mapping[str, Dim]:
        return {"c": len(self.categories())}

    def result_shapes(self) -> Sequence[Shape | None]:
        shape = shape_of(self)
        return [None if shape is None else (*shape, len(self.categories()))]

    def compute(self, xp: Namespace, x: Array) -> Array:
        known = self.categories()
        if DType.of(x.dtype) is DType.STRING:
            if xp.name != "host":
                raise NoReference("OneHotEncoder of strings runs on NumPy only")
            found = x[..., None] == np.array(known, object)
        else:
            categories = xp.asarray(np.array(known, np.int64))
            found = xp.equal(xp.cast(xp.unsqueeze(x, (x.ndim,)), DType.I64), categories)
        if not self.zeros and xp.name == "host" and not found.any(-1).all():
            raise ValueError("an element is none of the categories")
        return xp.cast(xp.asarray(found, np.bool_), DType.F32)


@op("FeatureVectorizer", domain=DOMAIN)
class FeatureVectorizer(Structured):
    """Features of all operands side by side; a vector is one row.

    ``inputdimensions`` says how many of each there are: fewer are followed by zeros.
    """

    combiner = None

    def result_dtypes(self) -> Sequence[DType | None]:
        return [DType.F32]

    def widths(self) -> list[Dim]:
        """How many features each operand gives."""
        if self.inputdimensions:
            return list(self.inputdimensions)
        shapes = [shape_of(self, i) for i in range(len(self.operands))]
        return [None if not shape else shape[-1] for shape in shapes]

    def index_maps(self) -> Maps | None:
        if any(v is None or v.rank != 2 for v in self.operands):
            return None
        names = [f"n _f{i}" for i in range(len(self.operands))]
        return self.parse_maps(", ".join(names) + " -> n _c")

    def extents(self) -> Mapping[str, Dim]:
        total: Dim = 0
        for width in self.widths():
            total = dims.add(total, width)
        return {"c": total}

    def result_shapes(self) -> Sequence[Shape | None]:
        shapes = [shape_of(self, i) for i in range(len(self.operands))]
        known = [shape for shape in shapes if shape is not None]
        if not known:
            return [None]
        rows = agreed(*[s[0] if len(s) == 2 else 1 for s in known])
        return [(rows, self.extents()["c"])]

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        parts = []
        for i, x in enumerate(operands):
            x = xp.cast(xp.reshape(x, (1, -1)) if x.ndim == 1 else x, DType.F32)
            if self.inputdimensions:
                width = self.inputdimensions[i]
                lack = max(width - x.shape[1], 0)
                x = xp.pad(x[:, :width], ((0, 0), (0, lack)), value=0.0)
            parts.append(x)
        return xp.concat(parts, 1)
