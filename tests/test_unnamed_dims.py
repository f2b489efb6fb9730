"""Dims without a name: limits count what hangs on them, and no file names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from real_models import every_model

import graphopt
from graphopt import ops
from graphopt.cost import value_bytes
from graphopt.dim_names import named
from graphopt.dims import Dim, symbol
from graphopt.exporter import to_proto
from graphopt.fitted import DoesNotFit
from graphopt.importer import load
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.lowering.ort.allocation import Facts, events, inside
from graphopt.ops.control import If
from graphopt.passes.memory import SPACES, plan_memory, run_in_arena, validate
from graphopt.reference import evaluate
from graphopt.specialize import specialize
from graphopt.types import DType, TensorType

SIZES = {"x:0": 2, "x:1": 96}

BODIES = {
    "plain": "h = MatMul(x, w)  k = Softmax(h)  l = Exp(k)  y = MatMul(l, v)",
    "loop": """
        y = Loop(n, , x) <body = b (int64 i, bool c, float[A, B, 8] s)
                               => (bool d, float[A, B, 8] t) {
            d = Identity(c)  h = MatMul(s, w)  k = Exp(h)  t = MatMul(k, v)
        }>""",
    "if": """
        m = ReduceMax<keepdims = 0>(x)
        c = Cast<to = 9>(m)
        y = If(c) <then_branch = t () => (float[A, B, 8] q) {
            h = MatMul(x, w)  k = Exp(h)  q = MatMul(k, v)
        }, else_branch = e () => (float[A, B, 8] r) { r = Exp(x) }>""",
    "scan": """
        a = Transpose<perm = [1, 0, 2]>(x)
        b = Scan<num_scan_inputs = 1, body = b (float[A, 8] s) => (float[A, 8] t) {
            h = MatMul(s, w)  k = Exp(h)  t = MatMul(k, v)
        }>(a)
        y = Transpose<perm = [1, 0, 2]>(b)""",
}

GROWING = """
    z = Loop(n, , x) <body = b (int64 i, bool c, float[A, B, 8] s)
                           => (bool d, float[A, C, 8] t) {
        d = Identity(c)  t = Concat<axis = 1>(s, s)
    }>
    y = Exp(z)"""
"""What is carried has another length in each iteration."""


def model(body: str, *, unnamed: bool) -> onnx.ModelProto:
    weights = ", ".join(["0.1"] * 64 * 8)
    made = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N, M, 8] x, int64 n) => (float[N, K, 8] y)
        <float[8, 64] w = {{{weights}}}, float[64, 8] v = {{{weights}}}>
        {{ {body} }}"""
    )
    if unnamed:
        unname(made.graph)
    return made


def unname(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.ClearField("value")
    for node in graph.node:
        for attribute in node.attribute:
            unname(attribute.g)


def dim_params(graph: onnx.GraphProto) -> set[str]:
    """All names of dims in a graph, also inside of bodies."""
    found = {
        dim.dim_param
        for value in (*graph.input, *graph.output, *graph.value_info)
        for dim in value.type.tensor_type.shape.dim
    }
    for node in graph.node:
        for attribute in node.attribute:
            found |= dim_params(attribute.g)
    return found - {""}


def interface(graph: Graph) -> object:
    inputs = [(p.name, p.type) for p in graph.inputs]
    return inputs, list(zip(graph.output_names, graph.output_types, strict=True))


def chain(*shape: object) -> Graph:
    x = Parameter(TensorType(DType.F32, shape), "x")  # type: ignore[arg-type]
    return Graph([x], [ops.Exp(ops.Softmax(ops.Exp(x)))])


# --- limits -------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["onnx", "ort-cpu"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_limit_counts_what_it_counts_where_dims_are_named(
    body: str, target: str
) -> None:
    found = []
    for unnamed in (False, True):
        graph = load(model(body, unnamed=unnamed).SerializeToString())
        result = graphopt.optimize(
            graph, target, max_activations="1MiB", memory_sizes=SIZES
        )
        fitted = result.report.memory
        assert fitted is not None
        assert fitted.plan.left_out == 0
        found.append((fitted.activations, fitted.arena, fitted.plan.lower_bound))
        with pytest.raises(DoesNotFit):
            graphopt.optimize(graph, target, max_activations=64, memory_sizes=SIZES)
    assert found[0] == found[1]
    assert found[0][0] > 96 * 64 * 4 // (96 if "Scan" in body else 1)


def meeting(*shape: Dim) -> Graph:
    """What is broadcast of two inputs; nobody says that their dims are alike."""
    a, b = (Parameter(TensorType(DType.F32, shape), name) for name in "ab")
    both = ops.Add(a, b)
    weights = np.ones((16, 64), np.float32)
    wide = ops.Softmax(ops.MatMul(ops.Relu(both), ops.Constant(weights)))
    return Graph([a, b], [ops.ReduceSum(ops.Mul(wide, ops.Exp(wide)))])


@pytest.mark.parametrize("target", ["onnx", "ort-cpu"])
def test_values_of_dims_that_only_numbers_show_alike_are_counted(target: str) -> None:
    sizes = {"a:0": 128, "b:0": 128}
    graph = meeting(None, 16)
    result = graphopt.optimize(
        graph, target, max_activations="1MiB", memory_sizes=sizes
    )
    fitted = result.report.memory
    assert fitted is not None
    fixed = specialize(result.graph, {"a:0": 128, "b:0": 128}).graph
    alone = plan_memory(fixed, space=SPACES[target])
    assert fitted.plan.left_out == 0
    assert fitted.plan.peak == alone.peak > 128 * 64 * 4
    assert fitted.arena is None or fitted.arena >= alone.peak
    validate(fitted.plan, result.graph)
    inputs = random_inputs(fixed, 0)
    (made,) = run_in_arena(result.graph, fitted.plan, inputs)
    assert np.allclose(made, evaluate(graph, inputs)[0])
    with pytest.raises(DoesNotFit):
        graphopt.optimize(graph, target, max_activations=9999, memory_sizes=sizes)


def test_a_plan_of_bodies_is_that_of_the_graph_with_numbers() -> None:
    a, b, c = (Parameter(TensorType(DType.F32, (None, 16)), name) for name in "abc")
    given = [Parameter(TensorType(DType.F32, (None, 16)), "x") for _ in range(4)]
    then = Graph(given[:2], [ops.Exp(ops.Softmax(ops.Add(*given[:2])))])
    other = Graph(given[2:], [ops.Exp(ops.Add(*given[2:]))])
    cond = ops.Cast(ops.ReduceMax(c, keepdims=0), to=DType.BOOL)
    graph = named(Graph([a, b, c], [ops.Abs(If(cond, a, b, bodies=(then, other)))]))
    sizes = {"?a:0": 8, "?b:0": 8, "?c:0": 1}
    plan = plan_memory(graph, sizes)
    fixed = plan_memory(specialize(graph, {n[1:]: s for n, s in sizes.items()}).graph)
    assert (plan.peak, plan.left_out) == (fixed.peak, 0)
    assert set(plan.order) == {op for op in graph.ops if op.constant is None}
    assert set(plan.nested) == {op for op in graph.ops if op.bodies}
    validate(plan, graph)
    assert plan_memory(graph, {"?a:0": (1, 8), "?b:0": (1, 8), "?c:0": 1}).left_out


def test_what_is_cut_for_a_limit_keeps_to_it_in_a_run(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from graphopt.lowering.ort.meter import realised_peak
    from graphopt.lowering.ort.recipe import Recipe

    source = load(model(BODIES["plain"], unnamed=True).SerializeToString())
    sizes = {"x:0": 2, "x:1": 512}
    limit = 192 << 10
    whole = graphopt.optimize(source, "ort-cpu", max_activations="1MiB")
    path = tmp_path / "model.onnx"
    result = graphopt.optimize(
        source, "ort-cpu", max_activations=limit, memory_sizes=sizes
    ).save(path)
    assert len(result.graph.ops) > len(whole.graph.ops)
    x = np.random.default_rng(0).standard_normal((2, 512, 8), np.float32)
    inputs = {"x": x, "n": np.array(1)}
    beside = x.nbytes  # the output lies in the arena, too
    real = realised_peak(path, inputs, recipe=Recipe.beside(path), growing=False)
    assert 0 < real.peak <= limit + beside


def test_values_that_no_size_tells_are_left_out_and_said() -> None:
    graph = load(model(GROWING, unnamed=True).SerializeToString())
    result = graphopt.optimize(
        graph, "ort-cpu", max_activations="1MiB", memory_sizes=SIZES
    )
    fitted = result.report.memory
    assert fitted is not None
    told = fitted.to_json()
    assert told["without_size"] == fitted.plan.left_out > 0
    assert told["arena_bytes"] is None
    assert f"leaves out {fitted.plan.left_out} values" in "\n".join(fitted.lines())


def test_bodies_of_unknown_size_are_not_nothing() -> None:
    x = Parameter(TensorType(DType.F32, (4,)), "x")
    given = [Parameter(TensorType(DType.F32, (None,)), "x") for _ in range(2)]
    then = Graph([given[0]], [ops.Exp(ops.Abs(given[0]))])
    other = Graph([given[1]], [given[1]])
    cond = ops.Cast(ops.ReduceMax(x, keepdims=0), to=DType.BOOL)
    branch = If(cond, x, bodies=(then, other))
    graph = Graph([x], [ops.ReduceSum(branch)])
    assert events(then, None, Facts.of({})) is None
    assert events(graph, None, Facts.of({})) is None
    assert inside(branch, Facts.of({})) == 0


@every_model(lambda path: path.parent.name == "silero__silero_vad")
def test_silero_leaves_out_no_value_that_could_be_known(path: Path) -> None:
    """Only Ifs whose branches give other ranks, and what reads these."""
    result = graphopt.optimize(path, "ort-cpu", max_activations="10MiB", check="off")
    fitted = result.report.memory
    assert fitted is not None
    unknown = [*first_unknown(result.graph, fitted.sizes)]
    assert unknown
    for op in unknown:
        assert isinstance(op, If)
        then, other = ([v.type for v in body.outputs] for body in op.bodies)
        assert then != other or any(first_unknown(b, fitted.sizes) for b in op.bodies)


def first_unknown(graph: Graph, sizes: dict[str, int]) -> list[Op]:
    """The ops, in bodies too, that give what has no size of operands that have one."""

    def unsized(value: Value | None) -> bool:
        return value is not None and value_bytes(value, sizes) is None

    return [
        op
        for _, op in graph.walk()
        if any(map(unsized, op.results)) and not any(map(unsized, op.operands))
    ]


# --- what is written ----------------------------------------------------------------


@pytest.mark.parametrize("target", ["onnx", "ort-cpu"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_written_has_the_interface_of_the_source(
    body: str, target: str, tmp_path: Path
) -> None:
    source = model(body, unnamed=True)
    for value in source.graph.input:  # what a type does not say is kept as well
        value.doc_string = f"about {value.name}"
    source.graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_FEATURE"
    before = load(source.SerializeToString())
    path = tmp_path / "model.onnx"
    limit = "1MiB" if "body" in body or "branch" in body else "64KiB"
    result = graphopt.optimize(
        before, target, max_activations=limit, memory_sizes=SIZES
    )
    result.save(path)
    made = onnx.load(path)
    assert list(made.graph.input) == list(source.graph.input)
    assert list(made.graph.output) == list(source.graph.output)
    assert not dim_params(made.graph)
    assert interface(load(path)) == interface(before)


def test_dims_are_named_once_and_for_sizes_alone() -> None:
    graph = chain(None, symbol("n"))
    made = named(graph)
    assert [str(d) for d in made.inputs[0].shape or ()] == ['"?x:0"', "n"]
    assert made.output_types == graph.output_types
    assert named(made) is made
    known = chain(4, symbol("n"))
    assert named(known) is known
    written = load(to_proto(made).SerializeToString())
    assert written.inputs[0].shape == (None, symbol("n"))
    assert written.output_types[0] == TensorType(DType.F32, (None, symbol("n")))


def test_what_has_no_plan_has_no_names() -> None:
    assert graphopt.optimize(chain(None, 4)).graph.inputs[0].shape == (None, 4)


@pytest.mark.parametrize("name", ["?", "?n", "None"])
def test_names_that_read_like_the_lack_of_one_stay_names(name: str) -> None:
    graph = chain(symbol(name), 4)
    result = graphopt.optimize(graph, max_activations="1KiB", memory_sizes={name: 3})
    assert result.graph.inputs[0].shape == (symbol(name), 4)
    written = load(to_proto(result.graph).SerializeToString())
    assert written.inputs[0].shape == (symbol(name), 4)
    assert result.report.memory is not None
    assert result.report.memory.to_json()["sizes"] == {name: 3}


@pytest.mark.xla
def test_a_program_calls_a_dim_by_its_place(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    from graphopt.interface import read_interface

    found = []
    for limits in ({}, {"max_activations": "1MiB", "memory_sizes": {"x:0": 3}}):
        path = tmp_path / f"{len(limits)}.stablehlo"
        graphopt.optimize(chain(None, 4), "xla-cpu", **limits).save(path)  # type: ignore[arg-type]
        found.append(read_interface(path).inputs)
    assert found[0] == found[1]


# --- loops --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, "rows"])
def test_what_a_loop_carries_has_dims_that_hold_in_every_iteration(
    size: int | str,
) -> None:
    graph = load(model(GROWING, unnamed=True).SerializeToString())
    made = specialize(graph, {"x:0": 2, "x:1": size}).graph
    (loop,) = [op for op in made.ops if op.kind == "Loop"]
    assert loop.shape == (2, None, 8)
    kept = load(model(BODIES["loop"], unnamed=True).SerializeToString())
    (loop,) = [op for op in specialize(kept, {"x:1": 3}).graph.ops if op.kind == "Loop"]
    assert loop.shape == (None, 3, 8)
