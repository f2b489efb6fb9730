"""Picks sunk: one token through a model's last layers, columns of weights."""

from __future__ import annotations

import numpy as np
import pytest
from equations import (
    M,
    N,
    fires,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    random,
    rewritten,
)

from graphopt.cost import cost
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Concat,
    Constant,
    Conv,
    CumSum,
    Einsum,
    Flatten,
    Gather,
    Gemm,
    LayerNormalization,
    MatMul,
    Mul,
    Relu,
    Reshape,
    Sigmoid,
    Slice,
    Softmax,
    Squeeze,
    Transpose,
)
from graphopt.passes.sink import Sink, sink_pick, slice_of_parts
from graphopt.rewrite import rewrite
from graphopt.types import DType

F64 = DType.F64
TOKENS = param("x", N, M, 8, dtype=F64)
LAST = Constant(np.array(-1, np.int64))


def w(*shape: int, seed: int = 0) -> Constant:
    return random(*shape, dtype=F64, seed=seed)


def mlp(x: Value, seed: int) -> Value:
    """A residual block: what a decoder ends with."""
    inner = MatMul(LayerNormalization(x, w(8, seed=seed)), w(8, 16, seed=seed))
    gate = Mul(inner, Sigmoid(inner))
    return Add(x, Add(MatMul(gate, w(16, 8, seed=seed + 1)), w(8, seed=seed + 2)))


def scores(x: Value) -> Value:
    return MatMul(LayerNormalization(x, w(8, seed=7)), w(8, 10, seed=8))


MODEL = scores(mlp(mlp(TOKENS, 1), 4))


def from_end(x: Value, axis: int) -> Value:
    return Slice(x, ints(-1), ints(1 << 62), ints(axis))


@pytest.mark.parametrize("spelling", ["scalar", "list", "slice"])
def test_last_token(spelling: str) -> None:
    """The whole model runs for one token; only the input is picked of."""
    made = {
        "scalar": Gather(MODEL, LAST, axis=1),
        "list": Gather(MODEL, ints(-1), axis=1),
        "slice": from_end(MODEL, 1),
    }
    done = rewritten(sink_pick, made[spelling])
    names = kinds(done)
    assert names.count("Gather") + names.count("Slice") == 1
    assert isinstance(done.ops[-1], Squeeze if spelling == "scalar" else MatMul)
    products = [op for op in done.ops if isinstance(op, MatMul)]
    assert len(products) == 5
    sizes = {"n": 2, "m": 64}
    before = cost(graph_of(made[spelling]), sizes).flops
    after = cost(done, sizes).flops
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after < before / 32


def test_first_token_by_an_index_that_is_computed() -> None:
    where = param("i", dtype=DType.I64)
    before = Gather(scores(TOKENS), where, axis=1)
    done = rewrite(graph_of(before), [sink_pick])
    assert kinds(done)[:2] == ["Reshape", "Gather"]
    assert kinds(done)[-1] == "Squeeze"


def test_columns_of_a_product() -> None:
    weight = w(8, 10)
    before = Slice(MatMul(TOKENS, weight), ints(2), ints(5), ints(2))
    after = MatMul(TOKENS, Slice(weight, ints(2), ints(5), ints(1)))
    fires(sink_pick, before, after)
    x, operands = param("m", N, 8, dtype=F64), [w(10, 8), w(10)]
    before = Slice(Gemm(x, *operands, transB=1), ints(2), ints(5), ints(1))
    parts = [Slice(v, ints(2), ints(5), ints(0)) for v in operands]
    fires(sink_pick, before, Gemm(x, *parts, transB=1))


def test_channels_of_a_convolution() -> None:
    image, weight = param("c", N, 4, 5, 5, dtype=F64), w(6, 4, 3, 3)
    before = Slice(Conv(image, weight), ints(1), ints(3), ints(1))
    after = Conv(image, Slice(weight, ints(1), ints(3), ints(0)))
    fires(sink_pick, before, after)
    rows = Slice(Conv(image, weight), ints(0), ints(1), ints(2))
    misses(sink_pick, rows, "among others")


def test_through_transposes_reshapes_and_sums() -> None:
    split = Reshape(MatMul(TOKENS, w(8, 6)), ints(0, 0, 2, 3))
    heads = Relu(Transpose(split, perm=(0, 2, 1, 3)))
    done = rewritten(sink_pick, Gather(heads, ints(0), axis=2))
    assert kinds(done) == ["Gather", "MatMul", "Reshape", "Transpose", "Relu"]
    table = w(9, 8, seed=3)
    einsum = Einsum(TOKENS, table, equation="bsd,kd->bsk")
    done = rewritten(sink_pick, from_end(einsum, 1))
    assert kinds(done) == ["Slice", "Einsum"]


def test_words_are_picked_before_they_are_embedded() -> None:
    ids, table = param("ids", N, M, dtype=DType.I64), w(9, 8)
    embedded = Gather(table, ids, axis=0)
    done = rewrite(graph_of(Gather(Relu(embedded), ints(-1), axis=1)), [sink_pick])
    assert kinds(done) == ["Gather", "Gather", "Relu"]
    assert done.ops[-2].operands[0] is table


def test_two_operands_only_for_a_product() -> None:
    y = param("y", N, M, 8, dtype=F64)
    last = ints(-1)
    misses(sink_pick, Gather(Add(TOKENS, y), last, axis=1), "no smaller product")
    done = rewritten(sink_pick, Gather(Add(MatMul(TOKENS, w(8, 8)), y), last, axis=1))
    assert kinds(done) == ["Gather", "MatMul", "Gather", "Add"]
    # Below the product there is nothing to win by taking two sums apart.
    product = MatMul(Add(TOKENS, y), w(8, 8))
    done = rewritten(sink_pick, Gather(product, last, axis=1))
    assert kinds(done) == ["Add", "Gather", "MatMul"]


def test_near_misses() -> None:
    last = ints(-1)
    heads = MatMul(TOKENS, w(8, 8))
    misses(sink_pick, (Gather(heads, last, axis=1), Relu(heads)), "read elsewhere")
    soft = Softmax(TOKENS, axis=1)
    misses(sink_pick, Gather(soft, last, axis=1), "not those of an operand")
    summed = CumSum(TOKENS, Constant(np.array(1, np.int64)))
    misses(sink_pick, Gather(summed, last, axis=1), "computed from others")
    flat = Flatten(Relu(param("f", N, 3, 4, dtype=F64)), axis=1)
    misses(sink_pick, Gather(flat, last, axis=1), "not those of an operand")
    misses(sink_pick, Gather(Transpose(TOKENS), last, axis=1), "nothing is computed")
    # As many positions as there are, or more.
    small = param("s", N, 2, 8, dtype=F64)
    misses(sink_pick, Gather(Relu(small), ints(0, 1, 0), axis=1))
    misses(sink_pick, Gather(Relu(TOKENS), ints(0, 1), axis=1))
    misses(sink_pick, Gather(Relu(TOKENS), ints(0, 1, 0), axis=1))
    # A square: both operands of the product are the same value, along other axes.
    x = Relu(param("q", 4, 4, dtype=F64))
    rewritten(sink_pick, Gather(MatMul(x, Transpose(x, perm=(1, 0))), last, axis=0))


def test_a_dim_that_a_reshape_tells() -> None:
    x = Relu(param("r", N, 6, 8, dtype=F64))
    told = Reshape(x, ints(-1, 6, 2, 4))
    misses(sink_pick, Gather(told, ints(-1), axis=1), "tells how many")
    left_open = Reshape(x, ints(0, 0, 2, 4))
    assert kinds(rewritten(sink_pick, Gather(left_open, ints(-1), axis=1)))


def test_a_weight_that_others_read() -> None:
    table = w(100, 8)
    tied = MatMul(TOKENS, Transpose(table, perm=(1, 0)))
    both = (Slice(tied, ints(0), ints(9), ints(2)), Transpose(table, perm=(1, 0)))
    assert "Slice" in kinds(rewrite(graph_of(*both), [sink_pick]))
    wide = w(8, 100)
    twice = Slice(MatMul(TOKENS, wide), ints(0), ints(9), ints(2)), Relu(wide)
    misses(sink_pick, twice, "others read the weight too")


def test_parts_of_a_concatenation() -> None:
    x, y, z = (param(n, N, k, dtype=F64) for n, k in (("a", 2), ("b", 5), ("c", 3)))
    joined = Concat(x, y, z, axis=1)

    def cut(start: int, end: int, step: int = 1) -> Value:
        return Slice(joined, ints(start), ints(end), ints(1), ints(step))

    fires(slice_of_parts, cut(3, 6), Slice(y, ints(1), ints(4), ints(1)))
    fires(slice_of_parts, cut(0, 7), Concat(x, y, axis=1))
    fires(slice_of_parts, cut(2, 100), Concat(y, z, axis=1))
    fires(slice_of_parts, cut(-2, 100), Slice(z, ints(1), ints(3), ints(1)))
    misses(slice_of_parts, cut(1, 3), "not within one")
    misses(slice_of_parts, cut(3, 6, 2), "not known")
    other = Slice(joined, ints(0), ints(1), ints(0))
    misses(slice_of_parts, other)


def test_the_pass_says_what_it_does() -> None:
    assert Sink().name == "sink"
    assert [r.name for r in Sink().rules()] == ["sink_pick", "slice_of_parts"]


def test_what_starts_with_a_part_and_ends_within_it() -> None:
    x, y = param("x", N, 2), param("y", N, 5)
    cut = Slice(Concat(x, y, axis=1), ints(2), ints(4), ints(1))
    fires(slice_of_parts, cut, Slice(y, ints(0), ints(2), ints(1)))


def test_positions_that_are_read_twice() -> None:
    square = param("s", N, 4, 4, dtype=F64)
    diagonal = Einsum(square, equation="aii->ai")
    misses(sink_pick, Gather(diagonal, LAST, axis=1), "read twice")


def test_what_is_one_for_all_positions_is_read_whole() -> None:
    one = param("one", N, 1, 8, dtype=F64)
    before = Gather(Mul(MatMul(TOKENS, w(8, 8)), one), ints(2), axis=1)
    done = rewritten(sink_pick, before, sizes=({"n": 2, "m": 3},))
    assert kinds(done) == ["Gather", "MatMul", "Mul"]
