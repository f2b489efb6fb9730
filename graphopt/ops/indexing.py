"""Ops whose positions are data: elements picked, replaced or put where indices say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import dims
from ..dims import Dim, Shape
from ..index import Affine, Combiner, Lookup, Maps, Term, build
from ..types import DType
from .movement import Movement
from .registry import op
from .segments import plain
from .steering import axis_names, cost_among, dims_of, joined, normal_axis, shape_of
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


# --- gather -------------------------------------------------------------------------


@op("Gather")
class Gather(Movement):
    """Slices along ``axis`` at the positions that ``indices`` hold."""

    arithmetic = True

    def compute(self, xp: Namespace, data: Array, indices: Array) -> Array:
        return xp.take(data, indices, self.axis)

    def result_shapes(self) -> Sequence[Shape | None]:
        data, indices = shape_of(self), shape_of(self, 1)
        if data is None or indices is None:
            return [None]
        at = normal_axis(self.axis, len(data))
        return [(*data[:at], *indices, *data[at + 1 :])]

    def index_maps(self) -> Maps | None:
        data, indices = shape_of(self), shape_of(self, 1)
        if data is None or indices is None:
            return None
        at = normal_axis(self.axis, len(data))
        names, positions = axis_names(len(data)), axis_names(len(indices), "j")
        picked = [*names[:at], "@1", *names[at + 1 :]]
        result = [*names[:at], *positions, *names[at + 1 :]]
        return self.parse_maps(joined([picked, positions], [result]))


@op("GatherElements")
class GatherElements(Movement):
    """For each element of ``indices``, the one at that place along ``axis``."""

    arithmetic = True

    def compute(self, xp: Namespace, data: Array, indices: Array) -> Array:
        return xp.take_along_axis(data, indices, self.axis)

    def result_shapes(self) -> Sequence[Shape | None]:
        return [shape_of(self, 1)]

    def index_maps(self) -> Maps | None:
        data, indices = shape_of(self), shape_of(self, 1)
        if data is None or indices is None:
            return None
        at, places = normal_axis(self.axis, len(data)), plain(indices)
        picked: list[Term] = [
            places[i] if dims.equal(dim, count) else Affine(((f"i{i}", 1),), 0, dim)
            for i, (dim, count) in enumerate(zip(data, indices, strict=True))
        ]
        picked[at] = Lookup(1)
        return build(
            [tuple(picked), places], [places], linear=self.linear, cost=self.flops
        )


def _within(outer: Shape, inner: Shape, names: Sequence[str]) -> list[str]:
    """The dims of a tensor which another one indexes from 0: whole where larger."""
    pairs = zip(outer, inner, names, strict=True)
    return [name if dims.equal(a, b) else f"_w{name}" for a, b, name in pairs]


@op("GatherND")
class GatherND(Movement):
    """Slices at the index tuples in the last axis of ``indices``.

    The first ``batch_dims`` axes are those of both operands.
    """

    arithmetic = True

    def compute(self, xp: Namespace, data: Array, indices: Array) -> Array:
        return xp.gather_nd(data, indices, self.batch_dims)

    def index_maps(self) -> Maps | None:
        data, indices = shape_of(self), shape_of(self, 1)
        if data is None or indices is None or not isinstance(indices[-1], int):
            return None
        batch, depth = self.batch_dims, indices[-1]
        if batch + depth > len(data) or batch >= len(indices):
            raise ValueError(f"tuples of {depth} after {batch} dims")
        names = axis_names(len(data))
        places = [*names[:batch], *axis_names(len(indices) - 1 - batch, "j")]
        rest = names[batch + depth :]
        picked = [*names[:batch], *["@1"] * depth, *rest]
        return self.parse_maps(joined([picked, [*places, "_"]], [[*places, *rest]]))


# --- scatter ------------------------------------------------------------------------


class Scattering(Structured):
    """``data`` with ``updates`` at ``indices``, combined as ``reduction`` says."""

    arithmetic = True

    def result_shapes(self) -> Sequence[Shape | None]:
        return [shape_of(self)]

    def scatter_maps(
        self, data: Sequence[str], indices: Sequence[str], updates: Sequence[str]
    ) -> Maps | None:
        source, way = shape_of(self) or (), self.reduction
        anywhere = [d for word, d in zip(data, source, strict=True) if word[0] == "_"]
        return self.parse_maps(
            joined([data, indices, updates], [data]),
            combiner=_COMBINERS.get(way),
            linear=_LINEAR.get(way, ()),
            cost=0.0 if way == "none" else cost_among(1.0, anywhere),
        )


_COMBINERS = {"add": Combiner.SUM, "max": Combiner.MAX, "min": Combiner.MIN}
"""How results of some of the updates make that of all."""

_LINEAR = {"none": ((0, 2),), "add": ((0, 2),), "mul": ((0,),)}


@op("ScatterElements")
class ScatterElements(Scattering):
    """Each element of ``updates`` put at its place along ``axis``."""

    def compute(
        self, xp: Namespace, data: Array, indices: Array, updates: Array
    ) -> Array:
        return xp.scatter_elements(data, indices, updates, self.axis, self.reduction)

    def index_maps(self) -> Maps | None:
        data, indices = shape_of(self), shape_of(self, 1)
        if data is None or indices is None:
            return None
        names = axis_names(len(data))
        at = normal_axis(self.axis, len(data))
        inner = _within(indices, data, names)
        outer = [
            f"_{name}" if word[0] == "_" else name
            for name, word in zip(names, inner, strict=True)
        ]
        outer[at], inner[at] = f"_{names[at]}", f"w{names[at]}"
        return self.scatter_maps(outer, inner, inner)


@op("ScatterND")
class ScatterND(Scattering):
    """Slices put at the index tuples in the last axis of ``indices``."""

    def compute(
        self, xp: Namespace, data: Array, indices: Array, updates: Array
    ) -> Array:
        return xp.scatter_nd(data, indices, updates, self.reduction)

    def index_maps(self) -> Maps | None:
        data, indices = shape_of(self), shape_of(self, 1)
        if data is None or indices is None or not isinstance(indices[-1], int):
            return None
        depth = indices[-1]
        names = axis_names(len(data))
        places = axis_names(len(indices) - 1, "j")
        outer = [f"_{name}" for name in names[:depth]] + names[depth:]
        slices = [*places, *names[depth:]]
        return self.scatter_maps(outer, [*places, "_"], slices)


@op("TensorScatter")
class TensorScatter(Structured):
    """A cache with ``update`` written along ``axis`` from ``write_indices`` on.

    One position per batch; ``circular`` writing wraps around the end.
    """

    linear = ((0, 1),)
    flops = 0.0

    def compute(
        self, xp: Namespace, cache: Array, update: Array, start: Array = None
    ) -> Array:
        axis = normal_axis(self.axis, cache.ndim)
        shape = [1] * cache.ndim
        shape[axis] = update.shape[axis]
        at = xp.reshape(xp.arange(0, shape[axis], 1, DType.I64), shape)
        if start is not None:
            at = at + xp.reshape(start, (-1, *shape[1:axis], 1, *shape[axis + 1 :]))
        if self.mode == "circular":
            at = xp.remainder(at, cache.shape[axis])
        at = xp.broadcast_to(at, update.shape)
        return xp.scatter_elements(cache, at, update, axis)

    def result_shapes(self) -> Sequence[Shape | None]:
        return [shape_of(self)]

    def index_maps(self) -> Maps | None:
        cache, update = shape_of(self), shape_of(self, 1)
        if cache is None or update is None:
            return None
        names = axis_names(len(cache))
        at = normal_axis(self.axis, len(cache))
        old, new = list(names), list(names)
        old[at], new[at] = f"_{names[at]}", "_new"
        return self.parse_maps(joined([old, new, names[:1]], [old]))


# --- places made from indices -------------------------------------------------------


@op("OneHot")
class OneHot(Structured):
    """A new axis of ``depth``: ``values[1]`` at the index, else ``values[0]``."""

    static = (1,)
    linear = ((2,),)

    def compute(
        self, xp: Namespace, indices: Array, depth: Array, values: Array
    ) -> Array:
        return xp.onehot(
            indices,
            int(depth.item()),
            self.axis,
            on=values[1],
            off=values[0],
            dtype=values.dtype,
        )

    def index_maps(self) -> Maps | None:
        indices = shape_of(self)
        if indices is None:
            return None
        names = axis_names(len(indices))
        result = list(names)
        result.insert(normal_axis(self.axis, len(names) + 1), "d")
        text = joined([names, "-", ["_"]], [result])
        return self.parse_maps(text, positional=("d",))

    def extents(self) -> Mapping[str, Dim]:
        depth = self.operands[1]
        assert depth is not None
        known = dims_of(self, 1)
        if known is None and depth.constant is not None:
            known = (int(depth.constant.array().item()),)
        return {"d": None if known is None else known[0]}


@op("TopK")
class TopK(Structured):
    """The ``K`` largest (or smallest) along ``axis``, best first, and their positions.

    Of equals, the one at the lower position comes first.
    """

    static = (1,)

    def compute(self, xp: Namespace, x: Array, k: Array) -> tuple[Array, Array]:
        return xp.topk(x, int(k.item()), self.axis, largest=bool(self.largest))

    def index_maps(self) -> Maps | None:
        source = shape_of(self)
        if source is None:
            return None
        names = axis_names(len(source))
        at = normal_axis(self.axis, len(source))
        best = list(names)
        names[at], best[at] = f"_{names[at]}", "_k"
        return self.parse_maps(joined([names, "-"], [best, best]))

    def extents(self) -> Mapping[str, Dim]:
        known = dims_of(self, 1)
        return {"k": None if known is None else known[0]}
