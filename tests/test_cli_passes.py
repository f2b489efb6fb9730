"""The commands about passes: which there are, what they did, which one breaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from broken import Damp, Faulty
from conftest import Command

from graphopt import levels


def test_passes(command: Command) -> None:
    code, out, _ = command("passes", "--json")
    rows = json.loads(out)["passes"]
    assert code == 0
    assert {"fold", "fold-affine"} <= {row["name"] for row in rows}
    assert all(row["summary"] for row in rows)
    _, out, _ = command("passes", "fold")
    assert "limit" in out
    assert command("passes", "flod")[0] == 2


def test_the_passes_of_a_target(command: Command) -> None:
    def listed(*words: str) -> dict[str, Any]:
        code, out, _ = command("passes", "--json", *words)
        assert code == 0
        return {row["name"]: row["options"] for row in json.loads(out)["passes"]}

    plain, ort = listed("--target", "onnx"), listed("--target", "ort-cpu")
    assert list(plain) == list(ort)[: len(plain)]
    assert not plain["raise-activations"]["swish"]
    assert ort["raise-activations"]["swish"]
    assert "fuse-norms" not in plain
    assert not ort["fuse-norms"]["most"]
    assert listed("--target", "ort-cpu", "--fuse", "max")["fuse-norms"]["most"]
    words = ("passes", "--target", "ort-cuda", "fuse-norms", "--fuse", "max")
    _, out, _ = command(*words)
    assert "provider = 'cuda'" in out
    assert "skip_layer_norm" in out
    for wrong, said in (
        (("fuse-norms",), "unknown pass"),
        (("--fuse", "max"), "--fuse is for --target ort-cpu and ort-cuda"),
        (("--target", "onnx", "--fuse", "max"), "--fuse is for"),
        (("--target", "ort"), "did you mean 'ort-cpu'"),
    ):
        code, _, err = command("passes", *wrong)
        assert code == 2
        assert said in err


def test_explain(command: Command, digits: Path) -> None:
    name = "/convolutions/convolutions.1/BatchNormalization"
    code, out, _ = command("explain", digits, "--op", name)
    assert code == 0
    assert "after_linear: fired" in out
    lines = command("explain", digits)[1].splitlines()
    assert lines[0] == "not done, and why:"
    done = lines.index("done:")
    missed, fired = (
        {s for s in part if s[:1] > " "} for part in (lines[1:done], lines[done + 1 :])
    )
    assert missed
    assert all(line.endswith(": fired") for line in fired)
    assert not any(line.endswith(": fired") for line in missed)
    assert any(line.startswith("after_linear: ") for line in fired)
    _, out, _ = command("explain", digits, "--json")
    events = json.loads(out)["events"]
    assert events
    assert {event["fired"] for event in events} == {True, False}
    assert all(event["fired"] or event["reason"] for event in events)
    for words in (["--op", "nothing"], ["--rule", "nothing"]):
        code, _, err = command("explain", digits, *words)
        assert code == 2
        assert "'nothing'" in err


def test_an_error_in_a_rule_says_where(
    command: Command, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "find", lambda spec: Faulty())
    for words in ((), ("--json",)):
        code, out, err = command("optimize", digits, "--passes", "faulty", *words)
        assert code == 1
        said = out or err
        assert "Gemm has no attribute 'nowhere'" in said
        assert "[rule faulty_gemm, on Gemm node '" in said
        assert "[pass faulty]" in said


def test_bisect(
    command: Command, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nothing to find" in command("bisect", digits)[1]
    assert [path.name for path in digits.parent.iterdir()] == ["digits.onnx"]
    monkeypatch.setattr(levels, "find", lambda spec: Damp())
    code, out, _ = command("bisect", digits, "--add", "damp")
    assert code == 0
    assert "pass damp, rule damped_sigmoid, on Sigmoid node" in out
    part = onnx.load(digits.with_name("digits.bisect.onnx"))
    assert [node.op_type for node in part.graph.node] == ["Sigmoid"]
    words = ("bisect", digits, "--add", "damp", "-f", "--dim")
    assert command(*words, "batch=3")[0] == 0
    part = onnx.load(digits.with_name("digits.bisect.onnx"))
    assert part.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    code, _, err = command(*words, "bach=3")
    assert (code, "did you mean 'batch'?" in err) == (2, True)
