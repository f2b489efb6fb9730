"""Putting a result in place: proved first, whole or not at all, nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import CheckFailed, Graph, Result, UsageError, artifact, load
from graphopt.exporter import save
from graphopt.ir import Parameter
from graphopt.lowering.isolated import Artifact, Outcome
from graphopt.ops import Add, Constant, Identity, RandomNormalLike, Relu
from graphopt.output import REJECTED_KEY
from graphopt.plan import METADATA_KEY, Plan
from graphopt.types import DType, tensor
from graphopt.weights import Tensor

F = tensor(DType.F32, 300)


@pytest.fixture
def result() -> Result:
    x = Parameter(F, "x")
    weight = Constant(np.linspace(-1, 1, 300, dtype=np.float32))
    graph = Graph([x], [Relu(Identity(Add(x, weight)))], output_names=["y"])
    return graphopt.optimize(graph.with_header(opsets={"": 17}))


Gives = Callable[[Any], Any] | str
"""What the runtime makes of the right output, or says instead."""


def runs(monkeypatch: pytest.MonkeyPatch, *outcomes: Gives) -> list[Artifact]:
    """Let the runtime give these outputs, or errors; what it was asked to run."""
    asked: list[Artifact] = []

    def run(
        artifacts: Sequence[Artifact], inputs: Mapping[str, Any], limit_s: float
    ) -> list[Outcome]:
        asked.extend(artifacts)
        assert all(Path(a.path).exists() for a in artifacts)
        weight = np.linspace(-1, 1, 300, dtype=np.float32)
        y = np.maximum(inputs["x"] + weight, 0)
        return [
            Outcome(None, each) if isinstance(each, str) else Outcome({"y": each(y)})
            for each in outcomes
        ]

    monkeypatch.setattr(artifact, "run", run)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    return asked


def same(y: Any) -> Any:
    return y


def test_what_is_written_is_what_was_checked(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    saved = result.save(path)
    assert os.listdir(tmp_path) == ["out.onnx"]
    assert [op.kind for op in load(path).ops] == ["Constant", "Add", "Relu"]
    assert saved.report.output == str(path)
    assert saved.report.bytes.after == path.stat().st_size
    assert saved.report.check is not None
    assert saved.report.check.passed


def test_saved_over_an_older_file(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    path.write_text("old")
    with pytest.raises(UsageError, match="overwrite=True"):
        result.save(path)
    assert path.read_text() == "old"
    result.save(path, overwrite=True)
    onnx.load(path)


def test_both_run_in_the_runtime(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = runs(monkeypatch, same, lambda y: y * np.float32(1 + 2e-7))
    trial = result.save(tmp_path / "out.onnx").report.trial
    assert trial is not None
    assert trial.passed
    assert 1e-7 < trial.difference < 4e-7
    original, candidate = asked
    assert Path(original.path).name == "original.onnx"
    assert Path(candidate.path).name == "out.onnx"
    assert os.listdir(tmp_path) == ["out.onnx"]


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (lambda y: y + np.float32(0.001), "'y'"),
        (lambda y: y[:-1], "shape"),
        (lambda y: y.astype(np.float64), "float64"),
        (lambda y: np.where(y > 1, np.float32(np.nan), y), "'y'"),
        ("ONNX Runtime died (SIGSEGV)", "died (SIGSEGV)"),
    ],
)
def test_a_runtime_that_disagrees_stops_it(
    result: Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: Gives,
    told: str,
) -> None:
    runs(monkeypatch, same, after)
    with pytest.raises(CheckFailed) as caught:
        result.save(tmp_path / "out.onnx")
    assert told in str(caught.value)
    assert os.listdir(tmp_path) == ["out.rejected.onnx"]
    onnx.load(tmp_path / "out.rejected.onnx")


def test_an_original_that_the_runtime_refuses(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs(monkeypatch, "no kernel", same)
    trial = result.save(tmp_path / "out.onnx").report.trial
    assert trial is not None
    assert trial.passed is None
    assert "no kernel" in trial.note
    assert (tmp_path / "out.onnx").exists()


def test_random_models_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = Parameter(F, "x")
    graph = Graph([x], [RandomNormalLike(x, token=1)], output_names=["y"])
    asked = runs(monkeypatch)
    result = graphopt.optimize(graph.with_header(opsets={"": 17}))
    trial = result.save(tmp_path / "out.onnx").report.trial
    assert trial is not None
    assert "random" in trial.note
    assert not asked


def test_without_a_runtime(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert result.save(tmp_path / "out.onnx").report.trial is None


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("nodir/", "'nodir/': it is a folder; name the file to write in it"),
        ("out.onnx/", "'out.onnx/': it is a folder"),
        (".", "'.': it is a folder"),
        ("", "'': it is a folder"),
        ("nodir/out.onnx", "nodir/out.onnx: there is no folder nodir; make it first"),
        ("a/b/out.onnx", "a/b/out.onnx: there is no folder a/b; make it first"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_places_that_are_no_file(
    result: Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    why: str,
    overwrite: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(f"cannot write {why}")):
        result.save(place, overwrite=overwrite)
    with pytest.raises(UsageError, match=re.escape(f"cannot write {why}")):
        save(result.graph, place)
    assert os.listdir(tmp_path) == []


def test_the_original_is_known_from_every_folder(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digits.read_bytes()
    monkeypatch.chdir(digits.parent)
    result = graphopt.optimize(digits.name, check="off")
    assert result.report.input == digits.name
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    with pytest.raises(UsageError, match="it is the input"):
        result.save(digits, overwrite=True)
    saved = result.save("out.onnx")
    assert saved.report.bytes.before == len(before)
    assert digits.read_bytes() == before


def test_nothing_is_left_where_writing_fails(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("graphopt.output.save", full)
    with pytest.raises(OSError, match="No space"):
        result.save(tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == []


def test_a_plan_is_written(result: Result, tmp_path: Path) -> None:
    plan = Plan({result.graph.outputs[0]: {"offset": 64}})
    dataclasses.replace(result, plan=plan).save(tmp_path / "out.onnx")
    metadata = load(tmp_path / "out.onnx").header.metadata
    assert '"y": {"offset": 64}' in metadata[METADATA_KEY]


def test_data_files_are_moved_with_the_model(tmp_path: Path, result: Result) -> None:
    path = tmp_path / "out.onnx"
    result.save(path, weights="external")
    assert sorted(os.listdir(tmp_path)) == ["out.onnx", "out.onnx.data"]
    model = onnx.load(path)  # which reads them
    assert len(model.graph.node) == 2
    assert load(path).ops


def test_a_session_recipe_is_no_part_of_the_size(
    tmp_path: Path, result: Result
) -> None:
    path = tmp_path / "out.onnx"
    made = graphopt.optimize(result.original, "ort-cpu")
    saved = made.save(path, weights="external")
    assert (tmp_path / "out.session.json").exists()
    files = [path, path.with_name("out.onnx.data")]
    assert saved.report.bytes.after == sum(file.stat().st_size for file in files)


def test_a_rejected_candidate_replaces_nothing(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "out.rejected.onnx"
    precious.write_text("precious")
    runs(monkeypatch, same, "died")
    with pytest.raises(CheckFailed, match=r"out\.2\.rejected\.onnx"):
        result.save(tmp_path / "out.onnx")
    assert precious.read_text() == "precious"
    onnx.load(tmp_path / "out.2.rejected.onnx")


def test_a_rejected_candidate_replaces_an_earlier_one(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "out.rejected.onnx"
    for said in ("it died", "it died again"):
        runs(monkeypatch, same, said)
        with pytest.raises(CheckFailed, match=r"kept as .*out\.rejected\.onnx"):
            result.save(tmp_path / "out.onnx", weights="external")
        assert sorted(os.listdir(tmp_path)) == [kept.name, f"{kept.name}.data"]
        assert said in load(kept).header.metadata[REJECTED_KEY]


def test_a_rejected_candidate_does_not_replace_the_one_that_it_was_made_of(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs(monkeypatch, same, "died")
    with pytest.raises(CheckFailed):
        result.save(tmp_path / "out.onnx")
    source = tmp_path / "out.rejected.onnx"
    before = source.read_bytes()
    again = graphopt.optimize(source)
    with pytest.raises(CheckFailed, match=r"out\.2\.rejected\.onnx"):
        again.save(tmp_path / "out.onnx")
    assert source.read_bytes() == before
    runs(monkeypatch, same, same)
    again.save(tmp_path / "good.onnx")
    assert REJECTED_KEY not in load(tmp_path / "good.onnx").header.metadata


def test_data_of_overridable_initializers_belongs_to_the_input(tmp_path: Path) -> None:
    x = Parameter(tensor(DType.F32, 3000), "x")
    weight = Tensor.of(np.linspace(-1, 1, 3000, dtype=np.float32))
    w = Parameter(tensor(DType.F32, 3000), "w", default=weight)
    graph = Graph([x, w], [Relu(Identity(Add(x, w)))], output_names=["y"])
    source = tmp_path / "abc.onnx"
    save(graph, source, weights="external")
    data = tmp_path / "xyz.onnx.data"
    os.rename(tmp_path / "abc.onnx.data", data)
    source.write_bytes(source.read_bytes().replace(b"abc.onnx.data", b"xyz.onnx.data"))
    before = data.read_bytes()
    result = graphopt.optimize(source, check="off")
    with pytest.raises(UsageError, match="belongs to the input"):
        result.save(tmp_path / "xyz.onnx", weights="external")
    assert data.read_bytes() == before


def test_an_old_model_never_stands_beside_new_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = Parameter(tensor(DType.F32, 3000), "x")
    weight = Constant(np.linspace(-1, 1, 3000, dtype=np.float32))
    graph = Graph([x], [Relu(Identity(Add(x, weight)))], output_names=["y"])
    result = graphopt.optimize(graph, check="off")
    path = tmp_path / "out.onnx"
    result.save(path, weights="external")
    seen: list[list[str]] = []
    replace = os.replace

    def watched(source: Any, target: Any) -> None:
        seen.append(sorted(f.name for f in tmp_path.iterdir() if f.is_file()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    result.save(path, weights="external", overwrite=True)
    assert seen[-2:] == [["out.onnx.data"], ["out.onnx.data"]]
    onnx.load(path)
