"""ONNX Runtime on the CPU as a target."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from graphopt.exporter import save, to_proto
from graphopt.ir import Graph, Op
from graphopt.plan import Plan

from . import Executable
from .session import Session, runtime

INLINE_BYTES: Final = 1 << 30
"""Graphs with more weights are handed over in files: a protobuf ends at 2 GiB."""


class OrtCpu:
    """ONNX Runtime with its CPU kernels and its default optimizations."""

    name = "ort-cpu"

    def compile(self, graph: Graph, plan: Plan) -> Executable:
        runtime()
        if _weight_bytes(graph) < INLINE_BYTES:
            return Session(to_proto(graph).SerializeToString())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            save(graph, path)
            return Session(path)

    def open(self, model: str | os.PathLike[str] | bytes) -> Executable:
        return Session(model)


TARGET: Final = OrtCpu()


def _weight_bytes(graph: Graph) -> int:
    weights: dict[Op, int] = {}
    for _, op in graph.walk():
        if op.constant is not None:
            weights[op] = op.constant.nbytes
    return sum(weights.values())
