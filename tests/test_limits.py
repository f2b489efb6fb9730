"""Limits of memory: what is done until they hold, what is said, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Command

import graphopt
from graphopt import ops
from graphopt.byte_sizes import parse_size
from graphopt.errors import UsageError
from graphopt.exporter import save
from graphopt.fitted import DoesNotFit, Fitted, Limits
from graphopt.importer import load
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter, Value
from graphopt.passes.memory import SPACES, plan_memory, validate
from graphopt.passes.memory.sizes import Sizes
from graphopt.passes.memory.workspace import workspace
from graphopt.types import DType, TensorType
from graphopt.weights import Tensor


def x(*shape: Any, name: str = "x") -> Parameter:
    return Parameter(TensorType(DType.F32, shape), name)


def attention(queries: int = 256, keys: int = 256, size: int = 8) -> Graph:
    """Spelled out: scores of queries * keys floats."""
    q, k, v = (
        x(queries, size, name="q"),
        x(size, keys, name="k"),
        x(keys, size, name="v"),
    )
    scores = ops.Softmax(ops.MatMul(q, k))
    return Graph([q, k, v], [ops.MatMul(scores, v)], name="attention")


def branches(width: int = 4, size: int = 1024) -> Graph:
    """Large values, all made first; of each only its sum is wanted."""
    a = x(size)
    large = [
        ops.Softmax(ops.Mul(a, ops.Constant(np.float32(i + 1)))) for i in range(width)
    ]
    sums: list[Value] = [ops.ReduceSum(value) for value in large]
    total = sums[0]
    for value in sums[1:]:
        total = ops.Add(total, value)
    sources = {value.op: (f"n{i}",) for i, value in enumerate([*large, *sums])}
    return Graph([a], [total], name="branches", sources=sources)  # type: ignore[arg-type]


# --- sizes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("512MiB", 512 << 20),
        ("64 kB", 64_000),
        ("1.5GB", 1_500_000_000),
        ("2tib", 2 << 40),
        ("7 b", 7),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "0", "1 XB", "1e400", "nan", "5M"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write 512MiB"):
        parse_size(text)


def test_a_limit_is_positive() -> None:
    with pytest.raises(UsageError, match="no limit"):
        Limits(memory=0)


# --- what is done -------------------------------------------------------------------


def test_what_fits_stays_as_it_is() -> None:
    graph = attention()
    result = graphopt.optimize(graph, max_activations="1MiB", level=0)
    fitted = result.report.memory
    assert fitted is not None
    assert (fitted.savings, fitted.tile) == ((), None)
    assert fitted.plan.peak == 256 * 256 * 4  # Softmax works in place


def test_another_order_comes_first() -> None:
    graph = branches()
    before = plan_memory(graph)
    assert before.peak >= 4 * 4096
    result = graphopt.optimize(graph, max_activations=3 * 4096, level=0)
    fitted = result.report.memory
    assert fitted is not None
    assert [s.what for s in fitted.savings] == ["another order of the ops"]
    assert fitted.plan.peak <= 3 * 4096
    assert result.plan.order == fitted.plan.order
    validate(fitted.plan, result.graph)


def test_tiles_come_where_an_order_is_not_enough() -> None:
    result = graphopt.optimize(attention(), max_activations="128KiB")
    fitted = result.report.memory
    assert fitted is not None
    assert fitted.savings[-1].what == "tiles"
    assert fitted.plan.peak <= 128 << 10
    assert result.report.check is not None
    assert result.report.check.passed
    validate(fitted.plan, result.graph)


def test_all_memory_counts_weights_inputs_and_outputs() -> None:
    graph = attention()
    output = 4 * 256 * 8
    outside = 4 * 3 * 256 * 8 + output
    result = graphopt.optimize(graph, max_memory=outside + (200 << 10))
    fitted = result.report.memory
    assert fitted is not None
    assert fitted.plan.resident <= outside + (200 << 10)
    constants = sum(tensor.nbytes for tensor in result.graph.tensors())
    plan = fitted.plan
    assert plan.outputs == output
    assert plan.beside == 0  # it is made last, when tiles are gone
    assert plan.resident == outside - output + constants + plan.peak


def test_what_cannot_fit_is_told_with_the_least_that_would_do() -> None:
    graph = attention()
    with pytest.raises(DoesNotFit, match=r"--max-memory (\d+) would do") as caught:
        graphopt.optimize(graph, max_memory="10KiB")
    assert caught.value.exit_code == 6
    least = int(caught.value.message.split("--max-memory ")[1].split()[0])
    result = graphopt.optimize(graph, max_memory=least)
    assert result.report.memory is not None
    assert result.report.memory.plan.resident <= least


def test_the_command_writes_the_order_and_says_what_it_saved(
    command: Command, tmp_path: Path
) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "o.onnx"
    save(branches(), source)
    code, out, _ = command(
        "optimize", source, "-o", target, "--max-activations", "12KiB", "-O0"
    )
    assert code == 0
    assert "another order of the ops" in out
    order = [node.op_type for node in onnx.load(target).graph.node]
    first = order.index("Softmax")
    assert order.index("ReduceSum") < order.index("Softmax", first + 1) + 2
    assert plan_memory(load(target)).peak <= 12 << 10


def test_the_command_refuses_with_its_own_code(
    command: Command, tmp_path: Path
) -> None:
    source = tmp_path / "m.onnx"
    save(attention(), source)
    code, _, err = command("optimize", source, "--max-memory", "1kB")
    assert code == 6
    assert "would do" in err
    assert not (tmp_path / "m.opt.onnx").exists()
    code, _, err = command("optimize", source, "--max-memory", "much")
    assert code == 2


def test_cheap_values_are_made_again_where_an_order_is_not_enough() -> None:
    rows = x(128, 128)
    few = Parameter(TensorType(DType.I8, (128, 128)), "few")
    mask = ops.Cast(few, to=DType.F32)
    wide, tall = x(128, 512, name="wide"), x(512, 128, name="tall")
    h: Value = rows
    for _ in range(3):
        h = ops.MatMul(ops.MatMul(ops.Mul(h, mask), wide), tall)
    graph = Graph([rows, few, wide, tall], [h])
    result = graphopt.optimize(graph, max_activations=5 * 4 * 128 * 128 + 1024)
    fitted = result.report.memory
    assert fitted is not None
    assert fitted.savings[-1].what == "cheap values made again"
    assert fitted.savings[-1].flops == 0  # a cast only moves
    assert [op.kind for op in result.plan.order].count("Cast") == 3
    assert result.report.check is not None
    assert result.report.check.passed
    validate(fitted.plan, result.graph)


def test_initializers_that_are_inputs_count_once() -> None:
    weight = Tensor.of(np.ones((64, 64), np.float32))
    w = Parameter(weight.type, "w", default=weight)
    a = x(64, 64)
    plan = plan_memory(Graph([a, w], [ops.MatMul(a, w)]))
    assert (plan.inputs, plan.constants) == (64 * 64 * 4, 64 * 64 * 4)


# --- what the runtime takes ---------------------------------------------------------


def masked() -> Graph:
    """Attention with a mask of truth values, which its kernel makes numbers of."""
    q, k, v = (x(1, 4, 64, 8, name=name) for name in "qkv")
    mask = Parameter(TensorType(DType.BOOL, (1, 4, 64, 64)), "mask")
    y = ops.Attention(ops.Relu(q), k, v, mask)
    graph = Graph([q, k, v, mask], [ops.Relu(y)])
    return graph.with_header(opsets={"": 23})


def test_a_mask_of_truth_values_takes_room_as_numbers() -> None:
    scores = 4 * 4 * 64 * 64
    graph = masked()
    attended = next(op for op in graph.ops if op.kind == "Attention")
    found = {
        target: workspace(attended, Sizes({}, SPACES[target]), ())
        for target in ("ort-cpu", "xla-cpu")
    }
    assert found == {"ort-cpu": 2 * scores, "xla-cpu": scores}


@pytest.mark.slow
def test_the_arena_is_foreseen_with_what_lies_between_its_pieces(
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnxruntime")
    from graphopt.lowering.ort.meter import realised_peak
    from graphopt.lowering.ort.recipe import Recipe

    result = graphopt.optimize(
        masked(), target="ort-cpu", max_activations=24 << 10, check="off"
    )
    fitted = result.report.memory
    assert fitted is not None
    assert fitted.arena is not None
    assert fitted.plan.peak <= fitted.activations <= 24 << 10
    path = tmp_path / "m.onnx"
    result.save(path)
    fed = random_inputs(result.original, 0)
    found = realised_peak(path, fed, recipe=Recipe.beside(path), growing=False)
    assert found.peak == pytest.approx(fitted.arena + fitted.plan.beside, rel=0.1)


def test_outputs_that_come_later_are_no_room_in_an_arena() -> None:
    """They are as large as all else: that was taken off what the arena needs."""
    x = Parameter(TensorType(DType.F32, (64, 64)), "x")
    y = ops.Softmax(ops.MatMul(ops.Softmax(ops.MatMul(x, x)), x))
    graph = Graph([x], [ops.Concat(y, y, y, axis=0)])
    plan = plan_memory(graph, space=SPACES["ort-cpu"])
    fitted = Fitted(graph, plan, Limits(activations=1 << 30), target="ort-cpu")
    assert plan.outputs > plan.peak
    assert fitted.arena is not None
    assert plan.peak <= fitted.arena <= 2 * plan.peak


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [2, 3])
def test_a_transposed_convolution_holds_its_windows(
    kernel: int, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from graphopt.lowering.ort.meter import realised_peak
    from graphopt.lowering.ort.recipe import Recipe

    a = x(1, 32, 32, 32)
    weight = ops.Constant(np.ones((32, 32, kernel, kernel), np.float32))
    grown = ops.ConvTranspose(ops.Exp(a), weight, strides=(2, 2))
    graph, path = Graph([a], [ops.Tanh(grown)]), tmp_path / "m.onnx"
    plan = plan_memory(graph, space=SPACES["ort-cpu"])
    save(graph, path)
    plain = Recipe(session={"enable_mem_pattern": False})
    found = realised_peak(path, random_inputs(graph, 0), recipe=plain, growing=False)
    assert found.peak == pytest.approx(plan.peak, rel=0.05)


def test_where_only_the_arena_is_over_the_limit_it_is_told() -> None:
    graph = masked()
    plan = plan_memory(graph, space=SPACES["ort-cpu"])
    limits = Limits(activations=plan.peak)
    fitted = Fitted(graph, plan, limits, target="ort-cpu")
    assert fitted.arena is not None
    assert fitted.fits
    fitted.__dict__["arena"] = plan.peak + 512
    assert not fitted.fits
    assert any("512 B of it between pieces" in line for line in fitted.lines())
    assert fitted.to_json()["arena_bytes"] == plan.peak + 512
