"""``--mesh`` on the command line: planned, kept in a file, run on virtual devices."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command

import graphopt
from graphopt import UsageError, ops
from graphopt.dims import symbol
from graphopt.exporter import save
from graphopt.ir import Graph, Parameter
from graphopt.passes.sharding import Mesh
from graphopt.reference import run as reference
from graphopt.sharded import all_sizes, with_sizes
from graphopt.specialize import specialize
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


@pytest.mark.slow
def test_less_memory_splits_the_weights(digits: Path, command: Command) -> None:
    rest = ("--mesh", "4", "--target", "xla-cuda:h100", "--dim", "batch=8", "--json")
    _, out, _ = command("inspect", digits, *rest)
    free = json.loads(out)
    limit = held(free) * 4 // 5
    code, out, err = command("inspect", digits, *rest, "--max-memory", str(limit))
    assert code == 0, err
    tight = json.loads(out)
    assert held(tight) <= limit
    assert tight["seconds"] >= free["seconds"]
    assert sum(tight["sent_bytes"].values()) > 0


def test_no_plan_fits_into_nothing(digits: Path, command: Command) -> None:
    code, _, err = command("inspect", digits, "--mesh", "2", "--max-memory", "1KiB")
    assert code == 6
    assert "1,024 bytes" in err
    enough = re.search(r"for ([\d,]+) \(.*\) there is one", err)
    assert enough is not None
    limit = enough[1].replace(",", "")
    for room, left in ((limit, 0), (str(int(limit) // 2), 6)):
        words = ("--mesh", "2", "--max-memory", room)
        assert command("inspect", digits, *words)[0] == left


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
        (("--mesh", "--dim", "batch=2"), "the sizes that it was made with"),
        (("--mesh", "2", "--target", "ort-cpu"), "run in XLA"),
        (("--mesh", "2", "-o", "/none/plan.svg"), "no folder /none"),
        (("--mesh", "2x1024", "--target", "xla-tpu:v5e"), "name a grid"),
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


def test_sizes_that_a_plan_fixes_are_told(
    digits: Path, tmp_path: Path, command: Command
) -> None:
    mesh = ("--mesh", "2", "--target", "xla-cuda:h100", "--check", "off")
    code, said, err = command("optimize", digits, *mesh, "-o", tmp_path / "a.onnx")
    assert code == 0, err
    assert "for these sizes alone: --dim batch=" in said


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
    assert found["memory"]["limit_bytes"] == weights * 3 // 4
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


# --- what a step leaves for the next ------------------------------------------------


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """Attention with a cache, of any number of tokens."""
    tokens, past = symbol("tokens"), symbol("past")
    x = Parameter(TensorType(DType.F32, (4, 8, tokens, 16)), "x")
    old = [Parameter(TensorType(DType.F32, (4, 8, past, 16)), n) for n in ("k", "v")]
    new = [ops.Concat(old[0], ops.Relu(x), axis=2), ops.Concat(old[1], x, axis=2)]
    made = ops.Attention(x, *new)
    path = tmp_path / "decoder.onnx"
    names = ["y", "new_k", "new_v"]
    save(Graph([x, *old], [made, *new], output_names=names), path)
    return path


DEVICES: tuple[str, ...] = ("--mesh", "2", "--target", "xla-cuda:h100")


def test_regimes_and_caches_are_told(decoder: Path, command: Command) -> None:
    _, out, _ = command("inspect", decoder, *DEVICES)
    assert out.startswith("planned for: --dim tokens=128 --dim past=128\n")
    assert "regime: prefill of 128 tokens behind 128 of the past" in out
    assert "decode is a plan of its own: --dim tokens=1" in out
    one = ("--dim", "tokens=1", "--dim", "past=64")
    _, out, _ = command("inspect", decoder, *DEVICES, *one)
    assert "regime: decode of one token with a cache of 64" in out
    assert "prefill is a plan of its own: --dim tokens=128" in out
    _, out, _ = command("inspect", decoder, *DEVICES, *one, "--json")
    found = json.loads(out)
    assert found["regimes"]["decode"] == {"tokens": 1}
    cache = found["cache"]
    assert cache["count"] == 2
    assert cache["whole_bytes"] == 2 * 4 * 8 * 65 * 16 * 4
    assert cache["apart"] == cache["moved_seconds"] == 0
    laid = {row["name"]: row["layout"] for row in found["held"]}
    assert [laid["k"], laid["v"]] == [
        found["outputs"]["new_k"],
        found["outputs"]["new_v"],
    ]
    parts = cache["whole_bytes"] / cache["bytes"]
    assert parts in (1, 2)


def test_ties_are_named_and_refused(decoder: Path, command: Command) -> None:
    code, _, err = command("inspect", decoder, *DEVICES, "--tie", "k=new")
    assert code == 2
    assert "no output is called 'new'" in err
    code, _, err = command("inspect", decoder, *DEVICES, "--tie", "k")
    assert code == 2
    assert "INPUT=OUTPUT" in err
    code, _, err = command("inspect", decoder, *DEVICES, "--tie", "k=new_k", "--no-tie")
    assert code == 2
    code, out, _ = command("inspect", decoder, *DEVICES, "--tie", "k=new_v", "--json")
    assert json.loads(out)["cache"]["count"] == 1
    code, _, err = command("inspect", decoder, "--no-tie")
    assert code == 2
    assert "add --mesh" in err


# --- sizes, meshes and devices ------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "batch"),
    [
        ({"x:0": "n"}, 1),
        ({"x:0": "n", "n": 6}, 6),
        ({"batch": "n", "n": 4}, 4),
        ({"x:0": 4}, 4),
        ({"x:1": "n"}, 1),
        ({"batch": 3, "x:1": 7}, 3),
    ],
)
def test_a_dim_that_is_renamed_or_freed_has_a_size(
    dims: dict[str, int | str], batch: int
) -> None:
    x = Parameter(TensorType(DType.F32, (symbol("batch"), 5)), "x")
    graph = Graph([x], [ops.Relu(x)], output_names=["y"])
    made = specialize(graph, *all_sizes(graph, dims, {})).graph.inputs[0]
    assert made.shape is not None
    assert made.shape[0] == batch
    columns = {"n": 128, 7: 7}.get(dims.get("x:1", ""), 5)
    assert made.shape[1] == columns


def test_sizes_of_named_shapes() -> None:
    x = Parameter(TensorType(DType.F32, None), "x")
    graph = Graph([x], [ops.Relu(x)], output_names=["y"])
    dims, shapes = all_sizes(graph, {"n": 3}, {"x": ("n", 8)})
    made = specialize(graph, dims, shapes).graph.inputs[0]
    assert made.shape == (3, 8)


def test_a_plan_is_written_for_a_dim_of_another_name(
    digits: Path, tmp_path: Path, command: Command
) -> None:
    (x, *_) = graphopt.load(digits).inputs
    rest = planning(tmp_path / "p.onnx")
    code, _, err = command("optimize", digits, "--dim", f"{x.name}:0=n", *rest)
    assert code == 0, err
    assert graphopt.load(tmp_path / "p.onnx").inputs[0].shape[0] == 1


def branching() -> Graph:
    """Branches of which one takes 200 numbers or more."""
    x = Parameter(TensorType(DType.F32, (1, symbol("n"))), "x")
    flag = Parameter(TensorType(DType.BOOL, ()), "flag")
    inner = Parameter(x.type, "inner")
    wide = ops.Conv(
        ops.Unsqueeze(inner, ops.Constant(np.array([1]))),
        ops.Constant(np.ones((1, 1, 200), np.float32)),
    )
    bodies = [
        Graph([inner], [ops.ReduceSum(v)], output_names=["s"]) for v in (wide, inner)
    ]
    made = ops.If(flag, x, bodies=bodies)
    return Graph([x, flag], [made], output_names=["y"])


def test_sizes_that_no_branch_forbids() -> None:
    """Usual ones would leave a branch that XLA cannot run."""
    graph = branching()
    assert specialize(graph, {"n": 128}).forbidden
    made = with_sizes(graph, {})
    (shape, *_) = (p.shape for p in made.inputs)
    assert shape is not None
    assert shape[1] >= 200  # type: ignore[operator]
    assert with_sizes(graph, {"n": 128}).inputs[0].shape == (1, 128)


@pytest.mark.parametrize("mesh", ["2x4", (2, 4), [2, 4]])
def test_a_mesh_is_given_in_many_ways(mesh: Any) -> None:
    assert Mesh.of(mesh) == Mesh((("x", 2), ("y", 4)))


def test_meshes_that_are_none() -> None:
    assert Mesh.of(8) == Mesh.parse("8")
    assert Mesh.of({"data": 2, "model": 4}) == Mesh.parse("data=2,model=4")
    for mesh in ((2, "4"), 0, (), {"2": 2}, 2.5):
        with pytest.raises(UsageError, match="mesh"):
            Mesh.of(mesh)  # type: ignore[arg-type]


def test_a_grid_with_too_few_chips(digits: Path, command: Command) -> None:
    for target, said in (
        ("xla-tpu:v5e:2x2", "has 8 devices, and xla-tpu:v5e:2x2 4"),
        ("xla-tpu:tpu7x:1x1x1", "xla-tpu:tpu7x:1x1x1 2"),
    ):
        mesh = ("--mesh", "2x4", "--target", target)
        code, _, err = command("inspect", digits, *mesh)
        assert code == 2
        assert said in err
    code, _, err = command("optimize", digits, *mesh, "--dry-run")
    assert code == 2
    assert said in err


@pytest.mark.tpu
def test_a_grid_is_found_where_none_is_named(digits: Path, command: Command) -> None:
    pytest.importorskip("libtpu")
    target = ("--target", "xla-tpu:v5e", "--dim", "batch=8", "--json")
    code, out, err = command("inspect", digits, "--mesh", "2x4", *target)
    assert code == 0, err
    assert json.loads(out)["compiled"]["target"] == "xla-tpu:v5e:2x4"


def test_onnx_runtime_has_no_meshes() -> None:
    with pytest.raises(UsageError, match="no collectives"):
        graphopt.shard(Graph([], []), 2, "ort-cpu")


def test_the_search_has_a_limit(digits: Path, command: Command) -> None:
    words = ("--mesh", "2", "--search-seconds")
    for enough in ("5", "0"):  # the first plan comes in any case
        code, _, err = command("inspect", digits, *words, enough)
        assert code == 0, err
    for wrong in ("quick", "-1"):
        code, _, err = command("inspect", digits, *words[:2], f"{words[2]}={wrong}")
        assert code == 2
        assert "--search-seconds" in err
