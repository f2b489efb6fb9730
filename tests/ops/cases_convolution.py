"""Cases of convolutions and poolings."""

from __future__ import annotations

from typing import Any

import numpy as np
from single import Case, constant, normal, sweep, unit

from graphopt.types import DType

FLOATS = [DType.F32, DType.F16, DType.F64]


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    add(
        "Conv",
        [((2, 3, 7, 6), (4, 3, 3, 2)), ((2, 3, 7, 6), (4, 3, 3, 2), (4,))],
        [
            {},
            {"pads": (1, 0, 2, 1), "strides": (2, 1)},
            {"dilations": (2, 3)},
            {"auto_pad": "SAME_UPPER", "strides": (2, 2)},
            {"auto_pad": "SAME_LOWER"},
            {"auto_pad": "VALID", "strides": (1, 2), "kernel_shape": (3, 2)},
        ],
        dtypes=FLOATS,
    )
    grouped = [((2, 4, 6, 5), (6, 2, 3, 3), (6,)), ((2, 4, 6, 5), (4, 2, 2, 1))]
    add("Conv", grouped, [{"group": 2, "strides": (2, 1)}], dtypes=FLOATS)
    lines = [((2, 3, 9), (2, 3, 4)), ((1, 2, 4, 5, 3), (3, 2, 2, 2, 2), (3,))]
    add("Conv", lines, dtypes=FLOATS)
    add("Conv", [((1, 4, 8), (4, 1, 3), (4,))], [{"group": 4}], dtypes=FLOATS)
    add("Conv", [((0, 3, 5, 5), (2, 3, 3, 3))], dtypes=FLOATS[:1])
    add(
        "ConvTranspose",
        [((2, 3, 4, 5), (3, 2, 3, 2)), ((2, 3, 4, 5), (3, 2, 3, 2), (2,))],
        [
            {},
            {"pads": (1, 0, 2, 1), "strides": (2, 1)},
            {"dilations": (2, 3)},
            {"strides": (2, 3), "output_padding": (1, 2)},
            {"strides": (2, 2), "auto_pad": "SAME_UPPER"},
            {"strides": (2, 2), "auto_pad": "SAME_LOWER"},
            {"strides": (2, 2), "output_shape": (10, 11)},
            {"strides": (2, 2), "output_shape": (8, 10)},
        ],
        dtypes=FLOATS,
    )
    spread = [((2, 4, 5), (4, 3, 3), (6,)), ((1, 4, 5), (4, 1, 2))]
    add("ConvTranspose", spread, [{"group": 2, "strides": (2,)}], dtypes=FLOATS)
    states = [
        ((2, 3, 6), (3, 1, 4), (3,), (2, 3, 3)),
        ((2, 3, 2), (3, 1, 4)),
        ((2, 3, 6), (3, 1, 1), (3,)),
        ((1, 3, 5), (3, 1, 3), None, (1, 3, 2)),
    ]
    activations = [{}, {"activation": "silu"}, {"activation": "swish"}]
    add("CausalConvWithState", states, activations, outs=2, ulps=16)

    columns = [
        ((2, 12, 9), _dims(5, 4), _dims(3, 2)),
        ((1, 4, 4), _dims(5, 5), _dims(2, 2)),
        ((1, 8, 10), _dims(2, 3, 4), _dims(2, 2, 1)),
    ]
    blocks = [
        {},
        {"strides": (3, 2), "pads": (0, 0, 1, 0)},
        {"pads": (0, 0, 1, 0, 0, 0)},
    ]
    for operands, way in zip(columns, blocks, strict=True):
        add("Col2Im", [operands], [way], dtypes=[DType.F32, DType.I64, DType.F16])

    offsets = [
        ((1, 4, 5, 4), (2, 4, 3, 2), _offsets(1, 12, 3, 3)),
        ((2, 4, 5, 4), (2, 4, 3, 2), _offsets(2, 12, 3, 3), (2,), (2, 6, 3, 3)),
    ]
    add("DeformConv", offsets, dtypes=[DType.F32, DType.F64])
    more = [((1, 4, 5, 4), (4, 2, 2, 2), _offsets(1, 16, 3, 3), (4,), (1, 8, 3, 3))]
    shared = {"group": 2, "offset_group": 2, "pads": (1, 0, 0, 0), "strides": (2, 1)}
    add("DeformConv", more, [shared], dtypes=[DType.F32])

    # Pooling
    image, line = [((2, 3, 7, 8),)], [((2, 3, 9),)]
    window: dict[str, Any] = {"kernel_shape": (3, 2)}
    ways = [
        window,
        {**window, "pads": (1, 1, 2, 0), "strides": (2, 1)},
        {**window, "strides": (2, 3), "ceil_mode": 1},
        {**window, "strides": (2, 3), "ceil_mode": 1, "pads": (1, 1, 1, 1)},
        {**window, "dilations": (2, 3)},
        {**window, "auto_pad": "SAME_UPPER", "strides": (2, 2)},
        {**window, "auto_pad": "SAME_LOWER", "strides": (1, 2)},
        {**window, "auto_pad": "VALID", "strides": (2, 2)},
    ]
    edge = {"kernel_shape": (2,), "strides": (3,), "ceil_mode": 1, "pads": (1, 1)}
    around = {"kernel_shape": (640, 9), "strides": (640, 9), "ceil_mode": 1}
    add("MaxPool", image, [around], dtypes=[DType.F32])
    add("AveragePool", image, [around], dtypes=[DType.F32])
    kinds = [DType.F32, DType.F64, DType.F16]
    padded = [{**way, "count_include_pad": 1} for way in ways]
    add("MaxPool", image, ways, dtypes=[*kinds, DType.I8, DType.U8])
    add("MaxPool", image, [*ways[:2], {**ways[1], "storage_order": 1}], outs=2)
    add("MaxPool", line, [edge], dtypes=kinds)
    add("AveragePool", image, [*ways, *padded], dtypes=kinds)
    add("AveragePool", line, [edge, {**edge, "count_include_pad": 1}], dtypes=kinds)
    powers = [{**way, "p": 1 + i % 3} for i, way in enumerate(ways)]
    add("LpPool", image, powers, dtypes=kinds[:2])
    add("LpPool", line, [{"kernel_shape": (3,)}, edge], dtypes=kinds[:2])
    for kind in ("GlobalAveragePool", "GlobalMaxPool"):
        add(kind, [((2, 3, 4, 5),), ((2, 3, 7),), ((1, 2, 3, 2, 2),)])
    add("GlobalLpPool", [((2, 3, 4, 5),)], [{}, {"p": 1}, {"p": 3}])
    places = np.array([[[[1, 3], [8, 10]]]])
    maxima = [((1, 1, 2, 2), places), ((1, 1, 2, 2), places, _dims(1, 1, 5, 5))]
    back = {"kernel_shape": (2, 2), "strides": (2, 2)}
    add("MaxUnpool", maxima, [back])

    # Regions
    corners = _regions(
        [[0, 0, 3, 4], [1.2, 0.6, 4.5, 2.7], [-3, 2, 20, 3], [3, 3, 1, 2]]
    )
    batch = np.array([0, 1, 1, 0])
    grids = [
        {"sampling_ratio": 2, "output_height": 2, "output_width": 3},
        {"output_height": 2, "output_width": 2, "mode": "max", "sampling_ratio": 3},
    ]
    adaptive = [
        {"output_height": 3, "output_width": 2, "spatial_scale": 0.6},
        {"output_height": 2, "coordinate_transformation_mode": "output_half_pixel"},
        {"output_width": 3, "mode": "max"},
    ]
    regions = [((2, 3, 5, 6), corners, batch)]
    add("RoiAlign", regions, grids, dtypes=[DType.F32])
    add("RoiAlign", regions, adaptive, dtypes=[DType.F32], traced=False)
    add("RoiAlign", regions, grids[:1], ulps=32)
    numbered = _regions([[0, 0, 0, 3, 4], [1, 1.5, 0.6, 4.5, 2.7], [1, -3, 2, 20, 3]])
    cells = [{"pooled_shape": (2, 3)}, {"pooled_shape": (3, 2), "spatial_scale": 0.7}]
    add("MaxRoiPool", [((2, 3, 5, 6), numbered)], cells, dtypes=[DType.F32])
    return made


def _offsets(*shape: int) -> Any:
    def offsets(rng: np.random.Generator, dtype: DType) -> Any:
        return unit(rng, shape, dtype)

    offsets.__name__ = "x".join(map(str, shape))
    return offsets


def _regions(rows: list[list[float]]) -> Any:
    def regions(_: np.random.Generator, dtype: DType) -> Any:
        return np.array(rows).astype(dtype.numpy)

    regions.__name__ = f"{len(rows)} regions"
    return regions


def _dims(*values: int) -> Any:
    return constant(values)


__all__ = ["cases", "normal"]
