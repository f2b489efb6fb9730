"""Sizes that a model takes, where it does not take the usual ones: one answer for all.

The model adds one of 64 positions to each token.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import onnx
import onnx.parser
import pytest
from conftest import Command
from onnx import TensorProto, helper

from graphopt.cli.feeding import feeding
from graphopt.dims import symbol
from graphopt.errors import UsageError
from graphopt.fitting import fitting
from graphopt.importer import load
from graphopt.inputs import likely
from graphopt.interface import Interface, Port
from graphopt.ir import Graph, Parameter
from graphopt.types import DType, TensorType

POSITIONS = """
<ir_version: 8, opset_import: ["" : 17]>
positions (float[batch, seq] x) => (float[batch, seq] y)
<int64[2] sides = {1, 64}, int64[1] zero = {0}, int64[1] one = {1}>
{
    table = ConstantOfShape(sides)
    length = Shape<start: int = 1>(x)
    some = Slice(table, zero, length, one)
    sum = Add(x, some)
    y = Softmax(sum)
}
"""

IMPOSSIBLE = "these dims are impossible: Add"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "positions.onnx"
    onnx.save(onnx.parser.parse_model(POSITIONS), found)
    return found


def test_the_largest_usual_sizes_that_fit(path: Path) -> None:
    graph = load(path)
    sizes, sized = fitting(graph)
    assert sizes == {"batch": 1, "seq": 64}
    assert sized.inputs[0].shape == (1, 64)
    assert fitting(graph, {"batch": 3})[0] == {"batch": 3, "seq": 64}
    with pytest.raises(UsageError, match=IMPOSSIBLE):
        fitting(graph, {"seq": 65})


def test_sizes_go_down_one_by_one_and_together() -> None:
    a, b = (TensorType(DType.F32, (symbol(name),)) for name in "ab")
    graph = Graph([Parameter(a, "a"), Parameter(b, "b")], [])
    tried = list(likely(graph))
    assert tried[0] == {"a": 128, "b": 128}
    pairs = [(64, 128), (128, 64), (64, 64), (32, 128), (128, 32), (32, 32)]
    assert [(t["a"], t["b"]) for t in tried[1:7]] == pairs
    assert {"a": 1, "b": 1} in tried


def test_what_has_no_rank_keeps_it() -> None:
    graph = Graph([Parameter(TensorType(DType.F32, None), "x")], [])
    assert fitting(graph)[1].inputs[0].shape is None


def test_plans_of_memory(command: Command, path: Path) -> None:
    code, out, _ = command("inspect", path, "--memory", "--json")
    assert code == 0
    assert json.loads(out)["sizes"] == {"batch": 1, "seq": 64}
    code, _, err = command("inspect", path, "--memory", "--dim", "seq=65")
    assert (code, IMPOSSIBLE in err) == (2, True)


def test_limits_of_memory_name_their_sizes(command: Command, path: Path) -> None:
    line = ("optimize", path, "--check", "off", "--max-memory")
    code, _, err = command(*line, "700")
    assert code == 6
    assert "with batch = 1, seq = 64, the smallest plan found takes" in err
    code, out, _ = command(*line, "700", "--json")
    assert json.loads(out)["error"]["sizes"] == {"batch": 1, "seq": 64}
    assert command(*line, "1300")[0] == 0  # 128 tokens would take 2 KiB


def test_measuring_names_the_targets_that_can(command: Command, path: Path) -> None:
    code, _, err = command("inspect", path, "--memory", "--measure")
    assert (code, "add --target ort-cpu or --target xla-cpu" in err) == (2, True)


def test_bench_takes_the_largest(command: Command, path: Path) -> None:
    line = ("bench", path, "--target", "reference", "--rounds", "1")
    found = json.loads(command(*line, "--json")[1])
    assert found["sizes"] == {"batch": 1, "seq": 64}
    code, _, err = command(*line, "--dim", "seq=65")
    assert (code, IMPOSSIBLE in err) == (2, True)


def test_bench_refuses_models_with_other_inputs(command: Command, path: Path) -> None:
    other = path.with_name("other.onnx")
    text = POSITIONS.replace("(x", "(p").replace("] x)", "] p)")
    onnx.save(onnx.parser.parse_model(text), other)
    line = ("bench", path, other, "--target", "reference", "--rounds", "1")
    code, _, err = command(*line)
    assert (code, f"{other} has other inputs: p" in err) == (2, True)


def test_bench_takes_models_that_need_fewer(command: Command, path: Path) -> None:
    """An input with a default is not asked for."""
    other = path.with_name("other.onnx")
    model = onnx.parser.parse_model(POSITIONS)
    given = helper.make_tensor_value_info("zero", TensorProto.INT64, [1])
    model.graph.input.append(given)
    onnx.save(model, other)
    line = ("bench", path, other, "--target", "reference", "--rounds", "1")
    assert command(*line)[0] == 0


def test_programs_say_what_they_take() -> None:
    port = Port("x", "float32", ("batch", "seq"))
    names = "batch", "seq"
    made = Interface("0", "0", ("cpu",), (port,), (), names, ("seq <= 64",))
    assert made.refused({"batch": 1, "seq": 65}) == ("seq", "<=", 64)
    assert made.refused({"batch": 0}) == ("batch", ">=", 1)
    assert made.refused({"batch": 1, "seq": 64}) is None


def test_bench_feeds_a_program_what_it_takes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = Port("x", "float32", ("batch", "seq"))
    made = Interface("0", "0", ("cpu",), (port,), (), ("batch", "seq"), ("seq <= 64",))
    monkeypatch.setattr("graphopt.cli.feeding.read_interface", lambda _: made)
    options = argparse.Namespace(inputs=None, dim=[], seed=0)
    program = path.with_suffix(".stablehlo")
    shape, _, sizes = feeding(options, program, lambda fed: fed["x"].shape, timed=True)
    assert (shape, sizes) == ((1, 64), {"batch": 1, "seq": 64})


@pytest.mark.parametrize("target", ["reference", "ort-cpu"])
def test_runs(command: Command, path: Path, target: str) -> None:
    if target == "ort-cpu":
        pytest.importorskip("onnxruntime")
    line = ("run", path, "--target", target)
    code, _, err = command(*line, "--dim", "seq=65")
    assert (code, IMPOSSIBLE in err) == (2, True)
    code, _, err = command(*line, "--seed", "7")
    said = "graphopt: random inputs, seed 7 (or give --inputs): x [2, 2]\n"
    assert (code, said in err) == (0, True)
    assert command(*line, "-q") == (0, "", "")
