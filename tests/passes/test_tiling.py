"""Regions in tiles: the same results, whatever is cut, or a reason why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from equations import const, graph_of, ints, param, random
from hypothesis import HealthCheck, given, settings, strategies as st

from graphopt import dims
from graphopt.driver import optimize
from graphopt.errors import UsageError
from graphopt.exporter import to_proto
from graphopt.hardware import device
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.limits import written_out
from graphopt.lowering import find
from graphopt.ops import (
    Add,
    And,
    ArgMax,
    Attention,
    AveragePool,
    Cast,
    Constant,
    Conv,
    CumSum,
    DepthToSpace,
    Div,
    Exp,
    Expand,
    GatherElements,
    Gelu,
    Gemm,
    GroupNormalization,
    LayerNormalization,
    LessOrEqual,
    LogSoftmax,
    MatMul,
    MaxPool,
    Mul,
    Neg,
    Not,
    Pad,
    Range,
    ReduceMax,
    ReduceSum,
    Relu,
    Reshape,
    Shape,
    Slice,
    Softmax,
    SoftmaxCrossEntropyLoss,
    Sub,
    Tiled,
    TopK,
    Transpose,
    Trilu,
    Where,
)
from graphopt.passes import Tile
from graphopt.passes.memory import SPACES
from graphopt.passes.tiling.choice import sizes
from graphopt.passes.tiling.copies import apart, makers, together
from graphopt.passes.tiling.follow import Followed, follow
from graphopt.passes.tiling.needs import Meter
from graphopt.passes.tiling.price import Prices
from graphopt.passes.tiling.splice import Spliced
from graphopt.passes.tiling.tiles import in_tiles, tile
from graphopt.passes.tiling.twins import twins
from graphopt.plan import Plan
from graphopt.reference import evaluate
from graphopt.rewrite import Log, Miss
from graphopt.substitution import substitute
from graphopt.testing.strategies import graphs
from graphopt.text import parse, weights_of
from graphopt.types import DType, tensor
from graphopt.verify import verify

F32, I64 = DType.F32, DType.I64
Case = tuple[Graph, Value, int, int]


def everything(graph: Graph) -> list[Op]:
    return [op for op in graph.ops if not isinstance(op, Constant)]


def checked(before: Graph, after: Graph, *, exact: bool = False) -> None:
    """``after`` is legal, prints, and gives the same in float64."""
    verify(after)
    assert parse(str(after), weights_of(after)).key == after.key
    fed = random_inputs(before, seed=1)
    truth = evaluate(before, fed, precision="float64", seed=0)
    found = evaluate(after, fed, precision="float64", seed=0)
    for a, b in zip(truth, found, strict=True):
        if exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def tiled(case: Case) -> Graph:
    graph, value, dim, size = case
    made = tile(graph, everything(graph), value, dim, size)
    assert isinstance(made, Graph), made
    return made


def counts(graph: Graph) -> list[int]:
    return [int(op.count) for op in graph.ops if isinstance(op, Tiled)]


# --- regions ------------------------------------------------------------------------


def mlp(size: int = 3, dtype: DType = F32) -> Case:
    x = param("x", 2, 10, 6, dtype=dtype)
    hidden = Relu(MatMul(x, random(6, 24, dtype=dtype)))
    y = Add(MatMul(hidden, random(24, 6, dtype=dtype)), x)
    scale = random(6, dtype=dtype)
    return graph_of(LayerNormalization(y, scale, scale)), hidden, 1, size


def hidden_units() -> Case:
    x = param("x", 2, 10, 6)
    hidden = Relu(MatMul(x, random(6, 24)))
    return graph_of(MatMul(hidden, random(24, 6))), hidden, 2, 5


def attention(dim: int, size: int) -> Case:
    q, k, v = (param(name, 2, 3, 12, 4) for name in "qkv")
    scores = Softmax(MatMul(q, Transpose(k, perm=(0, 1, 3, 2))))
    return graph_of(MatMul(scores, v)), scores, dim, size


def fused(size: int = 5, mask: Value | None = None, **attrs: Any) -> Case:
    q, k, v = (param(name, 2, 4, 12, 4) for name in "qkv")
    y = Attention(q, k, v, mask, **attrs)
    inputs = [q, k, v, *([mask] if mask is not None else [])]
    return graph_of(y, inputs=inputs), y, 2, size  # type: ignore[arg-type]


def heads_in_rows(shared: int = 1, *, bias: bool = False) -> Case:
    """Operands of rank 3, whose heads the op is told the number of."""
    q, k, v = (
        param(n, 2, 12, w) for n, w in [("q", 24), *((n, 24 // shared) for n in "kv")]
    )
    mask = param("bias", 6, 12, 12) if bias else None
    y = Attention(q, k, v, mask, q_num_heads=6, kv_num_heads=6 // shared)
    return graph_of(y), y, 2, 8


def convolutions(dim: int = 2, size: int = 2) -> Case:
    image = param("image", 1, 3, 20, 17)
    first = Relu(
        Conv(image, random(8, 3, 3, 3), random(8), pads=(1,) * 4, strides=(2, 2))
    )
    second = Conv(first, random(8, 1, 3, 3), pads=(2,) * 4, group=8, dilations=(2, 2))
    joined = Add(Conv(second, random(8, 8, 1, 1)), first)
    pooled = MaxPool(joined, kernel_shape=(3, 3), pads=(1,) * 4, strides=(2, 2))
    return graph_of(pooled), pooled, dim, size


def averages() -> Case:
    x = param("x", 1, 2, 9)
    y = AveragePool(x, kernel_shape=(3,), pads=(1, 1), count_include_pad=1)
    y = AveragePool(y, kernel_shape=(3,), pads=(1, 1))
    return graph_of(y), y, 2, 2


def lengthened() -> Case:
    x = param("x", 2, 12)
    y = Conv(
        Reshape(Pad(x, ints(0, 3, 0, 2), const(1.5)), ints(2, 1, 17)), random(1, 1, 4)
    )
    return graph_of(y), y, 2, 4


def stepping() -> Case:
    x = param("x", 3, 20)
    y = Exp(Slice(x, ints(1, 1), ints(3, 19), ints(0, 1), ints(1, 3)))
    return graph_of(y), y, 1, 2


def heads() -> Case:
    x = param("x", 2, 10, 6)
    parts = Transpose(Reshape(x, ints(2, 10, 2, 3)), perm=(0, 2, 1, 3))
    total = ReduceSum(parts, ints(2), keepdims=0)
    rows = Reshape(Transpose(Softmax(parts), perm=(0, 2, 1, 3)), ints(0, 0, 6))
    return graph_of(rows, total, ReduceMax(parts, ints(2))), parts, 2, 3


def blocks() -> Case:
    x = param("x", 1, 8, 5, 3)
    y = DepthToSpace(Relu(x), blocksize=2)
    return graph_of(y), y, 2, 4


def spread() -> Case:
    x = param("x", 1, 4)
    y = Mul(Expand(x, ints(9, 4)), param("z", 9, 1))
    return graph_of(y), y, 0, 2


def triangle(dim: int, upper: int, k: int) -> Case:
    x = param("x", 3, 9, 7)
    y = Trilu(x, const(k, I64), upper=upper)
    return graph_of(y), y, dim, 2


def counting() -> Case:
    numbers = Range(const(3, I64), const(30, I64), const(2, I64))
    y = Mul(param("x", 14), Cast(numbers, to=F32))
    return graph_of(y), y, 0, 3


def causal_by_hand() -> Case:
    """column <= row: rows are counted by a Range, which is told where they begin."""
    row = Reshape(Range(const(0, I64), const(11, I64), const(1, I64)), ints(11, 1))
    column = const(range(11), I64)
    q, k = param("q", 11, 4), param("k", 11, 4)
    scores = MatMul(q, Transpose(k, perm=(1, 0)))
    seen = Where(LessOrEqual(column, row), scores, const(-np.inf))
    y = Softmax(seen)
    return graph_of(y), y, 0, 4


BOOL = param("mask", 2, 1, 12, 12, dtype=DType.BOOL)
CASES: dict[str, Callable[[], Case]] = {
    "tokens of an MLP": mlp,
    "tokens, dividing evenly": lambda: mlp(5),
    "queries": lambda: attention(2, 5),
    "heads": lambda: attention(1, 1),
    "batch": lambda: attention(0, 1),
    "fused attention": fused,
    "causal": lambda: fused(is_causal=1),
    "causal with a mask": lambda: fused(mask=BOOL, is_causal=1),
    "causal with a bias": lambda: fused(mask=param("bias", 12, 12), is_causal=1),
    "heads in rows": heads_in_rows,
    "heads in rows with a bias": lambda: heads_in_rows(bias=True),
    "heads in rows, shared": lambda: heads_in_rows(2),
    "a window": lambda: fused(left_window_size=2, right_window_size=1),
    "a chain of convolutions": convolutions,
    "by single rows": lambda: convolutions(2, 1),
    "by columns": lambda: convolutions(3, 2),
    "means with pads": averages,
    "pads before a convolution": lengthened,
    "every third": stepping,
    "blocks of pixels": blocks,
    "expanded": spread,
    "lower triangle, rows": lambda: triangle(1, 0, 0),
    "lower triangle, columns": lambda: triangle(2, 0, -1),
    "upper triangle, rows": lambda: triangle(1, 1, 1),
    "upper triangle, columns": lambda: triangle(2, 1, 0),
    "positions": counting,
    "a mask of positions": causal_by_hand,
}
MERGED: dict[str, Callable[[], Case]] = {
    "hidden units of an MLP": hidden_units,
    "heads, and sums over positions": heads,
}


@pytest.mark.parametrize("name", [*CASES, *MERGED])
def test_tiles_are_the_whole(name: str) -> None:
    case = {**CASES, **MERGED}[name]()
    checked(case[0], tiled(case))


def test_an_op_told_of_groups_takes_no_part_of_them() -> None:
    x = param("x", 1, 6, 4)
    y = GroupNormalization(x, random(6), random(6), num_groups=3)
    made = tile(graph_of(y), [y], y, 1, 2)
    assert isinstance(made, Miss)


@pytest.mark.parametrize("target", ["ort-cpu", "xla-cpu"])
@pytest.mark.parametrize("name", [*CASES, *MERGED])
def test_targets_run_the_tiles(name: str, target: str) -> None:
    pytest.importorskip("onnxruntime" if target == "ort-cpu" else "jax")
    case = {**CASES, **MERGED}[name]()
    graph = case[0].with_header(opsets={"": 23})
    fed = random_inputs(graph, seed=2)
    made = tiled((graph, *case[1:]))
    results = find(target).compile(made, Plan())(fed)
    for a, b in zip(evaluate(graph, fed), results.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_equal_tiles_are_one_body_and_the_rest_is_by_itself() -> None:
    assert counts(tiled(mlp(5))) == [2]
    made = tiled(mlp(3))
    assert counts(made) == [3]
    assert made.ops[-1].kind == "Concat"


def test_borders_are_by_themselves() -> None:
    image = param("image", 1, 1, 32)
    y = Conv(image, random(1, 1, 3), pads=(1, 1))
    made = tiled((graph_of(y), y, 2, 4))
    assert counts(made) == [6]
    assert sum(op.kind == "Conv" for op in made.ops) == 2


def test_what_does_not_depend_on_the_tile_is_computed_once() -> None:
    graph, value, dim, size = attention(2, 4)
    made = tiled((graph, value, dim, size))
    (op,) = (op for op in made.ops if isinstance(op, Tiled))
    assert any(op.kind == "Transpose" for op in made.ops)
    assert all(inner.kind != "Transpose" for inner in op.bodies[0].ops)


@pytest.mark.parametrize("name", [*CASES, *MERGED])
def test_what_tiles_need_is_known_before_they_are_built(name: str) -> None:
    graph, value, dim, size = {**CASES, **MERGED}[name]()
    new = in_tiles(graph, everything(graph), value, dim, size)
    assert not isinstance(new, Miss)
    for space in ("onnx", "xla-cpu"):
        meter = Meter({}, SPACES[space])
        before, made = meter.needs(graph), substitute(graph, new)
        foreseen, found = Spliced(before, new), meter.needs(made)
        assert list(foreseen.steps) == list(found.steps)
        assert foreseen.flops == meter.flops(made) - meter.flops(graph)
        assert len(foreseen.fresh) - len(foreseen.gone) == len(made.ops) - len(
            graph.ops
        )


# --- equal layers -------------------------------------------------------------------


def layers(count: int, widths: Sequence[int]) -> tuple[Graph, list[Value]]:
    """Blocks that mix positions, and of them units; all read one mask."""
    h: Value = param("h", 1, 64, 8)
    mask, hidden = param("mask", 1, 64, 1), list[Value]()
    mixed = random(64, 64)
    for i in range(count):
        width = widths[i % len(widths)]
        hidden.append(Gelu(MatMul(Mul(h, mask), random(8, width))))
        h = Add(MatMul(mixed, h), MatMul(hidden[-1], random(width, 8)))
    return graph_of(h), hidden


def test_equal_layers_are_cut_in_one_step() -> None:
    graph, _ = layers(6, [128])
    meter, log = Meter({}), Log()
    budget = meter.needs(graph).peak // 3
    made = Tile(budget=budget).run(graph, log)
    assert meter.needs(made).peak <= budget
    assert len(log.notes) == 1
    assert log.notes[0].startswith("6 x ")
    assert len(set(counts(made))) == 1
    checked(graph, made)


def test_twins_are_regions_that_do_the_same_elsewhere() -> None:
    graph, hidden = layers(4, [128, 64])
    (op,) = (user for user, _ in graph.users[hidden[0]])
    region = follow(graph, [hidden[0].op, op], hidden[0], 1)
    assert isinstance(region, Followed)
    found = list(twins(graph, region, hidden[0]))
    assert [value for _, value in found] == [hidden[2]]
    assert {o.kind for o in found[0][0]} == {"Gelu", "MatMul"}
    assert set(found[0][0]).isdisjoint(region.axes)


def test_readers_that_are_not_told_apart_are_no_twins() -> None:
    """One of two equal readers here, one reader there."""
    x, y = param("x", 16, 4), param("y", 16, 4)
    a, b = Relu(x), Relu(y)
    weights = [param(f"w{i}", 4, 3) for i in range(3)]
    outputs = [MatMul(a, weights[0]), MatMul(a, weights[1]), MatMul(b, weights[2])]
    graph = Graph([x, y, *weights], outputs)
    region = follow(graph, [a, outputs[0]], a, 0)
    assert isinstance(region, Followed)
    assert list(twins(graph, region, a)) == []


# --- reasons ------------------------------------------------------------------------


def reason(graph: Graph, value: Value, dim: int, size: int) -> str:
    made = tile(graph, everything(graph), value, dim, size)
    assert isinstance(made, Miss), made
    return made.reason


def test_a_softmax_is_not_cut_along_its_axis() -> None:
    graph, value, _, _ = attention(3, 4)
    assert "Softmax: the dim _i3 does not move" in reason(graph, value, 3, 4)


def test_sums_of_sums_end_the_region() -> None:
    x = param("x", 6, 4)
    y = Div(x, ReduceSum(x, ints(0)))
    assert "is reduced, and the region goes on" in reason(graph_of(y), x, 0, 2)


def test_what_is_carried_is_not_cut() -> None:
    x = param("x", 6, 4)
    y = CumSum(Relu(x), const(0, I64))
    assert "CumSum" in reason(graph_of(y), y, 0, 2)


def test_two_dims_of_a_value_are_not_cut_at_once() -> None:
    x = param("x", 6, 6)
    y = Add(x, Transpose(x, perm=(1, 0)))
    assert "two" in reason(graph_of(y), y, 0, 2)


def test_a_bias_is_not_added_by_each_tile() -> None:
    y = Gemm(param("x", 4, 6), random(6, 3), random(3))
    assert "Gemm" in reason(graph_of(y), y.operands[0], 1, 2)  # type: ignore[arg-type]


def test_a_region_around_another_op_has_a_hole() -> None:
    x = param("x", 6, 4)
    first = Relu(x)
    second = ReduceMax(first, ints(0))
    y = Add(first, second)
    graph = graph_of(y)
    made = tile(graph, [first, y], y, 0, 2)
    assert isinstance(made, Miss)
    assert "needs what is made from the region" in made.reason


@pytest.mark.parametrize("reduced", [False, True])
def test_results_of_other_positions_are_not_cut(reduced: bool) -> None:
    """What a slice, or windows without a border, give beside what they read."""
    x = param("x", 1, 2, 16)
    h = Relu(x)
    for less in (
        Slice(h, ints(0), ints(8), ints(2)),
        Conv(h, random(2, 2, 3)),
        MaxPool(h, kernel_shape=(3,), strides=(1,)),
    ):
        both = [ReduceSum(y, ints(2)) if reduced else Neg(y) for y in (h, less)]
        for value in (h, less):
            said = reason(graph_of(*both), value, 2, 2)
            assert "more or fewer positions" in said
    even = [Neg(h), Conv(h, random(2, 2, 3), pads=(1, 1))]
    checked(graph_of(*even), tiled((graph_of(*even), h, 2, 4)))


def test_an_unknown_or_whole_dim_is_no_tile() -> None:
    x = param("x", None, 4)
    assert "is not known" in reason(graph_of(Relu(x)), x, 0, 2)
    assert "are no tile" in reason(graph_of(Relu(x)), x, 1, 4)


def test_tiles_end_at_positions_of_all_results() -> None:
    graph, value, dim, _ = blocks()
    assert "ends between two positions" in reason(graph, value, dim, 3)


def test_ops_that_look_at_the_shape_end_the_region() -> None:
    x = param("x", 6, 4)
    hidden = Relu(x)
    graph = graph_of(Exp(hidden), Shape(hidden))
    assert "Shape" in reason(graph, hidden, 0, 2)
    some = [op for op in everything(graph) if op.kind != "Shape"]
    made = tile(graph, some, hidden, 0, 2)
    assert isinstance(made, Graph)
    checked(graph, made)


# --- at random ----------------------------------------------------------------------


@st.composite
def regions(draw: st.DrawFn) -> tuple[Graph, list[Op], Value, int, int]:
    """A random graph, some of its ops, and a dim of a value to cut."""
    graph = draw(graphs(max_ops=10))
    values = [
        v
        for op in everything(graph)
        for v in (*op.operands, *op.results)
        if v is not None and any(isinstance(d, int) and d > 1 for d in v.shape or ())
    ]
    ops = everything(graph)
    if not values or not ops:
        return graph, [], graph.outputs[0], 0, 1
    value = draw(st.sampled_from(values))
    shape: Sequence[Any] = value.shape or ()
    long = [i for i, d in enumerate(shape) if isinstance(d, int) and d > 1]
    dim = draw(st.sampled_from(long))
    near = [op for op in ops if value in op.operands or value.op is op]
    first = draw(st.integers(0, len(ops) - 1))
    last = draw(st.integers(first, len(ops) - 1))
    region = draw(st.sampled_from([ops, near, ops[first : last + 1]]))
    return graph, region, value, dim, draw(st.integers(1, shape[dim] - 1))


FOUND: list[bool] = []


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(regions())
def test_random_regions(drawn: tuple[Graph, list[Op], Value, int, int]) -> None:
    graph, region, value, dim, size = drawn
    made = tile(graph, region, value, dim, size) if region else None
    FOUND.append(isinstance(made, Graph))
    if isinstance(made, Graph):
        checked(graph, made)
    elif made is not None:
        assert isinstance(made, Miss)
        assert made.reason


def test_enough_random_regions_are_tiled() -> None:
    assert sum(FOUND) > 60, f"{sum(FOUND)} of {len(FOUND)}: the property says little"


# --- the pass -----------------------------------------------------------------------


def stack(length: int = 64) -> Graph:
    """Blocks of attention and MLP: both have large values that nobody reads later."""
    x = param("x", 1, length, 8)
    h: Value = x
    for i in range(2):
        q, k, v = (
            Transpose(
                Reshape(MatMul(h, random(8, 8, seed=s + i)), ints(1, length, 2, 4)),
                perm=(0, 2, 1, 3),
            )
            for s in range(3)
        )
        scores = MatMul(q, Transpose(k, perm=(0, 1, 3, 2)))
        y = Transpose(MatMul(Softmax(scores), v), perm=(0, 2, 1, 3))
        h = Add(h, Reshape(y, ints(1, length, 8)))
        up = Gelu(MatMul(h, random(8, 64, seed=i)))
        h = Add(h, MatMul(up, random(64, 8, seed=i)))
    return graph_of(h, inputs=[x])


def test_the_pass_comes_under_the_budget() -> None:
    graph = stack()
    meter = Meter({})
    whole = meter.needs(graph).peak
    for share in (0.5, 0.4, 0.36):
        log = Log()
        budget = int(share * whole)
        made = Tile(budget=budget).run(graph, log)
        assert meter.needs(made).peak <= budget
        checked(graph, made)
        said = [re.match(r"(\d+) x ", note) for note in log.notes]
        assert log.fired["tile"] == sum(int(m[1]) if m else 1 for m in said)


def masked(layers: int = 3, length: int = 64) -> Graph:
    """Layers that share a mask, which follows from a row of small inputs."""
    x = param("x", 1, length, 8)
    row = param("row", 1, length, dtype=DType.BOOL)
    column = Constant(np.arange(length).reshape(1, -1))
    causal = LessOrEqual(column, Constant(np.arange(length).reshape(-1, 1)))
    seen = And(causal, row)
    h: Value = x
    for i in range(layers):
        scores = MatMul(MatMul(h, random(8, 8, seed=i)), Transpose(h, perm=(0, 2, 1)))
        hidden = Where(seen, scores, Constant(np.float32(-100)))
        h = Add(h, MatMul(Softmax(hidden), h))
    return graph_of(h, inputs=[x, row])


def test_tiles_make_their_own_part_of_a_mask_that_layers_share() -> None:
    graph = masked()
    meter = Meter({})
    whole = meter.needs(graph).peak
    budget = int(0.36 * whole)
    made = Tile(budget=budget)(graph)
    assert meter.needs(made).peak <= budget
    assert not any(isinstance(op, And) for op in made.ops)
    inside = [op for _, op in made.walk() if isinstance(op, And)]
    assert len({op.instance for op in inside}) == 3
    checked(graph, made)
    checked(graph, written_out(made)[0])


def test_long_chains_of_cheap_ops_are_made_by_each_reader() -> None:
    """Such as the buckets of relative positions, 16 ops and more."""
    wide: Value = Expand(param("row", 1, 64), ints(64, 64))
    for _ in range(10):
        wide = Neg(Add(wide, const(1.0)))
    readers = [MatMul(wide, param(name, 64, 64)) for name in "ab"]
    _, copies = apart(graph_of(*readers), Meter({}), 64 * 64)
    assert len(copies) == 2


def test_copies_that_no_tiles_took_are_one_again() -> None:
    graph = masked()
    meter = Meter({})
    parted, copies = apart(graph, meter, 64 * 64)
    assert sum(isinstance(op, And) for op in parted.ops) == len(copies) == 3
    checked(graph, parted)
    merged = together(parted, copies)
    assert sum(isinstance(op, And) for op in merged.ops) == 1
    made = Tile(budget=1)(graph)
    checked(graph, made)
    assert meter.needs(made).peak < meter.needs(graph).peak


def test_the_makers_of_a_value_are_told_once_each() -> None:
    value: Value = param("x", 4)
    for _ in range(40):  # as many ways to the first as 2 ** 40
        value = Add(value, value).copy(instance=7)
    assert value.op is not None
    found = makers(value, range(7, 9))
    assert len(found) == len({*found}) == 40
    assert found[0] is value.op
    for _ in range(2000):
        value = Relu(value).copy(instance=8)
    assert len(makers(value, range(7, 9))) == 2040
    assert len(makers(value, range(8, 9))) == 2000


def test_copies_of_others_are_no_makers() -> None:
    """Recomputation makes ops of other instances too, which one reader does not own."""
    chain = Relu(Exp(param("x", 64)).copy(instance=1))
    assert makers(chain.op.operands[0], range(2, 4)) == []
    assert makers(chain.op.operands[0], ()) == []
    assert makers(None, range(4)) == []


def test_no_region_is_tiled_where_all_fits() -> None:
    graph = stack()
    assert Tile(budget=1 << 30)(graph) is graph


def test_what_cannot_be_reached_is_said() -> None:
    log = Log()
    made = Tile(budget=1000).run(stack(), log)
    assert "no tiling helps" in log.notes[-1]
    checked(stack(), made)


def test_a_convolution_chain_is_tiled_by_rows() -> None:
    x = param("x", 1, 3, 256, 256)
    y = Relu(Conv(x, random(32, 3, 3, 3), pads=(1,) * 4, strides=(2, 2)))
    y = Relu(Conv(y, random(32, 1, 3, 3), pads=(1,) * 4, group=32, strides=(2, 2)))
    y = Conv(y, random(8, 32, 1, 1))
    graph = graph_of(y)
    meter = Meter({})
    before = meter.needs(graph).peak
    made = Tile(budget=before // 3)(graph)
    assert meter.needs(made).peak <= before // 3
    assert meter.flops(made) < 1.15 * meter.flops(graph)
    checked(graph, made)


@pytest.mark.parametrize("extent", [2, 3, 7, 8, 24, 197, 2048, 2305])
def test_sizes_are_few_and_leave_one_remainder(extent: int) -> None:
    found = sizes(extent)
    assert found == sorted(set(found), reverse=True)
    assert all(0 < size < extent for size in found)
    assert len(found) <= 10


# --- heads over a vocabulary ----------------------------------------------------------

POSITIONS, CLASSES = 64, 512


def of_the_largest(logits: Value, labels: Value) -> list[Value]:
    return [ArgMax(logits, axis=-1, keepdims=0), ReduceMax(logits, ints(-1))]


def of_five(logits: Value, labels: Value) -> list[Value]:
    return list(TopK(Softmax(logits), ints(5)).results)


def of_labels(logits: Value, labels: Value) -> list[Value]:
    at = Reshape(labels, ints(1, POSITIONS, 1))
    return [GatherElements(LogSoftmax(logits), at, axis=2)]


def of_a_loss(logits: Value, labels: Value) -> list[Value]:
    rows = Reshape(logits, ints(POSITIONS, CLASSES))
    flat = Reshape(labels, ints(POSITIONS))
    return [SoftmaxCrossEntropyLoss(rows, flat, ignore_index=3)]


@pytest.mark.parametrize("head", [of_the_largest, of_five, of_labels, of_a_loss])
def test_heads_over_a_vocabulary_go_by_positions(
    head: Callable[[Value, Value], list[Value]],
) -> None:
    """All scores of all positions are never there at once; what is kept is exact."""
    h = param("h", 1, POSITIONS, 8)
    labels = Parameter(tensor(DType.I64, 1, POSITIONS), "labels")
    graph = Graph([h, labels], head(MatMul(h, random(8, CLASSES)), labels))
    meter = Meter({})
    whole = meter.needs(graph).peak
    made = Tile(budget=whole // 6)(graph)
    assert meter.needs(made).peak <= whole // 6
    fed = random_inputs(graph, seed=1)
    fed["labels"] = np.arange(POSITIONS)[None] % CLASSES
    for old, new in zip(evaluate(graph, fed), evaluate(made, fed), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


def test_scores_before_a_bias_go_by_positions_though_two_tiles_need_more() -> None:
    h = param("h", 1, 64, 8)
    graph = graph_of(Add(MatMul(h, random(8, 200)), random(200)))
    meter = Meter({}, SPACES["xla-cpu"])
    whole = meter.needs(graph).peak
    made = Tile(budget=whole // 3, target="xla-cpu")(graph)
    assert meter.needs(made).peak <= whole // 3
    checked(graph, made)


def test_logits_that_are_outputs_are_told_apart() -> None:
    log = Log()
    logits = MatMul(param("h", 1, POSITIONS, 8), random(8, CLASSES))
    graph = graph_of(logits)
    assert Tile(budget=1000).run(graph, log) is graph
    assert log.notes == [
        f"{4 * POSITIONS * CLASSES} bytes are outputs, which no tiles make fewer"
    ]


# --- prices ---------------------------------------------------------------------------


def priced(target: str) -> Prices:
    return Prices(device(target), Meter({}, SPACES[target]))


def test_tiles_fill_the_lanes_of_a_tpu() -> None:
    x = param("x", 4, 512, 1024)
    v5e, v6e, cpu = priced("xla-tpu"), priced("xla-tpu"), priced("xla-cpu")
    v6e = replace(v6e, device=device("v6e"))
    assert [v5e.aligned(x, dim) for dim in range(3)] == [1, 8, 128]
    assert v6e.aligned(x, 2) == 256
    assert {cpu.aligned(x, dim) for dim in range(3)} == {8}
    assert all(size % 128 == 0 for size in sizes(1000, 128) if size > 128)
    assert sizes(1000, 128)[:2] == [512, 256]


def test_products_pay_for_what_they_do_not_fill() -> None:
    tpu, cpu = priced("xla-tpu"), priced("xla-cpu")
    w = random(1024, 1024)
    few, many = (MatMul(param("x", rows, 1024), w, instance=rows) for rows in (1, 8))
    assert tpu._work(few) == tpu._work(many)
    assert 8 * cpu._work(few) == cpu._work(many)


def test_what_stays_near_moves_once() -> None:
    """A chain that fits is paid by its ends, another by all that it makes."""
    cpu = priced("ort-cpu")

    def chain(rows: int) -> int:
        x = param("x", rows, 1024)
        y = Exp(Neg(Exp(Neg(x))))
        return cpu.of(graph_of(y).ops) - 4 * cpu.start

    assert chain(128) * 2 < chain(512)  # 512 KiB and 2 MiB; L2 has 1
    assert chain(512) > 1.9 * 4 * chain(128)


def test_coarser_tiles_start_less_and_finer_ones_stay_near() -> None:
    x = param("x", 16384, 16)
    up = Relu(MatMul(x, random(16, 512)))
    graph = graph_of(MatMul(up, random(512, 16)))
    cpu = priced("ort-cpu")
    region = [op for op in graph.ops if not isinstance(op, Constant)]
    price = {}
    for size in (4, 64, 8192):
        new = in_tiles(graph, region, up, 0, size)
        assert not isinstance(new, Miss)
        made = Spliced(cpu.meter.needs(graph), new)
        price[size] = cpu.of(made.fresh) - cpu.of(region)
    assert price[64] < price[8192]
    assert price[64] < price[4]


def test_symbolic_batches_stay() -> None:
    n = dims.symbol("n")
    x = param("x", n, 32, 8)
    y = MatMul(Relu(MatMul(x, random(8, 64))), random(64, 8))
    graph = graph_of(y)
    made = Tile(budget=4 * (2 * 32 * 8 + 1000))(graph)
    assert counts(made)
    assert made.outputs[0].shape == (n, 32, 8)
    checked(graph, made)


@pytest.mark.parametrize("target", ["onnx", "ort-cpu", "xla-cpu"])
def test_the_driver_runs_it_last_and_checks_the_result(target: str) -> None:
    if target != "onnx":
        pytest.importorskip("onnxruntime" if target == "ort-cpu" else "jax")
    graph = stack().with_header(opsets={"": 23}, ir_version=10)
    budget = Meter({}).needs(graph).peak // 3
    result = optimize(graph, target, add=[f"tile(budget={budget})"])
    assert counts(result.graph)
    (record,) = (r for r in result.report.passes if r.name.startswith("tile("))
    assert "bytes at the peak" in record.notes[0]
    assert not any(
        node.op_type == "Tiled" for node in to_proto(result.graph).graph.node
    )


def test_a_range_of_computed_bounds_reads_them_from_outside_of_its_tiles() -> None:
    x = param("x", 8, 4)
    size = ReduceSum(Slice(Shape(x), ints(0), ints(1)), ints(0), keepdims=0)
    stop = Mul(size, Constant(np.array(2)))
    numbers = Range(Constant(np.array(0)), stop, Sub(size, Constant(np.array(7))))
    graph = graph_of(Neg(numbers))
    (out,) = graph.outputs
    made = tile(graph, [numbers, out.op], out, 0, 4)  # type: ignore[list-item]
    assert isinstance(made, Graph)
    checked(graph, made)


def test_truth_values_are_not_combined_by_max() -> None:
    no = Not(param("x", 5, dtype=DType.BOOL))
    most = ReduceMax(no, ints(0), keepdims=0)
    made = tile(graph_of(most), [no, most], no, 0, 3)
    assert isinstance(made, Miss)
    assert "cannot be combined" in made.reason


def test_a_budget_is_a_size() -> None:
    small = graph_of(Add(param("x", 1, dtype=DType.U8), param("y", 1, dtype=DType.U8)))
    assert Tile()(small) is small
    with pytest.raises(UsageError, match="no size of memory"):
        Tile(budget=-1)(small)


def test_a_tile_that_does_not_fit_is_left_out() -> None:
    """Like heads of detectors: rows that a Reshape takes apart by numbers."""
    x = param("x", 1, 6, 40, 30)
    rows = Transpose(Relu(Conv(x, random(6, 6, 3, 3), pads=[1] * 4)), perm=(0, 2, 3, 1))
    graph = graph_of(Softmax(Reshape(rows, ints(1, -1, 2))))
    for share in (2, 3, 5, 9):
        made = Tile(budget=Meter({}).needs(graph).peak // share)(graph)
        checked(graph, made)
