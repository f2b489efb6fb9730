"""Classes of equal ops: layers are one, their borders are not."""

from __future__ import annotations

import itertools

from small_transformers import transformer, weight

from graphopt import ops
from graphopt.ir import Graph, Op, Parameter
from graphopt.passes.sharding import Mesh, choices
from graphopt.passes.sharding.folding import ROUNDS, fold
from graphopt.types import DType, TensorType


def test_more_layers_make_no_more_classes() -> None:
    counts = {len(fold(transformer(n)).classes) for n in (6, 8, 12)}
    assert len(counts) == 1
    graph = transformer(12)
    assert counts.pop() < len(graph.ops) / 3


def test_all_are_apart_without_rounds_to_fold() -> None:
    graph = transformer(2)
    folded = fold(graph, None)
    assert len(folded.classes) == len(graph.ops) + len(graph.inputs)


def test_members_have_the_same_choices() -> None:
    graph, mesh = transformer(4), Mesh.parse("2x4")
    several = 0
    for members in fold(graph).classes:
        if isinstance(members[0], Op):
            first, *rest = [choices(op, mesh) for op in members if isinstance(op, Op)]
            assert all(each == first for each in rest)
            several += len(members) > 1
    assert several > 10


def test_every_use_is_told_once() -> None:
    graph = transformer(5, past=16, seq=1)
    folded = fold(graph)
    told = list(itertools.chain(*[p.values for p in folded.passed]))
    assert len(told) == len(set(told))
    for passed in folded.passed:
        for value in passed.values:
            read = {(folded.number[op], i) for op, i in graph.users[value]}
            said = {(u.reader, u.operand) for u in passed.uses if u.reader >= 0}
            assert read == said
            assert (value in graph.outputs) == any(u.reader < 0 for u in passed.uses)


def test_labels_and_ends_keep_apart() -> None:
    type_ = TensorType(DType.F32, (4, 4))
    inputs = [Parameter(type_, name) for name in "ab"]
    graph = Graph(inputs, [ops.Relu(p) for p in inputs])
    assert len(fold(graph).classes) == 2
    assert len(fold(graph, labels={inputs[0]: 1}).classes) == 4
    assert len(fold(graph, ends=["this", "that"]).classes) == 4


def test_rounds_tell_neighbours_apart() -> None:
    """Equal products whose results end in different ops, so many steps away."""
    x = Parameter(TensorType(DType.F32, (4, 4)), "x")

    def chain(end: type[Op]) -> Op:
        at: Op = ops.MatMul(x, weight(4, 4))
        for _ in range(ROUNDS):
            at = ops.Relu(ops.Neg(at))
        return end(at)

    graph = Graph([x], [chain(ops.Tanh), chain(ops.Exp)])
    products = [op for op in graph.ops if isinstance(op, ops.MatMul)]
    near, far = fold(graph), fold(graph, 2 * ROUNDS + 2)
    assert near.number[products[0]] == near.number[products[1]]
    assert far.number[products[0]] != far.number[products[1]]
