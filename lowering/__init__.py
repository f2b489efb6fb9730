"""Targets: what runs a graph. One module a target, found by the name that people use.

`find` gives a `Target`; it compiles a graph, or opens a model file as it is, into an
`Executable` that is called with named arrays.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Protocol,
    TypeAlias,
    cast,
    runtime_checkable,
)

from graphopt.errors import BackendMissing, UsageError, nearest
from graphopt.importer import load
from graphopt.ir import Graph
from graphopt.plan import Plan

from .xla.environment import prepare, show_devices
from .xla.platforms import PLATFORMS, precision_of

if TYPE_CHECKING:
    from onnx import ModelProto

    from graphopt.passes.sharding import Program as MeshProgram

    from .ort.recipe import Recipe
    from .ort.session import Session
    from .xla.function import Function
    from .xla.report import Examined, Memory
    from .xla.serialized import Program as Program
    from .xla.tail import Split

Array: TypeAlias = Any
"""An ``np.ndarray``; a list for a sequence; None for an optional that holds nothing."""


Model: TypeAlias = "str | os.PathLike[str] | bytes | ModelProto"
"""A model by its path, or itself."""


class Holder(Protocol):
    """What holds a graph, such as the result of `optimize` or of training."""

    @property
    def graph(self) -> Graph: ...


def graph_of(model: Model | Graph | Holder) -> Graph:
    """The graph of a model, or the one that a result holds. Raises as `load`."""
    held = model if isinstance(model, Graph) else getattr(model, "graph", None)
    if isinstance(held, Graph):
        return held
    return load(cast("Model", model), apart=True)


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
        """A model as it is, ready to run; raises as `compile`.

        XLA's targets also open the programs that `optimize` exports.
        """
        ...


_MODULES: Final = {
    "reference": ".reference",
    "ort-cpu": ".ort.target",
    "ort-cuda": ".ort.target",
    "xla-cpu": ".xla.target",
    "xla-cuda": ".xla.target",
    "xla-tpu": ".xla.target",
}
_DEVICES: Final = ("ort-cuda", "xla-tpu")
"""Targets whose devices one may choose from, after a colon."""
_PRECISIONS: Final = ("ort-cuda", "xla-cpu", "xla-cuda", "xla-tpu")
"""Targets whose float32 products may be rounded, unless "fp32" forbids it."""
_PACKAGES: Final = ("jax", "jaxlib", "flatbuffers", "safetensors")

targets: Final = tuple(_MODULES)
"""The names of all targets that can run a model."""

_ALSO_CALLED: Final = {
    "cuda": "xla-cuda",
    "gpu": "xla-cuda",
    "xla-gpu": "xla-cuda",
    "jax": "xla-cpu",
    "xla": "xla-cpu",
    "tpu": "xla-tpu",
    "numpy": "reference",
    "ort": "ort-cpu",
    "onnxruntime": "ort-cpu",
}
"""What people call some targets elsewhere."""


def known_targets(name: str, known: Collection[str] = targets) -> str:
    """``; did you mean 'xla-cuda'? Targets are …`` for a name that is none of them."""
    kind = name.partition(":")[0]
    meant = kind if kind in known else _ALSO_CALLED.get(kind)
    near = nearest(kind, known) if meant not in known else f"; did you mean {meant!r}?"
    near = near if near.endswith("?") else ""
    return f"{near}{' Targets' if near else '; targets'} are {', '.join(known)}"


@runtime_checkable
class Compiler(Target, Protocol):
    """A target whose compiler says what a program needs; nothing is run."""

    def examine(
        self,
        graph: Graph,
        inputs: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        sizes: Mapping[str, int] | None = None,
        planned: str = "",
    ) -> Examined:
        """The program for inputs like these: arrays, or what has shape and dtype.

        Without any, inputs are those of `random_inputs`. ``planned``: as programs
        are compiled whose memory is, with "single" or "joined" ops. Raises
        BackendMissing, UnsupportedModel, and DoesNotFit where the device has too little
        memory.
        """
        ...


def find(name: str, precision: str | None = None) -> Target:
    """The target of that name, ``kind`` or ``kind:device``.

    ``precision`` of float32 products is "fp32", or what a target does by itself.
    Raises UsageError for what is not known, BackendMissing where what the target is
    made with is not installed.
    """
    kind, _, device = name.partition(":")
    if kind not in _MODULES:
        raise UsageError(f"unknown target {kind!r}{known_targets(kind)}")
    if device and kind not in _DEVICES:
        raise UsageError(f"the target {kind} has no devices to choose from")
    if precision is not None and kind not in _PRECISIONS:
        raise UsageError(f"{kind} has one precision; {', '.join(_PRECISIONS)} have two")
    choice = [precision] if kind in _PRECISIONS else []
    module = _module(_MODULES[kind], "tpu" if kind == "xla-tpu" else "jax")
    target: Target = module.target(kind, device, *choice)
    return target


def temporaries(
    graph: Graph,
    target: str,
    sizes: Mapping[str, int],
    precision: str | None = None,
    planned: str = "single",
) -> int:
    """Bytes that a program takes for what it computes, by the compiler of a target.

    With what a kernel of a CPU takes for itself, which the compiler does not count;
    inputs, weights and outputs are apart. With single ops all of it is counted.
    ``sizes`` are those of symbolic dims. Raises as `find` and `Compiler.examine`.
    """
    memory = memory_of(graph, target, sizes, precision, planned)
    return memory.temp + memory.scratch


def memory_of(
    graph: Graph,
    target: str,
    sizes: Mapping[str, int],
    precision: str | None = None,
    planned: str = "single",
) -> Memory:
    """What a program takes by the compiler of a target; see `temporaries`."""
    found = find(target, precision)
    if not isinstance(found, Compiler):
        raise UsageError(f"{target} has no compiler that counts memory")
    return found.examine(graph, sizes=sizes, planned=planned).memory


def session(
    path: str | os.PathLike[str],
    *,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    strict: bool = False,
    threads: int = 0,
) -> Session:
    """A model file, opened in ONNX Runtime as the recipe beside it says.

    ``session(path)(x=array)["y"]`` runs it; `Session.session` is ONNX Runtime's own
    object. Without a recipe, ``MODEL.session.json``, it is opened on the CPU with the
    runtime's defaults. ``recipe`` is another one, or its path. Nodes that run on the
    CPU though the recipe names CUDA give a warning; with ``strict``, BackendMissing.
    Raises BackendMissing, UnsupportedModel, UsageError.
    """
    from .ort.recipe import Recipe
    from .ort.session import Session

    if recipe is None:
        recipe = Recipe.beside(path)
    elif not isinstance(recipe, Recipe):
        recipe = Recipe.from_json(Path(recipe).read_bytes(), os.fspath(recipe))
    return Session(path, recipe=recipe, strict=strict, threads=threads)


def to_jax(
    model: Model | Graph | Holder, *, precision: str = "fp32"
) -> tuple[Function, dict[str, Array]]:
    """A model as a pure function, and its weights: ``fn(params, inputs) -> outputs``.

    `jax.jit`, `jax.grad` and `jax.vmap` work on it; inputs, outputs and weights are
    dicts by the model's names, inputs may also be keywords. A result of `optimize` is
    taken for its graph. Integer inputs that decide shapes (``fn.steering``) are not
    traced; integers of fewer bits than an input has are widened. ``precision`` of
    float32 products is "fp32", "default", which on a TPU rounds operands to bfloat16,
    or "bfloat16", which does so everywhere. Raises UsageError, BackendMissing without
    JAX, InvalidModel, UnsupportedModel.

    >>> fn, params = graphopt.to_jax("model.onnx")
    >>> jax.jit(fn)(params, x=x)["y"]
    """
    made = _module(".xla.function").Function(graph_of(model), precision=precision)
    function: Function = made
    return function, function.params


def on_mesh(
    program: MeshProgram,
    target: str,
    precision: str | None = None,
    parts: Split | None = None,
) -> Executable:
    """A program for all devices of a mesh, on those of a target of XLA.

    Where it is the head of a model, ``parts`` has the tail, which runs on the host.

    A CPU shows as many devices as the mesh has, where JAX was not used before. Many
    processes that the environment tells of meet first. Raises UsageError where there
    are too few devices, BackendMissing, UnsupportedModel.
    """
    kind = target.partition(":")[0]
    if kind not in PLATFORMS:
        raise UsageError(
            f"{target!r} runs no programs on a mesh{known_targets(kind, PLATFORMS)}"
        )
    if kind == "xla-cpu":
        show_devices(program.mesh.devices)
    own = precision_of(kind, precision)
    made: Executable = _module(".xla.sharded").opened(program, kind, own, parts)
    return made


def to_program(
    graph: Graph,
    target: str,
    *,
    fixed: Mapping[str, Array] | None = None,
    beside: str | None = None,
    precision: str | None = None,
    planned: str = "",
) -> Program:
    """The graph as an exported program, what `optimize` writes for an XLA target.

    ``precision`` of float32 products is "fp32", or the target's own: that of a TPU
    rounds operands, and a program for it does so on every chip that can. ``planned``:
    how its memory is, one of `graphopt.interface.PLANNED`. See
    `graphopt.lowering.xla.export`. Raises UsageError, BackendMissing without JAX.
    """
    if target not in PLATFORMS:
        raise UsageError(
            f"no programs for {target!r}{known_targets(target, PLATFORMS)}"
        )
    made: Program = exporting().export(
        graph,
        PLATFORMS[target],
        fixed=fixed,
        beside=beside,
        precision=precision_of(target, precision),
        planned=planned,
    )
    return made


def refuse_open(
    graph: Graph,
    target: str,
    fixed: Mapping[str, Array] | None = None,
    precision: str | None = None,
) -> None:
    """Raises as `to_program` where a dim cannot stay open, in less time."""
    exporting().refuse_open(
        graph, PLATFORMS[target], fixed or {}, precision_of(target, precision)
    )


def exporting() -> ModuleType:
    """What exports programs. Raises BackendMissing without JAX."""
    return _module(".xla.export")


def _module(name: str, extra: str = "jax") -> ModuleType:
    """A module that may need JAX, which ``extra`` installs. Raises BackendMissing."""
    if name.startswith(".xla"):
        prepare()
    try:
        return import_module(name, __name__)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _PACKAGES:
            raise
        raise not_installed(error, extra) from error


def not_installed(error: ModuleNotFoundError, extra: str = "jax") -> BackendMissing:
    """The error for a module that ``extra`` installs."""
    return BackendMissing(
        f"{error.name} is not installed; pip install 'graphopt[{extra}]'"
    )
