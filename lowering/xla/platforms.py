"""XLA's targets as JAX knows them: platforms, and the precision of their products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from graphopt.errors import UsageError, nearest

PLATFORMS: Final[Mapping[str, str]] = {
    "xla-cpu": "cpu",
    "xla-cuda": "cuda",
    "xla-tpu": "tpu",
}
"""JAX's word for the devices of each target."""

_PRECISIONS: Final = {"fp32": "highest"}
"""Our words for the precision of float32 products, and JAX's."""

_OWN_PRECISION: Final = {"xla-tpu": "default"}
"""A TPU rounds operands to bfloat16 and sums in float32; the others are "highest"."""


def precision_of(target: str, wanted: str | None) -> str:
    """JAX's word for the precision that was asked for, or the target's own.

    Raises UsageError.
    """
    if wanted is None:
        return _OWN_PRECISION.get(target, "highest")
    if wanted not in _PRECISIONS:
        raise UsageError(f"no precision {wanted!r}{nearest(wanted, _PRECISIONS)}")
    return _PRECISIONS[wanted]


def is_described(target: str) -> bool:
    """True for a description of chips, which are not here."""
    return target.startswith("xla-tpu:")


def refuse_described(target: str) -> None:
    """Raises UsageError where a target that is to run something is no device."""
    if not is_described(target):
        return
    raise UsageError(
        f"{target} is a description, no device: programs can be compiled for it but not"
        f" run; graphopt inspect MODEL --target {target} compiles one, graphopt"
        " optimize MODEL --target xla-tpu writes one to run on a machine that has TPUs"
    )
