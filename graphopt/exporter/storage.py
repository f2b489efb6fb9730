"""Where tensors lie in what is written: in the model, or in a data file beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from onnx import TensorProto

from ..errors import UsageError
from ..files import ExternalWriter, Placed
from ..weights import Tensor

if TYPE_CHECKING:
    from ..external import ExternalSlice

Weights: TypeAlias = Literal["auto", "inline", "external", "share"]

MAX_MODEL = (1 << 31) - (64 << 20)
"""Bytes of tensors that a model file may hold; protobuf ends at 2 GiB."""

SMALL = 1024
"""Tensors of fewer bytes are always in the model."""

_SHAPE_LIKE = 8192  # bytes; index vectors up to here stay with the model, too


@dataclass
class Storage:
    """Decides where each tensor lies, and writes the data file as tensors come."""

    weights: Weights
    path: Path | None
    folder: Path | None = None
    writer: ExternalWriter | None = None
    crowded: bool = False

    def plan(self, tensors: Iterable[Tensor]) -> None:
        """See all tensors before the first is written. Raises UsageError."""
        inline = sum(t.nbytes for t in tensors if not self._outside(t))
        self.crowded = inline > MAX_MODEL
        if self.crowded and (self.path is None or self.weights == "inline"):
            raise UsageError(
                "the weights are over 2 GB, which a model without a data file cannot "
                "hold; save to a path, with weights 'auto' or 'external'"
            )

    def _outside(self, tensor: Tensor) -> bool:
        if self.path is None or self.weights == "inline":
            return False
        if tensor.nbytes < SMALL or tensor.dtype.bits == 0:
            return False
        index_like = tensor.dtype.is_integer and tensor.rank <= 1
        if index_like and tensor.nbytes <= _SHAPE_LIKE:
            return False
        return self.crowded or self.weights == "external" or tensor.location is not None

    def write(self, tensor: Tensor, name: str, proto: TensorProto) -> None:
        """Fill a TensorProto, by value or by reference."""
        if not self._outside(tensor):
            proto.CopyFrom(tensor.to_proto(name))
            return
        if self.weights == "share" and tensor.location is not None:
            placed = self._shared(tensor.location)
        else:
            placed = self._own().append(tensor)
        proto.name = name
        proto.data_type = tensor.dtype.value
        proto.dims.extend(tensor.shape)
        proto.data_location = TensorProto.EXTERNAL
        for key in ("location", "offset", "length"):
            proto.external_data.add(key=key, value=str(getattr(placed, key)))
        if tensor.doc:
            proto.doc_string = tensor.doc

    def _own(self) -> ExternalWriter:
        if self.writer is None:
            assert self.path is not None
            self.writer = ExternalWriter(data_path(self.path))
        return self.writer

    def _shared(self, where: ExternalSlice) -> Placed:
        assert self.path is not None
        folder = (self.folder or self.path.parent).resolve()
        data = where.file.path.resolve()
        if not data.is_relative_to(folder):
            raise UsageError(
                f"cannot share {data}: a model may only refer to files beneath its own "
                f"folder, {folder}; write the model into {data.parent} or above"
            )
        location = data.relative_to(folder).as_posix()
        return Placed(location, where.offset, where.length)


def data_path(path: Path) -> Path:
    """The data file that goes with a model file."""
    return path.with_name(f"{path.name}.data")
