"""What ONNX Runtime's kernels take to have another dim first or last, as foreseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt import ops
from graphopt.exporter import save
from graphopt.fitted import Fitted, Limits
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter
from graphopt.lowering.ort.advice import recipe
from graphopt.lowering.ort.meter import realised_peak
from graphopt.ops import Tiled
from graphopt.passes.memory import SPACES, plan_memory
from graphopt.passes.memory.sizes import Sizes
from graphopt.passes.memory.workspace import workspace
from graphopt.types import DType, tensor

COUNT = 80
"""Tiles: so many are a Scan."""


def tiled(axis: int, result_axis: int) -> Graph:
    """Tiles of one position each, along a dim of a value that is computed."""
    shape, part = [96, 96, 96], [96, 96, 96]
    shape[axis] = COUNT
    part[axis] = 1
    x = Parameter(tensor(DType.F32, *shape), "x")
    number, tile = (
        Parameter(tensor(DType.I64), "number"),
        Parameter(tensor(DType.F32, *part), "tile"),
    )
    perm = [i for i in range(3) if i != axis]
    perm.insert(result_axis, axis)
    body = Graph([number, tile], [ops.Transpose(ops.Erf(tile), perm=tuple(perm))])
    made = Tiled(
        *(ops.Exp(x),),
        bodies=(body,),
        count=COUNT,
        axes=(axis,),
        starts=(0,),
        steps=(1,),
        result_axes=(result_axis,),
    )
    return Graph([x], [ops.Exp(made)])


@pytest.mark.runtime
@pytest.mark.parametrize(("axis", "result"), [(0, 0), (1, 0), (0, 2), (1, 1), (2, 0)])
def test_dims_other_than_the_first_are_copied_whole(
    axis: int, result: int, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", minversion="1.32")
    graph = tiled(axis, result)
    whole = 4 * 96 * 96 * COUNT
    (op,) = (op for op in graph.ops if isinstance(op, Tiled))
    found = {
        name: workspace(op, Sizes({}, SPACES[name]), [0])
        for name in ("ort-cpu", "xla-cpu")
    }
    copies = whole * ((axis != 0) + (result != 0))
    assert found["ort-cpu"] - found["xla-cpu"] == copies
    plan = plan_memory(graph, space=SPACES["ort-cpu"])
    fitted = Fitted(graph, plan, Limits(activations=1 << 40), target="ort-cpu")
    assert fitted.arena is not None
    path = tmp_path / "m.onnx"
    save(graph, path, order=plan.order)
    opened = recipe(graph, "cpu", ordered=True)
    real = realised_peak(path, random_inputs(graph, 0), recipe=opened, growing=False)
    assert real.peak == pytest.approx(fitted.arena + plan.beside, rel=0.1)


@pytest.mark.runtime
@pytest.mark.parametrize("kind", [ops.Softmax, ops.LogSoftmax])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_over_another_dim_has_operand_and_result_once_more(
    kind: type, axis: int, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", minversion="1.32")
    x = Parameter(tensor(DType.F32, 32, 64, 48), "x")
    graph = Graph([x], [ops.ReduceSum(ops.Erf(kind(ops.Exp(x), axis=axis)))])
    plan = plan_memory(graph, space=SPACES["ort-cpu"])
    whole = 4 * 32 * 64 * 48
    assert plan.peak == (2 if axis in (2, -1) else 3) * whole
    path = tmp_path / "m.onnx"
    save(graph, path, order=plan.order)
    opened = recipe(graph, "cpu", ordered=True)
    real = realised_peak(path, random_inputs(graph, 0), recipe=opened, growing=False)
    assert real.peak == pytest.approx(plan.peak + plan.beside, rel=0.01)
