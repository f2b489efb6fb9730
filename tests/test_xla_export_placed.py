"""Programs for XLA on the command line: checked, put in place, refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import (
    CheckFailed,
    Graph,
    UnsupportedModel,
)
from graphopt.interface import SUFFIX
from graphopt.ir import Parameter
from graphopt.lowering import find, to_program
from graphopt.ops import (
    Concat,
)
from graphopt.types import DType, tensor

jax = pytest.importorskip("jax")
pytest.importorskip("flatbuffers")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.xla

from jax import export  # noqa: E402
from xla_programs import (  # noqa: E402
    alone,
    linear,
    model,
    normal,
    saved,
    source as source,
)

Command = Callable[..., tuple[int, str, str]]

DOCS = Path(__file__).parents[1] / "docs"


def test_the_command_line(source: Path, command: Command) -> None:
    code, out, _ = command("optimize", source, "--target", "xla-tpu", "--json")
    assert code == 0
    members = json.loads(out)
    path = source.with_name("m.opt.stablehlo")
    assert members["output"] == str(path)
    assert members["target"] == "xla-tpu"
    assert members["program"]["weights"] == "m.opt.safetensors"
    assert members["program"]["symbols"] == ["n"]
    assert members["runtime"]["passed"] is True
    assert members["check"]["passed"] is True
    code, out, _ = command("run", path, "--target", "xla-cpu", "--dim", "n=5")
    assert code == 0
    assert "y: float32[5, 2]" in out
    line = ("bench", path, path, "--target", "xla-cpu", "--rounds", "2")
    assert command(*line)[0] == 0
    for target in ("reference", "ort-cpu"):
        code, _, err = command("run", path, "--target", target)
        assert code == 2
        assert "--target xla-cpu" in err


@pytest.mark.parametrize("name", ["inspect", "check", "optimize", "explain", "extract"])
def test_a_program_is_no_model(name: str, source: Path, command: Command) -> None:
    path = source.with_name("m.opt.stablehlo")
    saved(linear(), path)
    more = {"check": (source, path), "extract": (path, "--outputs", "y")}
    code, _, err = command(name, *more.get(name, (path,)))
    assert code == 2
    assert f"{path} is a program for XLA" in err


def test_run_gives_what_the_model_gives(source: Path, command: Command) -> None:
    command("optimize", source, "--target", "xla-cpu")
    arrays = source.with_name("in.npz")
    np.savez(arrays, x=normal(4, 3))
    outputs = []
    for name, target in (
        ("m.onnx", "reference"),
        ("m.opt.stablehlo", "xla-cpu"),
    ):
        out = source.with_name(f"{target}.npz")
        line = ("run", source.with_name(name), "--target", target, "-o", out)
        assert command(*line, "--inputs", arrays)[0] == 0
        with np.load(out) as made:
            outputs.append(made["y"])
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)


def test_nothing_that_exists_is_replaced_unasked(
    source: Path, command: Command
) -> None:
    line = ("optimize", source, "--target", "xla-cpu")
    weights = source.with_name("m.opt.safetensors")
    weights.write_text("precious")
    code, _, err = command(*line)
    assert code == 2
    assert "m.opt.safetensors exists; -f" in err
    assert weights.read_text() == "precious"
    assert command(*line, "--bake-weights")[0] == 0
    assert weights.read_text() == "precious"
    assert command(*line, "-f")[0] == 0
    assert weights.read_bytes()[:8] != b"precious"
    code, _, err = command(*line, "-f", "-o", source)
    assert code == 2
    assert "it is the input" in err
    onnx.load(source)


def test_weights_of_a_program_are_kept(source: Path, command: Command) -> None:
    program, weights = (source.with_name(f"m.opt{s}") for s in (SUFFIX, ".safetensors"))
    line = ("optimize", source, "--target", "xla-cpu")
    code, _, err = command(*line, "--report", weights)
    assert code == 2
    assert "is written, too" in err
    assert not weights.exists()
    assert command(*line)[0] == 0
    before = weights.read_bytes()
    code, _, err = command("run", program, "--target", "xla-cpu", "-o", weights, "-f")
    assert code == 2
    assert "belongs to the input" in err
    assert weights.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--target", "xla-cpu", "--weights", "inline"), "--bake-weights"),
        (("--target", "xla-cpu", "--opset", "latest"), "--opset"),
        (("--target", "xla-cpu", "-o", "out.onnx"), ".stablehlo"),
        (("-o", "out.stablehlo"), "XLA target"),
        (("--bake-weights",), "--weights inline"),
        (("--target", "xla-cpu", "--precision", "fp16"), "is for models"),
    ],
)
def test_options_that_do_not_fit(
    options: tuple[str, ...],
    told: str,
    source: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(source.parent)
    code, _, err = command("optimize", source, *options)
    assert code == 2
    assert told in err
    assert os.listdir() == ["m.onnx"]


def test_a_rehearsal_writes_nothing(source: Path, command: Command) -> None:
    code, out, _ = command("optimize", source, "--target", "xla-cpu", "--dry-run")
    assert code == 0
    assert "XLA on the CPU gives the same outputs" in out
    assert os.listdir(source.parent) == ["m.onnx"]


def test_a_program_that_computes_something_else_is_rejected(
    source: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphopt.lowering.xla.function import Function

    right = Function.__call__

    def wrong(self: Function, *args: Any, **named: Any) -> Any:
        return {name: 1.01 * array for name, array in right(self, *args).items()}

    monkeypatch.setattr(Function, "__call__", wrong)
    line = ("optimize", source, "--target", "xla-cpu")
    code, out, _ = command(*line, "--json")
    assert code == 4
    error = json.loads(out)["error"]
    kept = source.with_name("m.opt.rejected.stablehlo")
    assert error["rejected"] == str(kept)
    assert "'y'" in error["message"]
    assert sorted(os.listdir(source.parent)) == [
        "m.onnx",
        "m.opt.rejected.safetensors",
        "m.opt.rejected.stablehlo",
    ]
    find("xla-cpu").open(kept)
    assert command(*line, "--check", "off")[0] == 0


def test_what_was_not_run_is_said(
    source: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("optimize", source, "--target", "xla-cpu", "-f")
    monkeypatch.setattr("graphopt.artifact.MEMORY", 1)
    code, out, _ = command(*line)
    assert code == 0
    assert "not run in XLA on the CPU: the reference does not run" in out
    code, out, _ = command(*line, "--check", "off")
    assert code == 0
    assert "not checked" in out
    assert "XLA on the CPU" not in out


@pytest.mark.parametrize("target", ["xla-cpu", "xla-cuda", "xla-tpu"])
def test_what_one_platform_alone_can_run(
    target: str, source: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch, NotImplementedError)
    code, out, _ = command("optimize", source, "--target", target, "--json")
    assert code == 0
    members, platform = json.loads(out), target.removeprefix("xla-")
    assert members["program"]["platforms"] == [platform]
    assert f"the program runs on {platform} only" in members["notes"]
    assert members["check"]["passed"] is True
    tried = members["runtime"]
    assert tried["passed"] is (True if platform == "cpu" else None)
    assert platform == "cpu" or f"for {platform} only" in tried["note"]


def test_what_no_platform_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(function: Any, *, platforms: Any) -> Any:
        raise ValueError("nothing has it.\nmore")

    monkeypatch.setattr(export, "export", lacks)
    with pytest.raises(UnsupportedModel, match=r"for cpu: nothing has it$"):
        to_program(linear(), "xla-cpu")


def test_the_reason_reaches_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = graphopt.optimize(linear(), "xla-cpu")
    monkeypatch.setattr(
        "graphopt.lowering.xla.exported.ExportedProgram.run",
        lambda self, inputs: {"y": np.zeros((2, 2), np.float32)},
    )
    with pytest.raises(CheckFailed, match="XLA on the CPU, output 'y'"):
        result.save(tmp_path / "m.stablehlo")


REFUSED = {
    "the same random": "(float[n] x) => (float[n] y) { y = RandomNormalLike(x) }",
    "y.*no tensor": "(float[2] x) => (seq(float[a]) y) { y = SplitToSequence(x) }",
    "operand 'boxes'": """(float[1, n, 4] b, float[1, 1, n] s) => (int64[k, 3] y) {
        y = NonMaxSuppression(b, s)
    }""",
    "no element type": "(float[n] x) => (string[n] y) { y = Cast <to = 8> (x) }",
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_no_program_can_be(told: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=told):
        saved(graphopt.load(model(f"graph {REFUSED[told]}")), tmp_path / "m.stablehlo")
    assert os.listdir(tmp_path) == []


def test_what_xla_lacks_is_refused_by_name(tmp_path: Path) -> None:
    x = Parameter(tensor(DType.STRING, 2), "x")
    with pytest.raises(UnsupportedModel, match="strings"):
        saved(Graph([x], [Concat(x, x, axis=0)]), tmp_path / "m.stablehlo")
    joined = "y = ConcatFromSequence <axis = 0> (x)"
    made = model(f"graph (seq(float[2]) x) => (float[n] y) {{ {joined} }}")
    with pytest.raises(UnsupportedModel, match="takes tensors"):
        saved(graphopt.load(made), tmp_path / "m.stablehlo")
    assert os.listdir(tmp_path) == []
