"""Models that nobody should trust, through the command line.

Each gets one clear message that names what is wrong, and exit code 3; nothing large is
allocated, nothing is written, and nothing else is read.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import FunctionProto, ModelProto, TensorProto, helper

from graphopt.cli import main

Build = Callable[[Path], ModelProto]
OPSET = helper.make_opsetid("", 17)
OWN = helper.make_opsetid("own", 1)


def value(name: str, *dims: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims))


def model(*nodes: onnx.NodeProto, weight: TensorProto | None = None) -> ModelProto:
    """``nodes`` compute y from x; both are f32[4]."""
    weights = [] if weight is None else [weight]
    graph = helper.make_graph([*nodes], "g", [value("x", 4)], [value("y", 4)], weights)
    return helper.make_model(graph, opset_imports=[OPSET, OWN], ir_version=8)


def add(weight: TensorProto) -> ModelProto:
    """y = x + the weight, which is called "the weight"."""
    weight.name = "the weight"
    node = helper.make_node("Add", ["x", "the weight"], ["y"], name="sum")
    return model(node, weight=weight)


def external(**entries: object) -> ModelProto:
    """A weight of 16 bytes in a data file, as ``entries`` say."""
    weight = TensorProto(data_type=TensorProto.FLOAT, dims=[4])
    weight.data_location = TensorProto.EXTERNAL
    for key, entry in entries.items():
        weight.external_data.add(key=key, value=str(entry))
    return add(weight)


def raw(dims: list[int], data: bytes, dtype: int = TensorProto.FLOAT) -> ModelProto:
    return add(TensorProto(data_type=dtype, dims=dims, raw_data=data))


def secret(folder: Path) -> Path:
    """A file outside of the model's folder."""
    path = folder.parent / "secret"
    path.write_bytes(bytes(16))
    return path


def through_link(folder: Path) -> ModelProto:
    (folder / "data").symlink_to(secret(folder))
    return external(location="data")


def through_linked_folder(folder: Path) -> ModelProto:
    (folder / "sub").symlink_to(secret(folder).parent)
    return external(location="sub/secret")


def through_hard_link(folder: Path) -> ModelProto:
    os.link(secret(folder), folder / "data")
    return external(location="data")


def data(folder: Path, **entries: object) -> ModelProto:
    (folder / "data").write_bytes(bytes(16))
    return external(location="data", **entries)


WEIGHTS: dict[str, Build] = {
    "above": lambda f: external(location=f"../{secret(f).name}", length=16),
    "absolute": lambda f: external(location=secret(f), length=16),
    "link": through_link,
    "linked folder": through_linked_folder,
    "hard link": through_hard_link,
    "missing": lambda _: external(location="nowhere"),
    "a folder": lambda _: external(location="."),
    "no location": lambda _: external(offset=0),
    "past the end": lambda f: data(f, offset=8, length=16),
    "negative offset": lambda f: data(f, offset=-4, length=16),
    "too short": lambda f: data(f, offset=0, length=8),
    "no number": lambda f: data(f, offset="zero"),
    "huge": lambda f: data(f, offset=0, length=1 << 62),
    "negative dim": lambda _: raw([-4], bytes(16)),
    "overflowing dims": lambda _: raw([1 << 40, 1 << 40], bytes(16)),
    "zero hides overflow": lambda _: raw([0, 1 << 62, 1 << 62], b""),
    "a terabyte": lambda _: raw([1 << 38], bytes(16)),
    "short data": lambda _: raw([4], bytes(12)),
    "long data": lambda _: raw([4], bytes(20)),
    "unknown type": lambda _: raw([4], bytes(16), 99),
}


# --- graphs -------------------------------------------------------------------------


def relu(source: str, result: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [source], [result], name=name)


def function(name: str, *nodes: onnx.NodeProto) -> FunctionProto:
    return helper.make_function("own", name, ["a"], ["b"], [*nodes], [OPSET, OWN])


def call(name: str, source: str, result: str) -> onnx.NodeProto:
    return helper.make_node(name, [source], [result], domain="own", name=f"call {name}")


def recursive(_: Path) -> ModelProto:
    made = model(call("F", "x", "y"))
    made.functions.append(function("F", call("F", "a", "b")))
    return made


def clash(kind: str, weight: TensorProto) -> ModelProto:
    return model(helper.make_node(kind, ["x", "w"], ["y"], name="clash"), weight=weight)


GRAPHS: dict[str, tuple[Build, str]] = {
    "cycle": (lambda _: model(relu("b", "a", "one"), relu("a", "b", "two")), "a"),
    "dangling": (lambda _: model(relu("nowhere", "y", "lost")), "nowhere"),
    "output nobody makes": (lambda _: model(relu("x", "z", "n")), "y"),
    "two producers": (lambda _: model(relu("x", "y", "n"), relu("x", "y", "m")), "y"),
    "shapes clash": (
        lambda _: clash(
            "MatMul", helper.make_tensor("w", TensorProto.FLOAT, [3, 4], np.zeros(12))
        ),
        "clash",
    ),
    "types clash": (
        lambda _: clash(
            "Add", helper.make_tensor("w", TensorProto.INT64, [4], [0] * 4)
        ),
        "clash",
    ),
    "too few operands": (
        lambda _: model(helper.make_node("Add", ["x"], ["y"], name="lonely")),
        "lonely",
    ),
    "recursive function": (recursive, "F"),
}


def refused(build: Build, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Optimize it; what is said of it. Checks all that must hold whatever is wrong."""
    folder.mkdir()
    (folder / "bad.onnx").write_bytes(build(folder).SerializeToString())
    before = set(folder.iterdir())
    tracemalloc.start()
    code = main(["optimize", str(folder / "bad.onnx")])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    said = capsys.readouterr()
    assert code == 3, said
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "internal error" not in said.err
    assert set(folder.iterdir()) == before
    assert peak < 64 << 20
    return said.err


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the weight" in refused(WEIGHTS[what], tmp_path / "m", capsys)


@pytest.mark.parametrize("what", GRAPHS)
def test_graphs(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build, name = GRAPHS[what]
    assert name in refused(build, tmp_path / "m", capsys)


def test_a_folding_bomb_stays_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Legal: a few bytes that stand for 4 TB. It is kept as it is."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1 << 20, 1 << 20])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "bomb", [], [value("y")], [shape])
    path = tmp_path / "bomb.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[OPSET], ir_version=8), path)
    tracemalloc.start()
    assert main(["optimize", str(path), "--check", "off"]) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert path.with_name("bomb.opt.onnx").stat().st_size < 1000
    capsys.readouterr()
