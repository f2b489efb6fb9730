"""The search compiled by numba, where that is installed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeAlias

from . import nodes
from .tree import Problem, Tree

Advance: TypeAlias = Callable[[Problem, Tree, int, int, int], int]


@functools.cache
def compiled() -> Advance | None:
    """`nodes.advance` for arrays in place of lists; None without numba."""
    try:
        import numba
    except ImportError:
        return None
    # The functions call each other through a namespace of their compiled selves.
    namespace: dict[str, Any] = dict(vars(nodes))
    for name, made in vars(nodes).items():
        if isinstance(made, FunctionType):
            copy = FunctionType(made.__code__, namespace, name)
            namespace[name] = numba.njit(cache=True)(copy)
    advance: Advance = namespace["advance"]
    return advance
