"""``graphopt inspect --mesh``: what it counts, prints and draws."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Command
from hypothesis import given, strategies as st

import graphopt
from graphopt import ops
from graphopt.exporter import save
from graphopt.ir import Graph, Parameter, Value
from graphopt.mesh_flow import Stretch, repeated
from graphopt.mesh_page import mesh_page, mesh_picture
from graphopt.mesh_view import PARTS, hand_facts, mesh_facts, mesh_lines
from graphopt.sharded import Sharded
from graphopt.types import DType, TensorType

WIDTH, LAYERS = 256, 4


def stack(layers: int = LAYERS) -> Graph:
    """Equal layers, each a sum around an MLP."""
    names: dict[Value, str] = {}

    def weight(name: str, *shape: int) -> Value:
        random = np.random.default_rng(len(names))
        constant = ops.Constant(random.normal(size=shape).astype(np.float32) / 16)
        names[constant] = name
        return constant

    x: Value = Parameter(TensorType(DType.F32, (4, 64, WIDTH)), "x & <x>")
    graph_input = x
    for i in range(layers):
        up = ops.MatMul(x, weight(f"<l{i}>.up", WIDTH, 4 * WIDTH))
        down = weight(f"<l{i}>.down", 4 * WIDTH, WIDTH)
        x = ops.Add(x, ops.MatMul(ops.Relu(up), down))
    assert isinstance(graph_input, Parameter)
    return Graph([graph_input], [x], output_names=["y"], names=names)


@cache
def sharded() -> Sharded:
    limit = 16 * LAYERS * WIDTH * WIDTH  # half of what the weights take
    return graphopt.shard(stack(), "2x2", "xla-cuda:h100", max_memory=limit)


@cache
def _facts() -> str:
    return json.dumps(mesh_facts(sharded()))


@pytest.fixture
def facts() -> dict[str, Any]:
    """As a reader of JSON has them."""
    found: dict[str, Any] = json.loads(_facts())
    return found


def test_the_program_takes_what_the_planner_said(facts: dict[str, Any]) -> None:
    plan = sharded().plan
    assert plan is not None
    assert facts["seconds"] == pytest.approx(plan.seconds, rel=1e-9)
    assert facts["seconds"] == pytest.approx(sum(facts["step"].values()))
    sent = {c["kind"]: 0.0 for c in facts["collectives"]}
    for each in facts["collectives"]:
        sent[each["kind"]] += each["seconds"]
    for kind, seconds in sent.items():
        assert facts["step"][kind] == pytest.approx(seconds)


def test_memory_is_the_planners(facts: dict[str, Any]) -> None:
    plan, memory = sharded().plan, facts["memory"]
    assert plan is not None
    assert sum(memory[part] for part in PARTS) == plan.memory <= memory["limit_bytes"]
    assert plan.memory - plan.stored == memory["activation_bytes"]
    assert memory["weight_bytes"] == sum(
        row["bytes"] for row in facts["held"] if row["what"] == "weight"
    )
    assert memory["limit_bytes"] == sharded().limit


def test_what_is_held_has_its_layout(facts: dict[str, Any]) -> None:
    ways = list(facts["mesh"].values())
    for row in facts["held"]:
        size = 4 * int(np.prod(row["shape"]))
        for state, count in zip(row["layout"], ways, strict=True):
            size //= count if state != "R" else 1
        assert row["bytes"] == size
    assert facts["split"] == sum(row["layout"] != ["R", "R"] for row in facts["held"])
    assert facts["split"] >= LAYERS


def test_the_layer_is_found_and_is_a_flow() -> None:
    # Of many layers, those in the middle are planned as one: they are alike.
    count = 12
    limit = 12 * count * WIDTH * WIDTH
    line = graphopt.shard(stack(count), "4", "xla-cuda:h100", max_memory=limit)
    flow = mesh_facts(line)["layer"]
    assert flow["times"] >= 2
    rows = flow["rows"]
    assert [row["op"] for row in rows].count("MatMul") == 2
    assert 1 <= len(flow["given"]) <= 2  # a value may come in two layouts
    assert rows[-1]["leaves"]
    assert not rows[0]["leaves"]
    for i, row in enumerate(rows):
        assert all(-len(flow["given"]) <= read < i for read in row["reads"])
        assert (row["axis"] is not None) == (row["bytes"] > 0)
    read = {read for row in rows for read in row["reads"]}
    assert read >= {i for i, row in enumerate(rows) if not row["leaves"]}


@given(st.lists(st.integers(0, 3), max_size=14))
def test_repeated_covers_most(keys: list[int]) -> None:
    def times(start: int, length: int) -> int:
        part, n = keys[start : start + length], 1
        while keys[start + n * length : start + (n + 1) * length] == part:
            n += 1
        return n

    found = repeated(keys)
    spans = [(s, n) for n in range(1, len(keys) + 1) for s in range(len(keys) - n + 1)]
    covered = [n * times(s, n) for s, n in spans if times(s, n) > 1]
    if not covered:
        assert found == Stretch(0, len(keys), 1)
    else:
        assert times(found.start, found.length) >= found.times > 1
        assert found.times * found.length == max(covered)


def test_lines_have_each_table(facts: dict[str, Any]) -> None:
    text = "\n".join(mesh_lines(facts))
    assert re.search(r"^on h100, mesh x=2 x y=2$", text, re.M)
    assert re.search(r"^a step takes [\d.]+ ms by the model, proved best$", text, re.M)
    assert re.search(r"^weight <l\*>\.up f32\[256, 1024\] +\[.*\] +[1-4] ", text, re.M)
    assert "made by hand" not in text


def test_plans_made_by_hand_are_compared(facts: dict[str, Any]) -> None:
    own = facts["seconds"]
    facts["hand"] = [
        {"name": "data <parallel>", "seconds": 2 * own, "reason": ""},
        {"name": "sequence", "seconds": None, "reason": "64 is not divided"},
        {"name": "context", "seconds": None, "reason": "64 is not divided"},
    ]
    text = "\n".join(mesh_lines(facts))
    assert re.search(r"^data <parallel> +[\d.]+ +2\.00$", text, re.M)
    assert "\nsequence, context: 64 is not divided" in text
    drawn = texts(mesh_picture(facts, "m"))
    assert "data <parallel>" in drawn
    assert "sequence, context: 64 is not divided" in drawn
    assert any(said.endswith("2.00 of this plan") for said in drawn)


def test_no_plan_made_by_hand_is_cheaper(facts: dict[str, Any]) -> None:
    hand = hand_facts(sharded())
    assert {"data", "fsdp x megatron"} <= {row["name"] for row in hand}
    own = facts["seconds"]
    costs = [row["seconds"] for row in hand if row["seconds"] is not None]
    assert costs == sorted(costs)
    assert costs[0] >= own * (1 - 1e-6)
    assert all(row["reason"] for row in hand if row["seconds"] is None)
    assert not hand_facts(sharded(), seconds=-1.0)


SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_picture_has_each_device_op_and_state(facts: dict[str, Any]) -> None:
    svg = mesh_picture(facts, "a & <b>")
    root = ElementTree.fromstring(svg)
    classes = [e.get("class", "") for e in root.iter()]
    assert classes.count("card") == 4
    rows = facts["layer"]["rows"]
    sending = [row for row in rows if row["axis"] is not None]
    assert classes.count("sends") == len(sending)
    assert sum(c.startswith("node") for c in classes) == len(rows) + 1  # the legend's
    said = texts(svg)
    for row in rows:
        axis = "" if row["axis"] is None else f" over {row['axis']}"
        assert f"{row['op'].removeprefix('mesh.')}{axis}" in said
    for place in ("x 0 y 0", "x 0 y 1", "x 1 y 0", "x 1 y 1", "a & <b>"):
        assert place in said
    strands = [c for c in classes if c.startswith("strand")]
    assert len(strands) == 2 * (len(rows) + 1)  # a strand for each axis


def test_a_device_has_its_own_part_drawn(facts: dict[str, Any]) -> None:
    """Devices that hold other parts of the first weight differ in their boxes."""
    svg = mesh_picture(facts, "m")
    cells = svg.split('class="card"')[1:]
    first = max(
        (row for row in facts["held"] if row["what"] == "weight"),
        key=lambda row: row["bytes"],
    )
    split = [state != "R" for state in first["layout"]]
    parts = []
    for cell in cells:
        x, y = map(float, re.findall(r'^ x="([\d.]+)" y="([\d.]+)"', cell)[0])
        drawn = re.findall(r'class="f-\d" x="([\d.]+)" y="([\d.]+)"', cell)
        parts.append(
            [(round(float(a) - x, 2), round(float(b) - y, 2)) for a, b in drawn]
        )
    assert any(split)
    assert len({tuple(part) for part in parts}) > 1


def test_nothing_is_loaded_and_names_are_escaped(facts: dict[str, Any]) -> None:
    page = mesh_page(facts, "</title><script>")
    assert "<script" not in page
    assert "<l0>" not in page
    links = re.findall(r"(?:href|src|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", page)
    assert not links
    assert re.findall(r"https?://[^\"]+", page) == ["http://www.w3.org/2000/svg"]


def test_large_meshes_are_drawn_in_part(facts: dict[str, Any]) -> None:
    facts["mesh"] = {"x": 16, "y": 32}
    svg = mesh_picture(facts, "m")
    assert svg.count('class="card"') == 32
    assert any("32 of 512 devices are drawn" in said for said in texts(svg))


def test_a_program_without_layers_is_drawn_whole() -> None:
    x = Parameter(TensorType(DType.F32, (4, 8)), "x")
    total = ops.Sqrt(ops.Exp(ops.Exp(ops.Relu(x))))
    found = mesh_facts(graphopt.shard(Graph([x], [total]), "2", "xla-cuda:h100"))
    assert found["layer"]["times"] == 1
    assert [r["op"] for r in found["layer"]["rows"]] == ["Relu", "Exp", "Exp", "Sqrt"]
    assert "What each device does" in texts(mesh_picture(found, "m"))
    assert "nothing is sent between devices" in mesh_lines(found)


@pytest.mark.parametrize("hand", [[], [{"name": "a", "seconds": None, "reason": "b"}]])
def test_a_program_of_nothing_is_drawn(hand: list[Any]) -> None:
    x = Parameter(TensorType(DType.F32, (4, 8)), "x")
    found = mesh_facts(graphopt.shard(Graph([x], [x]), "2x2", "xla-cuda:h100"))
    assert found["seconds"] == 0
    assert "compute 0.000 ms" not in texts(mesh_picture({**found, "hand": hand}, "m"))


def test_the_command_draws(command: Command, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    save(stack(), model)
    words = ("inspect", model, "--mesh", "4", "--target", "xla-cuda:h100")
    for name, start in (("p.svg", "<svg "), ("p.html", "<!doctype html>")):
        code, out, _ = command(*words, "-o", tmp_path / name)
        assert code == 0
        assert "memory of each device" in out
        assert "what plans made by hand would take" in out
        assert (tmp_path / name).read_text().startswith(start)
    code, _, err = command(*words, "-o", tmp_path / "p.png")
    assert code == 2
    assert "write .svg or .html" in err
    code, _, err = command("inspect", model, "-o", tmp_path / "p.svg")
    assert code == 2
    assert "add --memory or --mesh" in err


def test_a_plan_of_a_file_is_told_as_it_was_found(
    command: Command, tmp_path: Path
) -> None:
    model, planned = tmp_path / "m.onnx", tmp_path / "planned.onnx"
    save(stack(), model)
    mesh = ("--mesh", "2x2", "--target", "xla-cuda:h100")
    code, _, _ = command("optimize", model, *mesh, "-o", planned)
    assert code == 0
    found = []
    for words in (("inspect", model, *mesh), ("inspect", planned, "--mesh", *mesh[2:])):
        code, out, _ = command(*words, "--json")
        assert code == 0
        found.append(json.loads(out))
    new, kept = found
    assert kept["solved"] is None
    assert kept["hand"] == []
    assert kept["seconds"] == pytest.approx(new["seconds"])
    assert kept["memory"] == new["memory"]
    assert kept["layer"] == new["layer"]
