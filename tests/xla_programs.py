"""Graphs to export, and what JAX alone makes of the programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import (
    Graph,
)
from graphopt.dims import symbol
from graphopt.exporter import save
from graphopt.ir import Parameter
from graphopt.ops import (
    Add,
    Cast,
    Constant,
    MatMul,
)
from graphopt.types import DType, tensor

jax = pytest.importorskip("jax")
pytest.importorskip("flatbuffers")
pytest.importorskip("safetensors")

from jax import export  # noqa: E402
from safetensors.flax import load_file  # noqa: E402

N = symbol("n")


def const(*values: int) -> Constant:
    return Constant(np.array(values, np.int64))


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def linear() -> Graph:
    """x w + b, with the batch symbolic."""
    x = Parameter(tensor(DType.F32, N, 3), "x")
    w, b = Constant(normal(3, 2)), Constant(normal(2, seed=1))
    graph = Graph([x], [Add(MatMul(x, w), b)], output_names=["y"])
    return graph.replace(names={w: "w", b: "b"})


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]>\n{text}')


def saved(graph: Graph, path: Path, **options: Any) -> graphopt.Result:
    """The graph as it is, checked, as a program."""
    result = graphopt.optimize(graph, "xla-cpu", level=0, check="off")
    return result.save(path, **options)


def called(path: Path, inputs: Any) -> Any:
    """What JAX alone makes of a program."""
    program = export.deserialize(path.read_bytes())
    beside = path.with_suffix(".safetensors")
    with jax.enable_x64(True):
        weights = load_file(beside) if beside.exists() else {}
        return program.call(weights, inputs)


def to_float(x: Any) -> Any:
    return Cast(x, to=DType.F32.value)


def alone(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """JAX as it is where another platform lacks something."""
    exporting = export.export

    def export_(function: Any, *, platforms: Any) -> Any:
        traced = exporting(function, platforms=platforms)

        def made(*args: Any) -> Any:
            found = traced(*args)
            if len(platforms) > 1:
                raise error("another platform lacks it")
            return found

        return made

    monkeypatch.setattr(export, "export", export_)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The linear model as a file, alone in a folder of its own."""
    save(linear().with_header(opsets={"": 17}), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"
