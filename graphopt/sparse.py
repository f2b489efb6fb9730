"""Sparse constants: the non-zero elements and where they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .encoding import Array
from .errors import InvalidModel
from .types import DType
from .weights import Tensor, checked_size

if TYPE_CHECKING:
    from onnx import SparseTensorProto

DENSE_LIMIT = 64 << 20
"""Bytes up to which a sparse tensor may be spelled out."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseTensor:
    """``values[i]`` lies at ``indices[i]``; everything else is zero.

    ``indices`` (i64) is either [NNZ], positions in the flattened tensor, or
    [NNZ, rank]; sorted, without repeats (onnx.proto, ``SparseTensorProto``).
    """

    values: Tensor
    indices: Tensor
    shape: tuple[int, ...]

    def dense(self, where: str = "sparse tensor") -> Tensor:
        """The same with its zeros.

        Raises InvalidModel, naming ``where``, beyond `DENSE_LIMIT`, and for indices out
        of range or order.
        """
        dtype = self.values.dtype
        with _naming(where):
            size = checked_size(dtype, self.shape)
            if dtype is DType.STRING or size * dtype.numpy.itemsize > DENSE_LIMIT:
                raise InvalidModel(
                    f"cannot spell out {dtype}{list(self.shape)} "
                    f"(limit {DENSE_LIMIT >> 20} MiB)"
                )
            positions = self._positions()
        array = np.zeros(self.shape, dtype.numpy)
        array.reshape(-1)[positions] = self.values.array()
        return Tensor.of(array)

    def to_proto(self, name: str = "") -> SparseTensorProto:
        from onnx import SparseTensorProto

        return SparseTensorProto(
            values=self.values.to_proto(name),
            indices=self.indices.to_proto(),
            dims=self.shape,
        )

    def _positions(self) -> Array:
        """Positions in the flattened tensor; checks range, order and repeats."""
        indices = self.indices.array()
        if self.indices.rank == 1:
            bounds, strides = [math.prod(self.shape)], [1]
        else:
            bounds = list(self.shape)
            strides = [math.prod(bounds[axis + 1 :]) for axis in range(len(bounds))]
        rows = indices.reshape(self.values.size, len(bounds))
        if not ((rows >= 0) & (rows < np.array(bounds, np.int64))).all():
            raise InvalidModel("sparse index out of range")
        positions: Array = rows @ np.array(strides, np.int64)
        if (np.diff(positions) <= 0).any():
            raise InvalidModel("sparse indices must be sorted, each once")
        return positions


def sparse_from_proto(
    proto: SparseTensorProto, *, folder: Path | None = None, where: str = ""
) -> SparseTensor:
    """The tensor of a SparseTensorProto, named by its values.

    Shapes are checked here, the indices themselves when they are read by `dense`.
    Raises InvalidModel.
    """
    where = where or f"sparse tensor {proto.values.name!r}"
    values = Tensor.from_proto(proto.values, folder=folder, where=where)
    indices = Tensor.from_proto(proto.indices, folder=folder, where=where)
    shape = tuple(proto.dims)
    with _naming(where):
        checked_size(values.dtype, shape)
        if values.rank != 1:
            raise InvalidModel("values of a sparse tensor must be a vector")
        flat, rows = (values.size,), (values.size, len(shape))
        if indices.dtype is not DType.I64 or indices.shape not in (flat, rows):
            raise InvalidModel(
                f"indices are {indices.type}, not i64{list(flat)} or i64{list(rows)}"
            )
    return SparseTensor(values, indices, shape)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except InvalidModel as error:
        raise InvalidModel(error.message, where=where) from None
