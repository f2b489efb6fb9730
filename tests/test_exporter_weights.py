"""Where weights are written: inline, beside the model, or nowhere at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper
from test_exporter import F32, RELU, model

from graphopt import reference
from graphopt.errors import InvalidModel, UsageError
from graphopt.exporter import save, to_proto
from graphopt.importer import load


def weighted(folder: Path, *, size: int = 4096) -> Path:
    """A model with weights outside and inside, one of each of three sizes."""
    rng = np.random.default_rng(0)
    big = rng.normal(size=size).astype(np.float32)
    inside = rng.normal(size=size).astype(np.float32)
    proto = model(
        f"(float[{size}] x) => (float[{size}] y, float[1] z) "
        "{ a = Mul (x, big) y = Add (a, inside) z = Neg (small) }"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.bin").write_bytes(
        bytes(64) + big.tobytes() + np.array([5], np.float32).tobytes()
    )
    for name, dims, offset in (("big", size, 64), ("small", 1, 64 + big.nbytes)):
        weight = proto.graph.initializer.add(name=name, data_type=F32, dims=[dims])
        weight.data_location = TensorProto.EXTERNAL
        entries = {"location": "source.bin", "offset": offset, "length": 4 * dims}
        for key, value in entries.items():
            weight.external_data.add(key=key, value=str(value))
    proto.graph.initializer.append(numpy_helper.from_array(inside, "inside"))
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def located(path: Path) -> dict[str, str]:
    """For each tensor, its data file; empty where the model holds it."""
    proto = ModelProto.FromString(path.read_bytes())
    return {
        t.name: {e.key: e.value for e in t.external_data}.get("location", "")
        for t in proto.graph.initializer
    }


def same(a: Path, b: Path) -> bool:
    x = np.ones(load(a).inputs[0].shape, np.float32)
    before, after = (reference.run(load(p), {"x": x}) for p in (a, b))
    return all(np.array_equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("auto", {"big": "out.onnx.data", "small": "", "inside": ""}),
        ("inline", {"big": "", "small": "", "inside": ""}),
        ("external", {"big": "out.onnx.data", "small": "", "inside": "out.onnx.data"}),
        ("share", {"big": "source.bin", "small": "", "inside": ""}),
    ],
)
def test_where_weights_go(
    tmp_path: Path, weights: Any, expected: dict[str, str]
) -> None:
    source = weighted(tmp_path)
    target = tmp_path / "out.onnx"
    save(load(source), target, weights=weights)
    assert located(target) == expected
    assert same(source, target)
    checker.check_model(target)
    names = {p.name for p in tmp_path.iterdir()}
    kept = {"model.onnx", "source.bin", "out.onnx"}
    assert names == kept | {n for n in expected.values() if n}


def test_shared_weights_must_lie_beneath_the_model(tmp_path: Path) -> None:
    source = weighted(tmp_path / "models" / "mine")
    save(load(source), tmp_path / "models" / "out.onnx", weights="share")
    assert located(tmp_path / "models" / "out.onnx")["big"] == "mine/source.bin"
    assert same(source, tmp_path / "models" / "out.onnx")
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "out.onnx"
    with pytest.raises(UsageError, match="cannot share"):
        save(load(source), target, weights="share")
    assert not list(target.parent.iterdir())


def test_a_model_may_be_written_over_itself(tmp_path: Path) -> None:
    source = weighted(tmp_path)
    save(load(source), tmp_path / "out.onnx")
    save(load(tmp_path / "out.onnx"), tmp_path / "out.onnx")
    assert same(source, tmp_path / "out.onnx")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    source = weighted(tmp_path)
    target = tmp_path / "out.onnx"
    target.write_bytes(b"before")
    graph = load(source)
    (tmp_path / "source.bin").write_bytes(b"changed since")
    with pytest.raises(InvalidModel, match="changed since"):
        save(graph, target)
    assert target.read_bytes() == b"before"
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"model.onnx", "source.bin", "out.onnx"}
    link = tmp_path / "link.onnx"
    link.symlink_to(target)
    with pytest.raises(UsageError, match="symbolic link"):
        save(load(model(RELU)), link)


def test_over_2_gb_weights_leave_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.exporter.storage.MAX_MODEL", 20_000)
    source = weighted(tmp_path)
    save(load(source), tmp_path / "out.onnx")
    assert located(tmp_path / "out.onnx")["inside"] == ""
    monkeypatch.setattr("graphopt.exporter.storage.MAX_MODEL", 10_000)
    save(load(source), tmp_path / "out.onnx")
    assert located(tmp_path / "out.onnx")["inside"] == "out.onnx.data"
    with pytest.raises(UsageError, match="over 2 GB"):
        to_proto(load(source))


MEMORY = """
import resource, sys
from pathlib import Path
from graphopt.importer import load
from graphopt.exporter import save
path = Path(sys.argv[1])
save(load(path), path.with_name("out.onnx"), weights=sys.argv[2])
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if "RssAnon" in line))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("weights", ["auto", "share"])
def test_weights_stay_out_of_memory(tmp_path: Path, weights: str) -> None:
    size = 1 << 26
    path = weighted(tmp_path, size=1024)
    proto = ModelProto.FromString(path.read_bytes())
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(4 * size)
    huge = proto.graph.initializer.add(name="huge", data_type=F32, dims=[size])
    huge.data_location = TensorProto.EXTERNAL
    huge.external_data.add(key="location", value="huge.bin")
    proto.graph.node.add(op_type="Neg", input=["huge"], output=["h"])
    proto.graph.output.append(helper.make_tensor_value_info("h", F32, [size]))
    path.write_bytes(proto.SerializeToString())
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), weights],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(run.stdout) < 150_000  # KiB; the weight alone has 262,144
