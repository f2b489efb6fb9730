"""Narrow precisions: what becomes narrow, what stays float32, and how far it is off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from equations import N, const, graph_of, ints, param, random
from hypothesis import given, settings, strategies as st

from graphopt import check
from graphopt.exporter import choose_opset, to_proto
from graphopt.importer import load
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import (
    Add,
    BatchNormalization,
    Cast,
    Concat,
    Conv,
    Div,
    Exp,
    Identity,
    If,
    LayerNormalization,
    Loop,
    MatMul,
    Mul,
    Pow,
    RandomNormalLike,
    Range,
    ReduceMean,
    Relu,
    Resize,
    RMSNormalization,
    Scan,
    Shape,
    Sigmoid,
    Softmax,
    Sqrt,
    Sub,
    Tanh,
    Transpose,
    Where,
)
from graphopt.passes.precision import Precision
from graphopt.passes.precision.narrowing import with_interface_of
from graphopt.passes.precision.shares import Share, shares
from graphopt.reference import run
from graphopt.testing import graphs
from graphopt.testing.passes import interface
from graphopt.types import DType, Type, tensor
from graphopt.verify import verify

F16, BF16, F32 = DType.F16, DType.BF16, DType.F32


def x_of(*shape: Any) -> Parameter:
    return param("x", *shape)


def narrowed(*outputs: Value, to: str = "fp16", **options: Any) -> Graph:
    """The graph after the pass: sound, within its budget, and a model of ONNX."""
    before = graph_of(*outputs)
    pass_ = Precision(to, **options)
    after = pass_(before)
    verify(after)
    assert [v.type for v in after.outputs] == [v.type for v in before.outputs]
    assert after.inputs == before.inputs
    check(before, after, budget=pass_.allowed).raise_if_failed()
    onnx.checker.check_model(to_proto(after), full_check=True)
    assert pass_(after) is after  # once is enough
    return after


def types_of(graph: Graph, kind: str) -> list[DType | None]:
    """The types of the first results of all ops of a kind, bodies included."""
    return [op.results[0].dtype for _, op in graph.walk() if op.kind == kind]


def kinds(graph: Graph) -> list[str]:
    return [op.kind for _, op in graph.walk() if op.kind != "Constant"]


def body(build: Callable[..., Any], *types: Type) -> Graph:
    inputs = [Parameter(type_, f"p{i}") for i, type_ in enumerate(types)]
    made = build(*inputs)
    made = made if isinstance(made, tuple) else (made,)
    return Graph(inputs, made, output_types=[v.type for v in made])


# --- borders ------------------------------------------------------------------------


@pytest.mark.parametrize(("to", "dtype"), [("fp16", F16), ("bf16", BF16)])
def test_products_and_all_around_them_are_narrow(to: str, dtype: DType) -> None:
    x, w = x_of(N, 8), random(8, 8)
    after = narrowed(Relu(Add(MatMul(x, w), random(8))), to=to)
    assert types_of(after, "MatMul") == types_of(after, "Relu") == [dtype]
    assert kinds(after).count("Cast") == 2  # one in, one out
    assert {t.dtype for t in after.tensors()} == {dtype}


def test_mixed_narrows_products_alone() -> None:
    x = x_of(N, 8)
    y = Tanh(MatMul(x, random(8, 8)))
    after = narrowed(MatMul(Transpose(y, perm=(1, 0)), y), to="mixed")
    assert types_of(after, "MatMul") == [F16, F16]
    assert types_of(after, "Tanh") == [F32]


def test_a_value_is_cast_once_whoever_reads_it() -> None:
    x = x_of(4, 8)
    after = narrowed(
        Concat(MatMul(x, random(8, 8)), MatMul(x, random(8, 8, seed=1)), axis=1)
    )
    assert kinds(after).count("Cast") == 2
    assert types_of(after, "Concat") == [F16]  # moved narrow, cast afterwards


def test_shared_weights_are_converted_once() -> None:
    w = random(8, 8)
    after = narrowed(MatMul(MatMul(x_of(4, 8), w), w))
    (weight,) = [t for t in after.tensors() if t.shape == (8, 8)]
    assert weight.dtype is F16


def test_what_only_looks_at_a_number_needs_no_cast() -> None:
    y = MatMul(x_of(N, 8), random(8, 8))
    after = narrowed(Shape(y), Cast(Relu(y), to=DType.F64))
    assert kinds(after).count("Cast") == 2  # in, and what the model itself casts
    assert all(op.operands[0].dtype is F16 for op in after.ops if op.kind == "Shape")


def test_a_flag_becomes_a_narrow_number_at_once() -> None:
    flag = param("flag", 4, 8, dtype=DType.BOOL)
    after = narrowed(MatMul(Cast(flag, to=F32), random(8, 8)))
    assert [DType(op.to) for op in after.ops if isinstance(op, Cast)] == [F16, F32]


def test_an_op_alone_among_float32_is_left_so() -> None:
    x = x_of(4, 8)
    before = graph_of(Exp(Mul(x, const(1000.0))))
    assert Precision()(before) is before


def test_a_model_that_says_itself_what_is_narrow_is_left_alone() -> None:
    half = Cast(MatMul(Cast(x_of(4, 8), to=F16), random(8, 8, dtype=F16)), to=F32)
    before = graph_of(MatMul(half, random(8, 8)))
    assert Precision()(before) is before


# --- what stays float32 -------------------------------------------------------------


def test_weights_that_do_not_fit_stay() -> None:
    heavy = const(np.full((8, 8), 1e5))
    after = narrowed(MatMul(Mul(MatMul(x_of(4, 8), heavy), const(1e-6)), random(8, 8)))
    assert types_of(after, "MatMul") == [F32, F16]
    assert {t.dtype for t in after.tensors() if t.size == 64} == {F32, F16}
    # bfloat16 has the range of float32.
    wide = narrowed(MatMul(x_of(4, 8), heavy), to="bf16")
    assert types_of(wide, "MatMul") == [BF16]


def test_squares_that_overflow_stay() -> None:
    x = Mul(MatMul(x_of(4, 8), random(8, 8)), const(300.0))
    squares = ReduceMean(Pow(x, const(2.0)), ints(-1))
    after = narrowed(MatMul(Div(x, Sqrt(squares)), random(8, 8)))
    assert types_of(after, "Pow") == types_of(after, "ReduceMean") == [F32]
    assert types_of(after, "MatMul") == [F16, F16]


def test_a_constant_that_would_vanish_stays() -> None:
    y = MatMul(x_of(4, 8), random(8, 8))
    tiny = Add(ReduceMean(Mul(y, y), ints(-1)), const(1e-12))
    after = narrowed(MatMul(Div(y, Sqrt(tiny)), random(8, 8)))
    assert {t.array().item() for t in after.tensors() if not t.shape} >= {
        np.float32(1e-12)
    }


def test_norms_and_softmax_compute_in_float32_inside() -> None:
    x = Mul(MatMul(x_of(4, 64), random(64, 64)), const(40.0))  # squares overflow
    normal = LayerNormalization(x, random(64), random(64), axis=-1)
    after = narrowed(Softmax(MatMul(normal, random(64, 64)), axis=-1))
    assert types_of(after, "LayerNormalization") == [F16]
    (op,) = [op for op in after.ops if isinstance(op, LayerNormalization)]
    assert DType(op.stash_type) is F32


def test_cancellation_is_found_by_measuring() -> None:
    """No op here is on any list: their numbers are what makes the sum go wrong."""
    x = MatMul(x_of(4, 8), random(8, 8))
    large = Add(x, const(3000.0))
    after = narrowed(MatMul(Sub(large, const(3000.0)), random(8, 8)))
    assert types_of(after, "Sub") == [F32]
    assert types_of(after, "MatMul")[1] is F16
    fine = narrowed(MatMul(Sub(Add(x, const(3.0)), const(3.0)), random(8, 8)))
    assert types_of(fine, "Sub") == [F16]


def test_a_smaller_budget_keeps_more() -> None:
    y: Value = x_of(4, 32)
    for seed in range(4):
        weight = random(32, 32, seed=seed).tensor.array() / 6  # errors do not grow
        y = Tanh(MatMul(y, const(weight)))
    loose, tight = narrowed(y), narrowed(y, budget=1e-6)
    assert F16 in types_of(loose, "MatMul")
    assert F16 not in types_of(tight, "MatMul")


@pytest.mark.slow
def test_the_last_few_of_many_are_narrow() -> None:
    """Each is off about as much as the others, and all of them too much."""
    y: Value = x_of(1, 32)
    for seed in range(300):
        turn, _ = np.linalg.qr(random(32, 32, seed=seed).tensor.array())
        y = MatMul(y, const(turn))
    pass_ = Precision(budget=4e-3)
    choice = pass_.choice(graph_of(y))
    assert 0 < len(choice.narrow) < 300 - 127
    assert choice.error is not None
    assert 0 < choice.error <= pass_.allowed / 2


def test_what_steers_a_shape_stays() -> None:
    count = Cast(param("count", dtype=DType.I64), to=F32)
    steps = Range(const(0.0), count, const(1.0))
    assert list(shares(steps, F16)) == []


def test_what_is_normalized_is_narrow_like_its_scale() -> None:
    """They have two type variables, and runtimes bodies that mind."""
    op = RMSNormalization(x_of(4, 8), random(8), axis=-1)
    assert next(shares(op, F16)) == Share((0, 1), (0,))


def test_random_numbers_stay_what_they_are() -> None:
    assert list(shares(RandomNormalLike(x_of(4, 8), token=1), F16)) == []


def test_scales_of_resize_stay() -> None:
    image = Conv(x_of(1, 3, 8, 8), random(4, 3, 3, 3))
    roi = const(np.array([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9]))
    scales = const([1.0, 1.0, 1.3, 2.1])
    larger = Resize(
        image,
        roi,
        scales,
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
    )
    assert next(shares(larger, F16)) == Share((0,), (0,))
    after = narrowed(Conv(larger, random(2, 4, 1, 1)))
    (op,) = [op for op in after.ops if isinstance(op, Resize)]
    assert [v.dtype for v in op.operands] == [F16, F32, F32]


def test_statistics_may_have_another_type() -> None:
    x = x_of(2, 4, 5, 5)
    vectors = [random(4, seed=i) for i in range(3)]
    op = BatchNormalization(x, *vectors, const([1, 2, 3, 4]))
    assert next(shares(op, F16)) == Share((0,), (0,))


def test_an_op_without_a_kernel_stays() -> None:
    y = Relu(MatMul(x_of(4, 8), random(8, 8)))

    def refuses(op: Op) -> str | None:
        return "no kernel" if isinstance(op, Relu) else None

    after = narrowed(MatMul(y, random(8, 8)), refuses=refuses)
    assert types_of(after, "Relu") == [F32]
    assert types_of(after, "MatMul") == [F16, F16]


@pytest.mark.parametrize("added", [True, False])
def test_what_masks_fill_with_is_half_the_largest_number(added: bool) -> None:
    keep = param("keep", 6, 6, dtype=DType.BOOL)
    lowest = const(np.finfo(np.float32).min)
    x = x_of(6, 8)
    scores = MatMul(x, Transpose(MatMul(x, random(8, 8)), perm=(1, 0)))
    if added:
        scores = Add(scores, Mul(Sub(const(1.0), Cast(keep, to=F32)), lowest))
    else:
        scores = Where(keep, scores, lowest)
    after = narrowed(MatMul(Softmax(scores, axis=-1), x), budget=0.1)
    assert types_of(after, "MatMul")[-1] is types_of(after, "Softmax")[0] is F16
    assert all(np.isfinite(t.array()).all() for t in after.tensors())
    # A row without any key is one of equal weights, as in float32.
    fed = {"x": np.ones((6, 8), np.float32) / 8, "keep": np.zeros((6, 6), np.bool_)}
    made = run(after, fed)["output_0"]
    np.testing.assert_allclose(made, fed["x"], rtol=1e-2)


def test_a_fill_that_stays_float32_is_bounded_before_its_cast() -> None:
    keep = param("keep", 6, 6, dtype=DType.BOOL)
    lowest = const(np.finfo(np.float32).min)
    x = x_of(6, 6)

    def refuses(op: Op) -> str | None:
        return "no kernel" if isinstance(op, Where) else None

    mask = Where(keep, const(0.0), lowest)
    after = narrowed(Softmax(Add(MatMul(x, random(6, 6)), mask)), refuses=refuses)
    assert types_of(after, "Add") == [F16]
    assert types_of(after, "Clip") == types_of(after, "Where") == [F32]


# --- bodies -------------------------------------------------------------------------


def test_branches_take_what_they_capture_as_it_is() -> None:
    y = MatMul(x_of(4, 8), random(8, 8))
    flag = param("flag", dtype=DType.BOOL)
    bodies = [
        body(lambda a: Relu(MatMul(a, random(8, 8, seed=1))), y.type),
        body(lambda a: Sigmoid(MatMul(a, random(8, 8, seed=2))), y.type),
    ]
    op = If(flag, y, bodies=bodies)
    before = graph_of(MatMul(op, random(8, 8)))
    after = narrowed(*before.outputs)
    assert types_of(after, "MatMul").count(F16) >= 3
    (op,) = [op for op in after.ops if isinstance(op, If)]
    assert op.operands[1].dtype is op.bodies[0].inputs[0].dtype is F16
    for flag_ in (True, False):
        fed = {**random_inputs(before), "flag": np.array(flag_)}
        check(before, after, inputs=fed, budget=1e-2).raise_if_failed()


def test_branches_agree_on_the_types_of_their_results() -> None:
    y = MatMul(x_of(4, 8), random(8, 8))
    heavy = const(np.full((8, 8), 1e5))
    bodies = [
        body(lambda a: MatMul(a, random(8, 8, seed=1)), y.type),
        body(lambda a: MatMul(a, heavy), y.type),
    ]
    before = graph_of(If(param("flag", dtype=DType.BOOL), y, bodies=bodies))
    after = Precision()(before)
    verify(after)
    (op,) = [op for op in after.ops if isinstance(op, If)]
    assert [b.outputs[0].dtype for b in op.bodies] == [F32, F32]


def test_a_branch_that_did_not_run_stays() -> None:
    y = MatMul(x_of(4, 8), random(8, 8))
    bodies = [
        body(lambda a, s=s: MatMul(a, random(8, 8, seed=s)), y.type) for s in (1, 2)
    ]
    flag = param("flag", dtype=DType.BOOL)
    graph = graph_of(If(flag, y, bodies=bodies))
    fed = {**random_inputs(graph), "flag": np.array(True)}
    after = Precision(inputs=fed)(graph)
    (op,) = [op for op in after.ops if isinstance(op, If)]
    assert [types_of(b, "MatMul") for b in op.bodies] == [[F16], [F32]]


def test_what_a_loop_carries_keeps_its_type() -> None:
    x, w = x_of(4, 8), const(random(8, 8).tensor.array() / 4)  # errors do not grow
    y = MatMul(x, w)
    types = [tensor(DType.I64), tensor(DType.BOOL), y.type, y.type]

    def turn(i: Value, go: Value, state: Value, outer: Value) -> tuple[Value, ...]:
        state = Tanh(Add(MatMul(state, w), outer))
        return go, state, Relu(state)

    op = Loop(const(3, DType.I64), None, x, y, bodies=[body(turn, *types)], captures=1)
    after = narrowed(*op.results)
    assert types_of(after, "MatMul") == [F16, F16]
    (op,) = [op for op in after.ops if isinstance(op, Loop)]
    assert [v.dtype for v in op.results] == [F32, F32]
    assert op.bodies[0].inputs[3].dtype is F16  # what it captures
    assert op.bodies[0].inputs[2].dtype is F32


def test_scans() -> None:
    x, w = x_of(5, 8), random(8, 8)

    def turn(state: Value, row: Value) -> tuple[Value, ...]:
        state = Tanh(Add(MatMul(state, w), row))
        return state, Identity(state)

    inner = body(turn, tensor(F32, 8), tensor(F32, 8))
    op = Scan(const(np.zeros(8)), x, bodies=[inner], num_scan_inputs=1)
    after = narrowed(*op.results)
    assert types_of(after, "MatMul") == [F16]
    (op,) = [op for op in after.ops if isinstance(op, Scan)]
    assert [v.dtype for v in op.results] == [F32, F32]


def test_functions_are_narrowed_like_everything() -> None:
    source = """
    <ir_version: 9, opset_import: ["" : 20, "own" : 1]>
    agraph (float[4, 8] x, float[8, 8] w) => (float[4, 8] y)
    { h = own.block(x, w)  y = own.block(h, w) }
    <domain: "own", opset_import: ["" : 20]>
    block (a, b) => (c) { d = MatMul(a, b)  c = Tanh(d) }
    """
    before = load(onnx.parser.parse_model(source))
    after = Precision()(before)
    assert types_of(after, "MatMul") == [F16, F16]
    check(before, after, budget=Precision().allowed).raise_if_failed()


# --- random graphs ------------------------------------------------------------------


@settings(deadline=None)
@given(graph=graphs(), to=st.sampled_from(["fp16", "bf16", "mixed"]), io=st.booleans())
def test_random_graphs_stay_legal(graph: Graph, to: str, io: bool) -> None:
    pass_ = Precision(to, keep_io=io)
    after = pass_(graph)
    verify(after)
    assert pass_(after).key == after.key
    version = choose_opset(after).version
    onnx.checker.check_model(to_proto(after, opset=version))
    if io:
        assert interface(after) == interface(graph)
    else:
        wide = with_interface_of(graph, after)
        verify(wide)
        assert interface(wide) == interface(graph)
