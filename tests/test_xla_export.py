"""Programs for XLA: exported, loaded by JAX alone, of each precision."""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import graphopt
from graphopt import (
    BackendMissing,
    Graph,
    InvalidModel,
    UsageError,
)
from graphopt.interface import ENTRY, read_interface
from graphopt.ir import Parameter
from graphopt.lowering import find, to_program
from graphopt.ops import (
    Add,
    Cast,
    Constant,
    MatMul,
    Mul,
)
from graphopt.reference import run as reference
from graphopt.types import DType, tensor

jax = pytest.importorskip("jax")
pytest.importorskip("flatbuffers")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.xla

from jax import export  # noqa: E402
from safetensors.flax import load_file  # noqa: E402
from xla_programs import (  # noqa: E402
    N,
    called,
    linear,
    normal,
    saved,
    source as source,
    to_float,
)

Command = Callable[..., tuple[int, str, str]]

DOCS = Path(__file__).parents[1] / "docs"

# --- the file -------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_of_the_documentation_runs(
    digits: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits.parent)
    line = ("optimize", digits.name, "--target", "xla-cpu", "--check", "off")
    assert command(*line)[0] == 0
    assert sorted(os.listdir()) == [
        "digits.onnx",
        "digits.opt.safetensors",
        "digits.opt.stablehlo",
    ]
    names: dict[str, Any] = {}
    for block in _blocks():
        if "topologies" not in block:
            exec(block, names)
    assert all(np.isfinite(array).all() for array in names["gradient"].values())


@pytest.mark.slow
def test_the_page_compiles_for_a_tpu(
    digits: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("libtpu")
    monkeypatch.chdir(digits.parent)
    assert command("optimize", digits.name, "--target", "xla-tpu")[0] == 0
    before = dict(os.environ)
    try:
        names: dict[str, Any] = {}
        for block in _blocks():
            exec(block, names)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert names["compiled"].memory_analysis().argument_size_in_bytes > 0


def _blocks() -> list[str]:
    text = (DOCS / "stablehlo.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    return blocks


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        saved(linear(), tmp_path / f"{name}.stablehlo")
    first, second = (tmp_path / f"{n}.safetensors" for n in "ab")
    assert first.read_bytes() == second.read_bytes()
    blobs = [to_program(linear(), "xla-cpu", beside="w").blob for _ in range(2)]
    assert blobs[0] == blobs[1]


def test_a_program_says_nothing_of_the_files_that_made_it() -> None:
    program = to_program(linear(), "xla-cpu", beside="w")
    assert ".py" not in export.deserialize(program.blob).mlir_module()


def test_the_interface_travels_along(tmp_path: Path) -> None:
    path = tmp_path / "m.stablehlo"
    result = saved(linear(), path)
    with zipfile.ZipFile(path) as archive:
        members = json.loads(archive.read(ENTRY))
    assert members == json.loads(json.dumps(result.report.to_json()["program"]))
    assert members["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n", 3]}]
    assert members["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["n", 2]}]
    assert members["platforms"] == ["cpu", "cuda", "tpu"]
    assert members["symbols"] == ["n"]
    assert members["graphopt"] == graphopt.__version__
    assert members["no_derivative"] is None
    assert result.report.bytes.after == sum(
        file.stat().st_size for file in tmp_path.iterdir()
    )


def test_weights_lie_beside_or_inside(tmp_path: Path) -> None:
    x = normal(4, 3)
    wanted = reference(linear(), {"x": x})["y"]
    beside, inside = tmp_path / "a.stablehlo", tmp_path / "b.stablehlo"
    saved(linear(), beside)
    saved(linear(), inside, bake=True)
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", beside.name, inside.name]
    assert load_file(tmp_path / "a.safetensors").keys() == {"w", "b"}
    assert read_interface(inside).baked == ("w", "b")
    for path in (beside, inside):
        np.testing.assert_allclose(called(path, {"x": x})["y"], wanted, rtol=1e-5)
        made = find("xla-cpu").open(path)(x=x)["y"]
        np.testing.assert_allclose(made, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "beside"),
    [
        (ml_dtypes.bfloat16, True),
        (np.float16, True),
        (ml_dtypes.float8_e4m3fn, False),
        (ml_dtypes.int4, False),
    ],
)
def test_weights_of_narrow_types(dtype: Any, beside: bool, tmp_path: Path) -> None:
    size = 1 << 18  # integers are weights only where they are large
    held = (np.arange(size) % 7).astype(dtype)
    x, w = Parameter(tensor(DType.F32, size), "x"), Constant(held)
    made = Add(x, Cast(w, to=DType.F32.value))
    graph = Graph([x], [made], output_names=["y"]).replace(names={w: "w"})
    path = tmp_path / "m.stablehlo"
    saved(graph, path)
    found = called(path, {"x": np.ones(size, np.float32)})["y"]
    np.testing.assert_array_equal(found, held.astype(np.float32) + 1)
    assert path.with_suffix(".safetensors").exists() == beside
    assert read_interface(path).baked == (() if beside else ("w",))


def test_what_cannot_lie_beside_is_said(tmp_path: Path) -> None:
    x = Parameter(tensor(DType.F32, 2), "x")
    narrow = Constant(np.ones(2, ml_dtypes.float8_e4m3fn))
    made = Mul(Add(x, Constant(normal(2))), to_float(narrow))
    report = saved(Graph([x], [made]), tmp_path / "m.stablehlo").report
    assert any("1 weights that JAX cannot load" in note for note in report.notes)


def test_a_weight_with_a_name_that_safetensors_keeps(tmp_path: Path) -> None:
    graph = linear()
    named = {
        value: "__metadata__" if n == "w" else n for value, n in graph.names.items()
    }
    path, x = tmp_path / "m.stablehlo", normal(4, 3)
    saved(graph.replace(names=named), path)
    assert read_interface(path).baked == ("__metadata__",)
    assert load_file(path.with_suffix(".safetensors")).keys() == {"b"}
    wanted = reference(linear(), {"x": x})["y"]
    np.testing.assert_allclose(called(path, {"x": x})["y"], wanted, rtol=1e-5)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    for name, width in (("a", 2), ("b", 5)):
        x = Parameter(tensor(DType.F32, N, 3), "x")
        saved(
            Graph([x], [MatMul(x, Constant(normal(3, width)))]),
            tmp_path / f"{name}.stablehlo",
        )
    (tmp_path / "b.safetensors").replace(tmp_path / "a.safetensors")
    with pytest.raises(InvalidModel, match="another model"):
        find("xla-cpu").open(tmp_path / "a.stablehlo")
    with pytest.raises(UsageError, match="missing"):
        find("xla-cpu").open(tmp_path / "b.stablehlo")


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"nothing" * 99])
def test_what_is_no_program_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.stablehlo"
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match="interface"):
        find("xla-cpu").open(path)


def test_a_damaged_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.stablehlo"
    saved(linear(), path)
    path.write_bytes(bytes(64) + path.read_bytes()[64:])
    with pytest.raises(InvalidModel, match="no program"):
        find("xla-cpu").open(path)


def test_a_program_that_is_damaged_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.stablehlo"
    saved(linear(), path)
    held = path.read_bytes()
    assert held.count(b"get_dimension_size_v1") >= 1
    path.write_bytes(held.replace(b"get_dimension_size_v1", b"get_dimension_size_v?"))
    with pytest.raises(InvalidModel, match="does not take the program"):
        find("xla-cpu").open(path)(x=normal(2, 3))


def rewritten(path: Path, **changed: Any) -> None:
    """Give a program another interface."""
    with zipfile.ZipFile(path) as archive:
        members = json.loads(archive.read(ENTRY))
        begins = archive.getinfo(ENTRY).header_offset
    path.write_bytes(path.read_bytes()[:begins])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(ENTRY, json.dumps({**members, **changed}))


def _port(name: str = "x", dtype: str = "float32", *shape: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape or ("n", 3)}


HOSTILE: list[tuple[dict[str, Any], str]] = [
    *(
        ({"weights": name}, "beside the program")
        for name in ("../../etc/x", "/etc/passwd", "a/b.safetensors", "", ".", "..")
    ),
    ({"weights": "a\0b"}, "beside the program"),
    ({"weights": "\ud800"}, "beside the program"),
    ({"weights": 5}, "no words"),
    ({"weights": "w" * 5000}, "missing"),
    ({"jax": None}, "no words"),
    ({"platforms": [1]}, "no words"),
    ({"platforms": 5}, "damaged"),
    ({"platforms": ["cpu"]}, "another program's"),
    ({"outputs": []}, "another program's"),
    ({"inputs": []}, "another program's"),
    ({"inputs": [_port("z")]}, "another program's"),
    ({"inputs": [_port("x", "int32")]}, "another program's"),
    ({"inputs": [_port("x", "float32", "n", 4)]}, "another program's"),
    ({"inputs": [_port("x", "float32", 7, 3)]}, "another program's"),
    ({"inputs": [_port("x", "float32", "n")]}, "another program's"),
    ({"inputs": [_port("x", "float32", "n", 1.5)]}, "no number and no word"),
    ({"inputs": [_port("x", "float32", "n" * 9 + "+", 3)]}, "damaged"),
    ({"outputs": [_port("y", "float33", "n", 2)]}, "no element type"),
    ({"outputs": [_port("y", "float32", "n", 3)]}, "another program's"),
    ({"precision": "fp32"}, "no precision"),
    ({"precision": []}, "no precision"),
    ({"fixed": [1]}, "damaged"),
    ({"fixed": {"k": {"dtype": "uint8", "values": [300]}}}, "damaged"),
    ({"graphopt": "x" * (65 << 20)}, "more than"),
]


@pytest.mark.parametrize(("changed", "told"), HOSTILE, ids=range(len(HOSTILE)))
def test_the_interface_of_a_stranger(
    changed: dict[str, Any], told: str, tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "m.stablehlo"
    saved(linear(), path)
    rewritten(path)
    find("xla-cpu").open(path)
    rewritten(path, **changed)
    code, _, err = command("run", path, "--target", "xla-cpu", "--dim", "n=2")
    assert code == (2 if told == "missing" else 3), err
    assert told in err


def test_nested_without_end(tmp_path: Path) -> None:
    path = tmp_path / "m.stablehlo"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(ENTRY, "[" * 200_000)
    with pytest.raises(InvalidModel, match="damaged"):
        read_interface(path)


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_weights_are_no_links(how: str, tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "m.stablehlo", tmp_path / "secret"
    saved(linear(), path)
    beside = path.with_suffix(".safetensors")
    beside.rename(elsewhere)
    getattr(beside, how)(elsewhere)
    with pytest.raises(InvalidModel, match=r"link"):
        find("xla-cpu").open(path)


def test_a_package_that_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.stablehlo"
    saved(linear(), path)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(BackendMissing, match="flatbuffers is not installed"):
        find("xla-cpu").open(path)


# --- precision ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options", "precision"),
    [
        ("xla-cpu", (), "highest"),
        ("xla-cuda", (), "highest"),
        ("xla-tpu", (), "default"),
        ("xla-tpu", ("--precision", "fp32"), "highest"),
    ],
)
def test_precision_follows_the_target(
    target: str,
    options: tuple[str, ...],
    precision: str,
    source: Path,
    command: Command,
) -> None:
    line = ("optimize", source, "--target", target, *options, "--json")
    code, out, _ = command(*line)
    assert code == 0
    members = json.loads(out)
    assert members["program"]["precision"] == precision
    rounds = any("products of float32 round" in note for note in members["notes"])
    assert rounds == (precision == "default")
    path = source.with_name("m.opt.stablehlo")
    assert find("xla-cpu").open(path).used()["precision"] == precision
    text = export.deserialize(path.read_bytes()).mlir_module()
    assert ("precision = [HIGHEST, HIGHEST]" in text) == (precision == "highest")


def test_a_program_keeps_its_precision(source: Path, command: Command) -> None:
    path = source.with_name("m.opt.stablehlo")
    assert command("optimize", source, "--target", "xla-tpu")[0] == 0
    for name in ("run", "bench"):
        line = (name, path, "--target", "xla-cpu", "--precision", "fp32")
        code, _, err = command(*line)
        assert code == 2
        assert "exported with" in err


def test_programs_run_in_xla_by_default(source: Path, command: Command) -> None:
    path = source.with_name("m.opt.stablehlo")
    assert command("optimize", source, "--target", "xla-cpu")[0] == 0
    code, out, _ = command("run", path, "--json")
    assert (code, json.loads(out)["used"]["target"]) == (0, "xla-cpu")
    code, out, _ = command("bench", path, "--json", "--rounds", "1")
    assert (code, json.loads(out)["target"]) == (0, "xla-cpu")


def test_programs_take_a_folder_of_test_data(
    source: Path, command: Command, tmp_path: Path
) -> None:
    path = source.with_name("m.opt.stablehlo")
    assert command("optimize", source, "--target", "xla-cpu")[0] == 0
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()
    for i, port in enumerate(read_interface(path).inputs):
        shape = [d if isinstance(d, int) else 5 for d in port.shape]
        proto = onnx.numpy_helper.from_array(np.ones(shape, port.dtype))
        (folder / f"input_{i}.pb").write_bytes(proto.SerializeToString())
    code, out, err = command("run", path, "--inputs", folder)
    assert code == 0, err
    assert "[5, 2]" in out
    rewritten(path, fixed={"k": {"dtype": "int64", "values": 1}})
    code, _, err = command("run", path, "--inputs", folder)
    assert code == 2
    assert "'k' is none of the program: give them by name" in err


def test_programs_are_for_targets_of_xla() -> None:
    with pytest.raises(UsageError, match="no programs for 'xla-gpu'"):
        to_program(linear(), "xla-gpu")
    with pytest.raises(UsageError, match="no precision 'fp23'; did you mean 'fp32'"):
        graphopt.optimize(linear(), "xla-tpu", precision="fp23")
    with pytest.raises(UsageError, match="of narrow models alone"):
        graphopt.optimize(linear(), "xla-cpu", budget=0.1)
