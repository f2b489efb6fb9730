"""What is said of memory: complete, in names that can be written, and soon enough."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from conftest import Command

import graphopt
from graphopt import limits, ops
from graphopt.dim_names import inside, said
from graphopt.dims import symbol
from graphopt.errors import UnsupportedModel, UsageError
from graphopt.exporter import save
from graphopt.fitted import DoesNotFit
from graphopt.fitting import fitting
from graphopt.ir import Graph, Parameter, Value
from graphopt.lowering import memory_of
from graphopt.lowering.ort.advice import recipe
from graphopt.lowering.ort.allocation import predicted
from graphopt.passes.memory import SPACES, plan_memory
from graphopt.timeline import memory_facts, memory_lines
from graphopt.types import DType, TensorType


def x(*shape: Any, name: str = "x") -> Parameter:
    return Parameter(TensorType(DType.F32, shape), name)


def written(graph: Graph, folder: Path) -> Path:
    save(graph, folder / "model.onnx")
    return folder / "model.onnx"


def chain(*shape: Any) -> Graph:
    a = x(*shape)
    return Graph([a], [ops.Exp(ops.Softmax(ops.Exp(a)))])


def weight(*shape: int) -> Value:
    return ops.Constant(np.random.default_rng(0).standard_normal(shape, np.float32))


def unplanned(*_: Any, **__: Any) -> None:
    raise AssertionError("memory was planned")


# --- before anything is planned -----------------------------------------------------


@pytest.mark.xla
def test_what_is_no_program_is_refused_before_its_memory_is_planned(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jax")
    n, k = symbol("n"), symbol("k")
    a, b = x(n, 4, name="a"), x(k, 4, name="b")
    path = written(Graph([a, b], [ops.Add(a, b)]), tmp_path)
    monkeypatch.setattr(limits, "fitted_to", unplanned)
    limit = ("--target", "xla-cpu", "--max-activations", "1KiB")
    code, _, err = command("optimize", path, *limit)
    assert code == UnsupportedModel.exit_code
    assert "cannot stay symbolic" in err


@pytest.mark.parametrize(
    ("target", "name"),
    [("xla-cpu", "out.onnx"), ("ort-cpu", "out.stablehlo"), ("onnx", "out.stablehlo")],
)
def test_names_that_no_file_may_have_are_refused_before_the_model_is_read(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    name: str,
) -> None:
    if target == "xla-cpu":
        pytest.importorskip("jax")
    path = written(chain(4), tmp_path)
    monkeypatch.setattr("graphopt.driver.improve", unplanned)
    words = ("optimize", path, "--target", target, "-o", tmp_path / name)
    code, _, err = command(*words, "--max-activations", "1KiB")
    assert code == UsageError.exit_code
    assert ".stablehlo" in err


@pytest.mark.parametrize("name", ["seq", "y:0", "x:2"])
def test_sizes_of_dims_that_are_none_are_refused_before_any_pass(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.pipeline.Pipeline.run", unplanned)
    with pytest.raises(UsageError, match="no dim of an input is called"):
        graphopt.optimize(
            chain(None, symbol("n")), max_activations=9999, memory_sizes={name: 8}
        )


# --- names of dims ------------------------------------------------------------------


def test_a_dim_has_the_name_by_which_it_is_asked_for() -> None:
    graph = chain(None, symbol("n"))
    assert inside({"x:0": 2, "n": 3}, graph) == {"?x:0": 2, "n": 3}
    assert inside({"x:1": 3}, graph) == {"n": 3}
    with pytest.raises(UsageError, match="cannot be both"):
        inside({"x:1": 3, "n": 4}, graph)
    assert said({"?x:0": 2, "n": 3}) == "x:0 = 2, n = 3"
    assert said({"None": 1}) == "the dim 'None' = 1"


def test_sizes_of_dims_without_a_name_are_used_and_told() -> None:
    graph = chain(None, 64)
    result = graphopt.optimize(graph, max_activations="1MiB", memory_sizes={"x:0": 7})
    fitted = result.report.memory
    assert fitted is not None
    assert fitted.to_json()["sizes"] == {"x:0": 7}
    assert "with x:0 = 7:" in next(iter(fitted.lines()))
    assert "?x" not in str(result.report)
    wide = Graph(list(graph.inputs), [*graph.outputs, ops.Exp(x(512, name="big"))])
    wide = wide.replace(inputs=[*graph.inputs, wide.outputs[1].operands[0]])  # type: ignore[union-attr]
    with pytest.raises(DoesNotFit) as caught:
        graphopt.optimize(wide, max_memory=64, memory_sizes={"x:0": 7}, check="off")
    assert caught.value.message.startswith("with x:0 = 7, ")
    assert caught.value.details["sizes"] == {"x:0": 7}


# --- sizes on which a model runs ----------------------------------------------------


def windows(length: int, least: int) -> Graph:
    """Must have ``length`` samples, of which shapes tell that it is no less than some.

    What they are reshaped to is data.
    """
    samples = x(1, 1, symbol("samples"), name="samples")
    window = ops.Conv(samples, weight(1, 1, least))
    count = ops.Shape(ops.NonZero(weight(1, length)), start=1)
    return Graph([samples], [window, ops.Exp(ops.Reshape(samples, count))])


@pytest.mark.parametrize(("length", "least"), [(512, 200), (1024, 200)])
def test_a_dim_that_runs_at_one_size_only_has_that(length: int, least: int) -> None:
    sizes, made = fitting(windows(length, least))
    assert sizes == {"samples": length}
    assert made.inputs[0].shape == (1, 1, length)
    assert fitting(windows(length, least), {"samples": 256})[0] == {"samples": 256}


# --- what is left out, and what is not ----------------------------------------------


def opaque(folder: Path) -> Graph:
    """An op of which nobody knows what it gives, and what comes after it."""
    model = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17, "nowhere" : 1]>
    odd (float[None, 8] x) => (float y) { a = nowhere.Odd(x) y = Exp(a) }
    """)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, folder / "odd.onnx")
    return graphopt.load(folder / "odd.onnx")


def test_values_without_a_size_are_told_at_the_top(tmp_path: Path) -> None:
    graph = opaque(tmp_path)
    plan = plan_memory(graph, {"None": 1})
    lines = list(memory_lines(memory_facts(plan, graph) | {"order": "file"}))
    assert lines[0] == "with the dim 'None' = 1"
    said = r"the plan leaves out 2 values, whose size is not known before a run"
    assert re.match(rf"{said} \(the first is what nowhere.Odd node", lines[1])
    assert "--measure" in lines[1]
    assert not any("1 B" in line or "no arena is smaller" in line for line in lines)


def late() -> Graph:
    """The peak is early; a large output is made after it."""
    a = x(64, 64)
    peak = ops.ReduceSum(ops.Exp(ops.Concat(a, a, a, a, axis=0)), keepdims=0)
    return Graph([a], [ops.Expand(peak, ops.Constant(np.array([64, 64])))])


def test_what_must_be_there_whatever_the_plan_counts_all_outputs() -> None:
    graph = late()
    plan = plan_memory(graph, space=SPACES["onnx"])
    whatever = plan.constants + plan.inputs + plan.outputs
    assert plan.beside < plan.outputs
    assert whatever <= plan.resident
    with pytest.raises(DoesNotFit) as caught:
        graphopt.optimize(graph, max_memory=whatever - 1, check="off")
    assert "whatever the plan" in caught.value.message
    assert f"{plan.outputs / 1024:,.1f} KiB of outputs" in caught.value.message


# --- the arena of ONNX Runtime ------------------------------------------------------


def test_the_arena_that_limits_are_held_against_is_shown(
    command: Command, tmp_path: Path
) -> None:
    """Pieces between which room is lost: an arena takes more than is planned."""
    a = x(64, 40)
    b = ops.Concat(ops.Exp(ops.MatMul(a, weight(40, 90))), a, axis=1)
    c = ops.Softmax(ops.MatMul(b, weight(130, 50)))
    graph = Graph([a], [ops.ReduceSum(ops.Concat(b, c, axis=1), keepdims=0)])
    path = written(graph, tmp_path)
    target = tmp_path / "plan.html"
    words = ("inspect", path, "--memory", "--target", "ort-cpu")
    code, out, _ = command(*words, "--json")
    found = json.loads(out)["arena"]
    block = predicted(graphopt.load(path), reuse=False)
    assert code == 0
    assert block is not None
    assert found["executed"] is False
    assert found["activation_bytes"] >= block.block - json.loads(out)["output_bytes"]
    _, out, _ = command(*words, "-o", target)
    said_ = next(line for line in out.splitlines() if "ONNX Runtime's arena" in line)
    assert "limits are held against that" in said_
    assert said_ in target.read_text().replace("&#x27;", "'")
    assert out.splitlines()[-1] == f"written to {target}"
    limit = ("--target", "ort-cpu", "--max-activations", str(found["activation_bytes"]))
    code, out, _ = command("optimize", path, *limit, "-O0", "--json", "--dry-run")
    assert code == 0
    assert json.loads(out)["memory"]["activation_bytes"] == found["activation_bytes"]
    assert "arena" not in json.loads(command(*words[:3], "--json")[1])


@pytest.mark.runtime
def test_a_recipe_beside_a_model_says_how_it_is_opened(
    tmp_path: Path, command: Command
) -> None:
    pytest.importorskip("onnxruntime", minversion="1.32")
    a = x(1, 8, 32, 32)
    h: Value = a
    for _ in range(3):
        h = ops.Add(a, ops.Conv(ops.Exp(h), weight(8, 8, 3, 3), pads=(1, 1, 1, 1)))
    graph = Graph([a], [h])
    path = written(graph, tmp_path)
    words = ("inspect", path, "--memory", "--target", "ort-cpu", "--json")
    laid_out = json.loads(command(*words)[1])["arena"]
    recipe(graph, "cpu", ordered=True, layouts=False).save(path)
    plain = json.loads(command(*words)[1])["arena"]
    assert (laid_out["layouts"], plain["layouts"]) == (True, False)
    assert plain["executed"]
    assert plain["activation_bytes"] == laid_out["without_layouts_bytes"]
    assert plain["activation_bytes"] != laid_out["activation_bytes"]


# --- what a compiler's number is made of --------------------------------------------


@pytest.mark.xla
def test_a_refusal_for_xla_names_the_kernel_that_takes_most(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    a = x(1, 8, 32, 32)
    h: Value = a
    for width in (2, 32, 4):  # the second is the largest, and reads the first
        kernel = weight(width, 8 if h is a else 2 if width == 32 else 32, 3, 3)
        h = ops.Exp(ops.Conv(h, kernel, pads=(1, 1, 1, 1)))
    path = written(Graph([a], [ops.ReduceSum(h, keepdims=0)]), tmp_path)
    with pytest.raises(DoesNotFit) as caught:
        graphopt.optimize(path, "xla-cpu", max_activations=1, check="off")
    lines = caught.value.message.splitlines()
    named = re.search(r"--max-activations (\d+) would do", lines[0])
    assert named is not None
    assert "are the compiler's temporaries" in lines[1]
    assert "for themselves; most is taken by that of 'Tiled/Conv'" in lines[1]
    assert "by the plan most is live at" in lines[-1]


@pytest.mark.xla
@pytest.mark.parametrize("name", ["/decoder/body/Conv_1", "while", "Conv"])
def test_a_kernel_is_called_as_its_node(name: str, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    made = ops.Conv(x(1, 8, 32, 32), weight(32, 8, 3, 3), pads=(1, 1, 1, 1))
    graph = Graph(made.operands[:1], [made], sources={made: (name,)})  # type: ignore[arg-type]
    found = memory_of(graph, "xla-cpu", {}, None, "single")
    assert found.kernel[0] > 0
    assert found.kernel[1] == name
