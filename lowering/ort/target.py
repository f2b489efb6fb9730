"""ONNX Runtime as a target: on the CPU, and on GPUs through CUDA."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from onnx import ModelProto

from graphopt.errors import BackendMissing, UsageError
from graphopt.exporter import save, to_proto
from graphopt.importer import load
from graphopt.ir import Graph, Op
from graphopt.plan import Plan, opening

from .. import Executable, Model
from . import advice
from .recipe import Recipe
from .session import Refused, Session, runtime, why_no_cuda

INLINE_BYTES: Final = 1 << 30
"""Graphs with more weights are handed over in files: a protobuf ends at 2 GiB."""

OLD_OPSET: Final = 13
"""What graphs are written in, or the lowest above, if their own opset is too new."""


@dataclass(frozen=True)
class Ort:
    """ONNX Runtime with the kernels of one provider and its default optimizations.

    A model that is opened by its path has the recipe beside it, if that is for this
    provider, and else what suits it.
    """

    provider: str
    precision: str | None = None
    device: int = 0

    @property
    def name(self) -> str:
        return f"ort-{self.provider}"

    def compile(self, graph: Graph, plan: Plan) -> Executable:
        self._check()
        order = plan.order
        suited = self._suited(graph, plan)
        try:
            return self._session(graph, suited, order)
        except Refused:  # runtimes lag behind ONNX: say it in an older opset
            older = {**graph.header.opsets, "": OLD_OPSET}
            if graph.header.opsets.get("", 0) <= OLD_OPSET:
                raise
            graph = graph.with_header(opsets=older, ir_version=0)
            return self._session(graph, suited, order)

    def open(self, model: Model) -> Executable:
        self._check()
        suited = None
        if self.precision is None and not isinstance(model, (bytes, ModelProto)):
            suited = Recipe.beside(model)
        if suited is None or suited.provider != self.provider:
            suited = (
                Recipe()
                if self.provider == "cpu"
                else self._suited(load(model), Plan())
            )
        if isinstance(model, ModelProto):
            model = model.SerializeToString()
        return Session(model, recipe=suited)

    def _check(self) -> None:
        """Raises BackendMissing where the runtime, or CUDA, is not there."""
        runtime()
        if self.provider == "cuda" and (said := why_no_cuda()):
            raise BackendMissing(said)

    def _suited(self, graph: Graph, plan: Plan) -> Recipe:
        if self.provider == "cpu" and not plan.order:
            return Recipe()
        return advice.recipe(
            graph,
            self.provider,
            precision=self.precision,
            device=self.device,
            ordered=bool(plan.order),
            **opening(plan.whole),
        )

    def _session(self, graph: Graph, suited: Recipe, order: Sequence[Op]) -> Session:
        if sum(tensor.nbytes for tensor in graph.tensors()) < INLINE_BYTES:
            model = to_proto(graph, order=order or None).SerializeToString()
            return Session(model, recipe=suited)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            save(graph, path, order=order or None)
            return Session(path, recipe=suited)


def target(kind: str, device: str, precision: str | None = None) -> Ort:
    """The target; ``device`` is the number of a GPU. Raises UsageError."""
    if device and not device.isdecimal():
        raise UsageError(f"{kind} takes the number of a GPU, not {device!r}")
    return Ort(kind.removeprefix("ort-"), precision, int(device or 0))
