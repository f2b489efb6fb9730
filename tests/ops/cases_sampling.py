"""Cases of interpolation: Resize, GridSample, AffineGrid."""

from __future__ import annotations

from typing import Any

import numpy as np
from single import Case, constant, sweep

from graphopt.types import DType

WAYS = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    none = constant([], np.float32)
    image = (1, 2, 5, 6)
    up = (image, none, _scales(1, 1, 2, 3))
    mixed = (image, none, _scales(1, 1, 1.5, 0.6))
    sizes = (image, none, None, constant([1, 2, 8, 3]))
    nearest = [
        {"coordinate_transformation_mode": way, "nearest_mode": rounding}
        for way in WAYS
        for rounding in ROUNDINGS
    ]
    smooth = [
        {"coordinate_transformation_mode": way, "mode": mode, **more}
        for way in WAYS
        for mode, more in (
            ("linear", {}),
            ("cubic", {"cubic_coeff_a": -0.5}),
            ("cubic", {"exclude_outside": 1}),
            ("linear", {"antialias": 1}),
            ("cubic", {"antialias": 1}),
        )
    ]
    options: dict[str, Any] = {"dtypes": [DType.F32], "ulps": 64}
    for operands in (up, mixed, sizes):
        add("Resize", [operands], nearest, **options)
        add("Resize", [operands], smooth, **options)
    add("Resize", [up], [{"mode": m} for m in ("nearest", "linear")], ulps=64)
    crop = _crop(0, 0, 0.2, -0.1, 1, 1, 0.9, 1.2)
    crops = [
        {
            "coordinate_transformation_mode": "tf_crop_and_resize",
            "mode": mode,
            "extrapolation_value": 10.0,
        }
        for mode in ("nearest", "linear", "cubic")
    ]
    target = constant([1, 2, 8, 3])
    add("Resize", [(image, crop, None, target)], crops, **options)
    bounds = [
        {"axes": axes, "keep_aspect_ratio_policy": policy, "mode": mode}
        for axes in ((2, 3), (-1, -2))
        for policy in ("not_larger", "not_smaller")
        for mode in ("nearest", "linear")
    ]
    add("Resize", [(image, none, None, constant([7, 10]))], bounds, **options)

    grids = [
        {"mode": mode, "padding_mode": padding, "align_corners": aligned}
        for mode in ("linear", "nearest", "cubic")
        for padding in ("zeros", "border", "reflection")
        for aligned in (0, 1)
    ]
    flat = [((2, 3, 4, 5), _places(2, 3, 2, 2))]
    add("GridSample", flat, grids, dtypes=[DType.F32], ulps=64)
    deep = [((1, 2, 3, 4, 2), _places(1, 2, 3, 2, 3))]
    add("GridSample", deep, grids[:12], dtypes=[DType.F32], ulps=64)
    add("GridSample", flat, grids[:2], dtypes=[DType.F64, DType.F16], ulps=64)
    corners = [{}, {"align_corners": 1}]
    thetas = [
        ((2, 2, 3), constant([2, 3, 4, 5])),
        ((1, 3, 4), constant([1, 2, 2, 3, 4])),
    ]
    add("AffineGrid", thetas, corners, dtypes=[DType.F32, DType.F64, DType.F16])
    return made


def _scales(*values: float) -> Any:
    return constant(values, np.float32)


def _crop(*values: float) -> Any:
    return constant(values, np.float32)


def _places(*shape: int) -> Any:
    def places(rng: np.random.Generator, dtype: DType) -> Any:
        return rng.uniform(-1.4, 1.4, shape).astype(dtype.numpy)

    places.__name__ = "x".join(map(str, shape))
    return places
