"""Fixing symbolic dims, freeing baked ones, and finding the op that forbids it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt import Graph, UsageError
from graphopt.check.running import running_sizes
from graphopt.dims import symbol
from graphopt.freed import try_sizes
from graphopt.ir import Op, Parameter, Value
from graphopt.ops import (
    Add,
    Concat,
    Constant,
    Expand,
    If,
    Less,
    Loop,
    MatMul,
    ReduceSum,
    Relu,
    Reshape,
    Scan,
    Shape,
    Transpose,
)
from graphopt.reference import evaluate
from graphopt.specialize import parse_dim, parse_shape, specialize
from graphopt.types import DType, TensorType, tensor

BOOL = tensor(DType.BOOL)


def ints(*values: int) -> Constant:
    return Constant(np.array(values, np.int64))


def floats(*shape: int) -> Constant:
    return Constant(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


def graph(outputs: list[Value], *inputs: Parameter) -> Graph:
    return Graph(inputs, outputs, output_types=[value.type for value in outputs])


def shapes(made: Graph) -> list[object]:
    return [value.shape for value in (*made.inputs, *made.outputs)]


# --- what users write ---------------------------------------------------------------


def test_parse_dim() -> None:
    assert parse_dim("batch=8") == ("batch", 8)
    assert parse_dim("x:0=batch") == ("x:0", "batch")
    assert parse_dim("a=b=3") == ("a=b", 3)
    for bad in ("batch", "=3", "batch=", "batch=-2"):
        with pytest.raises(UsageError):
            parse_dim(bad)


def test_parse_shape() -> None:
    assert parse_shape("x=1,3, n") == ("x", (1, 3, "n"))
    assert parse_shape("x=") == ("x", ())
    for bad in ("x", "=1", "x=1,", "x=-1"):
        with pytest.raises(UsageError):
            parse_shape(bad)


# --- fixing -------------------------------------------------------------------------


def test_a_size_of_nothing_is_for_what_leaves_something() -> None:
    """The past of a decoder can have no length; a batch has some."""
    past, new = (Parameter(tensor(DType.F32, symbol(n), 4), n) for n in ("past", "new"))
    whole = graph([Concat(past, new, axis=0)], past, new)
    assert shapes(specialize(whole, {"past": 0}).graph)[0] == (0, 4)
    with pytest.raises(UsageError, match="past=0 leaves nothing to compute"):
        specialize(whole, {"past": 0, "new": 0})
    each = graph([Relu(past), Relu(new)], past, new)
    assert shapes(specialize(each, {"past": 0}).graph)[0] == (0, 4)
    with pytest.raises(UsageError, match="new=0 leaves nothing"):
        specialize(each, None, {"new": (0, 4), "past": (0, 4)})


def dynamic() -> Graph:
    n = symbol("n")
    x, y = Parameter(tensor(DType.F32, n, 3), "x"), Parameter(tensor(DType.F32, n), "y")
    flat = Reshape(x, Concat(Shape(y), ints(-1), axis=0))
    return graph([flat, Relu(y)], x, y)


@pytest.mark.parametrize(
    ("dims", "shapes_"),
    [
        ({"n": 4}, {}),
        ({"x:0": 4}, {}),
        ({"y:-1": 4}, {}),
        ({}, {"x": (4, 3)}),
        ({"n": 4}, {"x": ("n", 3)}),
    ],
)
def test_a_symbol_is_fixed_everywhere(
    dims: dict[str, int | str], shapes_: dict[str, tuple[int | str, ...]]
) -> None:
    made = specialize(dynamic(), dims, shapes_)
    assert shapes(made.graph) == [(4, 3), (4,), (4, 3), (4,)]
    assert [t.shape for t in made.graph.output_types] == [(4, 3), (4,)]  # type: ignore[union-attr]
    assert not made.freed
    assert not made.resized


def test_nothing_asked_gives_the_same_graph() -> None:
    given = dynamic()
    assert specialize(given).graph is given


def test_a_symbol_may_be_renamed() -> None:
    made = specialize(dynamic(), {"n": "batch"}).graph
    assert made.inputs[0].shape == (symbol("batch"), 3)


def test_a_baked_dim_may_be_given_another_size() -> None:
    x = Parameter(tensor(DType.F32, 2, 3), "x")
    made = specialize(graph([Relu(x)], x), None, {"x": (5, 3)})
    assert made.resized
    assert shapes(made.graph) == [(5, 3), (5, 3)]


def test_an_unknown_shape_may_be_given() -> None:
    x = Parameter(TensorType(DType.F32), "x")
    made = specialize(graph([Relu(x)], x), None, {"x": (5, "m")}).graph
    assert made.outputs[0].shape == (5, symbol("m"))


def test_captures_of_bodies_follow() -> None:
    n = symbol("n")
    x, c = Parameter(tensor(DType.F32, n), "x"), Parameter(tensor(DType.BOOL), "c")
    bodies = []
    for _ in range(2):
        inner = Parameter(x.type, "inner")
        bodies.append(Graph([inner], [Relu(inner)]))
    made = specialize(graph([If(c, x, bodies=bodies, captures=1)], x, c), {"n": 7})
    assert made.graph.outputs[0].shape == (7,)
    body = made.graph.ops[-1].bodies[0]
    assert body.inputs[0].shape == (7,)
    assert body.outputs[0].shape == (7,)


def test_what_is_not_there_is_named() -> None:
    given = dynamic()
    for dims, word in (
        ({"m": 3}, "'m'"),
        ({"z:0": 3}, "'z'"),
        ({"x:2": 3}, "no axis 2"),
        ({"n": 3, "x:0": 4}, "both 3 and 4"),
    ):
        with pytest.raises(UsageError, match=word):
            specialize(given, dims)
    with pytest.raises(UsageError, match="2 axes, not 1"):
        specialize(given, None, {"x": (3,)})


def test_an_impossible_size_names_the_op() -> None:
    x = Parameter(tensor(DType.F32, symbol("n"), 3), "x")
    total = MatMul(x, floats(3, 2))
    given = graph([Add(total, floats(4, 2))], x)
    named = given.replace(sources={given.outputs[0].op: ("shift",)})
    with pytest.raises(UsageError, match="impossible") as caught:
        specialize(named, {"n": 5})
    assert "Add node 'shift'" in str(caught.value)


def windows(*lengths: int, cond: Value | None = None) -> Graph:
    """An If whose branches add vectors of these lengths to x[n]."""
    x, c = Parameter(tensor(DType.F32, symbol("n")), "x"), Parameter(BOOL, "c")
    bodies = []
    for length in lengths:
        inner = Parameter(x.type, "inner")
        bodies.append(Graph([inner], [Add(inner, floats(length))]))
    chosen = If(c if cond is None else cond, x, bodies=bodies, captures=1)
    return graph([chosen], x, c).replace(sources={chosen: ("which",)})


def test_a_branch_that_forbids_dims_keeps_its_own() -> None:
    given = windows(512, 256)
    made = specialize(given, {"n": 512})
    (why,) = made.forbidden
    assert why.startswith("the else branch of the If node 'which': these dims are")
    then, other = made.graph.outputs[0].op.bodies
    assert then.inputs[0].shape == (512,)
    assert other.key == given.outputs[0].op.bodies[1].key
    x = np.ones(512, np.float32)
    inputs = {"x": x, "c": np.array(True)}
    assert (evaluate(made.graph, inputs)[0] == evaluate(given, inputs)[0]).all()
    assert graphopt.optimize(made.graph).report.check.passed


def test_a_branch_whose_declared_results_dims_contradict_keeps_its_own() -> None:
    x, c = Parameter(tensor(DType.F32, symbol("n")), "x"), Parameter(BOOL, "c")
    bodies = []
    for declared in (x.type, tensor(DType.F32, 7)):
        inner = Parameter(x.type, "inner")
        body = Graph([inner], [Relu(inner)], output_types=[declared])
        bodies.append(body)
    given = graph([If(c, x, bodies=bodies, captures=1)], x, c)
    (why,) = specialize(given, {"n": 3}).forbidden
    assert "is declared f32[7], but is f32[3]" in why
    assert specialize(given, {"n": 7}).forbidden == ()


def test_a_model_with_a_branch_that_cannot_run_is_for_xla(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    inputs = {"x": np.ones(512, np.float32), "c": np.array(True)}
    with pytest.raises(UsageError, match="the else branch of the If node 'which'"):
        graphopt.optimize(windows(512, 256), dims={"n": 512}, inputs=inputs)
    made = graphopt.optimize(
        windows(512, 256), "xla-cpu", dims={"n": 512}, inputs=inputs
    )
    assert any("cannot run: the else branch" in note for note in made.report.notes)
    written = made.save(tmp_path / "m.stablehlo").report.notes
    said = "the else branch of the If node 'which' is not taken, and forbids these dims"
    assert said in written


def test_a_branch_that_fixed_inputs_do_not_take(tmp_path: Path) -> None:
    """It is known which one is taken where all that decides it is in the program."""
    pytest.importorskip("jax")
    k = Parameter(tensor(DType.I64), "k")
    small = Less(k, Constant(np.array(3)))
    chosen = windows(512, 256, cond=small).outputs[0].op
    x = chosen.operands[1]
    assert isinstance(x, Parameter)
    rows = Expand(chosen, Concat(Reshape(k, ints(1)), ints(1), axis=0))
    given = graph([rows], x, k).replace(sources={chosen: ("which",)})
    inputs = {"k": np.array(1)}
    made = graphopt.optimize(given, "xla-cpu", dims={"n": 512}, inputs=inputs)
    report = made.save(tmp_path / "m.stablehlo").report
    assert report.check.passed
    assert report.trial.passed
    said = "the else branch of the If node 'which' is not taken, and forbids these dims"
    assert said in report.notes


def test_dims_that_both_branches_forbid() -> None:
    with pytest.raises(UsageError, match="both branches forbid them") as caught:
        specialize(windows(512, 256), {"n": 100})
    assert "If node 'which'" in str(caught.value)


def test_of_a_known_condition_only_what_is_taken_counts() -> None:
    true = Constant(np.array(True))
    made = specialize(windows(512, 256, cond=true), {"n": 512})
    assert made.forbidden == ()
    assert made.graph.outputs[0].shape == (512,)
    with pytest.raises(UsageError, match="these dims are impossible: Add"):
        specialize(windows(256, 512, cond=true), {"n": 512})


def test_sizes_that_run_and_dims_that_are_bound_to_them() -> None:
    x = Parameter(tensor(DType.F32, symbol("batch"), symbol("n")), "x")
    given = graph([Reshape(x, ints(-1, 3, 4)), Add(x, floats(12))], x)
    sizes, bound = running_sizes(given, {"x": np.ones((5, 12), np.float32)})
    assert (sizes, bound) == ({"batch": 5, "n": 12}, {"n"})
    free = graph([Relu(x)], x)
    assert running_sizes(free) == ({"batch": 2, "n": 3}, set())
    assert running_sizes(free, seconds=-1) == ({}, set())


# --- freeing ------------------------------------------------------------------------


def static(*shape: int) -> Parameter:
    return Parameter(tensor(DType.F32, *shape), "x")


def freed(given: Graph, **dims: str) -> Graph:
    """The graph with axes freed, tried at three sizes."""
    made = specialize(given, {f"x:{axis[1:]}": name for axis, name in dims.items()})
    try_sizes(given, made)
    return made.graph


def test_a_batch_is_freed_through_reshapes() -> None:
    x = static(1, 4, 6)
    heads = Transpose(Reshape(x, ints(1, 4, 2, 3)), perm=(0, 2, 1, 3))
    flat = Reshape(heads, ints(1, -1))
    given = graph([MatMul(flat, floats(24, 5))], x)
    made = specialize(given, {"x:0": "batch"})
    assert made.freed == {"batch": 1}
    assert len(made.followed) == 2
    assert made.graph.outputs[0].shape == (symbol("batch"), 5)
    told = try_sizes(given, made)
    assert "batch = 1, 2, 3" in told
    assert "each part computes as it did alone" in told
    many = np.random.default_rng(0).normal(size=(7, 4, 6)).astype(np.float32)
    (together,) = evaluate(made.graph, {"x": many})
    for i in range(7):
        (alone,) = evaluate(given, {"x": many[i : i + 1]})
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-5)


def test_a_merged_axis_is_freed() -> None:
    x = static(2, 3, 4)
    given = graph([Reshape(x, ints(6, 4))], x)
    made = freed(given, a0="n")
    assert made.outputs[0].shape == (3 * symbol("n"), 4)


def test_parts_that_influence_each_other_are_told() -> None:
    x = static(2, 3)
    total = Add(x, ReduceSum(x, ints(0), keepdims=1))
    given = graph([total], x)
    told = try_sizes(given, specialize(given, {"x:0": "length"}))
    assert "influence each other" in told


@pytest.mark.parametrize(
    "build",
    [
        lambda x: Add(x, floats(2, 3)),
        lambda x: Expand(x, ints(4, 2, 3)),
        lambda x: MatMul(floats(5, 2), x),
        lambda x: Reshape(Transpose(x, perm=(1, 0)), ints(6)),
    ],
)
def test_the_op_that_forbids_it_is_named(build: object) -> None:
    x = static(2, 3)
    op: Op = build(x)  # type: ignore[operator]
    given = graph([Relu(op)], x).replace(sources={op: ("culprit",)})
    with pytest.raises(UsageError, match="'culprit'"):
        freed(given, a0="n")


def test_one_name_stands_for_one_extent() -> None:
    x = static(2, 3)
    given = graph([Relu(x)], x)
    with pytest.raises(UsageError, match="both 2 and 3"):
        specialize(given, {"x:0": "n", "x:1": "n"})


def test_optimize_frees_and_says_so() -> None:
    x = static(1, 6)
    given = graph([Relu(Reshape(x, ints(1, 2, 3)))], x)
    result = graphopt.optimize(given, dims={"x:0": "batch"})
    assert result.graph.outputs[0].shape == (symbol("batch"), 2, 3)
    notes = " ".join(result.report.notes)
    assert "now follows" in notes
    assert "batch = 1, 2, 3" in notes


def test_loops_and_scans_follow() -> None:
    x = static(2, 3)
    trips, keep = ints(4), Constant(np.array(True))
    i, c = Parameter(tensor(DType.I64), "i"), Parameter(tensor(DType.BOOL), "c")
    state = Parameter(x.type, "state")
    body = Graph([i, c, state], [c, Add(state, state)])
    looped = Loop(Reshape(trips, ints()), keep, x, bodies=(body,))
    row, total = static(3), static(3)
    scan_body = Graph([total, row], [Add(total, row)])
    start = Constant(np.zeros(3, np.float32))
    scanned = Scan(start, looped, bodies=(scan_body,), num_scan_inputs=1)
    given = graph([looped, scanned], x)
    made = freed(given, a0="n")
    assert made.outputs[0].shape == (symbol("n"), 3)
    assert made.outputs[1].shape == (3,)
