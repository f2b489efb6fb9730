"""Bytes of tensors, symbolic dims having sizes or ranges of sizes."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.dims import Dim
from graphopt.ir import Op, Value
from graphopt.types import DType, TensorType

from .ranges import Size, largest
from .space import Space


class Sizes:
    """What tensors of one graph take, its dims having sizes, or the most they take.

    What was asked once is kept; ``views`` and ``places`` are what `aliases` found.
    """

    def __init__(self, binding: Mapping[str, Size], space: Space) -> None:
        self.binding = dict(binding)
        self.space = space
        self.views: dict[Op, Value | None] = {}
        self.places: dict[Op, tuple[int, ...]] = {}
        self._known: dict[tuple[Dim, ...], tuple[int, ...] | None] = {}
        self._bytes: dict[Value, int | None] = {}

    def of(self, value: Value) -> int | None:
        """Bytes in this space; None for what has no size that is known."""
        if value not in self._bytes:
            self._bytes[value] = self._read(value)
        return self._bytes[value]

    def _read(self, value: Value) -> int | None:
        type_ = value.type
        if not isinstance(type_, TensorType) or type_.shape is None:
            return None
        if type_.dtype is None or type_.dtype is DType.STRING:
            return None
        shape = self.shape(type_.shape)
        return None if shape is None else self.space.size(shape, type_.dtype.bits)

    def shape(self, given: tuple[Dim, ...]) -> tuple[int, ...] | None:
        """The extents of these dims; None where one is not known."""
        if given not in self._known:
            found = [largest(dim, self.binding) for dim in given]
            sizes = tuple([max(0, size) for size in found if size is not None])
            self._known[given] = sizes if len(sizes) == len(found) else None
        return self._known[given]
