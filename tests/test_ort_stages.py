"""Stages in ONNX Runtime: results are the whole model's, through files and threads."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_models import every_model

from graphopt import load, ops
from graphopt.dims import symbol
from graphopt.errors import GraphoptError, InvalidModel, UnsupportedModel, UsageError
from graphopt.exporter import to_proto
from graphopt.inputs import bindings, random_inputs
from graphopt.ir import Graph, Header, Parameter, Value
from graphopt.lowering.ort.recipe import Recipe
from graphopt.lowering.ort.session import RunFailed, Session
from graphopt.lowering.ort.stages import MANIFEST, Pipelined, on_devices, write
from graphopt.ops.random import is_random
from graphopt.passes.sharding.micro_batches import batch_axes
from graphopt.passes.sharding.stages import ordered, split
from graphopt.types import DType, tensor

pytestmark = pytest.mark.runtime

BATCH = symbol("batch")
HEADER = Header(opsets={"": 20}, ir_version=9)


def weights(*shape: int) -> ops.Constant:
    rng = np.random.default_rng(len(shape))
    return ops.Constant(rng.normal(size=shape).astype(np.float32))


def model() -> Graph:
    """Two outputs, one of them early; a mask that every stage reads."""
    x = Parameter(tensor(DType.F32, BATCH, 8), "x")
    mask = Parameter(tensor(DType.F32, 8), "mask")
    value: Value = ops.Relu(x)
    early = value
    for _ in range(3):
        value = ops.Mul(ops.MatMul(value, weights(8, 8)), mask)
    late = ops.Add(value, early)
    return Graph([x, mask], [late, early], output_names=["y", "early"], header=HEADER)


def inputs(batch: int) -> dict[str, Any]:
    rng = np.random.default_rng(batch)
    x = rng.normal(size=(batch, 8)).astype(np.float32)
    return {"x": x, "mask": np.linspace(0, 1, 8, dtype=np.float32)}


def pipelined(graph: Graph, *cuts: int, micro_batches: int = 1) -> Pipelined:
    axes = batch_axes(graph, "batch")
    stages = split(graph, cuts)
    return Pipelined.compile(stages, axes=axes, micro_batches=micro_batches, threads=1)


def whole(graph: Graph, given: dict[str, Any]) -> dict[str, Any]:
    return Session(to_proto(graph).SerializeToString(), threads=1)(given)


@pytest.mark.parametrize("micro_batches", [1, 2, 4, 5])
@pytest.mark.parametrize("cuts", [(), (3,), (1, 4, 6)])
def test_results_are_those_of_the_whole(
    cuts: tuple[int, ...], micro_batches: int
) -> None:
    graph = model()
    staged = pipelined(graph, *cuts, micro_batches=micro_batches)
    for batch in (8, 7, 3, 1):
        expected = whole(graph, inputs(batch))
        found = staged(inputs(batch))
        assert list(found) == ["y", "early"]
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)


def test_narrow_types_cross_and_leave() -> None:
    x = Parameter(tensor(DType.F32, BATCH, 2), "x")
    narrow = ops.Cast(x, to=DType.BF16.value)
    graph = Graph(
        [x],
        [ops.Cast(narrow, to=DType.F32.value), narrow],
        output_names=["wide", "narrow"],
        header=HEADER,
    )
    found = pipelined(graph, 1, micro_batches=2)(x=np.full((4, 2), 1.01, np.float32))
    assert found["narrow"].dtype == DType.BF16.numpy
    np.testing.assert_array_equal(found["wide"], found["narrow"].astype(np.float32))
    assert found["wide"][0, 0] != np.float32(1.01)


def test_more_micro_batches_than_samples() -> None:
    staged = pipelined(model(), 3, micro_batches=16)
    assert staged(inputs(2))["y"].shape == (2, 8)


def test_it_says_what_it_used() -> None:
    used = pipelined(model(), 3, micro_batches=2).used()
    assert used["target"] == "ort-cpu"
    assert used["stages"] == [["CPUExecutionProvider"]] * 2
    assert used["micro_batches"] == 2


def test_stages_run_at_the_same_time() -> None:
    """The first takes the next micro-batch while the second has the one before."""
    both = threading.Barrier(2, timeout=20)
    seen: list[tuple[int, int]] = []

    class Met(Pipelined):
        def _stepped(self, stage: int, values: Mapping[str, Any]) -> Any:
            number = sum(at == stage for at, _ in seen)
            seen.append((stage, number))
            if (stage, number) not in ((0, 0), (1, 3)):
                both.wait()
            return super()._stepped(stage, values)

    graph = model()
    axes = batch_axes(graph, "batch")
    staged = Met.compile(split(graph, [4]), axes=axes, micro_batches=4)
    assert staged(inputs(4))["y"].shape == (4, 8)
    assert len(seen) == 8


def test_each_stage_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    stages = split(model(), [2, 4])
    recipes = on_devices(stages, "cuda")
    assert [recipe.options["device_id"] for recipe in recipes] == ["0", "1", "2"]
    write(stages, tmp_path, recipes=recipes)
    text = (tmp_path / "stage_2.session.json").read_text()
    assert json.loads(text)["providers"][0]["name"] == "CUDAExecutionProvider"
    assert on_devices(stages, "cpu") == [Recipe()] * 3


# --- what does not fit --------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": None}, "input 'x' .* is missing"),
        ({"z": np.ones(3)}, "no input is called 'z'"),
        ({"x": np.ones((4, 8))}, "input 'x'"),
        ({"x": np.ones((4, 9), np.float32)}, "input 'x'"),
        ({"x": np.float32(1)}, "input 'x'"),
    ],
)
def test_inputs_that_do_not_fit(change: dict[str, Any], said: str) -> None:
    given = {k: v for k, v in {**inputs(4), **change}.items() if v is not None}
    with pytest.raises(UsageError, match=said):
        pipelined(model(), 3, micro_batches=2)(given)


def test_batches_that_differ() -> None:
    x, y = (Parameter(tensor(DType.F32, BATCH, 2), name) for name in "xy")
    graph = Graph([x, y], [ops.Add(ops.Neg(x), y)], header=HEADER)
    staged = pipelined(graph, 1, micro_batches=2)
    with pytest.raises(UsageError, match="batch of 4, 'y' of 2"):
        staged(x=np.ones((4, 2), np.float32), y=np.ones((2, 2), np.float32))


def test_an_output_without_a_batch() -> None:
    x = Parameter(tensor(DType.F32, BATCH, 2), "x")
    graph = Graph([x], [ops.ReduceSum(ops.Neg(x), keepdims=0)], header=HEADER)
    with pytest.raises(UsageError, match="no batch axis along which"):
        pipelined(graph, 1, micro_batches=2)
    assert pipelined(graph, 1)(x=np.ones((2, 2), np.float32))["output_0"] == -4


def test_a_sequence_between_stages() -> None:
    x = Parameter(tensor(DType.F32, 2, 2), "x")
    graph = Graph(
        [x],
        [ops.SequenceAt(ops.SequenceConstruct(x), ops.Constant(np.int64(0)))],
        header=HEADER,
    )
    with pytest.raises(UnsupportedModel, match="tensors only"):
        pipelined(graph, 1)


def test_a_stage_that_fails_ends_the_run() -> None:
    """Others wait for it neither before nor behind; the next run is a new one."""
    x = Parameter(tensor(DType.F32, BATCH, None), "x")
    index = Parameter(tensor(DType.I64, BATCH), "i")
    rows = ops.Gather(weights(4, 8), ops.Abs(index))
    value = ops.Add(ops.Neg(x), rows)
    graph = Graph([x, index], [ops.Relu(value)], output_names=["y"], header=HEADER)
    staged = pipelined(graph, 1, 3, 4, micro_batches=8)
    ones = np.ones((16, 8), np.float32)
    good = np.zeros(16, np.int64)
    bad = good.copy()
    bad[5] = 9
    with pytest.raises(RunFailed, match="in stage 1"):
        staged(x=ones, i=bad)
    assert staged(x=ones, i=good)["y"].shape == (16, 8)


# --- files --------------------------------------------------------------------------


def test_stages_survive_files(tmp_path: Path) -> None:
    graph = model()
    axes = batch_axes(graph, "batch")
    files = write(split(graph, [3, 5]), tmp_path, axes=axes, micro_batches=2)
    assert [file.name for file in files] == [f"stage_{i}.onnx" for i in range(3)]
    staged = Pipelined.open(tmp_path)
    assert staged.micro_batches == 2
    assert Pipelined.open(tmp_path, micro_batches=1).micro_batches == 1
    found, expected = staged(inputs(4)), whole(graph, inputs(4))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)
    read = json.loads((tmp_path / MANIFEST).read_text())
    assert read["stages"] == [file.name for file in files]
    assert read["batch_axes"] == {"x": 0, "y": 0, "early": 0}


def test_a_recipe_for_each_stage_lies_beside_it(tmp_path: Path) -> None:
    recipes = [Recipe(session={"intra_op_num_threads": n}) for n in (1, 2)]
    write(split(model(), [3]), tmp_path, recipes=recipes)
    staged = Pipelined.open(tmp_path)
    threads = [s.recipe.session["intra_op_num_threads"] for s in staged.sessions]
    assert threads == [1, 2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema 2"),
        ({"stages": []}, "without a stage"),
        ({"stages": ["../stage_0.onnx"]}, "no file of the folder"),
        ({"stages": ["stage_1.onnx"]}, "no stage gives|nothing gives"),
        ({"stages": ["stage_1.onnx", "stage_0.onnx"]}, "nothing gives"),
        ({"micro_batches": 0}, "micro-batch"),
        ({"micro_batches": "x"}, "no stages of a model"),
        ({"batch_axes": 3}, "no stages of a model"),
        ({"outputs": ["z"]}, "no stage gives the output 'z'"),
        ({"inputs": ["x"]}, "nothing gives 'mask'"),
    ],
)
def test_folders_that_do_not_join(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    write(split(model(), [3]), tmp_path)
    file = tmp_path / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InvalidModel, match=said):
        Pipelined.open(tmp_path)


def test_a_folder_without_stages(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="no stages of a model"):
        Pipelined.open(tmp_path)


# --- real models --------------------------------------------------------------------


@every_model()
def test_a_real_model_in_stages(path: Path) -> None:
    try:
        graph = load(path)
        count = len(ordered(graph))
        inputs = random_inputs(graph, 0, next(iter(bindings(graph))))
        expected = Session(path, optimized=False)(inputs)
    except GraphoptError:
        pytest.skip("not taken")
    if count < 3 or any(is_random(op) for _, op in graph.walk()):
        pytest.skip("nothing to cut, or random")
    try:
        staged = Pipelined.compile(split(graph, [count // 3, 2 * count // 3]))
    except UnsupportedModel:
        pytest.skip("what crosses is no tensor")
    found = staged(inputs)
    for name, array in expected.items():
        scale = np.abs(array).max(initial=1.0) if array.dtype.kind == "f" else 1
        tight = array.dtype != np.float16
        tolerance = scale * (1e-5 if tight else 1e-2)
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance)
