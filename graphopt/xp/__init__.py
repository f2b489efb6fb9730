"""The small array namespace in which ops say what they mean, over NumPy and JAX."""

from __future__ import annotations

from functools import cache

from ..errors import BackendMissing
from .foundation import Array, DTypeLike
from .host import Host
from .namespace import Namespace

__all__ = ["Array", "DTypeLike", "Namespace", "host", "traced"]


@cache
def host() -> Namespace:
    """The namespace over NumPy: values are plain ``np.ndarray``."""
    return Host()


@cache
def traced(precision: str = "highest") -> Namespace:
    """The namespace over jax.numpy, and the precision of float32 products there.

    Raises BackendMissing where JAX is missing.
    """
    try:
        from .tracing import Traced
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("jax", "jaxlib"):
            raise
        raise BackendMissing(
            "JAX is not installed; pip install 'graphopt[jax]'"
        ) from error
    return Traced(precision)
