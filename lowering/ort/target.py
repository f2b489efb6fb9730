"""ONNX Runtime on the CPU as a target."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from onnx import ModelProto

from graphopt.exporter import save, to_proto
from graphopt.ir import Graph
from graphopt.plan import Plan

from .. import Executable, Model
from .session import Refused, Session, runtime

INLINE_BYTES: Final = 1 << 30
"""Graphs with more weights are handed over in files: a protobuf ends at 2 GiB."""

OLD_OPSET: Final = 13
"""What graphs are written in, or the lowest above, if their own opset is too new."""


class OrtCpu:
    """ONNX Runtime with its CPU kernels and its default optimizations."""

    name = "ort-cpu"

    def compile(self, graph: Graph, plan: Plan) -> Executable:
        runtime()
        try:
            return _session(graph)
        except Refused:  # runtimes lag behind ONNX: say it in an older opset
            older = {**graph.header.opsets, "": OLD_OPSET}
            if graph.header.opsets.get("", 0) <= OLD_OPSET:
                raise
            return _session(graph.with_header(opsets=older, ir_version=0))

    def open(self, model: Model) -> Executable:
        if isinstance(model, ModelProto):
            model = model.SerializeToString()
        return Session(model)


def target(kind: str, device: str) -> OrtCpu:
    """The target; there is one."""
    return OrtCpu()


def _session(graph: Graph) -> Session:
    if sum(tensor.nbytes for tensor in graph.tensors()) < INLINE_BYTES:
        return Session(to_proto(graph).SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        save(graph, path)
        return Session(path)
