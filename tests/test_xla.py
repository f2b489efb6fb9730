"""Graphs as JAX functions, and as compiled programs."""

from __future__ import annotations

import gc
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt import Graph, GraphoptError, UsageError, to_jax
from graphopt.dims import symbol
from graphopt.inputs import random_inputs
from graphopt.ir import Op, Parameter
from graphopt.lowering import find
from graphopt.ops import (
    Add,
    Cast,
    Concat,
    Constant,
    Conv,
    Dropout,
    Expand,
    Flatten,
    GlobalAveragePool,
    If,
    LogSoftmax,
    MatMul,
    Mul,
    NonZero,
    RandomNormalLike,
    RandomUniformLike,
    ReduceSum,
    Reshape,
    Shape,
    Softmax,
    Transpose,
)
from graphopt.plan import Plan
from graphopt.reference import run as reference
from graphopt.types import DType, tensor

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.xla

from xla_programs import linear, model, normal  # noqa: E402

from graphopt.lowering.xla.function import Function, with_params  # noqa: E402
from graphopt.lowering.xla.hoist import hoist  # noqa: E402
from graphopt.lowering.xla.program import PROGRAMS  # noqa: E402
from graphopt.lowering.xla.trace import DataDependent  # noqa: E402

# --- the function ---------------------------------------------------------------------


def test_a_model_is_a_function_of_weights_and_inputs(digits: Any) -> None:
    fn, params = to_jax(digits)
    inputs = random_inputs(fn.graph)
    for made in (fn(params, inputs), fn(params, **inputs), jax.jit(fn)(params, inputs)):
        for name, expected in reference(fn.graph, inputs).items():
            np.testing.assert_allclose(made[name], expected, rtol=2e-5, atol=1e-6)


def test_weights_are_arguments_and_nothing_else_is() -> None:
    fn = Function(linear())
    assert sorted(a.shape for a in fn.params.values()) == [(2,), (3, 2)]
    jaxpr = jax.make_jaxpr(fn)(fn.params, {"x": normal(4, 3)})
    assert not jaxpr.consts
    literals = [v for e in jaxpr.eqns for v in e.invars if hasattr(v, "val")]
    assert not [v for v in literals if np.size(v.val) > 1]


def test_other_weights_give_other_outputs() -> None:
    graph = linear()
    fn, x = Function(graph), normal(4, 3)
    doubled = {name: 2 * array for name, array in fn.params.items()}
    made = reference(with_params(graph, doubled), {"x": x})["y"]
    np.testing.assert_allclose(fn(doubled, x=x)["y"], made, rtol=1e-5)
    with pytest.raises(UsageError, match="'nothing'"):
        with_params(graph, {"nothing": x})
    with pytest.raises(UsageError, match="not f32"):
        with_params(graph, {name: array[0] for name, array in fn.params.items()})
    with pytest.raises(UsageError, match="lack"):
        fn({}, x=x)


def test_gradients_and_batches() -> None:
    graph = linear()
    fn, x = Function(graph), normal(5, 3)
    gradient = jax.grad(lambda p: fn(p, x=x)["y"].sum())(fn.params)
    found = {array.shape: array for array in gradient.values()}
    np.testing.assert_allclose(found[(2,)], np.full(2, 5), rtol=1e-6)
    np.testing.assert_allclose(
        found[(3, 2)], np.repeat(x.sum(0)[:, None], 2, 1), rtol=1e-5
    )
    many = normal(7, 4, 3)
    batched = jax.vmap(lambda row: fn(fn.params, x=row)["y"])(many)
    for row, made in zip(many, batched, strict=True):
        np.testing.assert_allclose(made, fn(fn.params, x=row)["y"], rtol=1e-5)


def test_equal_initializers_are_trained_apart() -> None:
    zeros = [helper.make_tensor(name, TensorProto.FLOAT, [2], [0, 0]) for name in "ab"]
    made = model("graph (float[2] x) => (float[2] y) { t = Add(x, a)  y = Mul(t, b) }")
    made.graph.initializer.extend(zeros)
    fn, params = to_jax(made)
    assert sorted(params) == ["a", "b"]
    gradient = jax.grad(lambda p: fn(p, x=np.ones(2, np.float32))["y"].sum())(params)
    assert gradient["a"].tolist() == [0, 0]
    assert gradient["b"].tolist() == [1, 1]


def test_defaults_of_inputs_are_weights_and_may_be_replaced() -> None:
    made = model("graph (float[2] x, float[2] w) => (float[2] y) { y = Mul(x, w) }")
    made.graph.initializer.append(
        helper.make_tensor("w", TensorProto.FLOAT, [2], [3, 4])
    )
    fn, params = to_jax(made)
    x = np.ones(2, np.float32)
    assert fn(params, x=x)["y"].tolist() == [3, 4]
    assert fn(params, x=x, w=2 * x)["y"].tolist() == [2, 2]
    assert fn({"w": 5 * x}, x=x)["y"].tolist() == [5, 5]


def test_64_bit_integers_stay_so_without_asking() -> None:
    made = model("graph (int64[2] x) => (int64[2] y) { y = Add(x, x) }")
    fn, params = to_jax(made)
    big = np.array([1, 1 << 40])
    assert np.asarray(fn(params, x=big)["y"]).tolist() == [2, 1 << 41]
    assert find("xla-cpu").open(made)(x=big)["y"].tolist() == [2, 1 << 41]


# --- shapes ---------------------------------------------------------------------------


def test_what_follows_from_shapes_is_no_part_of_the_program() -> None:
    text = """graph (float[n, m] x) => (float[p] y) {
        shape = Shape(x)  size = ReduceProd <keepdims = 1> (shape)
        y = Reshape(x, size)
    }"""
    fn, params = to_jax(model(text))
    jaxpr = jax.make_jaxpr(fn)(params, {"x": normal(2, 3)})
    assert [str(e.primitive) for e in jaxpr.eqns] == ["reshape"]


def test_inputs_that_steer_shapes_make_other_programs() -> None:
    text = "graph (float[6] x, int64[k] shape) => (float y) { y = Reshape(x, shape) }"
    made = model(text)
    fn, params = to_jax(made)
    assert fn.steering == ("shape",)
    x = normal(6)
    assert fn(params, x=x, shape=np.array([2, 3]))["y"].shape == (2, 3)
    with pytest.raises(UsageError, match="'shape'"):
        jax.jit(fn)(params, x=x, shape=np.array([2, 3]))
    run = find("xla-cpu").open(made)
    assert run(x=x, shape=np.array([2, 3]))["y"].shape == (2, 3)
    assert run(x=x, shape=np.array([3, 2]))["y"].shape == (3, 2)
    assert run(x=x, shape=np.array([3, 2]))["y"].shape == (3, 2)
    assert run.used()["programs"] == 2


def test_programs_are_kept_up_to_a_number() -> None:
    run = find("xla-cpu").compile(linear(), Plan())
    for n in range(1, PROGRAMS + 4):
        assert run(x=normal(n, 3))["y"].shape == (n, 2)
    assert run.used()["programs"] == PROGRAMS


def test_shapes_that_depend_on_data_are_refused_by_name() -> None:
    x = Parameter(tensor(DType.F32, 2, 3), "x")
    fn, params = to_jax(Graph([x], [NonZero(Add(x, x))]))
    with pytest.raises(DataDependent, match="NonZero decides shapes") as raised:
        fn(params, x=normal(2, 3))
    assert isinstance(raised.value, NotImplementedError)
    assert raised.value.exit_code == 3


def test_a_shape_that_is_data_may_be_a_constants() -> None:
    x = Parameter(tensor(DType.F32, symbol("n"), 6), "x")
    rows = Shape(x, start=0, end=1)
    shape = Concat(rows, Constant(np.array([2, -1])), axis=0)
    graph = Graph([x], [Reshape(x, shape)], output_names=["y"])
    assert Function(graph)({}, x=normal(4, 6))["y"].shape == (4, 2, 3)


# --- control flow ---------------------------------------------------------------------

BRANCHES = """graph (bool c, float[2] x) => (float[2] y) {
    y = If (c) <
        then_branch = yes () => (float[2] a) { a = Add(x, x) },
        else_branch = no () => (float[2] b) { b = Neg(x) }
    >
}"""


def test_a_branch_is_chosen_when_the_program_runs() -> None:
    fn, params = to_jax(model(BRANCHES))
    x = normal(2)
    call = jax.jit(fn)
    np.testing.assert_array_equal(call(params, c=np.array(True), x=x)["y"], x + x)
    np.testing.assert_array_equal(call(params, c=np.array(False), x=x)["y"], -x)


def test_branches_of_different_shapes_need_a_known_condition() -> None:
    text = BRANCHES.replace("float[2] y", "float[n] y").replace(
        "b = Neg(x)", "b = Concat <axis = 0> (x, x)"
    )
    made = model(text.replace("=> (float[2] b)", "=> (float[4] b)"))
    run, x = find("xla-cpu").open(made), normal(2)
    assert run(c=np.array(True), x=x)["y"].tolist() == (x + x).tolist()
    assert run(c=np.array(False), x=x)["y"].tolist() == [*x, *x]
    node = helper.make_node("ReduceMax", ["x"], ["c_"], keepdims=0)
    cast = helper.make_node("Cast", ["c_"], ["c"], to=TensorProto.BOOL)
    made.graph.node.insert(0, node)
    made.graph.node.insert(1, cast)
    del made.graph.input[0]
    fn, params = to_jax(made)
    with pytest.raises(DataDependent, match="branches of If"):
        fn(params, x=x)


def test_a_branch_of_unknown_shape_is_chosen_before_the_trace() -> None:
    """The other one need not even fit the inputs."""
    text = BRANCHES.replace("a = Add(x, x)", "a = Squeeze(x)").replace(
        "b = Neg(x)",
        "s = Constant <value = int64[1] {3}> ()  b = Reshape(x, s)",
    )
    text = text.replace("float[2] x", "float[n] x").replace(
        "(float[2] y)", "(float[m] y)"
    )
    text = text.replace("=> (float[2] a)", "=> (float[k] a)")
    made = model(text.replace("=> (float[2] b)", "=> (float[l] b)"))
    run, x = find("xla-cpu").open(made), normal(2)
    assert run(c=np.array(True), x=x)["y"].tolist() == x.tolist()


LOOP = """graph (int64 n, float[2] x) => (float[2] last{rows}) {
    go = Constant <value = bool {1}> ()
    last{named} = Loop (n, go, x) <
        body = turn (int64 i, bool c, float[2] v) => (bool d, float[2] w{made}) {
            d = Identity(c)  BODY
        }
    >
}"""


def loop(body: str, rows: bool = False) -> onnx.ModelProto:
    text = LOOP.replace("{rows}", ", float[k, 2] all" if rows else "")
    text = text.replace("{named}", ", all" if rows else "")
    text = text.replace("{made}", ", float[2] row" if rows else "")
    return model(text.replace("BODY", body))


def test_loops_with_and_without_rows() -> None:
    x = normal(2)
    plain = loop("w = Add(v, x)")
    fn, params = to_jax(plain)
    call = jax.jit(fn)
    for n in (0, 3):
        made = call(params, n=np.array(n), x=x)["last"]
        np.testing.assert_allclose(made, (n + 1) * x, rtol=1e-6)
    rows = loop("w = Add(v, x)  row = Neg(v)", rows=True)
    fn, params = to_jax(rows)
    assert fn.steering == ("n",)
    made = fn(params, n=np.array(3), x=x)
    np.testing.assert_allclose(made["all"], [-x, -2 * x, -3 * x], rtol=1e-6)


def test_the_number_of_a_turn_may_steer_shapes() -> None:
    body = """one = Constant <value = int64[1] {1}> ()  r = Reshape(i, one)
        t = Tile(v, r)  s = ReduceSum <keepdims = 1> (t)  w = Add(v, s)"""
    made = loop(body)
    inputs = {"n": np.array(4), "x": np.ones(2, np.float32)}
    fn, params = to_jax(made)
    assert fn.steering == ("n",)
    expected = graphopt.run_model(made, inputs)[0]
    np.testing.assert_allclose(fn(params, inputs)["last"], expected)


def test_loops_of_a_known_number_have_gradients() -> None:
    made = loop("w = Mul(v, x)")
    made.graph.initializer.append(helper.make_tensor("n", TensorProto.INT64, [], [3]))
    del made.graph.input[0]
    fn, params = to_jax(made)
    x = normal(2)
    gradient = jax.grad(lambda x: fn(params, x=x)["last"].sum())(x)
    np.testing.assert_allclose(gradient, 4 * x**3, rtol=1e-5)


# --- what follows from weights --------------------------------------------------------


def test_what_follows_from_weights_alone_is_computed_once() -> None:
    x = Parameter(tensor(DType.F32, symbol("n"), 3), "x")
    weight = Constant(normal(2, 3))
    turned = Transpose(weight, perm=(1, 0))
    graph = Graph([x], [MatMul(x, Mul(turned, turned))], output_names=["y"])
    fn = Function(graph)
    program = jax.make_jaxpr(fn)(fn.params, {"x": normal(4, 3)})
    hoisted = hoist(program, len(fn.params))
    assert [str(e.primitive) for e in hoisted.first] == ["transpose", "mul"]
    assert [str(e.primitive) for e in hoisted.rest.eqns] == ["dot_general"]
    made = find("xla-cpu").compile(graph, Plan())(x=normal(4, 3))
    expected = reference(graph, {"x": normal(4, 3)})["y"]
    np.testing.assert_allclose(made["y"], expected, rtol=1e-5)


def test_what_grows_is_computed_where_it_is_used() -> None:
    x = Parameter(tensor(DType.F32, 4, 3), "x")
    codes = Constant(np.arange(3 * 10**5, dtype=np.int8).reshape(10**5, 3))
    made = Add(x, ReduceSum(Cast(codes, to=DType.F32), keepdims=0))
    graph = Graph([x], [made], output_names=["y"])
    fn = Function(graph)
    assert [a.dtype for a in fn.params.values()] == [np.int8]
    hoisted = hoist(jax.make_jaxpr(fn)(fn.params, {"x": normal(4, 3)}), 1)
    assert not hoisted.first


def test_one_number_as_all_weights_of_a_product_is_a_weight() -> None:
    """XLA's sums of such products, fused with them, are what memory held."""
    x = Parameter(tensor(DType.F32, 169, 512), "x")
    weight = Expand(Constant(np.float32(0.5)), Constant(np.array([512, 1000])))
    total = ReduceSum(MatMul(x, weight), Constant(np.array([0])), keepdims=0)
    graph = Graph([x], [total], output_names=["y"])
    arrays = {"x": normal(169, 512)}
    made = find("xla-cpu").compile(graph, Plan())(arrays)["y"]
    expected = np.full(1000, arrays["x"].sum(dtype=np.float64) / 2)
    np.testing.assert_allclose(made, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", [Softmax, LogSoftmax])
def test_means_too_large_to_be_made_twice(kind: type[Op]) -> None:
    x = Parameter(tensor(DType.F32, 1, 100, 13, 13), "x")
    made = kind(Flatten(GlobalAveragePool(x)), axis=1)
    run = find("xla-cpu").compile(Graph([x], [made], output_names=["y"]), Plan())
    for size in np.linspace(9e9, 9.99e9, 20, dtype=np.float32):
        found = run(x=np.full((1, 100, 13, 13), size))["y"]
        share = np.exp(found) if kind is LogSoftmax else found
        np.testing.assert_allclose(share, 0.01, rtol=1e-5)


# --- the command line -----------------------------------------------------------------


def test_commands_take_the_target(digits: Any, command: Any, tmp_path: Path) -> None:
    code, said, _ = command("check", digits, "--target", "xla-cpu")
    assert code == 0
    assert "xla-cpu gives the same outputs" in said
    made = tmp_path / "out.npz"
    code, said, _ = command("run", digits, "--target", "xla-cpu", "-o", made, "--json")
    assert code == 0
    assert json.loads(said)["used"]["target"] == "xla-cpu"
    code, _, _ = command("run", digits, "-o", tmp_path / "reference.npz")
    with np.load(made) as ours, np.load(tmp_path / "reference.npz") as theirs:
        np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=2e-5)
    code, said, _ = command("bench", digits, "--target", "xla-cpu", "--rounds", 3)
    assert code == 0
    assert "xla-cpu" in said


def test_a_lowering_that_is_wrong_fails_the_check(
    digits: Any, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {Conv: lambda op, xp, *x: op.compute(xp, *x) * 1.001}
    monkeypatch.setattr("graphopt.lowering.xla.trace.OVERRIDES", wrong)
    code, said, _ = command("check", digits, "--target", "xla-cpu")
    assert code == 4
    assert "logits" in said


def test_scalars_keep_their_shape() -> None:
    made = model(
        "graph (float[2] x, float a) => (float[2] y, float z) {"
        " y = Mul(x, a)  z = Squeeze(w) }"
    )
    scalar = helper.make_tensor("a", TensorProto.FLOAT, [], [3])
    row = helper.make_tensor("w", TensorProto.FLOAT, [1], [5])
    made.graph.initializer.extend([scalar, row])
    outputs = find("xla-cpu").open(made)(x=np.ones(2, np.float32))
    assert outputs["y"].tolist() == [3, 3]
    assert outputs["z"].shape == ()
    assert outputs["z"] == 5


def test_programs_share_what_is_made_of_weights() -> None:
    x = Parameter(tensor(DType.F32, symbol("n"), 3), "x")
    turned = Transpose(Constant(normal(2, 3)), perm=(1, 0))
    places = Add(Shape(x, end=1), Constant(np.array([7])))
    graph = Graph([x], [MatMul(x, turned), places], output_names=["y", "p"])
    run: Any = find("xla-cpu").compile(graph, Plan())
    for n in range(1, PROGRAMS + 4):
        assert run(x=normal(n, 3))["p"].tolist() == [n + 7]
    gc.collect()
    assert sorted(a.shape for a in run._prepared.values()).count((3, 2)) == 1
    assert len(run._prepared) <= PROGRAMS + 1


# --- random numbers -------------------------------------------------------------------


def test_what_is_drawn_comes_from_a_key() -> None:
    x = Parameter(tensor(DType.F32, 20_000), "x")
    kept = Dropout(x, Constant(np.float32(0.25)), Constant(np.array(True)), token=1)
    graph = Graph([x], [Add(kept, RandomNormalLike(x, token=2))], output_names=["y"])
    fn, ones = Function(graph), np.ones(20_000, np.float32)
    assert fn.draws
    with pytest.raises(NotImplementedError, match=r"Dropout draws.*keyed"):
        fn({}, x=ones)
    first, again, other = (
        np.asarray(fn.keyed(jax.random.key(n))({}, x=ones)["y"]) for n in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).mean() > 0.99
    assert abs(first.mean() - 1) < 0.03
    assert abs(first.var() - (1 + 1 / 3)) < 0.05  # 1 of the noise, p / (1 - p)
    slope = jax.grad(lambda x: fn.keyed(jax.random.key(0))({}, x=x)["y"].sum())(ones)
    values, counts = np.unique(np.asarray(slope), return_counts=True)
    np.testing.assert_allclose(values, [0, 4 / 3], rtol=1e-6)
    assert abs(counts[0] / 20_000 - 0.25) < 0.02


def test_each_run_of_a_program_draws_anew() -> None:
    x = Parameter(tensor(DType.F32, 64), "x")
    run = find("xla-cpu").compile(Graph([x], [RandomUniformLike(x, token=1)]), Plan())
    ones = np.ones(64, np.float32)
    assert (run(x=ones)["output_0"] != run(x=ones)["output_0"]).all()
    stated = Graph([x], [RandomUniformLike(x, token=1, seed=3.0)])
    run = find("xla-cpu").compile(stated, Plan())
    expected = reference(stated, {"x": ones}, seed=0)["output_0"]
    for _ in range(2):
        np.testing.assert_allclose(run(x=ones)["output_0"], expected, rtol=1e-6)


# --- the page -------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_of_the_documentation_runs(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits.parent)
    text = (Path(__file__).parents[1] / "docs" / "jax.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        exec(block, names)
    assert names["slope"].keys() == names["params"].keys()
    np.testing.assert_allclose(names["each"], names["logits"], rtol=1e-4, atol=1e-5)


def misfit(inside: bool) -> Graph:
    """x[n] + t[4], in a branch or not; both adds have a node."""
    x = Parameter(tensor(DType.F32, symbol("n")), "x")
    if not inside:
        y = Add(x, Constant(normal(4)))
        return Graph([x], [y], output_names=["y"], sources={y: ("/emb/Add",)})
    c, bodies = Parameter(tensor(DType.BOOL, 1), "c"), []
    for _ in range(2):
        inner = Parameter(x.type, "inner")
        y = Add(inner, Constant(normal(4)))
        bodies.append(Graph([inner], [y], sources={y: ("/emb/Add",)}))
    return Graph([c, x], [If(c, x, bodies=bodies, captures=1)], output_names=["y"])


@pytest.mark.parametrize("inside", [False, True])
def test_operands_that_do_not_fit_name_node_shapes_and_sizes(inside: bool) -> None:
    program = find("xla-cpu").compile(misfit(inside), Plan())
    fed = {"x": normal(5)} | ({"c": np.array([True])} if inside else {})
    said = r"Add does not take float32\[5\], float32\[4\]: .*n=5.*Add node '/emb/Add'"
    with pytest.raises(GraphoptError, match=said):
        program(fed)
