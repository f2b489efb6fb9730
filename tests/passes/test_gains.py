"""Gains taken into weights, through what moves elements on the way."""

from __future__ import annotations

from typing import Any

import pytest
from equations import M, N, const, ints, kinds, misses, param, random, rewritten

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Constant,
    Conv,
    Div,
    Gemm,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    MatMul,
    Mul,
    Relu,
    Reshape,
    RMSNormalization,
    Softmax,
    Split,
    Transpose,
)
from graphopt.passes import gains as g
from graphopt.passes.gains import Gains
from graphopt.types import DType

F64 = DType.F64
TOKENS = param("x", N, M, 6, dtype=F64)
IMAGE = param("i", N, 4, 5, 5, dtype=F64)
LATEST = 23


def w(*shape: int, seed: int = 0) -> Constant:
    return random(*shape, dtype=F64, seed=seed)


def linear(seed: int = 0, x: Value = TOKENS) -> Value:
    return Add(MatMul(x, w(6, 8, seed=seed)), w(8, seed=seed + 1))


def heads(x: Value, *perm: int) -> Value:
    return Transpose(Reshape(x, ints(0, 0, 2, 4)), perm=perm)


HALF = const(0.5, F64)


@pytest.mark.parametrize("kind", [Mul, Div])
@pytest.mark.parametrize("gain", ["number", "vector"])
def test_layer_scale(kind: Any, gain: str) -> None:
    """Before the transpose and after it, as exporters of ConvNeXt write it."""
    number = HALF if gain == "number" else w(8, seed=5)
    image = param("y", N, 5, 5, 6, dtype=F64)
    before = Transpose(kind(linear(x=image), number), perm=(0, 3, 1, 2))
    assert kinds(rewritten(g.gain_into_weight, before)) == [
        "MatMul",
        "Add",
        "Transpose",
    ]
    turned = Transpose(linear(x=image), perm=(0, 3, 1, 2))
    number = HALF if gain == "number" else w(8, 1, 1, seed=5)
    done = rewritten(g.gain_into_weight, kind(turned, number))
    assert kinds(done) == ["MatMul", "Add", "Transpose"]


def test_the_scale_of_attention() -> None:
    before = Mul(heads(linear(), 0, 2, 3, 1), HALF)
    done = rewritten(g.gain_into_weight, before)
    assert kinds(done) == ["MatMul", "Add", "Reshape", "Transpose"]
    misses(g.gain_into_weight, before, "takes the scale itself", opset=LATEST)
    q, k = heads(linear(), 0, 2, 1, 3), heads(linear(3), 0, 2, 3, 1)
    scores = Div(MatMul(q, k), const(2.0, F64))
    done = rewritten(g.gain_of_product, scores)
    assert kinds(done).count("Div") == 0
    misses(g.gain_of_product, scores, "takes the scale itself", opset=LATEST)
    # Of an operand without a weight the other one takes it.
    plain = param("q", N, 2, M, 4, dtype=F64)
    assert "Div" not in kinds(rewritten(g.gain_of_product, Div(MatMul(plain, k), HALF)))


def test_a_gain_of_some_of_the_dims() -> None:
    """A gain per head, per feature, or of both, in every place."""
    for shape in ((2, 1, 4), (4,), (2, 1, 1)):
        before = Mul(heads(linear(), 0, 2, 1, 3), w(*shape, seed=9))
        done = rewritten(g.gain_into_weight, before)
        assert kinds(done) == ["MatMul", "Add", "Reshape", "Transpose"]
    merged = Reshape(Relu(param("r", N, 2, 4, dtype=F64)), ints(0, -1))
    misses(g.gain_into_weight, Mul(merged, w(8)), "no weight takes")
    split = Conv(IMAGE, w(6, 4, 1, 1), w(6, seed=1))
    before = Mul(Reshape(split, ints(0, 2, 3, 25)), w(2, 3, 1, seed=4))
    assert kinds(rewritten(g.gain_into_weight, before)) == ["Conv", "Reshape"]


def parts(widths: tuple[int, ...] = (2, 4, 2)) -> tuple[Value, ...]:
    return Split(linear(), ints(*widths), axis=2, outs=len(widths)).results


def test_one_part_of_a_split() -> None:
    """Queries, keys and values of one product: only the columns of one are scaled."""
    q, k, v = parts()
    done = rewritten(g.gain_into_weight, (q, Mul(k, HALF), v))
    assert kinds(done) == ["MatMul", "Add", "Split"]
    q, k, v = parts()
    moved = Mul(Transpose(k, perm=(0, 2, 1)), w(4, 1))
    assert kinds(rewritten(g.gain_into_weight, (moved, Relu(v), q))).count("Mul") == 0
    both = (Mul(q, HALF), Mul(k, w(4)), v)
    assert kinds(rewritten(g.gain_into_weight, both)).count("Mul") == 0
    misses(g.gain_into_weight, (q, k, Mul(k, HALF), v), "elsewhere")
    rows = Split(param("s", 4, 6, dtype=F64), ints(1, 3), axis=0, outs=2).results
    misses(g.gain_into_weight, Mul(rows[0], HALF), "no weight")
    tall = linear(x=param("u", 4, 6, dtype=F64))
    unlike = Split(tall, ints(1, 3), axis=0, outs=2).results
    misses(g.gain_into_weight, Mul(unlike[0], w(8)), "what is split")


def test_biases_of_all_shapes() -> None:
    gemm = Gemm(param("m", N, 6, dtype=F64), w(8, 6), w(8), transB=1, beta=2.0)
    before = Mul(Add(gemm, w(1, 8, seed=2)), w(8, seed=3))
    assert kinds(rewritten(g.gain_into_weight, before)) == ["Gemm", "Add"]
    places = Add(MatMul(param("t", N, 3, 6, dtype=F64), w(6, 8)), w(1, 3, 8, seed=2))
    done = rewritten(g.gain_into_weight, Mul(places, w(8, seed=3)))
    assert kinds(done) == ["MatMul", "Add"]
    narrow = Add(MatMul(TOKENS, w(6, 8)), const([1.5], F64))
    assert kinds(rewritten(g.gain_into_weight, Mul(narrow, w(8, seed=3))))


def test_near_misses() -> None:
    x = linear()
    misses(g.gain_into_weight, (Mul(x, HALF), Relu(x)), "read elsewhere")
    misses(g.gain_into_weight, Mul(Add(TOKENS, w(6)), HALF), "no weight")
    misses(g.gain_into_weight, Mul(x, param("g", 8, dtype=F64)))
    misses(g.gain_into_weight, Div(x, const([0.0] * 8, F64)))
    misses(g.gain_into_weight, Div(HALF, x))
    # It stretches, or is of rows and not of columns.
    one = Add(MatMul(param("o", 1, 6, dtype=F64), w(6, 8)), w(8))
    misses(g.gain_into_weight, Mul(one, w(3, 1)))
    rows = Add(MatMul(param("p", 3, 6, dtype=F64), w(6, 8)), w(8))
    misses(g.gain_into_weight, Mul(rows, w(3, 1)), "no weight")
    middle = Reshape(linear(x=param("q", 3, 6, dtype=F64)), ints(24))
    misses(g.gain_into_weight, Mul(middle, w(24)), "no weight")
    unknown = Reshape(linear(), ints(0, -1))
    misses(g.gain_into_weight, Mul(unknown, w(8)), "")


def test_two_gains_of_one_product() -> None:
    a, b = param("a", N, 3, 4, dtype=F64), param("b", N, 4, 5, dtype=F64)
    before = MatMul(Mul(a, HALF), Mul(b, const([2.5], F64)))
    assert kinds(rewritten(g.gains_of_operands, before)) == ["Mul", "MatMul"]
    misses(g.gains_of_operands, before, "takes the scale itself", opset=LATEST)
    misses(g.gains_of_operands, MatMul(Mul(a, HALF), Mul(b, w(5))))
    scaled = Mul(a, HALF)
    misses(g.gains_of_operands, (MatMul(scaled, Mul(b, HALF)), Relu(scaled)), "read")


NORMS = {
    "layer": LayerNormalization(TOKENS, w(6), w(6, seed=1)),
    "layer without bias": LayerNormalization(TOKENS, w(6)),
    "rms": RMSNormalization(TOKENS, w(6)),
    "instance": InstanceNormalization(IMAGE, w(4), w(4, seed=1)),
    "group": GroupNormalization(IMAGE, w(4), w(4, seed=1), num_groups=2),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("kind", [Mul, Add])
@pytest.mark.parametrize("one", [False, True])
def test_after_a_norm(name: str, kind: Any, one: bool) -> None:
    norm = NORMS[name]
    channels = (6,) if norm.rank == 3 else (4, 1, 1)
    before = kind(norm, HALF if one else w(*channels, seed=7))
    if name == "rms" and kind is Add:
        misses(g.gain_after_norm, before, opset=LATEST)
        return
    done = rewritten(g.gain_after_norm, before, opset=LATEST)
    assert kinds(done) == [norm.kind]


def test_norms_that_are_left_alone() -> None:
    norm = NORMS["layer"]
    misses(g.gain_after_norm, Mul(norm, param("g", 6, dtype=F64)))
    misses(g.gain_after_norm, (Mul(norm, HALF), Relu(norm)), "read elsewhere")
    several = LayerNormalization(param("z", N, 3, 6, dtype=F64), w(6), w(6, seed=1))
    misses(g.gain_after_norm, Mul(several, w(3, 1)), "each of the weights")
    own = param("s", 6, dtype=F64)
    misses(
        g.gain_after_norm, Mul(LayerNormalization(TOKENS, own), HALF), "no constants"
    )
    misses(g.gain_after_norm, Mul(Softmax(TOKENS), HALF))


def test_the_pass() -> None:
    assert Gains().name == "gains"
    assert tuple(Gains().rules()) == g.RULES


def test_products_of_two_gains_and_of_weights() -> None:
    """A vector scales some of what a product sums, and a weight takes its own gain."""
    y = param("y", N, 6, M, dtype=F64)
    scaled = Mul(y, const(3.0, F64))
    misses(g.gains_of_operands, MatMul(Mul(TOKENS, w(6)), scaled))
    tall = param("t", N, M, M, dtype=F64)
    misses(g.gains_of_operands, MatMul(Mul(tall, HALF), Mul(tall, w(1, 1, 1, 1))))
    misses(g.gain_of_product, Mul(MatMul(TOKENS, w(6, 8)), HALF))
