"""``--mesh`` on the command line: planned, kept in a file, run on virtual devices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command

import graphopt
from graphopt import ops
from graphopt.exporter import save
from graphopt.ir import Graph, Parameter
from graphopt.reference import run as reference
from graphopt.types import DType, TensorType

pytestmark = pytest.mark.xla


def started(*words: object) -> dict[str, Any]:
    """What a command prints that needs devices of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "graphopt.cli", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def held(found: dict[str, Any]) -> int:
    """Bytes of a device that the plan counts."""
    memory: dict[str, int] = found["memory"]
    counted = ("weight", "input", "output", "activation")
    return sum(memory[f"{what}_bytes"] for what in counted)


def test_inspect_tells_the_plan(digits: Path, command: Command) -> None:
    target = ("--target", "xla-cuda:h100", "--dim", "batch=8")
    code, out, _ = command("inspect", digits, "--mesh", "data=4", *target)
    assert code == 0
    assert "proved best" in out
    _, out, _ = command("inspect", digits, "--mesh", "4", *target, "--json")
    found = json.loads(out)
    assert found["mesh"] == {"x": 4}
    assert found["solved"]["gap"] <= 1e-4


def test_less_memory_splits_the_weights(digits: Path, command: Command) -> None:
    rest = ("--mesh", "4", "--target", "xla-cuda:h100", "--dim", "batch=8", "--json")
    _, out, _ = command("inspect", digits, *rest)
    free = json.loads(out)
    limit = held(free) * 4 // 5
    code, out, err = command("inspect", digits, *rest, "--max-memory", str(limit))
    assert code == 0, err
    tight = json.loads(out)
    assert held(tight) <= limit
    assert tight["solved"]["seconds"] >= free["solved"]["seconds"]
    assert sum(tight["sent_bytes"].values()) > 0


def test_no_plan_fits_into_nothing(digits: Path, command: Command) -> None:
    code, _, err = command("inspect", digits, "--mesh", "2", "--max-memory", "1KiB")
    assert code == 6
    assert "1,024 bytes" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mesh", "2y4"), "cannot read the mesh"),
        (("--mesh", "a=2,a=2"), "twice"),
        (("--mesh", "2", "--link", "z=1us,1GB/s"), "no axis 'z'"),
        (("--mesh", "2", "--link", "x=quick"), "cannot read the link"),
        (("--link", "x=1us,1GB/s"), "add --mesh"),
        (("--mesh",), "holds no plan"),
        (("--mesh", "--max-memory", "1MiB"), "takes the plan of the file"),
        (("--mesh", "2", "--target", "ort-cpu"), "run in XLA"),
        (("--mesh", "2", "--memory"), "leave out --memory"),
        (("--mesh", "2", "--target", "xla-cuda:h1000"), "h1000"),
    ],
)
def test_mistakes_are_told(
    digits: Path, command: Command, words: tuple[str, ...], said: str
) -> None:
    code, _, err = command("inspect", digits, *words)
    assert code == 2
    assert said in err


@pytest.mark.slow
def test_a_file_keeps_its_plan_and_runs_by_it(
    digits: Path, digits_inputs: Path, tmp_path: Path
) -> None:
    planned, out = tmp_path / "planned.onnx", tmp_path / "out.npz"
    images = dict(np.load(digits_inputs))
    images = {name: array[:8] for name, array in images.items()}
    np.savez(tmp_path / "in.npz", **images)
    weights = sum(t.nbytes for t in graphopt.load(digits).tensors())
    mesh = ("--mesh", "data=2,model=4", "--target", "xla-cuda:h100")
    limit = ("--max-memory", str(weights * 3 // 4))
    started("optimize", digits, *mesh, *limit, "--dim", "batch=8", "-o", planned)
    found = started("inspect", planned, "--mesh")
    assert found["mesh"] == {"data": 2, "model": 4}
    assert any(set(row["layout"]) != {"R"} for row in found["held"])
    told = started("run", planned, "--mesh", "--inputs", tmp_path / "in.npz", "-o", out)
    assert told["used"]["devices"] == 8
    truth = reference(graphopt.load(digits), images)
    for name, array in np.load(out).items():
        np.testing.assert_allclose(array, truth[name], rtol=1e-4, atol=1e-5)
    assert not any("mesh" in op.domain for op in graphopt.load(planned).ops)


@pytest.mark.tpu
def test_chips_that_are_not_here_are_compiled_for(
    digits: Path, command: Command
) -> None:
    pytest.importorskip("libtpu")
    target = ("--target", "xla-tpu:v5e:4x4", "--dim", "batch=16", "--json")
    code, out, err = command("inspect", digits, "--mesh", "4x4", *target)
    assert code == 0, err
    compiled = json.loads(out)["compiled"]
    assert compiled["status"] == "compiled, not executed"
    assert 0 < compiled["memory"]["hbm_bytes"] < compiled["memory"]["hbm_limit_bytes"]
    assert compiled["sent"]["bytes"] == compiled["sent"]["foreseen_bytes"]


def planning(output: Path) -> tuple[object, ...]:
    return ("--mesh", "2", "--target", "xla-cuda:h100", "--output", output)


def test_a_plan_for_inputs_without_a_rank_takes_their_shapes(
    tmp_path: Path, command: Command
) -> None:
    x = Parameter(TensorType(DType.F32, None), "x")
    model = tmp_path / "model.onnx"
    save(Graph([x], [ops.Relu(x)], output_names=["y"]), model)
    words = planning(tmp_path / "p.onnx")
    code, _, err = command("optimize", model, *words)
    assert code == 2
    assert "rank of input 'x' is not known" in err
    code, _, err = command("optimize", model, *words, "--input-shape", "x=4,8")
    assert code == 0, err
    (given,) = graphopt.load(tmp_path / "p.onnx").inputs
    assert given.shape == (4, 8)


def test_sizes_of_shapes_are_not_usual_ones(
    digits: Path, tmp_path: Path, command: Command
) -> None:
    (x,) = graphopt.load(digits).inputs
    sides = ",".join(map(str, [6, *(x.shape or ())[1:]]))
    words = planning(tmp_path / "p.onnx")
    code, _, err = command(
        "optimize", digits, *words, "--input-shape", f"{x.name}={sides}"
    )
    assert code == 0, err
    (given,) = graphopt.load(tmp_path / "p.onnx").inputs
    assert (given.shape or ())[0] == 6
