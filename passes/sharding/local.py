"""The op that a device runs on its parts, so that it gives its parts of the results.

Most ops are themselves on smaller operands. Some hold extents in attributes or in
steering operands, and are told those of the part; some look at positions, and are told
where the part begins; windows need a border of the neighbours' parts; what is looked up
may be elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np

from graphopt.dims import Dim
from graphopt.index import Domain, result_shapes
from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    And,
    Attention,
    AveragePool,
    Cast,
    CenterCropPad,
    Col2Im,
    Concat,
    Constant,
    ConstantOfShape,
    Conv,
    ConvInteger,
    ConvTranspose,
    DeformConv,
    Equal,
    Expand,
    Gather,
    GreaterOrEqual,
    GroupNormalization,
    Less,
    LinearAttention,
    LpPool,
    MaxPool,
    Mul,
    QLinearConv,
    Range,
    Reshape,
    Resize,
    Slice,
    Squeeze,
    Sub,
    Tile,
    Trilu,
    Where,
)
from graphopt.ops.bodies import scalar, vector
from graphopt.ops.mesh import Position, Shift
from graphopt.ops.structured import Structured
from graphopt.rewrite import Miss, miss
from graphopt.types import DType

from ..tiling.pieces import of_queries
from ..tiling.positioned import of_range, of_triangle

Operands: TypeAlias = Sequence[Value | None]


@dataclass(frozen=True)
class Place:
    """How the devices share out one axis of an op's domain.

    ``axes`` are the mesh axes that do, with their sizes, the major one first; ``size``
    is how much of the axis each device has.
    """

    name: str
    axes: tuple[tuple[str, int], ...]
    size: int

    @property
    def count(self) -> int:
        """How many parts there are."""
        return math.prod(ways for _, ways in self.axes)

    @property
    def number(self) -> Value:
        """Which part this device has, an int64 scalar."""
        found: Value | None = None
        for name, ways in self.axes:
            at = Position(axis=name, ways=ways)
            if found is None:
                found = at
            else:
                found = Add(Mul(found, scalar(ways, DType.I64)), at)
        assert found is not None
        return found

    @property
    def first(self) -> Value:
        """The first position of the part, an int64 scalar."""
        return Mul(self.number, scalar(self.size, DType.I64))

    def positions(self) -> Value:
        """Those of the part, an int64 vector."""
        return Add(self.first, Constant(np.arange(self.size, dtype=np.int64)))


@dataclass(frozen=True)
class Local:
    """What is known of a device's part of an op.

    ``places`` are the domain's axes that are shared out; ``extents`` those of the part.
    """

    domain: Domain
    places: Mapping[str, Place]
    extents: Mapping[str, Dim]

    def dims(self, result: int = 0) -> tuple[int, ...]:
        """The dims of a result on this device."""
        return cast(
            "tuple[int, ...]", result_shapes(self.domain.maps, self.extents)[result]
        )


Made: TypeAlias = "Op | Value | Miss"
Form: TypeAlias = Callable[[Any, Operands, Local], Made]


def on_parts(op: Structured, operands: Operands, local: Local) -> Made:
    """``op`` on a device's parts of its operands. Raises TypeMismatch."""
    form = FORMS.get(type(op))
    return op.with_operands(operands) if form is None else form(op, operands, local)


def is_told(op: Op, axis: str) -> bool:
    """True for an op that looks at positions along an axis, and can be told them."""
    return axis in TOLD.get(type(op), ())


TOLD: Final[Mapping[type[Op], tuple[str, ...]]] = {
    Attention: ("s",),
    Trilu: ("r", "c"),
}
"""The positional axes of which a part can be told where it begins."""


# --- extents ------------------------------------------------------------------------


def _with(op: Op, operands: Operands, at: int, ints: Sequence[int]) -> Op:
    """The op with one steering operand replaced."""
    given = [*operands, *[None] * (at + 1 - len(operands))]
    given[at] = vector(*ints)
    return op.with_operands(given)


def _shaped(op: Op, operands: Operands, local: Local) -> Made:
    return _with(
        op, operands, 0 if isinstance(op, ConstantOfShape) else 1, local.dims()
    )


def _reshape(op: Op, operands: Operands, local: Local) -> Made:
    dims = local.dims()
    return _with(op, operands, 1, dims).copy(allowzero=int(0 in dims))


def _squeeze(op: Op, operands: Operands, local: Local) -> Made:
    """The dims of the whole say which go: a part may have others of extent 1."""
    return Reshape(operands[0], vector(*local.dims()), allowzero=1)


def _columns(op: Op, operands: Operands, local: Local) -> Made:
    return _with(op, operands, 1, local.dims()[2:])


def _resize(op: Any, operands: Operands, local: Local) -> Made:
    sizes = op.operand(3)
    if sizes is None or not sizes.ints:
        return cast(Op, op).with_operands(operands)
    dims, whole = local.dims(), op.shape
    axes = op.resized_axes(len(dims))
    asked = [  # those that are whole are as stated: a kept aspect ratio is of these
        size if dims[i] == whole[i] else dims[i]
        for i, size in zip(axes, sizes.ints, strict=True)
    ]
    return _with(op, operands, 3, asked)


def _centered(op: Any, operands: Operands, local: Local) -> Made:
    dims = local.dims()
    axes = range(len(dims)) if op.axes is None else op.axes
    return _with(op, operands, 1, [dims[i] for i in axes])


def _tile(op: Any, operands: Operands, local: Local) -> Made:
    counts = [local.extents.get(f"t{i}", n) for i, n in enumerate(op.counts())]
    return _with(op, operands, 1, cast("list[int]", counts))


def _grouped(op: Op, operands: Operands, local: Local) -> Made:
    whole, group = local.domain.extents.get("g"), local.extents.get("g")
    if group == whole:
        return op.with_operands(operands)
    return op.copy(operands=operands, group=cast(int, group))


def _group_norm(op: Op, operands: Operands, local: Local) -> Made:
    group = local.extents.get("g")
    if group is None or group == local.domain.extents.get("g"):
        return op.with_operands(operands)
    return op.copy(operands=operands, num_groups=cast(int, group))


def _heads(op: Any, operands: Operands, local: Local) -> Made:
    return cast(Op, op).copy(operands=operands, **head_counts(op, local))


def head_counts(op: Any, local: Local) -> dict[str, Any]:
    """How many heads a part has, where the dims of operands do not tell."""
    if op.operands[0].rank == 4:
        return {}
    keys, shared = cast(int, local.extents["g"]), local.extents.get("r") or 1
    return {"kv_num_heads": keys, "q_num_heads": keys * cast(int, shared)}


# --- windows ------------------------------------------------------------------------


def _windowed(op: Any, operands: Operands, local: Local) -> Made:
    """Windows over a part: the neighbours' borders are put around it."""
    if "g" in local.places:
        op = _grouped(op, op.operands, local)
    pads: list[tuple[int, int]] | None = None
    x = operands[0]
    for name, place in local.places.items():
        if name[:1] != "y":
            continue
        at = int(name[1:])
        reach = border(op, local.domain, at)
        if isinstance(reach, Miss):
            return reach
        before, after = reach
        if pads is None:
            pads = lying_pads(op)
            assert pads is not None
        assert x is not None
        made = bordered(x, 2 + at, before, after, place, _outside(op, operands))
        if isinstance(made, Miss):
            return made
        x = made
        pads[at] = (0, 0)
    given = [x, *operands[1:]]
    if pads is None:
        return cast(Op, op).with_operands(given)
    flat = (*(a for a, _ in pads), *(b for _, b in pads))
    return cast(Op, op).copy(operands=given, pads=flat, auto_pad="NOTSET")


def _outside(op: Op, operands: Operands) -> Value | None:
    """What windows read beyond the border; None for zeros, which a Shift gives."""
    if isinstance(op, ConvInteger | QLinearConv):
        return operands[2] if len(operands) > 2 else None  # the zero point
    if not isinstance(op, MaxPool):
        return None
    (x,) = operands
    assert x is not None
    assert x.dtype is not None
    if x.dtype.is_float:
        return scalar(-np.inf, x.dtype)
    return scalar(np.iinfo(cast(Any, x.dtype.numpy)).min, x.dtype)


def lying_pads(op: Any) -> list[tuple[int, int]] | None:
    """The pads along each spatial dim; None where they are not known."""
    lying = op.known_windows()
    pads = [] if lying is None else [*lying.pads]
    if not pads or not all(isinstance(p, int) for pair in pads for p in pair):
        return None
    return cast("list[tuple[int, int]]", pads)


def border(op: Any, domain: Domain, at: int) -> tuple[int, int] | Miss:
    """How much of its neighbours' parts the windows of a part read on either side.

    A miss where parts of the operand are not those that parts of the result lie over.
    """
    if isinstance(op, AveragePool | LpPool) and (
        op.attrs.get("ceil_mode") or not op.attrs.get("count_include_pad", 1)
    ):
        return miss("windows over the border have another size", op)
    if op.attrs.get("ceil_mode") or op.outs > 1:
        return miss("its windows lie otherwise at the border", op)
    lying, pads = op.known_windows(), lying_pads(op)
    if lying is None or pads is None:
        return miss("how its windows lie is not known", op)
    stride, span = lying.strides[at], lying.spans[at]
    x, y = domain.operand_shapes[0], domain.extents[f"y{at}"]
    if x is None or not isinstance(y, int) or x[2 + at] != stride * y:
        return miss("its parts are no multiple of the stride", op)
    before, after = pads[at][0], span - stride - pads[at][0]
    if before < 0 or after < 0:
        return miss("its windows leave something out", op)
    return before, after


def bordered(
    x: Value, dim: int, before: int, after: int, place: Place, outside: Value | None
) -> Value | Miss:
    """x with so many positions of its neighbours' parts on either side."""
    if not before and not after:
        return x
    if len(place.axes) > 1:
        return miss("neighbours are along two mesh axes", x)
    ((axis, ways),) = place.axes
    assert x.shape is not None
    size = x.shape[dim]
    if max(before, after) > size:
        return miss("windows reach beyond the next part", x)
    parts: list[Value] = []
    if before:
        own = Slice(x, vector(size - before), vector(size), vector(dim))
        parts.append(_given(Shift(own, axis=axis, ways=ways, by=1), 0, place, outside))
    parts.append(x)
    if after:
        own = Slice(x, vector(0), vector(after), vector(dim))
        far = Shift(own, axis=axis, ways=ways, by=-1)
        parts.append(_given(far, ways - 1, place, outside))
    return Concat(*parts, axis=dim) if len(parts) > 1 else x


def _given(far: Value, end: int, place: Place, outside: Value | None) -> Value:
    """What a neighbour gave; on the device at the end, what lies outside."""
    if outside is None:
        return far
    return Where(Equal(place.number, scalar(end, DType.I64)), outside, far)


# --- positions ----------------------------------------------------------------------


def _range(op: Any, operands: Operands, local: Local) -> Made:
    own = cast(Range, op).with_operands(operands)
    for place in local.places.values():
        return of_range(own, place.positions())
    return own


def _trilu(op: Any, operands: Operands, local: Local) -> Made:
    x = operands[0]
    if not local.places.keys() & {"r", "c"}:
        return cast(Op, op).with_operands(operands)
    assert x is not None
    return of_triangle(op, x, _along(local, "r"), _along(local, "c"))


def _along(local: Local, name: str) -> Value:
    """The positions along an axis, whole or a part."""
    place = local.places.get(name)
    if place is not None:
        return place.positions()
    return Constant(np.arange(cast(int, local.extents[name]), dtype=np.int64))


def _attention(op: Attention, operands: Operands, local: Local) -> Made:
    """attention(q, k, v, causal)[i:j] = attention(q[i:j], k, v, column <= i + row)"""
    place = local.places.get("s")
    left, right = op.left_window_size, 0 if op.is_causal else op.right_window_size
    if place is None or (left < 0 and right < 0):
        if place is not None and op.operand(6) is not None:
            return miss("where its queries are depends on lengths", op)
        return _heads(op, operands, local)
    return of_queries(op, operands, place, **head_counts(op, local))


# --- what is looked up --------------------------------------------------------------


def looked_up(op: Gather, operands: Operands, rows: int, place: Place) -> Made:
    """gather(x, i) = Σ over parts of where(i is in the part, gather(part, i), 0)"""
    data, indices = operands
    assert data is not None
    assert indices is not None
    assert data.dtype is not None
    if indices.dtype is not DType.I64:
        indices = Cast(indices, to=DType.I64)
    zero = scalar(0, DType.I64)
    counted = Where(Less(indices, zero), Add(indices, scalar(rows, DType.I64)), indices)
    own = Sub(counted, place.first)
    inside = And(GreaterOrEqual(own, zero), Less(own, scalar(place.size, DType.I64)))
    found = op.with_operands((data, Where(inside, own, zero)))
    assert found.rank is not None
    assert inside.rank is not None
    axis = op.axis % (data.rank or 1)
    behind = found.rank - axis - inside.rank
    if behind:
        assert inside.shape is not None
        shape = [*inside.shape, *[1] * behind]
        inside = cast(Any, Reshape(inside, vector(*cast("list[int]", shape))))
    return Where(inside, found, scalar(0, data.dtype))


WINDOWED: Final = (AveragePool, Conv, ConvInteger, LpPool, MaxPool, QLinearConv)
"""Ops whose windows can be given the borders of the neighbours' parts."""

FORMS: Final[Mapping[type[Op], Form]] = {
    Attention: _attention,
    CenterCropPad: _centered,
    Col2Im: _columns,
    ConstantOfShape: _shaped,
    ConvTranspose: _grouped,
    DeformConv: _grouped,
    Expand: _shaped,
    GroupNormalization: _group_norm,
    LinearAttention: _heads,
    Range: _range,
    Reshape: _reshape,
    Resize: _resize,
    Squeeze: _squeeze,
    Tile: _tile,
    Trilu: _trilu,
    **dict.fromkeys(WINDOWED, _windowed),
}
"""Ops that are told something of the part."""
