"""Cases of ops that reshape, move, cut, join and pad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from single import Case, allowed_dtypes, constant, sweep

from graphopt.types import DType

FEW = [DType.F32, DType.I64, DType.BOOL, DType.STRING, DType.F16]


def ints(*values: int) -> Callable[..., Any]:
    """A vector that is known when the op is built."""
    return constant(values)


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    reshapes = [
        ((2, 3, 4), ints(6, 4)),
        ((2, 3, 4), ints(0, -1)),
        ((2, 3, 4), ints(0, 0, 2, -1)),
        ((2, 3, 4), ints(-1)),
        ((1,), ints()),
        ((), ints(1, 1)),
        ((2, 0, 3), ints(0, 0, 1, 3)),
        ((6, 4), ints(4, 6)),
    ]
    add("Reshape", reshapes, dtypes=[*allowed_dtypes("Reshape"), DType.STRING])
    add("Reshape", [((2, 0, 3), ints(3, 0, 5))], [{"allowzero": 1}], dtypes=FEW)
    add("Flatten", [((2, 3, 4, 5),)], [{}, *({"axis": a} for a in (0, 2, 4, -1))])
    add("Flatten", [((),)], [{"axis": 0}], dtypes=FEW)
    squeezes = [
        ((1, 3, 1), ints(0, 2)),
        ((1, 3, 1), ints(-1)),
        ((1, 3, 1, 2),),
        ((1, 1), ints(0, 1)),
    ]
    add("Squeeze", squeezes)
    add("Unsqueeze", [((3, 4), ints(0, 3)), ((3,), ints(-1)), ((), ints(0))])
    perms = [{}, {"perm": (1, 0, 2)}, {"perm": (2, 0, 1)}]
    add("Transpose", [((2, 3, 4),)], perms)
    expands = [
        ((3, 1), ints(2, 1, 4)),
        ((3, 4), ints(1, 1)),
        ((4,), ints(3, 1)),
        ((), ints(2, 2)),
        ((1, 0), ints(3, 1)),
    ]
    add("Expand", expands)
    add("Tile", [((2, 3), ints(2, 1)), ((3,), ints(3)), ((2, 3), ints(0, 2))])
    blocks = [{"blocksize": 2}, {"blocksize": 2, "mode": "CRD"}]
    add("DepthToSpace", [((2, 8, 2, 3),)], blocks)
    add("SpaceToDepth", [((2, 3, 4, 6),)], blocks)
    lengths = np.array([4, 1, 3])
    add("ReverseSequence", [((4, 3, 2), lengths)])
    ways = [{"batch_axis": 0, "time_axis": 1}]
    add("ReverseSequence", [((3, 4, 2), lengths)], ways, dtypes=FEW)

    # Segments
    joins = [((2, 3), (2, 1), (2, 4)), ((2, 3), (2, 0)), ((2, 5),)]
    add("Concat", joins, [{"axis": 1}, {"axis": -1}])
    add("Concat", [((2, 3, 1), (1, 3, 1))], [{"axis": 0}, {"axis": -3}], dtypes=FEW)
    add("Split", [((2, 7), ints(3, 0, 4))], [{"axis": 1}], outs=3)
    add("Split", [((7, 2),), ((6, 2),)], [{"num_outputs": 3}], outs=3)
    slices = [
        ((4, 6), ints(1, -4), ints(3, 1 << 62)),
        ((4, 6), ints(-1), ints(-9), ints(1), ints(-1)),
        ((4, 6), ints(5, 0), ints(-100, 9), ints(-1, 0), ints(-2, 3)),
        ((4, 6), ints(3), ints(1), ints(0)),
        ((4, 6), ints(-9), ints(-(1 << 62)), ints(0), ints(-1)),
        ((0, 6), ints(0), ints(9), ints(0)),
        ((4, 6), _narrow(1), _narrow(5), _narrow(1), _narrow(2)),
    ]
    add("Slice", slices, dtypes=[*allowed_dtypes("Slice"), DType.STRING])
    value = _scalar(3)
    pads = [
        ((3, 4), ints(0, 1, 2, 3)),
        ((3, 4), ints(1, -1, -2, 2), value),
        ((3, 4), ints(1, 2), value, ints(-1)),
    ]
    add("Pad", pads, dtypes=[*allowed_dtypes("Pad"), DType.STRING])
    others = [{"mode": mode} for mode in ("reflect", "edge", "wrap")]
    around = [((4, 5), ints(1, 2, 3, 1)), ((4, 5), ints(2, 0), None, ints(1))]
    add("Pad", around, others, dtypes=[DType.F32, DType.I64, DType.F64])
    crops = [
        ((5, 6), ints(2, 9)),
        ((5, 6), ints(4, 3)),
        ((5, 6), ints(6, 6)),
    ]
    add("CenterCropPad", crops)
    add("CenterCropPad", [((5, 6), ints(3))], [{"axes": (1,)}, {"axes": (-2,)}])
    return made


def _narrow(value: int) -> Callable[..., Any]:
    return constant([value], np.int32)


def _scalar(value: int) -> Callable[..., Any]:
    def of(_: Any, dtype: DType) -> Any:
        text = dtype is DType.STRING
        return np.asarray(str(value) if text else value).astype(dtype.numpy)

    of.__name__ = str(value)
    return of
