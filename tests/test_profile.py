"""Where the time of a model goes, and which nodes of the source it goes back to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from graphopt.importer import load
from graphopt.lowering.ort.trace import NodeTime
from graphopt.profile import Hot, Profile, stands_for

SIZE = 50_000

Command = Callable[..., tuple[int, str, str]]


def source() -> ModelProto:
    """y = exp(s + s * -2), where s = sin(x)."""
    nodes = [
        helper.make_node("Sin", ["x"], ["s"], name="Sin"),
        helper.make_node("Neg", ["two"], ["k"], name="Neg"),
        helper.make_node("Mul", ["s", "k"], ["m"], name="Mul"),
        helper.make_node("Add", ["s", "m"], ["a"], name="Add"),
        helper.make_node("Exp", ["a"], ["y"], name="Exp"),
    ]
    floats = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIZE]) for name in "xy"
    ]
    two = helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])
    graph = helper.make_graph(nodes, "g", floats[:1], floats[1:], [two])
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(name: str, *outputs: str, kind: str = "Fused", ms: float = 1.0) -> NodeTime:
    return NodeTime(name, kind, ms / 1000, outputs)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        # one for all; what depends on no input is computed once
        ([node("f", "y")], [("Exp", "Add", "Sin", "Mul")]),
        ([node("one", "s"), node("f", "y")], [("Sin",), ("Exp", "Add", "Mul")]),
        ([node("Sin", "s"), node("f", "a"), node("Exp", "y")],
         [("Sin",), ("Add", "Mul"), ("Exp",)]),
        # values of names that the source does not know
        ([node("Sin", "s"), node("Mul", "?"), node("f", "y")],
         [("Sin",), ("Mul",), ("Exp", "Add", "Mul")]),
        ([node("Mul/Fusion/", "?"), node("f", "y")],
         [("Mul",), ("Exp", "Add", "Sin", "Mul")]),
        ([node("reorder", "?"), node("f", "y", "?2")],
         [(), ("Exp", "Add", "Sin", "Mul")]),
    ],
)  # fmt: skip
def test_what_a_node_stands_for(
    nodes: list[NodeTime], expected: list[tuple[str, ...]]
) -> None:
    assert stands_for(nodes, load(source())) == expected


def test_tables() -> None:
    found = Profile(
        "m.onnx",
        (
            Hot(node("a", kind="Add", ms=1), ("a",)),
            Hot(node("f", kind="Fused", ms=6), tuple("abcde")),
            Hot(node("b", kind="Add", ms=1), ()),
        ),
    )
    assert list(found.lines()) == [
        "m.onnx: 3 nodes, 8.000 ms",
        "kind   count     ms  share",
        "Fused      1  6.000    75%",
        "Add        2  2.000    25%",
        "",
        "   6.000 ms  75%  Fused 'f' for 'a', 'b', 'c' and 2 more",
        "   1.000 ms  12%  Add 'a'",
        "   1.000 ms  12%  Add 'b'",
    ]
    members = found.to_json()
    assert [n["name"] for n in members["nodes"]] == ["f", "a", "b"]
    assert members["kinds"][1] == {"kind": "Add", "count": 2, "seconds": 0.002}


@pytest.mark.runtime
@pytest.mark.parametrize("named", [True, False])
def test_the_command(
    named: bool, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model, other = tmp_path / "m.onnx", tmp_path / "other.onnx"
    onnx.save(source(), model)
    proto = source()
    del proto.graph.node[1]
    proto.graph.initializer[0].CopyFrom(
        helper.make_tensor("k", TensorProto.FLOAT, [], [-2.0])
    )
    if not named:
        for each in proto.graph.node:
            each.name = ""
    onnx.save(proto, other)
    line = ("bench", model, other, "--rounds", "1", "--profile")
    code, out, err = command(*line)
    assert code == 0, err
    assert f"{model}: 4 nodes" in out
    assert "Exp 'Exp'" in out
    first, second = json.loads(command(*line, "--json")[1])["profiles"]
    for found in (first, second):
        assert {row["kind"]: row["count"] for row in found["kinds"]} == dict.fromkeys(
            ("Sin", "Mul", "Add", "Exp"), 1
        )
        assert all(n["seconds"] > 0 for n in found["nodes"])
        assert sum(n["seconds"] for n in found["nodes"]) == pytest.approx(
            found["seconds"]
        )
        assert {n["kind"]: n["sources"] for n in found["nodes"]} == {
            kind: [kind] for kind in ("Sin", "Mul", "Add", "Exp")
        }
    assert {n["name"] for n in second["nodes"]} == (
        {"Sin", "Mul", "Add", "Exp"} if named else {""}
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "other.onnx"]


@pytest.mark.runtime
def test_what_is_inside_of_bodies_is_not_counted_twice(
    tmp_path: Path, command: Command
) -> None:
    pytest.importorskip("onnxruntime")

    def body(kind: str) -> Any:
        result = helper.make_tensor_value_info("z", TensorProto.FLOAT, [SIZE])
        inner = helper.make_node(kind, ["x"], ["z"], name=kind)
        return helper.make_graph([inner], kind, [], [result])

    proto = source()
    branch = helper.make_node(
        "If", ["c"], ["y"], name="If", then_branch=body("Cos"), else_branch=body("Tan")
    )
    del proto.graph.node[:]
    proto.graph.node.append(branch)
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    model = tmp_path / "m.onnx"
    onnx.save(proto, model)
    line = ("bench", model, "--rounds", "1", "--profile", "--json")
    code, out, _ = command(*line)
    assert code == 0, out
    (found,) = json.loads(out)["profiles"]
    assert [row["kind"] for row in found["kinds"]] == ["If"]


def test_other_targets_give_no_times_by_node(tmp_path: Path, command: Command) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(source(), model)
    for target in ("reference", "xla-cpu"):
        code, _, err = command("bench", model, "--profile", "--target", target)
        assert code == 2
        assert "--profile is for ort-cpu" in err
