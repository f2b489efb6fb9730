"""The command line: what it prints and writes, its exit codes, what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from broken import Damp
from conftest import Command
from onnx import TensorProto, helper, numpy_helper

from graphopt import driver, levels
from graphopt.cli import COMMANDS, main


def only(folder: Path, *names: str) -> bool:
    """True where a folder holds just these files, hidden ones counted."""
    return {path.name for path in folder.iterdir()} == set(names)


# --- the frame ----------------------------------------------------------------------


def test_help_lists_what_works(command: Command) -> None:
    for words in ([], ["--help"], ["-h"]):
        code, out, _ = command(*words)
        assert code == 0
        assert all(name in out for name in COMMANDS)


def test_version(command: Command) -> None:
    assert command("--version")[:2] == (0, "graphopt 0.1.0\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    assert done.value.code == 0


def test_help_is_quick() -> None:
    """Under 0.3 CPU seconds: it loads neither NumPy nor ONNX."""
    code = "import sys, graphopt.cli as c; c.main(['--help']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"numpy", "onnx", "ml_dtypes", "scipy"} & set(done.stdout.split())


def test_unknown_command(command: Command) -> None:
    code, out, err = command("optimise", "m.onnx")
    assert (code, out) == (2, "")
    assert "'optimise'" in err


def test_errors_as_json(command: Command, tmp_path: Path) -> None:
    code, out, err = command("optimize", tmp_path / "none.onnx", "--json")
    assert (code, err) == (2, "")
    found = json.loads(out)
    assert found["schema"] == 1
    assert found["error"]["code"] == 2
    assert "none.onnx" in found["error"]["message"]
    assert "where" in found["error"]


def test_internal_errors_are_one_line(
    command: Command, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("a bug\nof ours")

    monkeypatch.setattr(driver, "improve", fail)
    code, out, err = command("optimize", digits)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "internal error: ZeroDivisionError: a bug of ours; please report it" in err
    with pytest.raises(ZeroDivisionError):
        main(["optimize", str(digits), "-v"])


def test_as_a_program(digits: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graphopt.cli", "inspect", digits, "--json"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["parameters"] > 10_000


# --- optimize -----------------------------------------------------------------------


def test_optimize(command: Command, digits: Path) -> None:
    source = digits.read_bytes()
    code, out, err = command("optimize", digits)
    assert (code, err) == (0, "")
    assert only(digits.parent, "digits.onnx", "digits.opt.onnx")
    assert digits.read_bytes() == source
    model = onnx.load(digits.with_name("digits.opt.onnx"))
    assert len(model.graph.node) < 60
    onnx.checker.check_model(model)
    for word in ("before", "after", "ops", "BatchNormalization", "logits", "passed"):
        assert word in out


def test_json_has_what_is_promised(command: Command, digits: Path) -> None:
    code, out, err = command("optimize", digits, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    written = digits.with_name("digits.opt.onnx")
    assert found["schema"] == 1
    assert found["output"] == str(written)
    assert found["ops"]["before"] > found["ops"]["after"] > 0
    kinds = found["ops"]["by_kind"]
    assert kinds["BatchNormalization"] == {"before": 2, "after": 0}
    assert sum(kind["after"] for kind in kinds.values()) == found["ops"]["after"]
    fields = {"name", "ops_before", "ops_after", "seconds"}
    assert all(fields <= row.keys() for row in found["passes"])
    check = found["check"]
    assert (check["passed"], check["mode"], check["unchecked"]) == (True, "full", [])
    (output,) = check["outputs"]
    assert output["name"] == "logits"
    assert 0 <= output["max_error"] <= output["tolerance"]
    assert output["error_before"] > 0
    assert found["bytes"] == {
        "before": digits.stat().st_size,
        "after": written.stat().st_size,
    }
    assert found["opset"] == 17
    assert found["seconds"] > 0


def test_quiet_and_verbose(command: Command, digits: Path) -> None:
    common = ("optimize", digits, "-f", "--check", "off")
    assert command(*common, "-q") == (0, "", "")
    _, out, err = command(*common, "-v")
    assert "fold-affine" in out
    assert "shapes" in err


def test_check_off_says_so(command: Command, digits: Path) -> None:
    _, out, _ = command("optimize", digits, "--check", "off", "--json")
    check = json.loads(out)["check"]
    assert (check["passed"], check["mode"]) == (None, "off")
    assert json.loads(out)["runtime"] is None


def test_dry_run_writes_nothing(command: Command, digits: Path) -> None:
    code, out, _ = command("optimize", digits, "--dry-run")
    assert code == 0
    assert "(not written)" in out
    assert only(digits.parent, "digits.onnx")


def test_report(command: Command, digits: Path) -> None:
    page = digits.with_name("report.html")
    code, _, _ = command("optimize", digits, "--check", "off", "--report", page)
    assert code == 0
    assert "BatchNormalization" in page.read_text()
    assert command("optimize", digits, "-o", page, "--report", page)[0] == 2


def test_the_output_is_never_replaced_unasked(command: Command, digits: Path) -> None:
    written = digits.with_name("digits.opt.onnx")
    written.write_text("precious")
    code, _, err = command("optimize", digits, "--dim", "nonsense=1")
    assert code == 2
    assert "digits.opt.onnx exists; -f" in err  # before anything else
    assert written.read_text() == "precious"
    assert command("optimize", digits, "--check", "off", "-f")[0] == 0
    onnx.load(written)


def test_a_data_file_is_never_replaced_unasked(command: Command, digits: Path) -> None:
    data = digits.with_name("digits.opt.onnx.data")
    data.write_text("precious")
    assert command("optimize", digits)[0] == 2
    assert data.read_text() == "precious"


@pytest.mark.parametrize("how", ["itself", "hard link", "link", "dots"])
def test_the_input_is_never_overwritten(
    command: Command, digits: Path, how: str
) -> None:
    before = digits.read_bytes()
    target = digits.with_name("other.onnx")
    if how == "itself":
        target = digits
    elif how == "dots":
        (digits.parent / "sub").mkdir()
        target = digits.parent / "sub" / ".." / "digits.onnx"
    elif how == "hard link":
        os.link(digits, target)
    else:
        target.symlink_to(digits)
    code, _, err = command("optimize", digits, "-o", target, "-f")
    assert code == 2
    assert target.name in err
    assert digits.read_bytes() == before


def test_the_input_through_a_link(command: Command, digits: Path) -> None:
    before = digits.read_bytes()
    link = digits.with_name("link.onnx")
    link.symlink_to(digits)
    assert command("optimize", link, "-o", digits, "-f")[0] == 2
    assert digits.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-o", "no/such/folder/x.onnx"], "folder"),
        (["-o", "."], "'.': it is a folder"),
        (["-o", "nowhere/"], "'nowhere/': it is a folder; name the file"),
        (["--passes", "flod"], "'flod'"),
        (["--add", "mine:Pass"], "an entry point in the group 'graphopt.passes'"),
        (["--add", "mine.py(x=1)"], "an entry point in the group 'graphopt.passes'"),
        (["--passes", "fold(limt=1)"], "'limt'"),
        (["--add", "fold(limit='much')"], "'limit'"),
        (["--add", "fold(limit=1"], "fold(limit=1"),
        (["--skip", "flod"], "'flod'"),
        (["-O7"], "7"),
        (["--opset", "newest"], "newest"),
        (["--opset", "12"], "12"),
        (["--opset", "99"], "99"),
        (["--target", "abacus"], "abacus"),
        (["--check", "maybe"], "maybe"),
        (["--weights", "elsewhere"], "elsewhere"),
        (["--dim", "batch"], "'batch'"),
        (["--dim", "bach=2"], "did you mean 'batch'"),
        (["--dim", "batch=2", "--dim", "batch=3"], "twice"),
        (["--dim", "image:0=n"], "'image'"),
        (["--dim", "images:3=n"], "no axis 3"),
        (["--input-shape", "images=1,8"], "3 axes"),
        (["--input-shape", "images=1,8,x,"], "missing"),
        (["--inputs", "nowhere.npz"], "nowhere.npz"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_usage_errors(
    command: Command, digits: Path, words: list[str], told: str
) -> None:
    code, out, err = command("optimize", digits, *words)
    assert (code, out) == (2, "")
    assert told in err
    assert only(digits.parent, "digits.onnx")


@pytest.mark.parametrize("name", ["bisect", "extract", "inspect", "run"])
def test_a_folder_is_no_file_to_write(
    command: Command, digits: Path, name: str
) -> None:
    for folder in ("nowhere/", str(digits.parent)):
        code, out, err = command(name, digits, "-o", folder)
        assert (code, out) == (2, "")
        assert f"cannot write {folder!r}: it is a folder" in err


def test_impossible_dims_name_the_op(command: Command, digits: Path) -> None:
    model = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], name="shift")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.ones(4, np.float32), "w")],
    )
    path = digits.with_name("shift.onnx")
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(model, opset_imports=opsets, ir_version=8), path)
    for words in (["--dim", "x:0=n"], ["--input-shape", "x=5"]):
        code, _, err = command("optimize", path, *words)
        assert code == 2
        assert "'shift'" in err
    assert not path.with_name("shift.opt.onnx").exists()


@pytest.mark.parametrize("what", ["text", "nothing", "half", "folder", "absent"])
def test_no_model(command: Command, digits: Path, what: str) -> None:
    path = digits.with_name("bad.onnx")
    if what == "folder":
        path.mkdir()
    elif what != "absent":
        contents = {"text": b"hello", "nothing": b"", "half": digits.read_bytes()[:999]}
        path.write_bytes(contents[what])
    code, out, err = command("optimize", path)
    assert (code, out) == (2 if what in ("folder", "absent") else 3, "")
    assert "bad.onnx" in err
    assert not path.with_name("bad.opt.onnx").exists()


def test_a_failed_check_keeps_the_candidate(
    command: Command, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.plugins.find", lambda spec: Damp())
    monkeypatch.setattr(levels, "find", lambda spec: Damp())
    code, out, err = command("optimize", digits, "--add", "damp")
    assert (code, out) == (4, "")
    assert "pass damp, rule damped_sigmoid, on Sigmoid node" in err
    assert "digits.opt.rejected.onnx" in err
    assert only(digits.parent, "digits.onnx", "digits.opt.rejected.onnx")
    code, out, _ = command("optimize", digits, "--add", "damp", "--json")
    error = json.loads(out)["error"]
    assert error["code"] == code == 4
    assert error["rejected"].endswith("digits.opt.rejected.onnx")
    assert error["check"]["passed"] is False
    assert only(digits.parent, "digits.onnx", "digits.opt.rejected.onnx")


def test_weights_beside_and_shared(command: Command, digits: Path) -> None:
    folder = digits.parent
    first = ("optimize", digits, "-o", folder / "a.onnx", "--weights", "external")
    assert command(*first, "--check", "off")[0] == 0
    assert (folder / "a.onnx.data").exists()
    common = ("optimize", folder / "a.onnx", "--passes", "casts", "--check", "auto")
    code, _, err = command(*common, "-o", folder / "b.onnx", "--weights", "share")
    assert (code, err) == (0, "")
    assert not (folder / "b.onnx.data").exists()
    assert "a.onnx.data" in (folder / "b.onnx").read_bytes().decode(errors="ignore")
    onnx.load(folder / "b.onnx")
    (folder / "sub").mkdir()
    code, _, err = command(*common, "-o", folder / "sub/c.onnx", "--weights", "share")
    assert code == 2
    assert "a.onnx.data" in err
    assert only(folder / "sub")


def test_a_data_file_of_the_input_is_not_overwritten(
    command: Command, digits: Path
) -> None:
    folder = digits.parent
    model = onnx.load(digits)
    onnx.save(
        model,
        folder / "in.onnx",
        save_as_external_data=True,
        location="out.onnx.data",
    )
    before = (folder / "out.onnx.data").read_bytes()
    code, _, err = command(
        "optimize", folder / "in.onnx", "-o", folder / "out.onnx", "-f"
    )
    assert code == 2
    assert "belongs to the input" in err
    assert (folder / "out.onnx.data").read_bytes() == before


def outside(digits: Path) -> tuple[Path, Path]:
    """A model with its weights in a file beside it; both paths."""
    model, data = digits.with_name("m.onnx"), digits.with_name("m.onnx.data")
    onnx.save(onnx.load(digits), model, save_as_external_data=True, location=data.name)
    return model, data


@pytest.mark.parametrize(
    "words",
    [
        ("optimize", "m.onnx", "--check", "off", "--report", "m.onnx.data"),
        ("optimize", "m.onnx", "--check", "off", "-o", "m.onnx.data"),
        ("run", "m.onnx", "-o", "m.onnx.data"),
        ("extract", "m.onnx", "-o", "m.onnx.data"),
        ("bisect", "m.onnx", "-o", "m.onnx.data"),
        ("run", "digits.onnx", "--inputs", "fed.npz", "-o", "fed.npz"),
    ],
)
def test_no_file_of_the_input_is_overwritten(
    command: Command, digits: Path, words: tuple[str, ...]
) -> None:
    outside(digits)
    fed = digits.with_name("fed.npz")
    np.savez(fed, images=np.zeros((1, 8, 8), np.float32))
    before = {file: file.read_bytes() for file in digits.parent.iterdir()}
    line = [digits.with_name(w) if "." in w else w for w in words]
    code, _, err = command(*line, "-f")
    assert code == 2
    assert "belongs to the input" in err
    assert {file: file.read_bytes() for file in digits.parent.iterdir()} == before


def test_data_under_another_name_is_the_same_file(
    command: Command, digits: Path
) -> None:
    model, data = outside(digits)
    (digits.parent / "sub").mkdir()
    before = data.read_bytes()
    dots = digits.parent / "sub" / ".." / data.name
    assert command("run", model, "-o", dots, "-f")[0] == 2
    assert data.read_bytes() == before


@pytest.mark.parametrize("name", ["digits.opt.onnx", "digits.opt.onnx.data"])
def test_a_report_takes_no_place_of_the_model(
    command: Command, digits: Path, name: str
) -> None:
    code, _, err = command("optimize", digits, "--report", digits.with_name(name))
    assert code == 2
    assert "is written, too" in err
    assert only(digits.parent, "digits.onnx")


def test_a_folder_where_a_model_is_wanted(tmp_path: Path, command: Command) -> None:
    code, _, err = command("inspect", tmp_path)
    assert code == 2
    assert err.endswith("Is a directory\n")
    (tmp_path / "model.onnx").write_bytes(b"")
    _, _, err = command("inspect", tmp_path)
    assert f"did you mean {tmp_path / 'model.onnx'}?" in err
    (tmp_path / "stages.json").write_text("{}")
    _, _, err = command("inspect", tmp_path)
    assert "graphopt run takes all" in err
