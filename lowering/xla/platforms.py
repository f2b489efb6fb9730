"""XLA's targets as JAX knows them: platforms, and the precision of their products."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final

from graphopt.errors import UsageError, nearest

PLATFORMS: Final[Mapping[str, str]] = {
    "xla-cpu": "cpu",
    "xla-cuda": "cuda",
    "xla-tpu": "tpu",
}
"""JAX's word for the devices of each target."""

PRECISIONS: Final[Mapping[str, str]] = {
    "fp32": "highest",
    "default": "default",
    "bfloat16": "bfloat16",
}
"""Our words for the precision of float32 products, and `graphopt.xp.traced`'s."""

_OF_TARGETS: Final = ("fp32",)
"""What a target can be asked for; without a word it has its own."""

_OWN_PRECISION: Final = {"xla-tpu": "default"}
"""A TPU rounds operands to bfloat16 and sums in float32; the others are "highest"."""


def precision_of(target: str, wanted: str | None) -> str:
    """JAX's word for the precision that was asked for, or the target's own.

    Raises UsageError.
    """
    if wanted is None:
        return _OWN_PRECISION.get(target, "highest")
    return precision_named(wanted, _OF_TARGETS)


def precision_named(wanted: str, known: Collection[str] = PRECISIONS.keys()) -> str:
    """JAX's word for one of ours; its own "highest" is taken for "fp32".

    Raises UsageError.
    """
    word = "fp32" if wanted == "highest" else wanted
    if word not in known:
        raise UsageError(f"no precision {wanted!r}{nearest(wanted, known)}")
    return PRECISIONS[word]


def is_described(target: str) -> bool:
    """True for a description of chips, which are not here."""
    return target.startswith("xla-tpu:")


def devices_described(target: str) -> int | None:
    """How many devices a description has, ``xla-tpu:v5e:4x4``; None without a grid."""
    kind, _, grid = target.removeprefix("xla-tpu:").partition(":")
    sides = grid.split("x")
    if not is_described(target) or not all(map(str.isdecimal, sides)):
        return None
    return math.prod(map(int, sides)) * CORES.get(kind, 1)


CORES: Final = {"tpu7x": 2}
"""Devices that JAX shows of one chip, where these are several."""


def refuse_described(target: str) -> None:
    """Raises UsageError where a target that is to run something is no device."""
    if not is_described(target):
        return
    raise UsageError(
        f"{target} is a description, no device: programs can be compiled for it but not"
        f" run; graphopt inspect MODEL --target {target} compiles one, graphopt"
        " optimize MODEL --target xla-tpu writes one to run on a machine that has TPUs"
    )
