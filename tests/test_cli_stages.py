"""Stages and annotations on the command line: written, read back, run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Command

from graphopt import ops
from graphopt.cli.stages import _put
from graphopt.dims import symbol
from graphopt.errors import UsageError
from graphopt.exporter import save
from graphopt.ir import Graph, Header, Parameter, Value
from graphopt.lowering.ort.stages import MANIFEST, Manifest, read
from graphopt.passes.sharding.annotations import check_annotations
from graphopt.reference import run
from graphopt.types import DType, tensor

WIDTH, LAYERS = 64, 4
WEIGHTS = LAYERS * WIDTH * WIDTH * 4


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Products in a row; half of what they take fits on a device."""
    path = tmp_path / "model.onnx"
    save(chain(), path)
    return path


def chain(mixed: bool = False) -> Graph:
    rng = np.random.default_rng(0)
    x = Parameter(tensor(DType.F32, symbol("batch"), WIDTH), "x")
    value: Value = x
    for _ in range(LAYERS):
        drawn = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8
        value = ops.Relu(ops.MatMul(value, ops.Constant(drawn)))
    if mixed:
        value = ops.Sub(value, ops.ReduceMean(value, ops.Constant(np.array([0]))))
    header = Header(opsets={"": 20}, ir_version=9)
    return Graph([x], [value], output_names=["y"], header=header)


ROW: tuple[object, ...] = ("--mesh", "stage=4", "--target", "ort-cpu")
HALF: tuple[object, ...] = ("--max-memory", WEIGHTS * 5 // 8)


@pytest.mark.runtime
def test_a_folder_of_stages_is_written_and_run(
    model: Path, tmp_path: Path, command: Command
) -> None:
    folder, out = tmp_path / "there", tmp_path / "out.npz"
    words = (*ROW, *HALF, "--micro-batches", "batch=3", "-o", folder)
    code, said, err = command("optimize", model, *words, "--json")
    assert code == 0, err
    found = json.loads(said)
    assert found["output"] == str(folder)
    assert found["check"]["passed"]
    assert found["runtime"]["passed"]
    assert "in stages" in found["runtime"]["runtime"]
    rows = found["pipeline"]["stages"]
    assert 2 <= len(rows) <= 4
    assert sum(row["weight_bytes"] for row in rows) == WEIGHTS
    assert all(row["weight_bytes"] <= WEIGHTS * 5 // 8 for row in rows)
    assert len(list(folder.glob("stage_*.onnx"))) == len(rows)
    x = np.random.default_rng(1).normal(size=(7, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    inputs = ("--inputs", tmp_path / "in.npz")
    code, said, err = command("run", folder, *inputs, "-o", out, "--json")
    assert code == 0, err
    assert json.loads(said)["used"]["micro_batches"] == 3
    truth = run(chain(), {"x": x})
    np.testing.assert_allclose(np.load(out)["y"], truth["y"], rtol=1e-4, atol=1e-5)
    code, said, err = command("run", folder, "--dim", "batch=2")
    assert code == 0, err
    assert "float32[2, 64]" in said


@pytest.mark.runtime
@pytest.mark.filterwarnings("default")
def test_what_the_cpu_runs_instead_is_warned_of_in_a_line(
    model: Path, command: Command
) -> None:
    if (
        "CUDAExecutionProvider"
        in pytest.importorskip("onnxruntime").get_available_providers()
    ):
        pytest.skip("nothing falls back here")
    row = ("--mesh", "stage=4", "--target", "ort-cuda:h100")
    code, _, err = command("optimize", model, *row, *HALF, "--check", "off")
    assert code == 0, err
    code, _, err = command("run", model.with_suffix(".stages"), "--dim", "batch=2")
    assert code == 0, err
    (line,) = [line for line in err.splitlines() if "CPU" in line]
    assert line.startswith("graphopt: warning: all of the model runs on the CPU")
    assert ".py:" not in err


@pytest.mark.runtime
def test_a_folder_is_replaced_only_when_asked(model: Path, command: Command) -> None:
    code, said, err = command("optimize", model, *ROW, *HALF)
    assert code == 0, err
    folder = model.with_suffix(".stages")
    assert f"graphopt run {folder} runs it" in said
    first = len(read(folder).graphs)
    code, _, err = command("optimize", model, *ROW)
    assert code == 2
    assert "-f replaces stages" in err
    code, said, err = command("optimize", model, *ROW, "--check", "off", "-f")
    assert code == 0, err
    assert "would not make it faster" in said
    assert len(read(folder).graphs) < first
    assert sorted(p.name for p in folder.glob("*.onnx")) == ["stage_0.onnx"]
    assert (folder / MANIFEST).is_file()


@pytest.mark.runtime
def test_a_folder_is_checked_against_the_model(model: Path, command: Command) -> None:
    code, _, err = command("optimize", model, *ROW, *HALF, "--check", "off")
    assert code == 0, err
    folder = model.with_suffix(".stages")
    code, said, err = command("check", model, folder, "--json")
    assert code == 0, err
    found = json.loads(said)
    assert found["verdict"]
    assert found["runtime"]["runtime"] == "onnxruntime, in stages"
    code, _, err = command("check", model, folder, "--target", "xla-cpu")
    assert code == 2
    assert "leave out --target" in err
    first, second, *_ = sorted(folder.glob("*.onnx"))
    stage = onnx.load(second)
    (weight, *_) = stage.graph.initializer
    weight.CopyFrom(
        onnx.numpy_helper.from_array(np.ones((WIDTH, WIDTH), "f"), weight.name)
    )
    onnx.save(stage, second)
    code, said, _ = command("check", model, folder)
    assert code == 4
    assert "FAILED" in said
    shutil.copy(first, second)
    code, _, err = command("check", model, folder)
    assert code == 3
    assert "the stages do not join" in err


def written(folder: Path, stages: int, said: str) -> Path:
    """A folder as of so many stages, whose files hold but a word."""
    folder.mkdir(parents=True)
    names = tuple([f"stage_{i}.onnx" for i in range(stages)])
    for name in names:
        (folder / name).write_text(said)
        (folder / name).with_suffix(".session.json").write_text(said)
    manifest = Manifest(names, ("x",), (said,))
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def contents(folder: Path) -> dict[str, str | None]:
    return {p.name: p.read_text() if p.is_file() else None for p in folder.iterdir()}


def test_only_stages_are_replaced(tmp_path: Path) -> None:
    folder = written(tmp_path / "there", 3, "old")
    (folder / "stage_2.onnx.data").write_text("old")
    others = {"stage_notes.txt": "mine", "stage_9.onnx": "mine", "stage_logs": None}
    (folder / "stage_logs").mkdir()
    for name in ("stage_notes.txt", "stage_9.onnx"):
        (folder / name).write_text("mine")
    expected = contents(written(tmp_path / "made" / "once", 2, "new"))
    _put(written(tmp_path / "made" / "stages", 2, "new"), folder)
    assert contents(folder) == expected | others


def test_a_manifest_names_no_file_elsewhere(tmp_path: Path) -> None:
    folder, mine = written(tmp_path / "there", 1, "old"), tmp_path / "mine.onnx"
    mine.write_text("mine")
    for name in (str(mine), "../mine.onnx", "..", "."):
        manifest = Manifest((name,), ("x",), ("y",))
        (folder / MANIFEST).write_text(manifest.to_json())
        made = written(tmp_path / f"made{len(name)}" / "stages", 1, "new")
        _put(made, folder)
        assert mine.read_text() == "mine"
        assert (folder / "stage_0.onnx").read_text() == "new"


def test_stages_that_cannot_be_put_leave_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time another move fails, of old ones out of the way or of new ones."""
    move, folder = shutil.move, written(tmp_path / "there", 2, "old")
    before = contents(folder)
    for number in range(10):
        made = written(tmp_path / str(number) / "stages", 2, "new")
        turns = iter(range(20))

        def moved(source: Path, to: Path, at: int, turns: Iterator[int]) -> None:
            if next(turns) == at:
                raise OSError("no space left")
            move(source, to)

        monkeypatch.setattr(shutil, "move", partial(moved, at=number, turns=turns))
        with pytest.raises(OSError, match="no space"):
            _put(made, folder)
        assert contents(folder) == before


def test_a_folder_in_the_way_is_told_before_anything_moves(tmp_path: Path) -> None:
    folder = written(tmp_path / "there", 1, "old")
    (folder / "stage_1.onnx").mkdir()
    before = contents(folder)
    with pytest.raises(UsageError, match=r"stage_1\.onnx.*not a regular file"):
        _put(written(tmp_path / "made" / "stages", 2, "new"), folder)
    assert contents(folder) == before


@pytest.mark.runtime
def test_nothing_is_written_that_mixes_samples(
    tmp_path: Path, command: Command
) -> None:
    model, folder = tmp_path / "model.onnx", tmp_path / "there"
    save(chain(mixed=True), model)
    words = (*ROW, *HALF, "--micro-batches", "batch=2", "-o", folder)
    code, _, _ = command("optimize", model, *words)
    assert code == 4
    assert not folder.exists()
    assert not list(tmp_path.glob(".stages*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mesh", "stage=2,model=4"), "no collectives: write --mesh stage=8"),
        (("--mesh", "8"), "write --mesh stage=8"),
        (("--mesh", "stage=2", "--tie", "x=y"), "not of stages"),
        (("--mesh", "stage=2", "--link", "model=1us,1GB/s"), "no axis 'model'"),
        (("--mesh", "stage=2", "--micro-batches", "rows=2"), "called 'rows'"),
        (("--mesh", "stage=2", "--micro-batches", "batch=0"), "write BATCH=N"),
        (
            ("--mesh", "stage=2", "--micro-batches", "batch=2", "--dim", "batch=4"),
            "leave that out",
        ),
        (("--mesh", "stage=2", "--weights", "inline"), "leave out --weights"),
        (("--mesh", "stage=2", "--annotations"), "not of stages"),
        (("--micro-batches", "batch=2"), "add --mesh"),
        (("--annotations",), "add --mesh"),
    ],
)
def test_mistakes_are_told(
    model: Path, command: Command, words: tuple[str, ...], said: str
) -> None:
    code, _, err = command("optimize", model, "--target", "ort-cpu", *words)
    assert code == 2
    assert said in err


@pytest.mark.parametrize("name", ["run", "inspect", "optimize"])
@pytest.mark.parametrize("mesh", ["stage=2", "stage=2,data=4", "data=4,stage=2"])
def test_stages_are_no_axis_of_a_mesh(
    digits: Path, command: Command, name: str, mesh: str
) -> None:
    targets = ["xla-cpu", *(["ort-cpu"] if name == "run" else [])]
    for target in targets:
        code, out, err = command(name, digits, "--mesh", mesh, "--target", target)
        assert (code, out) == (2, "")
        assert "graphopt optimize --mesh stage=2 --target ort-cpu" in err
        assert "another name" in err


def test_stages_that_do_not_fit(model: Path, command: Command) -> None:
    words = ("--max-memory", WEIGHTS // 16)
    code, _, _ = command("optimize", model, *ROW, *words)
    assert code == 6
    assert not model.with_suffix(".stages").exists()


def test_a_plan_is_also_written_as_annotations(
    model: Path, tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "planned.onnx"
    words = ("--mesh", "2x2", "--target", "xla-cuda:h100", "--dim", "batch=4")
    bound = ("--max-memory", WEIGHTS * 3 // 4, "--annotations", "-o", path)
    code, said, err = command("optimize", model, *words, *bound)
    assert code == 0, err
    assert "annotated 8 nodes" in said
    made = onnx.load(path)
    check_annotations(made)
    assert [c.num_devices for c in made.configuration] == [4]
    said_of = [each for node in made.graph.node for each in node.device_configurations]
    specs = [spec for each in said_of for spec in each.sharding_spec]
    assert any(spec.sharded_dim for spec in specs)
    code, _, err = command("inspect", path, "--mesh", "--target", "xla-cuda:h100")
    assert code == 0, err


def test_annotations_that_no_runtime_reads_are_not_written(
    tmp_path: Path, command: Command
) -> None:
    model, path = tmp_path / "model.onnx", tmp_path / "planned.onnx"
    save(chain(), model, ir_version=14)
    words = ("--mesh", "2", "--target", "xla-cuda:h100", "-o", path)
    code, _, err = command("optimize", model, *words, "--annotations")
    assert code != 0
    assert "IR version" in err
    assert not path.exists()
