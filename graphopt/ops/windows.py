"""How windows lie over spatial dims: kernel, strides, dilations, pads, how many fit.

Here alone ``auto_pad`` and ``ceil_mode`` become pads and extents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from .. import dims
from ..dims import Dim
from ..index import UNIT, Affine, Compound, Map, Term, Whole, axis
from ..ir import Op

Pad: TypeAlias = tuple[Any, Any]
"""Positions before and after those of a dim, as dims."""


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial dims of a tensor; one entry a dim everywhere."""

    kernel: tuple[Dim, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[Pad, ...]
    extents: tuple[Any, ...]
    """How many windows fit along each dim."""

    def reached(self, counts: Sequence[Dim], spatial: Sequence[Dim]) -> Map:
        """The positions of windows ``y0 y1 ...`` at their taps ``r0 r1 ...``.

        ``counts`` are the windows, and ``spatial`` the dims that they lie over.
        """
        sizes = enumerate(zip(counts, spatial, strict=True))
        return tuple([self._reached(i, *pair) for i, pair in sizes])

    def _reached(self, i: int, count: Dim, extent: Dim) -> Term:
        stride, dilation, before = self.strides[i], self.dilations[i], self.pads[i][0]
        if before is None:
            return Whole(f"w{i}")
        axes = [(f"y{i}", stride)]
        if self.kernel[i] != 1:
            axes.append((f"r{i}", dilation))
        if (
            before == 0
            and self.kernel[i] == stride
            and 1 in (dilation, stride)
            and dims.equal(dims.mul(count, stride), extent)
        ):
            # Windows side by side that fill the dim.
            return Compound((f"y{i}", f"r{i}")) if stride != 1 else axis(f"y{i}")
        return Affine(tuple(axes), dims.mul(-1, before), extent)

    @property
    def taps(self) -> Map:
        """The axes ``r0 r1 ...`` of a kernel; none for a kernel of one tap."""
        sizes = enumerate(self.kernel)
        return tuple([UNIT if size == 1 else axis(f"r{i}") for i, size in sizes])

    @property
    def places(self) -> Map:
        """The axes ``y0 y1 ...``."""
        return tuple([axis(f"y{i}") for i in range(len(self.kernel))])

    @property
    def tap_extents(self) -> dict[str, Dim]:
        """The extents of axes ``r``."""
        sizes = enumerate(self.kernel)
        return {f"r{i}": size for i, size in sizes if size != 1}

    @property
    def place_extents(self) -> dict[str, Dim]:
        """The extents of axes ``y``, where these are the places of windows."""
        return {f"y{i}": count for i, count in enumerate(self.extents)}

    def covering(self, spatial: Sequence[Any]) -> list[Pad]:
        """The pads, with more after where the last window reaches beyond them."""
        rows = zip(
            spatial, self.pads, self.spans, self.strides, self.extents, strict=True
        )
        return [
            (before, max(after, stride * (count - 1) + span - extent - before))
            for extent, (before, after), span, stride, count in rows
        ]

    @property
    def spans(self) -> tuple[Any, ...]:
        """How far a window reaches along each dim."""
        pairs = zip(self.kernel, self.dilations, strict=True)
        return tuple([span(size, dilation) for size, dilation in pairs])


def span(kernel: Dim, dilation: int) -> Dim:
    """From the first tap of a window to its last."""
    return dims.add(dims.mul(dims.sub(kernel, 1), dilation), 1)


def windows_over(op: Op, spatial: Sequence[Dim], kernel: Sequence[Dim]) -> Windows:
    """The windows of a convolution or pooling op.

    Raises ValueError where its attributes do not fit the rank, or no window the dims.
    """
    attrs = op.attrs
    return _windows_over(
        tuple(spatial),
        tuple(kernel),
        attrs.get("strides"),
        attrs.get("dilations"),
        attrs.get("pads"),
        attrs.get("auto_pad"),
        bool(attrs.get("ceil_mode")),
    )


@lru_cache(4096)
def _windows_over(
    spatial: tuple[Dim, ...],
    kernel: tuple[Dim, ...],
    strides: Any,
    dilations: Any,
    pads: Any,
    auto_pad: Any,
    ceil: bool,
) -> Windows:
    rank = len(spatial)
    ones = (1,) * rank
    strides, dilations = strides or ones, dilations or ones
    if not rank == len(kernel) == len(strides) == len(dilations):
        raise ValueError(f"windows {kernel} over {rank} spatial dims")
    spans = [span(size, step) for size, step in zip(kernel, dilations, strict=True)]
    rows = list(zip(spatial, spans, strides, strict=True))
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        extents = [dims.ceildiv(extent, stride) for extent, _, stride in rows]
        found = [
            _halves(_missing(*row, count), upper=auto_pad == "SAME_UPPER")
            for row, count in zip(rows, extents, strict=True)
        ]
    else:
        found = _pairs(pads, auto_pad, rank)
        extents = [
            _count(*row, pad, ceil=ceil) for row, pad in zip(rows, found, strict=True)
        ]
    return Windows(kernel, strides, dilations, tuple(found), tuple(extents))


def windows_spread(op: Op, spatial: Sequence[Dim], kernel: Sequence[Dim]) -> Windows:
    """The windows that a transposed convolution adds up; ``extents`` are the result's.

    Output padding counts as less pad after. Raises ValueError as `windows_over` does.
    """
    rank = len(spatial)
    ones = (1,) * rank
    strides, dilations = op.strides or ones, op.dilations or ones
    margins = op.output_padding or (0,) * rank
    if not rank == len(kernel) == len(strides) == len(dilations) == len(margins):
        raise ValueError(f"windows {kernel} over {rank} spatial dims")
    given = explicit_pads(op, rank)
    same = op.auto_pad in ("SAME_UPPER", "SAME_LOWER")
    pads, extents = [], []
    for i, extent in enumerate(spatial):
        reach = span(kernel[i], dilations[i])
        full = dims.add(dims.mul(dims.sub(extent, 1), strides[i]), reach)
        before, after = given[i]
        if same or op.output_shape is not None:
            wanted = op.output_shape[i - rank] if op.output_shape is not None else None
            wanted = dims.mul(extent, strides[i]) if wanted is None else wanted
            total = dims.sub(dims.add(full, margins[i]), wanted)
            upper = op.auto_pad == "SAME_UPPER"
            before, _ = _halves(dims.maximum(0, total), upper=upper)
        else:
            wanted = dims.sub(dims.add(full, margins[i]), before + after)
        pads.append((before, dims.sub(dims.sub(full, before), wanted)))
        extents.append(wanted)
    return Windows(
        tuple(kernel), tuple(strides), tuple(dilations), tuple(pads), tuple(extents)
    )


def explicit_pads(op: Op, rank: int) -> list[Pad]:
    """The pads that an op states; none for VALID."""
    return _pairs(op.pads, op.attrs.get("auto_pad"), rank)


def _pairs(pads: Any, auto_pad: Any, rank: int) -> list[Pad]:
    if pads is None or auto_pad == "VALID":
        pads = (0,) * (2 * rank)
    if len(pads) != 2 * rank:
        raise ValueError(f"{len(pads)} pads for {rank} spatial dims")
    return list(zip(pads[:rank], pads[rank:], strict=True))


def _missing(extent: Dim, span: Dim, stride: int, count: Dim) -> Dim:
    reach = dims.add(dims.mul(dims.sub(count, 1), stride), span)
    return dims.maximum(0, dims.sub(reach, extent))


def _halves(total: Dim, *, upper: bool) -> Pad:
    """A pad in two halves; the larger one after (upper) or before."""
    less = dims.floordiv(total, 2)
    more = dims.sub(total, less)
    return (less, more) if upper else (more, less)


def _count(extent: Dim, span: Dim, stride: int, pad: Pad, *, ceil: bool) -> Dim:
    before, after = pad
    room = dims.sub(dims.add(extent, before + after), span)
    short = stride - 1 if ceil else 0  # what the last window may hang over
    if isinstance(room, int) and room + short < 0:
        raise ValueError(f"a window reaches {span} over {extent} with pads {pad}")
    if not ceil:
        return dims.add(dims.floordiv(room, stride), 1)
    # A window that would begin in the pad after is left out.
    last = dims.floordiv(dims.sub(dims.add(extent, before), 1), stride)
    return dims.add(dims.minimum(dims.ceildiv(room, stride), last), 1)
