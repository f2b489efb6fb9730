"""Limits of memory with symbolic dims: planned at some sizes, right at all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command

import graphopt
from graphopt import ops
from graphopt.dims import symbol
from graphopt.errors import UsageError
from graphopt.exporter import save
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter
from graphopt.ops.strips import firsts_of
from graphopt.passes.tiling.strips import lapping
from graphopt.passes.tiling.tiles import tile
from graphopt.reference import evaluate
from graphopt.types import DType, TensorType

SIZES = {"seq": 256}


def x(*shape: Any, name: str = "x") -> Parameter:
    return Parameter(TensorType(DType.F32, shape), name)


def attention() -> Graph:
    n = symbol("seq")
    q, k, v = x(n, 8, name="q"), x(8, n, name="k"), x(n, 8, name="v")
    scores = ops.Softmax(ops.MatMul(q, k))
    return Graph([q, k, v], [ops.MatMul(scores, v)], name="attention")


def test_a_limit_is_kept_at_the_sizes_that_are_named() -> None:
    result = graphopt.optimize(attention(), max_activations="64KiB", memory_sizes=SIZES)
    fitted = result.report.memory
    assert fitted is not None
    assert dict(fitted.plan.binding) == SIZES
    assert fitted.plan.peak <= 64 << 10 < fitted.savings[0].before
    assert str(result.graph.inputs[0].type) == "f32[seq, 8]"
    for n in (1, 2, 7, 100, 256, 301):
        fed = random_inputs(attention(), seed=n, sizes={"seq": n})
        (truth,) = evaluate(attention(), fed, precision="float64")
        (found,) = evaluate(result.graph, fed, precision="float64")
        np.testing.assert_allclose(found, truth, rtol=1e-10, atol=1e-10)


def test_one_of_the_sizes_that_are_checked_has_several_strips() -> None:
    result = graphopt.optimize(attention(), max_activations="64KiB", memory_sizes=SIZES)
    (op,) = (op for op in result.graph.ops if op.kind == "Scan")
    assert result.report.check is not None
    most = max(sizes["seq"] for sizes in result.report.check.sizes)
    assert most == result.checking.also["seq"]
    length = ops.Shape(op.bodies[0].outputs[0])
    assert length.contents is not None
    rows = op.bodies[0].outputs[0].shape
    assert rows is not None
    here = graphopt.dims.evaluate(rows[0], {"seq": most})
    assert here < most
    assert most % here


def test_sizes_at_which_the_last_strip_lies_over_another() -> None:
    graph = attention()
    (scores,) = (op for op in graph.ops if op.kind == "Softmax")
    for size in (2, 3, 8, 40):
        made = tile(graph, graph.ops, scores, 0, size)
        assert isinstance(made, Graph)
        n = lapping(made)["seq"]
        firsts, length = firsts_of(n, size)
        assert len(firsts) > 1
        assert firsts[-1] < firsts[-2] + length
    assert lapping(graph) == {}


def test_a_check_finds_what_is_wrong_in_the_last_strip_alone() -> None:
    """Wrong where a strip begins beyond 3: no usual size of a check has one there."""
    graph = attention()
    (scores,) = (op for op in graph.ops if op.kind == "Softmax")
    made = tile(graph, graph.ops, scores, 0, 40)
    assert isinstance(made, Graph)
    (op,) = (op for op in made.ops if op.kind == "Strips")
    (body,) = op.bodies
    late = ops.Greater(body.inputs[0], ops.Constant(np.int64(3)))
    (out,) = body.outputs
    wrong = ops.Where(late, ops.Constant(np.float32(7)), out)
    other = op.copy(bodies=[body.replace(outputs=[wrong])])
    broken = made.replace(outputs=[other])
    assert graphopt.check(graph, broken).passed
    assert not graphopt.check(graph, broken, also=lapping(broken)).passed


def test_programs_for_xla_keep_dims_open_and_whole() -> None:
    pytest.importorskip("jax")
    with pytest.raises(graphopt.GraphoptError, match="smallest program found"):
        graphopt.optimize(
            attention(), "xla-cpu", max_activations="64KiB", memory_sizes=SIZES
        )


def test_sizes_without_a_limit_are_refused(command: Command, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of a limit"):
        graphopt.optimize(attention(), memory_sizes=SIZES)
    path = tmp_path / "attention.onnx"
    save(attention(), path)
    code, _, err = command("optimize", path, "--memory-sizes", "seq=256")
    assert (code, "of a limit" in err) == (2, True)
    line = ("optimize", path, "--max-activations", "64KiB", "--dry-run")
    code, out, _ = command(*line, "--memory-sizes", "seq=256")
    assert (code, "memory with seq = 256:" in out) == (0, True)
    code, _, err = command(*line, "--memory-sizes", "length=256")
    assert (code, "no dim of an input is called 'length'" in err) == (2, True)


@pytest.mark.parametrize("mesh", ["data=2", "stage=2"])
def test_meshes_have_their_sizes_otherwise(
    command: Command, tmp_path: Path, mesh: str
) -> None:
    path = tmp_path / "attention.onnx"
    save(attention(), path)
    target = "ort-cuda:h100" if mesh.startswith("stage") else "xla-cuda:h100"
    line = ("optimize", path, "--mesh", mesh, "--target", target)
    code, _, err = command(*line, "--memory-sizes", "seq=256")
    assert (code, "not --memory-sizes" in err) == (2, True)
