"""The commands that run or read models, and what several commands share."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Command
from onnx import numpy_helper

from graphopt.cli.run import described
from graphopt.types import DType


def only(folder: Path, *names: str) -> bool:
    """True where a folder holds just these files, hidden ones counted."""
    return {path.name for path in folder.iterdir()} == set(names)


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


def test_run_gives_outputs_as_data(command: Command, digits: Path) -> None:
    code, out, _ = command("run", digits, "--json", "--dim", "batch=2")
    row = json.loads(out)["outputs"]["logits"]
    values = np.array(row["values"])
    assert code == 0
    assert (row["dtype"], row["shape"], values.shape) == ("float32", [2, 10], (2, 10))
    assert (row["min"], row["max"]) == (values.min(), values.max())
    assert row["mean"] == pytest.approx(values.mean())
    _, out, _ = command("run", digits, "--json", "--dim", "batch=99")
    row = json.loads(out)["outputs"]["logits"]
    assert (row["shape"], row["values"]) == ([99, 10], None)
    assert row["min"] < row["mean"] < row["max"]


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        ([1, np.nan, 3], (1, 3, 2, 1, [1, None, 3])),
        ([np.inf], (None, None, None, 1, [None])),
        (np.array([True, False]), (False, True, 0.5, 0, [True, False])),
        (np.array([2 + 3j]), (2, 3, 2.5, 0, [[2, 3]])),
        (np.array([1.5], DType.BF16.numpy), (1.5, 1.5, 1.5, 0, [1.5])),
        (np.array([2**63], np.uint64), (2**63, 2**63, 2**63, 0, [2**63])),
    ],
)
def test_outputs_as_data(array: Any, wanted: tuple[Any, ...]) -> None:
    row = described(np.asarray(array))
    names = ("min", "max", "mean", "nonfinite", "values")
    assert tuple(row[name] for name in names) == wanted
    json.dumps(row, allow_nan=False)


def test_outputs_that_are_no_numbers_as_data() -> None:
    words = described(np.array(["a", "b"], object))
    assert (words["dtype"], words["values"]) == ("object", ["a", "b"])
    assert described([np.zeros(2)])["elements"][0]["shape"] == [2]
    assert described(None) == {"type": "NoneType"}


def test_sizes_that_contradict_the_inputs(
    command: Command, digits: Path, digits_inputs: Path
) -> None:
    fed = ("--inputs", digits_inputs, "--target", "reference")
    for argv in (
        ("run", digits),
        ("bench", digits, "--rounds", "1"),
        ("check", digits),
    ):
        code, _, err = command(*argv, *fed, "--dim", "batch=3")
        assert code == 2
        assert "--dim batch=3 contradicts --inputs, where it is 64" in err
    assert command("run", digits, *fed, "--dim", "batch=64")[0] == 0


def test_check_at_a_size(command: Command, digits: Path) -> None:
    code, out, _ = command(
        "check", digits, digits, "--mode", "full", "--dim", "batch=7"
    )
    assert code == 0
    assert "with batch=7\n" in out
    assert "ran only as" not in out
    _, out, _ = command(
        "check", digits, digits, "--mode", "full", "--dim", "batch=7", "--json"
    )
    assert json.loads(out)["sizes"] == [{"batch": 7}]
    code, _, err = command("check", digits, digits, "--dim", "bach=7")
    assert (code, "did you mean 'batch'?" in err) == (2, True)


def test_an_op_without_a_reference_names_node_domain_and_reason(
    command: Command, tmp_path: Path
) -> None:
    for domain, version, kind, why in (
        ("", 11, "Einsum", "opset 11): there is none in opset 11, only in others"),
        ("nowhere", 1, "Mystery", "opset 1): no such op is modelled"),
    ):
        node = onnx.helper.make_node(kind, ["x"], ["y"], "/head", domain=domain)
        if kind == "Einsum":
            node.attribute.append(onnx.helper.make_attribute("equation", "i->i"))
        sides = [onnx.helper.make_tensor_value_info(n, 1, [2]) for n in "xy"]
        graph = onnx.helper.make_graph([node], "g", sides[:1], sides[1:])
        opsets = [onnx.helper.make_opsetid(domain, version)]
        opsets += [onnx.helper.make_opsetid("", 17)] if domain else []
        path = tmp_path / f"{kind}.onnx"
        onnx.save(
            onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path
        )
        code, _, err = command("run", path, "--target", "reference")
        assert code == 3
        assert f"(domain {domain or 'ai.onnx'}, {why}" in err
        assert f"{kind} node '/head']" in err


def test_what_was_not_checked_is_counted_by_type(
    command: Command, tmp_path: Path
) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "nowhere" : 1]>'
    nodes = " ".join(
        f"{b} = nowhere.Mystery ({a})" for a, b in zip("xabcd", "abcdy", strict=True)
    )
    text = f"{header} g (float[2] x) => (float[2] y) {{ {nodes} }}"
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    _, out, _ = command("check", *[tmp_path / "m.onnx"] * 2, "--mode", "full")
    assert "not checked: 5 nowhere.Mystery ('a', 'b', 'c', …)\n" in out


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
    assert second["seconds"] > 0
    assert second["wall"] > 0
    out = command(*words)[1]
    assert re.search(r"model +CPU ms +wall ms +CPU ratio", out)
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


@pytest.mark.parametrize("name", ["inspect", "run", "bench", "check"])
def test_sizes_are_those_of_dims_that_there_are(
    command: Command, digits: Path, name: str
) -> None:
    for words, told in (
        (["--dim", "bach=3"], "did you mean 'batch'?"),
        (["--dim", "batch=b"], "'b' is no size"),
        (["--dim", "batch=-3"], "no size"),
        (["--dim", "batch=0"], "batch=0 leaves nothing to compute"),
        (["--dim", f"batch={10**30}"], "no size"),
    ):
        models = [digits] * (2 if name == "check" else 1)
        code, _, err = command(name, *models, *words)
        assert code == 2
        assert told in err


def test_a_batch_of_nothing_is_refused_before_any_work(
    command: Command, digits: Path
) -> None:
    for words in (
        ("--dim", "batch=0"),
        ("--dim", "images:0=0"),
        ("--input-shape", "images=0,8,8"),
    ):
        code, _, err = command("optimize", digits, "--target", "ort-cpu", *words)
        assert code == 2
        assert "=0 leaves nothing to compute" in err


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


def test_inputs_from_a_folder_of_test_data(
    command: Command, digits: Path, digits_inputs: Path, tmp_path: Path
) -> None:
    with np.load(digits_inputs) as arrays:
        (name,) = onnx_inputs = [i.name for i in onnx.load(digits).graph.input]
        images = arrays[name][:2]
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()
    proto = numpy_helper.from_array(images)
    (folder / "input_0.pb").write_bytes(proto.SerializeToString())
    assert onnx_inputs
    target = ("--target", "reference", "--inputs", folder)
    code, out, _ = command("run", digits, *target)
    assert code == 0
    assert "float32[2, 10]" in out
    assert command("optimize", digits, "--inputs", folder, "--dry-run")[0] == 0
    (folder / "input_0.pb").rename(tmp_path / "elsewhere.pb")
    for link in (os.symlink, os.link):
        link(tmp_path / "elsewhere.pb", folder / "input_0.pb")
        code, _, err = command("run", digits, *target)
        assert code == 2
        assert "link" in err
        (folder / "input_0.pb").unlink()
    with (folder / "input_0.pb").open("wb") as large:
        large.truncate(1 << 31)
    code, _, err = command("run", digits, *target)
    assert (code, "2,147,483,648 bytes" in err) == (2, True)
    (folder / "input_0.pb").write_bytes(b"\xff\xff")
    assert command("run", digits, *target)[0] == 2
    (folder / "input_0.pb").unlink()
    code, _, err = command("run", digits, *target)
    assert code == 2
    assert "holds no input_0.pb" in err


def test_targets_that_there_are_not_name_the_nearest(
    command: Command, digits: Path
) -> None:
    known = "onnx, ort-cpu, ort-cuda, xla-cpu, xla-cuda, xla-tpu"
    for wrong, near in (
        ("xla-gpu", "xla-cuda"),
        ("onx", "onnx"),
    ):
        code, _, err = command("optimize", digits, "--target", wrong)
        assert code == 2
        assert f"did you mean {near!r}? Targets are {known}" in err
    code, _, err = command("optimize", digits, "--target", "xla-tpu:v5e:2x2")
    assert (code, "is a description, no device" in err) == (2, True)
    code, out, _ = command("optimize", digits, "--target", "reference", "--json")
    assert code == 2
    said = f"unknown target 'reference'; targets are {known}"
    assert json.loads(out)["error"] == {"code": 2, "message": said, "where": None}
    code, _, err = command("run", digits, "--target", "gpu")
    assert (code, "did you mean 'xla-cuda'?" in err) == (2, True)


def test_choices_that_there_are_not_name_the_nearest(
    command: Command, digits: Path
) -> None:
    code, _, err = command("optimize", digits, "--check", "ful")
    assert (code, "'ful' is no choice; did you mean 'full'?" in err) == (2, True)
    code, _, err = command("optimize", digits, "-O", "5")
    assert (code, "5 is no choice; known: 0, 1, 2" in err) == (2, True)


HIDDEN = """
<ir_version: 10, opset_import: ["": 21]>
net (float[n, k] x) => (float[n, m] y) {
    shape = Constant <value_ints = [-1, 5]> ()
    y = Reshape (x, shape)
}
"""
"""It runs only on a multiple of five numbers."""


def test_sizes_on_which_a_model_runs_are_found(
    command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(HIDDEN), path)
    code, out, _ = command("run", path)
    assert code == 0
    first, second = out.splitlines()
    assert first == "sizes on which the model runs: --dim n=3 --dim k=5"
    assert second.startswith("y: float32[3, 5]")
    target = ("--target", "reference", "--rounds", "1")
    code, out, _ = command("bench", path, *target, "--dim", "n=4")
    assert code == 0
    assert "sizes that nobody gave: --dim k=5" in out
    code, _, err = command("run", path, "--dim", "k=7", "--dim", "n=1")
    assert code == 2
    assert "[1, 7]" in err
