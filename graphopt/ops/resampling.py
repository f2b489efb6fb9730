"""Which elements of an axis make those of a resized one, and what they weigh.

Coordinates are float32, as runtimes compute them: the nearest element depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .sampling import cubic_kernel

Host: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Scaling:
    """How one axis is resized.

    ``target`` is the extent of the result; ``source * scale`` may exceed it by a
    fraction. ``crop`` are the ends of the part that is shown, 0 and 1 being all.
    """

    axis: int
    source: int
    target: int
    scale: float
    crop: tuple[float, float] = (0, 1)

    @property
    def trivial(self) -> bool:
        """True where the axis stays as it is."""
        return self == Scaling(self.axis, self.source, self.source, 1)


def coordinates(scaling: Scaling, transformation: str) -> Host:
    """Where in the source each element of the target lies.

    Raises ValueError for an unknown ``coordinate_transformation_mode``.
    """
    real = np.float32
    at = np.arange(scaling.target, dtype=real)
    scale, last = real(scaling.scale), real(scaling.source - 1)
    length = real(scaling.scale * scaling.source)  # may be a fraction
    centered = (at + real(0.5)) / scale - real(0.5)
    if transformation == "half_pixel":
        return centered
    if transformation == "half_pixel_symmetric":
        center = real(scaling.source / 2)
        offset = center * (1 - real(scaling.target) / length)
        return offset + (at + real(0.5)) / scale - real(0.5)
    if transformation == "pytorch_half_pixel":
        return centered if scaling.target > 1 else 0 * at
    if transformation == "align_corners":
        return 0 * at if length == 1 else at * last / (length - 1)
    if transformation == "asymmetric":
        return at / scale
    if transformation == "tf_crop_and_resize":
        start, end = map(real, scaling.crop)
        if scaling.target == 1:
            return 0 * at + real(0.5) * (start + end) * last
        return start * last + at * (end - start) * last / real(scaling.target - 1)
    raise ValueError(f"unknown coordinate transformation {transformation!r}")


def nearest(at: Host, source: int, rounding: str) -> Host:
    """The whole positions next to coordinates. Raises ValueError for unknown modes."""
    half = np.float32(0.5)
    if rounding == "round_prefer_floor":
        whole = np.ceil(at - half)
    elif rounding == "round_prefer_ceil":
        whole = np.floor(at + half)
    elif rounding == "floor":
        whole = np.floor(at)
    elif rounding == "ceil":
        whole = np.ceil(at)
    else:
        raise ValueError(f"unknown rounding {rounding!r}")
    return np.clip(whole.astype(np.int64), 0, source - 1)


def weights(
    scaling: Scaling,
    at: Host,
    *,
    cubic: float | None,
    antialias: bool,
    exclude_outside: bool,
) -> tuple[Host, Host]:
    """Positions ``[target, tap]`` that make each element, and their weights.

    ``cubic`` is the coefficient of the cubic kernel, None for the linear one, which
    ``antialias`` widens where the axis shrinks. What lies outside counts as the border,
    or, with ``exclude_outside``, not at all.
    """
    shrink = min(float(scaling.scale), 1.0) if antialias else 1.0
    reach = int(np.ceil((1 if cubic is None else 2) / shrink))
    first = np.floor(at).astype(np.int64) - reach + 1
    places = first[:, None] + np.arange(2 * reach)
    distance = np.abs(places - at.astype(np.float64)[:, None]) * shrink
    if cubic is None:
        weight = np.maximum(1 - distance, 0)
    else:
        weight = cubic_kernel(distance, cubic)
    if exclude_outside:
        weight = np.where((places >= 0) & (places < scaling.source), weight, 0)
    if exclude_outside or antialias:
        total = weight.sum(axis=1, keepdims=True)
        weight = weight / np.where(total == 0, 1, total)
    return np.clip(places, 0, scaling.source - 1), weight
