"""ONNX Runtime runs the nodes of a model in the order that was planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from ordered_graphs import branchy, some_order

import graphopt
from graphopt import load, ops
from graphopt.errors import BackendMissing, UnsupportedModel, UsageError
from graphopt.exporter import save, to_proto
from graphopt.exporter.storage import data_path
from graphopt.ir import Graph, Parameter
from graphopt.lowering import find
from graphopt.lowering.ort.measured import numbered
from graphopt.lowering.ort.ordered import KEPT, honoured, reordered
from graphopt.lowering.ort.recipe import Recipe, recipe_path
from graphopt.lowering.ort.session import Session
from graphopt.lowering.ort.trace import trace
from graphopt.plan import Plan
from graphopt.types import DType, tensor

pytest.importorskip("onnxruntime")

SEEDS = range(20)
INPUT = {"x": np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 16)}


def executed(path: Path, recipe: Recipe | None = None) -> list[str]:
    """The first result of each node, in the order of execution."""
    return [node.outputs[0] for node in trace(path, INPUT, runs=1, recipe=recipe)]


def of_file(path: Path) -> list[str]:
    return [node.output[0] for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_is_kept_after_the_runtime_has_optimized(
    seed: int, tmp_path: Path
) -> None:
    graph = branchy(seed)
    source, path = tmp_path / "model.onnx", tmp_path / "ordered.onnx"
    save(graph, source)
    made = honoured(source, path, lambda optimized: some_order(optimized, seed))
    assert made.session == KEPT
    assert Recipe.beside(path) == made
    assert executed(path, made) == of_file(path)
    expected = Session(source)(INPUT)
    for name, array in graphopt.session(path)(INPUT).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5)


def test_by_itself_the_runtime_has_another_order(tmp_path: Path) -> None:
    """If this fails, the tests above show nothing."""
    path = tmp_path / "model.onnx"
    graph = branchy(0)
    save(graph, path, order=some_order(graph, 0))
    plain = {"graph_optimization_level": "ORT_DISABLE_ALL"}
    assert executed(path, Recipe(session=plain)) != of_file(path)
    assert executed(path, Recipe(session=KEPT)) == of_file(path)


@pytest.mark.parametrize("seed", range(3))
def test_the_runtime_writes_nodes_as_it_runs_them(seed: int, tmp_path: Path) -> None:
    source, path = tmp_path / "model.onnx", tmp_path / "executed.onnx"
    save(branchy(seed), source)
    Session(source, executed=path)
    assert executed(source) == of_file(path)


def test_a_compiled_graph_runs_in_the_order_of_its_plan() -> None:
    graph = branchy(9)
    order = tuple(some_order(graph, 9))
    session = find("ort-cpu").compile(graph, Plan(order=order))
    assert isinstance(session, Session)
    assert session.recipe.session == {
        **KEPT,
        "enable_mem_pattern": False,
        "enable_mem_reuse": False,
    }
    plain = find("ort-cpu").compile(graph, Plan())
    assert isinstance(plain, Session)
    assert not plain.recipe.session
    expected = plain(INPUT)
    for name, array in session(INPUT).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5)


def test_nothing_but_the_order_changes() -> None:
    model = to_proto(branchy(1))
    graph = load(numbered(model))
    made = reordered(model, graph, some_order(graph, 5))
    before, after = list(model.graph.node), list(made.graph.node)
    assert before != after
    assert sorted(map(str, before)) == sorted(map(str, after))
    del model.graph.node[:], made.graph.node[:]
    assert made == model


def test_what_bodies_read_comes_before_them() -> None:
    """Nodes that become no ops, such as constants, go where they are read."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[4] x, bool c) => (float[4] y) {
          one = Constant <value = float {1.0}> ()
          a = Exp (x)
          b = Add (x, one)
          y = If (c) <
            then_branch = t () => (float[4] t) { t = Neg (a) },
            else_branch = e () => (float[4] e) { e = Abs (b) } >
        }"""
    model = onnx.parser.parse_model(text)

    graph = load(numbered(model))
    by_kind = {op.kind: op for op in graph.ops}
    made = reordered(model, graph, [by_kind[kind] for kind in ("Add", "Exp", "If")])
    onnx.checker.check_model(made)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds == ["Constant", "Add", "Exp", "If"]


def test_an_order_that_is_none_is_refused(tmp_path: Path) -> None:
    source, path = tmp_path / "model.onnx", tmp_path / "ordered.onnx"
    save(branchy(2), source)
    with pytest.raises(UsageError, match="which it reads"):
        honoured(source, path, lambda graph: graph.ops[::-1])
    assert not path.exists()
    assert list(tmp_path.iterdir()) == [source]
    with pytest.raises(UnsupportedModel, match="optimized for cuda"):
        honoured(source, path, lambda graph: graph.ops, recipe=Recipe("cuda"))


def test_what_was_made_elsewhere_is_not_opened(tmp_path: Path) -> None:
    source, path = tmp_path / "model.onnx", tmp_path / "ordered.onnx"
    save(branchy(3), source)
    made = honoured(source, path, lambda graph: graph.ops)
    assert made.made_for["onnxruntime"]
    replace(made, made_for={**made.made_for, "processor": "z80"}).save(path)
    with pytest.raises(BackendMissing, match="made for processor z80"):
        graphopt.session(path)


def test_weights_are_put_beside(tmp_path: Path) -> None:
    x = Parameter(tensor(DType.F32, 4, 16), "x")
    weights = np.ones((16, 512), np.float32)
    graph = Graph([x], [ops.Neg(ops.MatMul(x, ops.Constant(weights)))])
    source, path = tmp_path / "model.onnx", tmp_path / "ordered.onnx"
    save(graph, source)
    honoured(source, path, lambda graph: graph.ops)
    assert sorted(tmp_path.iterdir()) == sorted(
        [source, path, data_path(path), recipe_path(path)]
    )
    (result,) = graphopt.session(path)(INPUT).values()
    np.testing.assert_allclose(result, -(INPUT["x"] @ weights), rtol=1e-5)
