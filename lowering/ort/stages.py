"""A model in pipeline stages: a session and a thread for each, micro-batches between.

``write`` puts the stages into a folder, a model file each (``stage_0.onnx``, …) with
its session recipe beside, and ``stages.json``, which tells how they join: by the names
of their inputs and outputs, and the axes along which micro-batches are cut.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Queue
from typing import Any, Final

import numpy as np

from graphopt.errors import InvalidModel, UnsupportedModel, UsageError
from graphopt.exporter import Wanted, save
from graphopt.files import atomic_write
from graphopt.importer import load
from graphopt.passes.sharding.stages import Stages

from .. import Array, Executable
from .advice import recipe
from .declared import hold_against
from .recipe import Recipe
from .session import RunFailed, Session, array_of, value_of, words_of

SCHEMA: Final = 1

MANIFEST: Final = "stages.json"
"""The file that tells how the stages of a folder join."""

AHEAD: Final = 2
"""Micro-batches that may wait between two stages."""


class Pipelined(Executable):
    """Stages of a model in ONNX Runtime; runs them all at once, on other micro-batches.

    ``sessions`` join by the names of their inputs and outputs; ``outputs`` are those of
    the model. ``axes`` say along which axis an input is cut into micro-batches and an
    output joined; other inputs go to each micro-batch whole. Values between stages stay
    where the stage before put them, unless the next one has another device.

    Raises UsageError where an output has no axis to join micro-batches along,
    InvalidModel where no stage gives it, and UnsupportedModel for what is no tensor.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        outputs: Sequence[str],
        *,
        axes: Mapping[str, int] | None = None,
        micro_batches: int = 1,
    ) -> None:
        self.sessions = tuple(sessions)
        self.output_names = tuple(outputs)
        self.axes = dict(axes or {})
        self.micro_batches = micro_batches
        made: dict[str, int] = {}
        self._given: dict[str, Any] = {}
        self._optional: dict[str, Any] = {}
        self._read: list[tuple[str, ...]] = []
        for stage, session in enumerate(self.sessions):
            taken = session.session.get_inputs()
            for each in (*taken, *session.session.get_outputs()):
                if not each.type.startswith("tensor("):
                    raise UnsupportedModel(
                        f"stage {stage} is given or gives {each.name!r}, a {each.type};"
                        " stages hand on tensors only"
                    )
            self._given |= {each.name: each for each in taken if each.name not in made}
            defaults = session.session.get_overridable_initializers()
            self._optional |= {each.name: each for each in defaults}
            self._read.append(tuple(each.name for each in (*taken, *defaults)))
            made |= dict.fromkeys(session.output_names, stage)
        for name in self.output_names:
            if name not in made:
                raise InvalidModel(f"no stage gives the output {name!r}")
            if micro_batches > 1 and name not in self.axes:
                raise UsageError(
                    f"the output {name!r} has no batch axis along which micro-batches"
                    " could be joined; run one micro-batch"
                )
        self._kept = [
            {*self.output_names, *(name for read in self._read[i:] for name in read)}
            for i in range(1, len(self.sessions) + 1)
        ]

    @classmethod
    def compile(
        cls,
        stages: Stages,
        *,
        axes: Mapping[str, int] | None = None,
        micro_batches: int = 1,
        recipes: Sequence[Recipe] | None = None,
        threads: int = 0,
    ) -> Pipelined:
        """Stages, ready to run; ``recipes`` say on which device each, else the CPU.

        ``threads`` are those of one session. Raises as `Session`.
        """
        with tempfile.TemporaryDirectory() as folder:
            write(
                stages, folder, axes=axes, micro_batches=micro_batches, recipes=recipes
            )
            return cls.open(folder, threads=threads)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        micro_batches: int | None = None,
        threads: int = 0,
    ) -> Pipelined:
        """What `write` wrote; ``micro_batches`` as there, unless given.

        Raises InvalidModel where the folder's stages do not join, and as `Session`.
        """
        manifest = Manifest.read(folder)
        sessions = []
        for file in manifest.models:
            path = Path(folder, file)
            found = _unbound(Recipe.beside(path) or Recipe())
            sessions.append(Session(path, recipe=found, threads=threads))
        made = cls(
            sessions,
            manifest.outputs,
            axes=manifest.axes,
            micro_batches=micro_batches or manifest.micro_batches,
        )
        if unknown := made._given.keys() - set(manifest.inputs):
            raise InvalidModel(
                f"nothing gives {sorted(unknown)[0]!r}, which a stage reads",
                where=os.fspath(folder),
            )
        return made

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        given = inputs.keys()
        if not self._given.keys() <= given <= {*self._given, *self._optional}:
            self._hold(inputs)
        parts = self._parts(inputs)
        count = len(self.sessions)
        queues: list[Queue[_Item | None]] = [
            Queue(AHEAD if 0 < i < count else 0) for i in range(count + 1)
        ]
        threads = [
            threading.Thread(
                target=self._work, args=(i, queues[i], queues[i + 1]), daemon=True
            )
            for i in range(count)
        ]
        for thread in threads:
            thread.start()
        for part in parts:
            queues[0].put(_Item(part))
        queues[0].put(None)
        done = list(iter(queues[-1].get, None))
        for thread in threads:
            thread.join()
        for item in done:
            if item is not None and item.failed is not None:
                self._hold(inputs)  # of which the runtime says too little
                raise item.failed
        values = [item.values for item in done if item is not None]
        return {name: self._joined(name, values) for name in self.output_names}

    def used(self) -> Mapping[str, Any]:
        return {
            "target": f"ort-{self.sessions[0].recipe.provider}",
            "runtime": "onnxruntime",
            "version": self.sessions[0].version,
            "stages": [session.session.get_providers() for session in self.sessions],
            "micro_batches": self.micro_batches,
        }

    # Micro-batches

    def _parts(self, inputs: Mapping[str, Array]) -> list[dict[str, Any]]:
        """The inputs of each micro-batch; of a smaller batch there are fewer."""
        cut = {name: axis for name, axis in self.axes.items() if name in inputs}
        if self.micro_batches == 1 or not cut:
            if self.micro_batches > 1:
                raise UsageError("no input has a batch axis to cut micro-batches along")
            return [{name: value_of(array) for name, array in inputs.items()}]
        sizes: dict[str, int] = {}
        for name, axis in cut.items():
            shape = np.shape(inputs[name])
            if axis >= len(shape):
                self._hold(inputs)
                raise UsageError(f"input {name!r} has no axis {axis}: {shape}")
            sizes[name] = shape[axis]
        (first, size), *others = sizes.items()
        for name, other in others:
            if other != size:
                raise UsageError(
                    f"input {first!r} has a batch of {size}, {name!r} of {other}"
                )
        count = max(min(self.micro_batches, size), 1)
        whole = {n: value_of(array) for n, array in inputs.items() if n not in cut}
        pieces = {
            name: np.array_split(inputs[name], count, axis)
            for name, axis in cut.items()
        }
        return [
            whole | {name: value_of(piece[i]) for name, piece in pieces.items()}
            for i in range(count)
        ]

    def _joined(self, name: str, values: Sequence[Mapping[str, Any]]) -> Array:
        arrays = [array_of(each[name]) for each in values]
        if len(arrays) == 1:
            return arrays[0]
        return np.concatenate(arrays, self.axes[name])

    # Stages

    def _work(
        self, stage: int, given: Queue[_Item | None], made: Queue[_Item | None]
    ) -> None:
        """Run a stage on what comes, in order; after a failure, only pass it on."""
        failed = False
        while (item := given.get()) is not None:
            if failed:
                continue
            if item.failed is None:
                try:
                    item = _Item(self._stepped(stage, item.values))
                except Exception as error:  # the runtime's have no base of their own
                    words = f"ONNX Runtime failed in stage {stage}: {words_of(error)}"
                    item = _Item({}, RunFailed(words))
            failed = item.failed is not None
            made.put(item)
        made.put(None)

    def _stepped(self, stage: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """What later stages read, and outputs, once a stage ran on a micro-batch."""
        session = self.sessions[stage]
        binding = session.session.io_binding()
        for name in self._read[stage]:
            if name in values:
                binding.bind_ortvalue_input(name, values[name])
        for name in session.output_names:
            host = name in self.output_names
            device = ("cpu", 0) if host else _device(session.recipe)
            binding.bind_output(name, *device)
        session.session.run_with_iobinding(binding, session.run_options)
        made = zip(session.output_names, binding.get_outputs(), strict=True)
        kept = self._kept[stage]
        return {name: v for name, v in (*values.items(), *made) if name in kept}

    def _hold(self, inputs: Mapping[str, Array]) -> None:
        """Raises UsageError where inputs do not fit those of the whole model."""
        hold_against(
            _Interface([*self._given.values()], [*self._optional.values()]), inputs
        )


@dataclass(frozen=True)
class _Item:
    """A micro-batch on its way: the values that later stages read, and outputs."""

    values: Mapping[str, Any]
    failed: RunFailed | None = None


@dataclass(frozen=True)
class _Interface:
    """The inputs of all stages, as a session lists its own."""

    inputs: list[Any]
    optional: list[Any]

    def get_inputs(self) -> list[Any]:
        return self.inputs

    def get_overridable_initializers(self) -> list[Any]:
        return self.optional


def _device(recipe: Recipe) -> tuple[str, int]:
    """Where a session keeps what it makes, as ONNX Runtime calls it."""
    if recipe.provider == "cpu":
        return "cpu", 0
    return recipe.provider, int(recipe.options.get("device_id", 0))


def _unbound(recipe: Recipe) -> Recipe:
    """A recipe without a captured CUDA graph, whose buffers would be fixed ones."""
    options = {k: v for k, v in recipe.options.items() if k != "enable_cuda_graph"}
    return replace(recipe, options=options)


def on_devices(
    stages: Stages, provider: str, *, precision: str | None = None
) -> list[Recipe]:
    """How each stage is best opened, on a device of its own: GPU 0, GPU 1, ….

    ``provider`` is "cpu" or "cuda". Raises UsageError.
    """
    return [
        recipe(graph, provider, precision=precision, device=i)
        for i, graph in enumerate(stages.graphs)
    ]


# --- files --------------------------------------------------------------------------


@dataclass(frozen=True)
class Manifest:
    """How the stages of a folder join: what ``stages.json`` holds.

    ``models`` are the files in the order in which they run.
    """

    models: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: Mapping[str, int] = field(default_factory=dict)
    micro_batches: int = 1

    def to_json(self) -> str:
        """The text of the file."""
        found = {
            "schema": SCHEMA,
            "stages": list(self.models),
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "batch_axes": dict(self.axes),
            "micro_batches": self.micro_batches,
        }
        return json.dumps(found, indent=2) + "\n"

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Manifest:
        """Of a folder. Raises InvalidModel for what is none, or a newer one."""
        path = Path(folder, MANIFEST)
        where = str(path)
        try:
            found = json.loads(path.read_bytes())
            if found["schema"] != SCHEMA:
                raise InvalidModel(
                    f"stages of schema {found['schema']!r}; this graphopt reads"
                    f" {SCHEMA}",
                    where=where,
                )
            made = cls(
                tuple(map(str, found["stages"])),
                tuple(map(str, found["inputs"])),
                tuple(map(str, found["outputs"])),
                {str(name): int(axis) for name, axis in found["batch_axes"].items()},
                int(found["micro_batches"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            raise InvalidModel(
                f"no stages of a model: {error!r}", where=where
            ) from None
        for name in made.models:
            if Path(name).name != name:
                raise InvalidModel(f"{name!r} is no file of the folder", where=where)
        if not made.models or made.micro_batches < 1:
            raise InvalidModel("stages without a stage or a micro-batch", where=where)
        return made


def write(
    stages: Stages,
    folder: str | os.PathLike[str],
    *,
    axes: Mapping[str, int] | None = None,
    micro_batches: int = 1,
    recipes: Sequence[Recipe] | None = None,
    opset: Wanted = None,
) -> list[Path]:
    """Write a model's stages to a folder, which must be there; the files, in order.

    ``stages.json`` is written last. Raises as `save`.
    """
    recipes = recipes or [Recipe()] * len(stages.graphs)
    models = list(_paths(Path(folder), len(stages.graphs)))
    for graph, path, opened in zip(stages.graphs, models, recipes, strict=True):
        save(graph, path, opset=opset)
        opened.save(path)
    manifest = Manifest(
        tuple(path.name for path in models),
        stages.inputs,
        stages.outputs,
        dict(axes or {}),
        micro_batches,
    )
    atomic_write(Path(folder, MANIFEST), manifest.to_json().encode())
    return models


def read(folder: str | os.PathLike[str]) -> Stages:
    """The stages that `write` wrote to a folder. Raises InvalidModel."""
    manifest = Manifest.read(folder)
    graphs = tuple([load(Path(folder, file)) for file in manifest.models])
    return Stages(graphs, manifest.inputs, manifest.outputs)


def _paths(folder: Path, count: int) -> Iterator[Path]:
    for i in range(count):
        yield folder / f"stage_{i}.onnx"
