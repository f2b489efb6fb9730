"""Timing models against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt import Graph
from graphopt.bench import measure
from graphopt.exporter import save
from graphopt.ir import Parameter, Value
from graphopt.ops import Sin
from graphopt.types import DType, tensor


def chain(path: Path, length: int) -> Path:
    x = Parameter(tensor(DType.F32, 20_000), "x")
    value: Value = x
    for _ in range(length):
        value = Sin(value)
    save(Graph([x], [value]).with_header(opsets={"": 17}), path)
    return path


@pytest.mark.parametrize(
    "target",
    ["reference", pytest.param("ort-cpu", marks=pytest.mark.runtime)],
)
def test_ratios(target: str, tmp_path: Path) -> None:
    if target == "ort-cpu":
        pytest.importorskip("onnxruntime")
    models = [chain(tmp_path / f"{n}.onnx", n) for n in (4, 40)]
    fed = {"x": np.linspace(0, 1, 20_000, dtype=np.float32)}
    first, second = measure([*models], fed, target=target, rounds=5)
    assert (first.ratio, first.low, first.high) == (1, 1, 1)
    assert second.low <= second.ratio <= second.high
    assert 3 < second.ratio < 30
    assert second.seconds > first.seconds > 0
