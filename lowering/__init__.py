"""Targets: what runs a graph. One module a target, found by the name that people use.

`find` gives a `Target`; it compiles a graph, or opens a model file as it is, into an
`Executable` that is called with named arrays.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from graphopt.errors import UsageError, nearest
from graphopt.ir import Graph
from graphopt.plan import Plan

if TYPE_CHECKING:
    from onnx import ModelProto

Array: TypeAlias = Any
"""An ``np.ndarray``; a list for a sequence; None for an optional that holds nothing."""


Model: TypeAlias = "str | os.PathLike[str] | bytes | ModelProto"
"""A model by its path, or itself."""


class Executable(ABC):
    """Something that runs: ``executable(x=array)["y"]``.

    Inputs go by name, in a mapping or as keywords; outputs come by name, in order.
    """

    def __call__(
        self, inputs: Mapping[str, Array] | None = None, /, **named: Array
    ) -> dict[str, Array]:
        return self.run({**(inputs or {}), **named})

    @abstractmethod
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name. Raises UsageError where inputs do not fit."""

    @abstractmethod
    def used(self) -> Mapping[str, Any]:
        """What runs it: target, runtime and version, placement."""


class Target(Protocol):
    """Something that can run graphs."""

    name: str

    def compile(self, graph: Graph, plan: Plan) -> Executable:
        """The graph, ready to run here.

        Raises BackendMissing, UnsupportedModel where the target cannot express it.
        """
        ...

    def open(self, model: Model) -> Executable:
        """A model as it is, ready to run; raises as `compile`."""
        ...


_MODULES: Final = {"reference": ".reference", "ort-cpu": ".ort"}

targets: Final = tuple(_MODULES)
"""The names of all targets that can run a model."""


def find(name: str) -> Target:
    """The target of that name. Raises UsageError for one that is not known."""
    if name not in _MODULES:
        raise UsageError(f"unknown target {name!r}{nearest(name, targets)}")
    target: Target = import_module(_MODULES[name], __name__).TARGET
    return target
