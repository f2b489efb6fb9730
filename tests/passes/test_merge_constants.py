"""Equal constants: told apart by every bit, merged everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import assert_sound, const, graph_of, ints, kinds, param

from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import Add, Concat, Constant, If, MatMul, Mul, Shape
from graphopt.passes.merge_constants import SAMPLE, MergeConstants
from graphopt.rewrite import Log
from graphopt.types import DType, tensor
from graphopt.weights import Tensor

X = param("x", 40, 40)


def big(fill: float = 0.0, dtype: DType = DType.F32) -> Constant:
    """A new constant each time: large ones are not interned by their bits."""
    return Constant(np.full((40, 40), fill).astype(dtype.numpy))


def constants(graph: Graph) -> int:
    return len({op for _, op in graph.walk() if isinstance(op, Constant)})


def test_equal_bits_are_one_constant() -> None:
    graph = graph_of(Add(MatMul(X, big(1.5)), big(1.5)))
    assert constants(graph) == 2
    log = Log()
    done = MergeConstants().run(graph, log)
    assert constants(done) == 1
    assert log.fired["merge_constants"] == 1
    assert_sound(graph, done, exact=True)
    assert MergeConstants()(done) is done


def test_users_of_merged_constants_merge() -> None:
    graph = graph_of(MatMul(X, big(1.5)), MatMul(X, big(1.5)))
    done = MergeConstants()(graph)
    assert kinds(done) == ["MatMul"]
    assert done.outputs[0] is done.outputs[1]


def late(fill: float) -> Constant:
    """Differs from `big` in the last element, far behind the sample."""
    array = np.zeros((40, 40), np.float32)
    array[-1, -1] = fill
    assert array.nbytes > SAMPLE
    return Constant(array)


def words(word: str) -> Constant:
    return Constant(np.array([word] * 400, object))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (big(0.0), big(-0.0)),
        (big(0.0), late(1e-45)),
        (big(0.0), late(-0.0)),
        (big(0, DType.I32), big(0, DType.F32)),
        (big(0.0), Constant(np.zeros((1600, 1), np.float32))),
        (big(1, DType.F16), big(1, DType.BF16)),
        (
            words("a"),
            words("b"),
        ),
        (
            Constant(np.full(800, 0x7FC00000, np.uint32).view(np.float32)),
            Constant(np.full(800, 0x7FC00001, np.uint32).view(np.float32)),
        ),
    ],
    ids=["-0.0", "last", "last -0.0", "dtype", "dims", "halves", "strings", "nan bits"],
)
def test_any_other_bit_keeps_them_apart(a: Constant, b: Constant) -> None:
    graph = graph_of(a, b)
    assert MergeConstants()(graph) is graph


def test_strings_and_narrow_types_merge() -> None:
    words = [np.array([f"é {i}" for i in range(400)], object) for _ in range(2)]
    nibbles = [np.arange(800).astype(DType.U4.numpy) for _ in range(2)]
    for pair in (words, nibbles):
        graph = graph_of(*[Constant(Tensor.of(array)) for array in pair])
        assert constants(graph) == 2
        assert constants(MergeConstants()(graph)) == 1


def test_three_of_a_kind_and_one_other() -> None:
    graph = graph_of(*[Mul(X, c) for c in (big(2), big(3), big(2), big(2))])
    done = MergeConstants()(graph)
    assert constants(done) == 2
    assert len(set(done.outputs)) == 2
    assert_sound(graph, done, exact=True)


def test_bodies_share_with_the_graph_around_them() -> None:
    condition = param("c", dtype=DType.BOOL)
    inner, unused = (Parameter(tensor(DType.F32, 40, 40), n) for n in "iu")
    bodies = (Graph([inner], [Add(inner, big(2))]), Graph([unused], [big(2)]))
    op = If(condition, X, bodies=bodies, captures=1)
    graph = graph_of(Add(op, big(2)))
    assert constants(graph) == 3
    done = MergeConstants()(graph)
    assert constants(done) == 1
    assert_sound(graph, done, exact=True)


def test_a_weight_without_a_twin_is_never_read() -> None:
    class Unreadable(Tensor):
        __slots__ = ()

        def array(self) -> Any:
            raise AssertionError("read for nothing")

    shape = (64, 64)
    lone = Constant(Unreadable(DType.F32, shape, b"\0" * 4 * 64 * 64))
    graph = graph_of(lone, big(1), big(1))
    assert constants(MergeConstants()(graph)) == 2


def test_names_and_outputs_stay() -> None:
    first, second = big(1), big(1)
    graph = graph_of(first, second).replace(output_names=["a", "b"])
    done = MergeConstants()(graph)
    assert done.output_names == ("a", "b")
    assert done.outputs[0] is done.outputs[1]


def test_one_constant_of_two_graphs_is_no_pair() -> None:
    shared, inner = big(2), Parameter(tensor(DType.F32, 40, 40), "i")
    bodies = (Graph([inner], [Add(inner, shared)]), Graph([inner], [inner]))
    op = If(param("c", dtype=DType.BOOL), X, bodies=bodies, captures=1)
    log = Log()
    graph = graph_of(Add(op, shared))
    assert MergeConstants().run(graph, log) is graph
    assert not log.fired


def test_nothing_to_merge_is_the_same_object() -> None:
    value: Value = Concat(Shape(X), ints(1), axis=0)
    graph = graph_of(Add(X, const(1.0)), value)
    assert MergeConstants()(graph) is graph
