"""Products and convolutions of one operand, merged into one that is split."""

from __future__ import annotations

from typing import Any

import pytest
from equations import M, N, assert_sound, const, graph_of, kinds, param, random

from graphopt.ir import Graph, Value
from graphopt.ops import Add, Conv, MatMul, Relu
from graphopt.passes.siblings import MergeSiblings
from graphopt.rewrite import Log
from graphopt.types import DType, TensorType

X = param("x", N, 3, 8)
U, V, W = random(8, 4), random(8, 6, seed=1), random(8, 4, seed=2)


def merged(*outputs: Value) -> Graph:
    graph = graph_of(*outputs)
    done = MergeSiblings()(graph)
    if done is not graph:
        assert_sound(graph, done, exact=False)
    return done


def test_products_of_one_operand_are_one() -> None:
    done = merged(MatMul(X, U), MatMul(X, V), MatMul(X, W))
    assert kinds(done) == ["Concat", "MatMul", "Split"]


def test_biases_go_along() -> None:
    b, c = random(4, seed=3), random(6, seed=4)
    done = merged(Relu(Add(MatMul(X, U), b)), Add(c, MatMul(X, V)))
    assert kinds(done) == ["Concat", "MatMul", "Concat", "Add", "Split", "Relu"]


def test_only_some_have_a_bias() -> None:
    """Those without are not given zeros to add."""
    done = merged(Add(MatMul(X, U), random(4)), MatMul(X, V))
    assert kinds(done) == ["MatMul", "Add", "MatMul"]


def test_those_without_a_bias_are_one_beside_the_one_that_has_it() -> None:
    done = merged(Add(MatMul(X, U), random(4)), MatMul(X, V), MatMul(X, W))
    assert kinds(done).count("MatMul") == 2
    assert kinds(done).count("Split") == 1


def test_what_reads_a_product_stays() -> None:
    done = merged(Relu(MatMul(X, U)), Relu(MatMul(X, V)))
    assert kinds(done) == ["Concat", "MatMul", "Split", "Relu", "Relu"]


def test_each_merge_is_counted() -> None:
    image = param("image", N, 3, 6, 6)
    heads = [Conv(image, random(n, 3, 3, 3)) for n in (2, 5)]
    log = Log()
    MergeSiblings().run(graph_of(MatMul(X, U), MatMul(X, V), *heads), log)
    assert log.fired == {"merge_siblings": 1, "merge_convolutions": 1}


def test_what_is_no_sibling_stays() -> None:
    other = param("y", N, 3, 8)
    unknown = param("unknown", 8)
    unknown.type = TensorType(DType.F32, None)
    known = random(5, 8)
    several = param("several", 8, 3, 8)
    for outputs in (
        (MatMul(unknown, U), MatMul(unknown, V)),
        (MatMul(known, U), MatMul(known, V)),
        (MatMul(several, U), MatMul(several, random(8, 8, 4))),
        (MatMul(X, U),),
        (MatMul(X, U), MatMul(other, V)),
        (MatMul(X, U), MatMul(X, param("w", 8, 4))),
        (MatMul(X, U), MatMul(random(5, 8), V)),
        (MatMul(X, U), MatMul(X, random(2, 8, 4))),
    ):
        graph = graph_of(*outputs)
        assert MergeSiblings()(graph) is graph


def test_a_product_that_is_an_output_is_still_that() -> None:
    product = MatMul(X, U)
    done = merged(product, Add(product, random(4)), MatMul(X, V))
    assert kinds(done) == ["Concat", "MatMul", "Split", "Add"]


def test_a_bias_that_is_no_vector_stays_outside() -> None:
    wide = const([[1.0] * 4] * 3)
    done = merged(Add(MatMul(X, U), wide), MatMul(X, V))
    assert kinds(done) == ["Concat", "MatMul", "Split", "Add"]


# --- convolutions -------------------------------------------------------------------

F64 = DType.F64
IMAGE = param("x", N, 3, 6, 6, dtype=F64)


def convolved(*outputs: Value) -> list[str]:
    before = graph_of(*outputs)
    after = MergeSiblings()(before)
    assert_sound(before, after, exact=False)
    return kinds(after)


def conv(x: Value, channels: int, *, biased: bool = False, **attrs: Any) -> Value:
    side = attrs.pop("side", 3)
    window = attrs.pop("rows", side), side
    weight = random(channels, 3 // attrs.get("group", 1), *window, dtype=F64)
    bias = [random(channels, dtype=F64, seed=1)] if biased else []
    return Conv(x, weight, *bias, **attrs)


@pytest.mark.parametrize("biased", [False, True])
def test_convolutions(biased: bool) -> None:
    heads = [
        conv(IMAGE, n, biased=biased, pads=(1, 1, 1, 1), strides=(2, 2)) for n in (2, 5)
    ]
    found = convolved(Relu(heads[0]), heads[1])
    assert found.count("Conv") == 1
    assert found.count("Split") == 1
    three = [conv(IMAGE, n, biased=biased) for n in (1, 2, 3)]
    assert convolved(*three).count("Conv") == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"side": 1}),
        ({}, {"strides": (2, 2)}),
        ({}, {"pads": (1, 1, 1, 1)}),
        ({}, {"biased": True}),
        ({"group": 3}, {"group": 3}),
        ({}, {"rows": 1}),
    ],
)
def test_convolutions_that_differ(one: Any, other: Any) -> None:
    assert convolved(conv(IMAGE, 3, **one), conv(IMAGE, 6, **other)).count("Conv") == 2


def test_convolutions_of_two_values() -> None:
    assert convolved(conv(IMAGE, 2), conv(Relu(IMAGE), 2)).count("Conv") == 2
    given = param("w", 2, 3, 3, 3, dtype=F64)
    assert convolved(conv(IMAGE, 2), Conv(IMAGE, given)).count("Conv") == 2


def test_large_images_are_not_split() -> None:
    two = graph_of(conv(IMAGE, 2), conv(IMAGE, 5))
    assert kinds(MergeSiblings(pixels=15)(two)).count("Conv") == 2
    assert kinds(MergeSiblings(pixels=16)(two)).count("Conv") == 1


def test_images_of_which_too_little_is_known() -> None:
    open_ = param("open", N, 3, M, M, dtype=F64)
    known = random(1, 3, 6, 6, dtype=F64)
    for outputs in (
        (conv(IMAGE, 2),),
        (conv(open_, 2), conv(open_, 5)),
        (conv(known, 2), conv(known, 5)),
    ):
        graph = graph_of(*outputs)
        assert MergeSiblings()(graph) is graph
