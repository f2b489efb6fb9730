"""Ops that put elements elsewhere: transposed, repeated, blocked, reversed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import dims
from ..dims import Dim, Shape
from ..index import Maps
from .registry import op
from .steering import (
    axis_names,
    dims_of,
    joined,
    length_of,
    normal_axis,
    shape_of,
)
from .structured import Array, Structured, broadcast_shapes

if TYPE_CHECKING:
    from ..xp import Namespace


class Movement(Structured):
    """Elements of the first operand at other places."""

    linear = ((0,),)
    flops = 0.0


@op("Transpose")
class Transpose(Movement):
    """Axes in the order ``perm``; reversed where there is none."""

    arithmetic = True

    def order(self, rank: int) -> tuple[int, ...]:
        """The operand's axis for each axis of the result. Raises ValueError."""
        perm = self.perm
        if perm is None:
            return tuple(range(rank))[::-1]
        if sorted(perm) != list(range(rank)):
            raise ValueError(f"perm {perm} does not order {rank} axes")
        return tuple(perm)

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.transpose(x, self.order(x.ndim))

    def index_maps(self) -> Maps | None:
        source = shape_of(self)
        if source is None:
            return None
        names = axis_names(len(source))
        result = [names[i] for i in self.order(len(source))]
        return self.parse_maps(joined([names], [result]))

    def result_shapes(self) -> Sequence[Shape | None]:
        source = shape_of(self)
        if source is None:
            perm = self.perm
            return [None if perm is None else (None,) * len(perm)]
        return [tuple([source[i] for i in self.order(len(source))])]


@op("Expand")
class Expand(Movement):
    """Broadcast against ``shape``: a dim of the operand stays where that holds 1."""

    static = (1,)
    arithmetic = True

    def compute(self, xp: Namespace, x: Array, shape: Array) -> Array:
        return xp.expand(x, shape)

    def result_shapes(self) -> Sequence[Shape | None]:
        source, wanted = shape_of(self), dims_of(self, 1)
        length = length_of(self, 1)
        if source is None or (wanted is None and length is None):
            return [None]
        if wanted is None:
            wanted = (None,) * (length or 0)
        return [broadcast_shapes(source, wanted)]

    def index_maps(self) -> Maps | None:
        source, target = shape_of(self), self.shape
        if source is None or target is None:
            return None
        names = axis_names(len(target))
        lead = len(target) - len(source)
        words = [
            "1" if dim == 1 else name if dims.equal(dim, extent) else "_"
            for dim, name, extent in zip(
                source, names[lead:], target[lead:], strict=True
            )
        ]
        return self.parse_maps(joined([words, "-"], [names]))

    def extents(self) -> Mapping[str, Dim]:
        target = self.shape or ()
        return dict(zip(axis_names(len(target)), target, strict=True))


@op("Tile")
class Tile(Movement):
    """The operand repeated ``repeats`` times along each axis."""

    static = (1,)
    arithmetic = True

    def compute(self, xp: Namespace, x: Array, repeats: Array) -> Array:
        return xp.tile(x, repeats)

    def index_maps(self) -> Maps | None:
        source = shape_of(self)
        if source is None:
            return None
        names = axis_names(len(source))
        result = [
            name if count == 1 else f"(t{i} {name})"
            for i, (name, count) in enumerate(zip(names, self.counts(), strict=True))
        ]
        return self.parse_maps(joined([names, "-"], [result]))

    def extents(self) -> Mapping[str, Dim]:
        counts = self.counts()
        return dict(zip(axis_names(len(counts), "t"), counts, strict=True))

    def counts(self) -> tuple[Dim, ...]:
        """How often the operand comes along each axis. Raises ValueError."""
        rank = len(shape_of(self) or ())
        repeats = dims_of(self, 1) or (None,) * rank
        if len(repeats) != rank:
            raise ValueError(f"{len(repeats)} repeats for {rank} axes")
        return repeats


class Blocks(Movement):
    """Square blocks of pixels that are channels on the other side.

    There, the place in the block comes first (``DCR``) or last (``CRD``).
    """

    @property
    def depth(self) -> str:
        """The channels, as a term of index maps."""
        return "(c r s)" if self.mode == "CRD" else "(r s c)"

    def extents(self) -> Mapping[str, Dim]:
        return {"r": self.blocksize, "s": self.blocksize}


@op("DepthToSpace")
class DepthToSpace(Blocks):
    """Channels spread over blocks of pixels."""

    def index_maps(self) -> Maps | None:
        return self.parse_maps(f"n {self.depth} h w -> n c (h r) (w s)")

    def compute(self, xp: Namespace, x: Array) -> Array:
        batch, depth, height, width = x.shape
        size = self.blocksize
        depth //= size * size
        if self.mode == "CRD":
            parts, order = (depth, size, size), (0, 1, 4, 2, 5, 3)
        else:
            parts, order = (size, size, depth), (0, 3, 4, 1, 5, 2)
        x = xp.transpose(xp.reshape(x, (batch, *parts, height, width)), order)
        return xp.reshape(x, (batch, depth, height * size, width * size))


@op("SpaceToDepth")
class SpaceToDepth(Blocks):
    """Blocks of pixels gathered into channels: DepthToSpace the other way round."""

    def index_maps(self) -> Maps | None:
        return self.parse_maps(f"n c (h r) (w s) -> n {self.depth} h w")

    def compute(self, xp: Namespace, x: Array) -> Array:
        batch, depth, height, width = x.shape
        size = self.blocksize
        rows, columns = height // size, width // size
        x = xp.reshape(x, (batch, depth, rows, size, columns, size))
        order = (0, 1, 3, 5, 2, 4) if self.mode == "CRD" else (0, 3, 5, 1, 2, 4)
        x = xp.transpose(x, order)
        return xp.reshape(x, (batch, depth * size * size, rows, columns))


@op("ReverseSequence")
class ReverseSequence(Movement):
    """The first ``sequence_lens[b]`` steps of sequence b backwards, the rest as is."""

    def compute(self, xp: Namespace, x: Array, lengths: Array) -> Array:
        return xp.reverse_sequence(x, lengths, self.batch_axis, self.time_axis)

    def index_maps(self) -> Maps | None:
        source = shape_of(self)
        if source is None:
            return None
        names = axis_names(len(source))
        batch = names[normal_axis(self.batch_axis, len(source))]
        time = normal_axis(self.time_axis, len(source))
        names[time] = f"_{names[time]}"
        return self.parse_maps(joined([names, [batch]], [names]))

    def result_shapes(self) -> Sequence[Shape | None]:
        return [shape_of(self)]
