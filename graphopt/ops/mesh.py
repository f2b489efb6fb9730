"""Ops over the devices of one mesh axis: what a program that all devices run says.

Device i of an axis of ``ways`` devices is its position along that axis, the others of
the mesh being equal. Arrays lie side by side in the order of the positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, Final

import numpy as np

from .. import dims
from ..dims import Shape
from ..index import Combiner
from ..types import DType, TensorType, Type
from .registry import op
from .schema import Schema
from .structured import Array, Computed

MESH: Final = "mesh"
"""The domain of these ops; no ONNX runtime has them."""


class OverMesh(Computed):
    """An op whose result on a device depends on the device, or on its neighbours.

    ``axis`` names the mesh axis, ``ways`` is the number of devices along it.
    """

    __slots__ = ()
    attributes: ClassVar[tuple[str, ...]] = ()
    communicates: ClassVar[bool] = False
    """True where devices send each other something."""

    @classmethod
    def schema(cls) -> Schema:
        return _schema(cls.attributes)

    def default_outs(self) -> int:
        return 1

    def infer(self) -> Sequence[Type]:
        try:
            return self.result_types()
        except ValueError as error:
            raise self.error(str(error)) from None

    def result_types(self) -> Sequence[Type]:
        (x,) = self.operands
        assert x is not None
        if x.shape is None:
            return [x.type]
        return [TensorType(x.dtype, self.local(x.shape))]

    def local(self, shape: Shape) -> Shape:
        """Dims of the result on each device. Raises ValueError where there is none."""
        return shape

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        """The result of each device of one row along the axis, from their operands.

        The meaning of the op, on NumPy arrays; what the oracle runs.
        """
        raise NotImplementedError

    def _along(self, shape: Shape, dim: int, times: int, over: int) -> Shape:
        """The dims with one of them multiplied, then divided."""
        if not 0 <= dim < len(shape):
            raise ValueError(f"no dim {dim} in rank {len(shape)}")
        extent = dims.mul(shape[dim], times)
        if isinstance(extent, int) and extent % over:
            raise ValueError(f"{extent} is not divided by {over} devices")
        part = dims.divide_exact(extent, over)
        return (*shape[:dim], part, *shape[dim + 1 :])


@cache
def _schema(attributes: tuple[str, ...]) -> Schema:
    return Schema(
        defaults={},
        required=frozenset(("axis", "ways", *attributes)),
        optional=frozenset(),
        min_operands=0,
        max_operands=1,
        min_results=1,
        max_results=1,
        operand_names=("x",),
        variadic_operand=False,
        variadic_result=False,
        result_types=(0,),
    )


MERGES: Final = {
    Combiner.SUM.value: np.add,
    Combiner.MAX.value: np.maximum,
    Combiner.MIN.value: np.minimum,
    Combiner.PROD.value: np.multiply,
}
"""How addends, or parts of a maximum …, become the whole."""


def _merged(combiner: str, parts: Sequence[Array]) -> Array:
    total = parts[0]
    for part in parts[1:]:
        total = MERGES[combiner](total, part)
    return total


@op("Position", domain=MESH)
class Position(OverMesh):
    """The number of the device along the axis, an int64 scalar."""

    def result_types(self) -> Sequence[Type]:
        return [TensorType(DType.I64, ())]

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        return [np.array(i, np.int64) for i in range(int(self.ways))]


@op("Shard", domain=MESH)
class Shard(OverMesh):
    """replicated --> split: the device's own part of ``dim``; nothing is sent."""

    attributes = ("dim",)

    def local(self, shape: Shape) -> Shape:
        return self._along(shape, self.dim, 1, self.ways)

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        return [_nth(x, self.dim, i, self.ways) for i, x in enumerate(parts)]


@op("Addend", domain=MESH)
class Addend(OverMesh):
    """replicated --> partial sum: the value on the first device, zeros on others."""

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        return [x if i == 0 else np.zeros_like(x) for i, x in enumerate(parts)]


@op("AllGather", domain=MESH)
class AllGather(OverMesh):
    """split along ``dim`` --> replicated."""

    attributes = ("dim",)
    communicates = True

    def local(self, shape: Shape) -> Shape:
        return self._along(shape, self.dim, self.ways, 1)

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        return [np.concatenate(parts, self.dim)] * len(parts)


@op("AllReduce", domain=MESH)
class AllReduce(OverMesh):
    """partial --> replicated, by the ``combiner``: "sum", "max", "min", "prod"."""

    attributes = ("combiner",)
    communicates = True

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        return [_merged(self.combiner, parts)] * len(parts)


@op("ReduceScatter", domain=MESH)
class ReduceScatter(OverMesh):
    """partial --> split along ``dim``, by the ``combiner``."""

    attributes = ("combiner", "dim")
    communicates = True

    def local(self, shape: Shape) -> Shape:
        return self._along(shape, self.dim, 1, self.ways)

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        total = _merged(self.combiner, parts)
        return [_nth(total, self.dim, i, self.ways) for i in range(len(parts))]


@op("AllToAll", domain=MESH)
class AllToAll(OverMesh):
    """split along ``joined`` --> split along ``dim``."""

    attributes = ("dim", "joined")
    communicates = True

    def local(self, shape: Shape) -> Shape:
        shape = self._along(shape, self.dim, 1, self.ways)
        return self._along(shape, self.joined, self.ways, 1)

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        whole = np.concatenate(parts, self.joined)
        return [_nth(whole, self.dim, i, self.ways) for i in range(len(parts))]


@op("Shift", domain=MESH)
class Shift(OverMesh):
    """What the device ``by`` places before has; zeros where there is none."""

    attributes = ("by",)
    communicates = True

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        count = len(parts)
        sources = [i - self.by for i in range(count)]
        return [
            parts[s] if 0 <= s < count else np.zeros_like(parts[i])
            for i, s in enumerate(sources)
        ]


@op("Permute", domain=MESH)
class Permute(OverMesh):
    """What another device has; zeros where none sends.

    ``pairs`` are source and target, source and target, …: each device is a source at
    most once, and a target at most once.
    """

    attributes = ("pairs",)
    communicates = True

    def links(self) -> list[tuple[int, int]]:
        """The pairs of source and target."""
        return list(zip(self.pairs[::2], self.pairs[1::2], strict=True))

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        found = [np.zeros_like(x) for x in parts]
        for source, target in self.links():
            found[target] = parts[source]
        return found


def _nth(x: Any, dim: int, number: int, ways: int) -> Any:
    """Part ``number`` of ``ways`` equal ones along a dim."""
    size = x.shape[dim] // ways
    where = slice(number * size, (number + 1) * size)
    return x[(slice(None),) * dim + (where,)]
