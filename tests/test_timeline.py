"""``graphopt inspect --memory``: what it counts, prints and draws."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Command

from graphopt import ops
from graphopt.exporter import save
from graphopt.importer import load
from graphopt.ir import Graph, Parameter
from graphopt.passes.memory import plan_memory
from graphopt.timeline import memory_facts, memory_lines
from graphopt.types import DType, TensorType


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two large values side by side where one would do, and attention."""
    a = Parameter(TensorType(DType.F32, (64, 32)), "a")
    left, right = ops.Softmax(a), ops.Erf(a)
    total = ops.Add(ops.ReduceSum(left), ops.ReduceSum(right))
    scores = ops.Softmax(ops.MatMul(a, ops.Transpose(a, perm=(1, 0))))
    path = tmp_path / "m.onnx"
    graph = Graph([a], [ops.MatMul(scores, a), total], output_names=["y & z", "total"])
    save(graph, path)
    return path


def test_the_table_says_what_is_live_at_the_peak(command: Command, model: Path) -> None:
    code, out, _ = command("inspect", model, "--memory")
    assert code == 0
    assert "activations, in one arena" in out
    assert "resident in all" in out
    assert "most is live at step" in out
    assert "f32[64, 64]" in out
    assert "█" in out


def test_the_object_has_each_block_and_step(command: Command, model: Path) -> None:
    words = ("inspect", model, "--memory", "--json")
    code, out, _ = command(*words, "--target", "ort-cpu")
    found = json.loads(out)
    assert code == 0
    assert found["target"] == "ort-cpu"
    assert found["peak_bytes"] == max(b["offset"] + b["bytes"] for b in found["blocks"])
    assert found["peak_bytes"] >= found["lower_bound_bytes"]
    live = [step["live_bytes"] for step in found["steps"]]
    both = [step["live_bytes"] + step["output_bytes"] for step in found["steps"]]
    outside = found["constant_bytes"] + found["input_bytes"]
    assert found["resident_bytes"] == outside + max(both)
    assert max(both) - max(live) == found["output_bytes_at_peak"]
    assert found["steps"][-1]["output_bytes"] == found["output_bytes"]
    assert max(live) == live[found["peak_step"]] <= found["lower_bound_bytes"]
    assert sum(b["bytes"] for b in found["at_peak"]) == max(live)
    assert found["orders"]["best"] <= found["orders"]["file"]
    code, out, _ = command(*words, "--order", "best")
    assert json.loads(out)["peak_bytes"] == json.loads(out)["orders"]["best"]


def test_the_picture_has_each_block_at_its_place(
    command: Command, model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "plan.svg"
    code, out, _ = command("inspect", model, "--memory", "--json", "-o", target)
    assert code == 0
    picture = ElementTree.fromstring(target.read_text())
    boxes = [e for e in picture.iter() if e.get("class") == "b"]
    blocks = json.loads(out)["blocks"]
    assert len(boxes) == len(blocks)
    peak = json.loads(out)["peak_bytes"]
    for box, block in zip(boxes, blocks, strict=True):
        share = float(box.get("height", "")) / 420
        assert share == pytest.approx(block["bytes"] / peak, abs=2e-3)


def test_the_page_holds_the_picture_and_the_lines(
    command: Command, model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "plan.html"
    assert command("inspect", model, "--memory", "-o", target)[0] == 0
    text = target.read_text()
    assert "<svg" in text
    assert "resident in all" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_what_cannot_be_drawn_is_told(
    command: Command, model: Path, tmp_path: Path
) -> None:
    assert command("inspect", model, "--memory", "-o", tmp_path / "plan.png")[0] == 2
    assert command("inspect", model, "-o", tmp_path / "plan.svg")[0] == 2
    code, _, err = command("inspect", model, "--memory", "--target", "ort-cpx")
    assert code == 2
    assert "ort-cpu" in err


def test_a_graph_without_work_takes_nothing() -> None:
    graph = Graph([], [ops.Constant(np.zeros(3, np.float32))])
    found = memory_facts(plan_memory(graph), graph)
    assert (found["peak_bytes"], found["constant_bytes"]) == (0, 12)
    assert found["output_bytes"] == 64


@pytest.mark.runtime
def test_what_a_run_takes_is_measured(command: Command, model: Path) -> None:
    pytest.importorskip("onnxruntime", minversion="1.32")
    from graphopt.lowering.ort.advice import recipe

    recipe(load(model), "cpu", ordered=True).save(model)  # else the order is its own
    words = ("inspect", model, "--memory", "--measure", "--target", "ort-cpu")
    code, out, _ = command(*words, "--json")
    assert code == 0
    found = json.loads(out)
    foreseen = found["peak_bytes"] + found["output_bytes_at_peak"]
    assert found["realised"]["peak"] == pytest.approx(foreseen, rel=0.1)
    assert any("measured in ort-cpu" in line for line in memory_lines(found))
    assert command(*words[:4])[0] == 2


@pytest.mark.parametrize(
    ("share", "recipe", "said"), [(2, False, True), (2, True, False), (1, False, False)]
)
def test_what_takes_much_more_without_a_recipe_has_the_reason(
    model: Path, share: int, recipe: bool, said: bool
) -> None:
    graph = load(model)
    plan = plan_memory(graph)
    found = memory_facts(plan, graph)
    foreseen = plan.peak + plan.beside
    found["realised"] = {
        "target": "ort-cpu",
        "peak": share * foreseen,
        "growth": None,
        "recipe": recipe,
    }
    assert ("by default" in "\n".join(memory_lines(found))) is said
