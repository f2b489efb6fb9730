"""Products of one operand, merged into one that is split."""

from __future__ import annotations

from equations import N, assert_sound, const, graph_of, kinds, param, random

from graphopt.ir import Graph, Value
from graphopt.ops import Add, MatMul, Relu
from graphopt.passes.siblings import MergeSiblings

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


def test_what_is_no_sibling_stays() -> None:
    other = param("y", N, 3, 8)
    for outputs in (
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
