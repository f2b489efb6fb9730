"""Sequences that are only built to be taken apart."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from equations import (
    N,
    const,
    fires,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    rewritten,
    typed,
)

from graphopt.exporter import to_proto
from graphopt.ir import Value
from graphopt.ops import (
    Concat,
    ConcatFromSequence,
    Relu,
    SequenceAt,
    SequenceConstruct,
    SequenceInsert,
    SequenceLength,
    Split,
    SplitToSequence,
    Squeeze,
    Unsqueeze,
)
from graphopt.passes import sequences as s
from graphopt.types import DType, TensorType

I64 = DType.I64
X, Y = param("x", 4, 3), param("y", 2, 3)
DYNAMIC, SINGLE = param("d", N, 3), param("single", 1, 3)
WHERE = param("where", dtype=I64)
PAIR = SequenceConstruct(X, Y)
VAGUE = typed("vague", TensorType(DType.F32, None))


def at(sequence: Value, position: int) -> Value:
    return SequenceAt(sequence, const(position, I64))


PARTS_OF_TWO = Split(X, axis=0, num_outputs=2).results
UNEVEN = Split(X, ints(3, 1), axis=0).results
PAIRS = const(2, I64)
ROWS = Split(X, axis=0, num_outputs=4).results
COLUMNS = Split(X, ints(1, 2), axis=1).results
SINGLES = Split(X, axis=1, num_outputs=3).results

EQUATIONS: list[tuple[Any, Value, Value]] = [
    (s.at_of_construct, at(PAIR, 0), X),
    (s.at_of_construct, at(PAIR, 1), Y),
    (s.at_of_construct, at(PAIR, -1), Y),
    (s.at_of_construct, at(PAIR, -2), X),
    (s.at_of_split, at(SplitToSequence(X, const(2, I64)), 1), PARTS_OF_TWO[1]),
    (s.at_of_split, at(SplitToSequence(X, const(2, I64)), -2), PARTS_OF_TWO[0]),
    (s.at_of_split, at(SplitToSequence(X, const(3, I64), axis=-2), 0), UNEVEN[0]),
    (s.at_of_split, at(SplitToSequence(X, ints(3, 1)), 1), UNEVEN[1]),
    (s.at_of_split, at(SplitToSequence(X), 2), ROWS[2]),
    (s.at_of_split, at(SplitToSequence(X, const(1, I64)), 2), ROWS[2]),
    (s.at_of_split, at(SplitToSequence(X, ints(1, 2), axis=1), 1), COLUMNS[1]),
    (s.at_of_split, at(SplitToSequence(X, axis=-1), 1), SINGLES[1]),
    (
        s.at_of_split,
        at(SplitToSequence(X, keepdims=0), 2),
        Squeeze(ROWS[2], ints(0)),
    ),
    (s.at_of_split, at(SplitToSequence(X, const(9, I64)), 0), X),
    (s.at_of_split, at(SplitToSequence(X, PAIRS, keepdims=0), 1), PARTS_OF_TWO[1]),
    (s.concat_of_construct, ConcatFromSequence(PAIR, axis=0), Concat(X, Y, axis=0)),
    (
        s.concat_of_construct,
        ConcatFromSequence(SequenceConstruct(X, X), axis=1, new_axis=1),
        Concat(Unsqueeze(X, ints(1)), Unsqueeze(X, ints(1)), axis=1),
    ),
    (
        s.concat_of_construct,
        ConcatFromSequence(SequenceConstruct(X, X), axis=-1, new_axis=1),
        Concat(Unsqueeze(X, ints(-1)), Unsqueeze(X, ints(-1)), axis=-1),
    ),
    (
        s.concat_of_split_sequence,
        ConcatFromSequence(SplitToSequence(DYNAMIC), axis=0),
        DYNAMIC,
    ),
    (
        s.concat_of_split_sequence,
        ConcatFromSequence(SplitToSequence(X, ints(3, 1), axis=-2), axis=0),
        X,
    ),
    (
        s.concat_of_split_sequence,
        ConcatFromSequence(SplitToSequence(X, const(2, I64), keepdims=0), axis=0),
        X,
    ),
    (
        s.concat_of_split_sequence,
        ConcatFromSequence(SplitToSequence(SINGLE), axis=0),
        SINGLE,
    ),
    (s.length_of_construct, SequenceLength(PAIR), const(2, I64)),
]


@pytest.mark.parametrize(("rule", "before", "after"), EQUATIONS)
def test_equation(rule: Any, before: Value, after: Value) -> None:
    fires(rule, before, after)


GUARDS: list[tuple[Any, Any, str]] = [
    (s.at_of_construct, SequenceAt(PAIR, WHERE), "the position is computed"),
    (s.at_of_construct, at(PAIR, 2), "out of range"),
    (s.at_of_construct, at(PAIR, -3), "out of range"),
    (s.at_of_construct, at(SequenceInsert(PAIR, X), 0), ""),
    (s.at_of_split, SequenceAt(SplitToSequence(X), WHERE), "the position is computed"),
    (s.at_of_split, at(SplitToSequence(X), 4), "out of range"),
    (s.at_of_split, at(SplitToSequence(DYNAMIC), 0), "number of parts is not known"),
    (s.at_of_split, at(SplitToSequence(X, WHERE), 0), "number of parts is not known"),
    (
        s.at_of_split,
        at(SplitToSequence(param("long", 300, 1)), 0),
        "number of parts is not known",
    ),
    (s.concat_of_construct, ConcatFromSequence(SequenceInsert(PAIR, X), axis=0), ""),
    (
        s.concat_of_split_sequence,
        ConcatFromSequence(SplitToSequence(X, axis=1), axis=0),
        "",
    ),
    (
        s.concat_of_split_sequence,  # the rows lost their axis
        ConcatFromSequence(SplitToSequence(X, keepdims=0), axis=0),
        "",
    ),
    (
        s.concat_of_split_sequence,
        ConcatFromSequence(SplitToSequence(X), axis=0, new_axis=1),
        "",
    ),
    (
        s.concat_of_split_sequence,  # which axis -1 is hangs on the rank
        ConcatFromSequence(SplitToSequence(VAGUE, axis=0), axis=-1),
        "",
    ),
    (s.at_of_split, at(SplitToSequence(VAGUE), 0), "number of parts is not known"),
    (s.at_of_split, at(SplitToSequence(SINGLE, keepdims=0), 0), "number of parts"),
    (
        s.concat_of_split_sequence,  # of no parts nothing is joined
        ConcatFromSequence(SplitToSequence(param("none", 0, 3)), axis=0),
        "",
    ),
    (s.length_of_construct, SequenceLength(SplitToSequence(X)), ""),
    (s.length_of_construct, Relu(X), ""),
]


@pytest.mark.parametrize(("rule", "before", "reason"), GUARDS)
def test_guard(rule: Any, before: Any, reason: str) -> None:
    misses(rule, before, reason)


@pytest.mark.parametrize("opset", [13, 18])
def test_equal_parts_need_no_sizes_at_any_opset(opset: int) -> None:
    before = at(SplitToSequence(X, const(2, I64)), 1)
    fires(s.at_of_split, before, PARTS_OF_TWO[1], opset=opset)
    model = to_proto(graph_of(PARTS_OF_TWO[1], opset=opset))
    onnx.checker.check_model(model, full_check=True)
    (node,) = model.graph.node
    assert len(node.input) == 1


def test_parts_of_one_split_are_one_op() -> None:
    parts = SplitToSequence(X, const(2, I64))
    done = rewritten(s.at_of_split, (at(parts, 0), at(parts, 1)))
    assert kinds(done) == ["Split"]


def test_a_size_of_zero_is_not_taken_apart() -> None:
    parts = SplitToSequence(X, const(0, I64))
    misses(s.at_of_split, at(parts, 0), "number of parts is not known")
