"""The command line: what it prints and writes, its exit codes, what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from broken import Damp
from onnx import TensorProto, helper, numpy_helper

from graphopt import driver
from graphopt.cli import COMMANDS, main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        code = main([str(word) for word in argv])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


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
    assert "digits.opt.onnx exists; -f replaces it" in err  # before anything else
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
        (["-o", "."], "not a regular file"),
        (["--passes", "flod"], "'flod'"),
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
    monkeypatch.setattr(driver, "find", lambda spec: Damp())
    code, out, err = command("optimize", digits, "--add", "damp")
    assert (code, out) == (4, "")
    assert "pass damp, rule damped_sigmoid, on Sigmoid node" in err
    assert "digits.opt.rejected.onnx" in err
    assert only(digits.parent, "digits.onnx", "digits.opt.rejected.onnx")
    code, out, _ = command("optimize", digits, "--add", "damp", "--json")
    error = json.loads(out)["error"]
    assert error["code"] == code == 4
    assert error["rejected"].endswith("digits.opt.2.rejected.onnx")
    assert error["check"]["passed"] is False


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


# --- the other commands -------------------------------------------------------------


def test_inspect(command: Command, digits: Path) -> None:
    code, out, _ = command("inspect", digits, "--json", "--dim", "batch=4")
    found = json.loads(out)
    assert code == 0
    assert found["inputs"] == {"images": "f32[batch, 8, 8]"}
    assert found["flops"] > 2_000_000
    assert found["peak_bytes"] > 4 * 16 * 64 * 4
    assert "Conv" in command("inspect", digits)[1]
    assert command("inspect", digits, "--text")[1].startswith('graph "main_graph"')


def test_run(command: Command, digits: Path, digits_inputs: Path) -> None:
    out = digits.with_name("out.npz")
    code, said, _ = command("run", digits, "--inputs", digits_inputs, "-o", out)
    assert code == 0
    assert "float32[64, 10]" in said
    with np.load(out) as arrays:
        read = arrays["logits"].argmax(1)
    labels = np.loadtxt(digits_inputs.with_name("digits.labels.txt"), dtype=int)
    assert (read == labels).all()
    assert command("run", digits, "-o", out)[0] == 2  # it exists


def test_run_refuses_other_inputs(command: Command, digits: Path) -> None:
    fed = digits.with_name("fed.npz")
    np.savez(fed, image=np.zeros((1, 8, 8), np.float32))
    code, _, err = command("run", digits, "--inputs", fed)
    assert code == 2
    assert "'image'" in err


@pytest.mark.runtime
def test_run_in_a_runtime(command: Command, digits: Path) -> None:
    pytest.importorskip("onnxruntime")
    code, out, _ = command("run", digits, "--target", "ort-cpu", "--dim", "batch=5")
    assert code == 0
    assert "float32[5, 10]" in out


def test_a_missing_runtime(
    command: Command, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = command("run", digits, "--target", "ort-cpu")
    assert code == 5
    assert "pip install" in err


def test_check(command: Command, digits: Path) -> None:
    other = digits.with_name("other.onnx")
    model = onnx.load(digits)
    for tensor in model.graph.initializer:
        if tensor.name == "mlp.1.bias":
            array = numpy_helper.to_array(tensor).copy()
            array[0] += 0.01
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, other)
    assert command("check", digits, digits)[0] == 0
    code, out, _ = command("check", digits, other, "--by-value")
    assert code == 4
    assert "/mlp/mlp.1/Add_output_0" in out
    code, out, _ = command("check", digits, other, "--by-value", "--json")
    assert code == 4
    assert json.loads(out)["first"]["name"] == "/mlp/mlp.1/Add_output_0"


def test_bench(command: Command, digits: Path) -> None:
    words = ("bench", digits, digits, "--target", "reference", "--rounds", "5")
    code, out, _ = command(*words, "--json")
    assert code == 0
    first, second = json.loads(out)["models"]
    assert first["ratio"] == 1
    assert second["low"] <= second["ratio"] <= second["high"]
    assert command("bench", digits, "--rounds", "0")[0] == 2


def test_extract(command: Command, digits: Path) -> None:
    name = "/convolutions/convolutions.5/Mul_output_0"
    words = ("extract", digits, "--inputs", name, "--rename", f"{name}=features")
    code, out, _ = command(*words)
    assert code == 0
    assert "features" in out
    part = onnx.load(digits.with_name("digits.part.onnx"))
    assert [value.name for value in part.graph.input] == ["features"]
    onnx.checker.check_model(part)
    assert command(*words)[0] == 2  # it exists
    code, _, err = command("extract", digits, "--inputs", "feature", "-f")
    assert code == 2
    assert "'feature'" in err


def test_passes(command: Command) -> None:
    code, out, _ = command("passes", "--json")
    rows = json.loads(out)["passes"]
    assert code == 0
    assert {"fold", "fold-affine"} <= {row["name"] for row in rows}
    assert all(row["summary"] for row in rows)
    _, out, _ = command("passes", "fold")
    assert "limit" in out
    assert command("passes", "flod")[0] == 2


def test_explain(command: Command, digits: Path) -> None:
    name = "/convolutions/convolutions.1/BatchNormalization"
    code, out, _ = command("explain", digits, "--op", name)
    assert code == 0
    assert "after_linear: fired" in out
    _, out, _ = command("explain", digits, "--json")
    events = json.loads(out)["events"]
    assert events
    assert all(not event["fired"] and event["reason"] for event in events)
    for words in (["--op", "nothing"], ["--rule", "nothing"]):
        code, _, err = command("explain", digits, *words)
        assert code == 2
        assert "'nothing'" in err


def test_bisect(
    command: Command, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nothing to find" in command("bisect", digits)[1]
    assert only(digits.parent, "digits.onnx")
    monkeypatch.setattr(driver, "find", lambda spec: Damp())
    code, out, _ = command("bisect", digits, "--add", "damp")
    assert code == 0
    assert "pass damp, rule damped_sigmoid, on Sigmoid node" in out
    part = onnx.load(digits.with_name("digits.bisect.onnx"))
    assert [node.op_type for node in part.graph.node] == ["Sigmoid"]


@pytest.mark.parametrize("name", ["inspect", "run", "bench"])
def test_sizes_are_those_of_dims_that_there_are(
    command: Command, digits: Path, name: str
) -> None:
    for words, told in (
        (["--dim", "bach=3"], "did you mean 'batch'?"),
        (["--dim", "batch=b"], "'b' is no size"),
        (["--dim", "batch=-3"], "no size"),
        (["--dim", f"batch={10**30}"], "no size"),
    ):
        code, _, err = command(name, digits, *words)
        assert code == 2
        assert told in err


def test_a_seed_is_a_natural_number(command: Command, digits: Path) -> None:
    for name in ("optimize", "run", "check"):
        models = [digits] * (2 if name == "check" else 1)
        code, _, err = command(name, *models, "--seed", "-5")
        assert code == 2
        assert "'-5' is no number from 0 on" in err


def test_inputs_that_no_memory_holds_are_not_drawn(
    command: Command, digits: Path
) -> None:
    huge = f"batch={2**40}"
    code, out, _ = command("optimize", digits, "--dry-run", "--dim", huge)
    assert code == 0
    assert "would take" in out
    code, _, err = command("run", digits, "--target", "reference", "--dim", huge)
    assert code == 2
    assert "would take" in err


def test_freeze_takes_initializers_out_of_the_interface(
    command: Command, tmp_path: Path
) -> None:
    source = tmp_path / "m.onnx"
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3] x, float[3, 3] w)
        => (float[2, 3] y) <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float s = {2}>
        { t = Transpose (w)  p = MatMul (x, t)  y = Mul (p, s) }"""
    )
    onnx.save(proto, source)
    code, out, _ = command("optimize", source)
    assert code == 0
    assert "1 initializers are inputs too" in out
    kept = onnx.load(tmp_path / "m.opt.onnx")
    assert [i.name for i in kept.graph.input] == ["x", "w"]
    code, out, _ = command("optimize", source, "--freeze", "-f")
    assert code == 0
    assert "can no longer be overridden" in out
    frozen = onnx.load(tmp_path / "m.opt.onnx")
    assert [i.name for i in frozen.graph.input] == ["x"]
    assert [n.op_type for n in frozen.graph.node] == ["MatMul"]


def test_terminated_halfway_nothing_is_left(digits: Path) -> None:
    """SIGTERM while a model is checked: no temporary files, and its own exit code."""
    slow = "import graphopt.output as o, time, sys, graphopt.cli\n"
    slow += "o._proved = lambda *_: (print('now', flush=True), time.sleep(60))\n"
    slow += "sys.exit(graphopt.cli.main(sys.argv[1:]))"
    child = subprocess.Popen(
        [sys.executable, "-c", slow, "optimize", str(digits)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"now\n"
    child.terminate()
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (143, b"graphopt: terminated\n")
    assert only(digits.parent, "digits.onnx")


@pytest.mark.runtime
def test_check_asks_the_runtime_where_the_reference_has_no_word(
    command: Command, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    header = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
    for name, number in (("a", 2), ("b", 2), ("c", 3)):
        weight = ", ".join([str(number)] * 6)
        text = f"""{header} g (float[2, 3] x) => (float[2, 2] y)
            <float[3, 2] w = {{{weight}}}, float[3] o = {{1, 2, 3}}>
            {{ h = com.microsoft.BiasGelu (x, o)  y = MatMul (h, w) }}"""
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{name}.onnx")
    a, b, c = (tmp_path / f"{name}.onnx" for name in "abc")
    assert command("check", a, b)[0] == 0
    assert command("check", a, c)[0] == 4


def test_check_that_could_not_compare_says_so(command: Command, tmp_path: Path) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "nowhere" : 1]>'
    for name, number in (("a", 2), ("b", 3)):
        text = f"""{header} g (float[2, 3] x) => (float[5, 2] y)
            <float[7, 2] w = {{{", ".join([str(number)] * 14)}}}>
            {{ h = nowhere.Mystery (x)  y = MatMul (h, w) }}"""
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{name}.onnx")
    a, b = (tmp_path / f"{name}.onnx" for name in "ab")
    assert command("check", a, a)[0] == 0
    code, out, _ = command("check", a, b)
    assert code == 4
    assert "nothing is known of output y" in out
