"""Sequences that are only built to be taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.dims import equal
from graphopt.ir import Op, Value
from graphopt.ops import (
    Concat,
    ConcatFromSequence,
    Constant,
    SequenceAt,
    SequenceConstruct,
    SequenceLength,
    Split,
    SplitToSequence,
    Squeeze,
    Unsqueeze,
)
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule

from .match import axis_of


@rule
def at_of_construct(op: SequenceAt) -> Outcome:
    """at(sequence(x, y), 1) = y"""
    sequence, position = op.operands
    if not isinstance(sequence, SequenceConstruct) or position is None:
        return None
    if position.ints is None:
        return miss("the position is computed", position)
    i, count = position.ints[0], len(sequence.operands)
    return sequence.operands[i] if -count <= i < count else miss("out of range")


@rule
def at_of_split(op: SequenceAt, scene: Scene) -> Outcome:
    """at(split_to_sequence(x), i) = split(x)[i]"""
    sequence, position = op.operands
    if not isinstance(sequence, SplitToSequence) or position is None:
        return None
    if position.ints is None:
        return miss("the position is computed", position)
    parts = _parts(sequence, scene)
    if parts is None:
        return miss("the number of parts is not known", sequence)
    i = position.ints[0]
    return parts[i] if -len(parts) <= i < len(parts) else miss("out of range")


def _parts(op: SplitToSequence, scene: Scene) -> Sequence[Value] | None:
    """The parts of a split as values of one Split (each squeezed if it asks)."""
    x = op.operands[0]
    if x is None or x.shape is None:
        return None
    axis = axis_of(op.axis, len(x.shape))
    extent = x.shape[axis]
    split = op.operand(1)
    if not isinstance(extent, int):
        return None
    drop = split is None and not op.keepdims
    if split is None:
        sizes = [1] * extent
    elif split.ints is None:
        return None
    elif split.rank == 0:
        size = split.ints[0]
        if size < 1:
            return None
        sizes = [min(size, extent - at) for at in range(0, extent, size)]
    else:
        sizes = list(split.ints)
        if sum(sizes) != extent:
            return None
    if len(sizes) == 1 and not drop:
        return [x]
    if len(sizes) < 2 or len(sizes) > 256:
        return None
    made: Op = Split(x, Constant(np.array(sizes, np.int64)), axis=axis)
    if len(set(sizes)) == 1:
        even = Split(x, axis=axis, num_outputs=len(sizes))
        made = even if scene.says(even) else made
    if not drop:
        return made.results
    return [Squeeze(v, Constant(np.array([axis], np.int64))) for v in made.results]


@rule
def concat_of_construct(op: ConcatFromSequence) -> Outcome:
    """concat(sequence(x, y)) = concat(x, y)"""
    sequence = op.operands[0]
    if not isinstance(sequence, SequenceConstruct):
        return None
    if not op.new_axis:
        return Concat(*sequence.operands, axis=op.axis)
    axis = Constant(np.array([op.axis], np.int64))
    return Concat(*[Unsqueeze(v, axis) for v in sequence.operands], axis=op.axis)


@rule
def concat_of_split_sequence(op: ConcatFromSequence) -> Outcome:
    """concat(split_to_sequence(x)) = x"""
    sequence = op.operands[0]
    if not isinstance(sequence, SplitToSequence) or op.new_axis:
        return None
    x = sequence.operands[0]
    if x is None or x.shape is None:
        return None
    rank = len(x.shape)
    if axis_of(op.axis, rank) != axis_of(sequence.axis, rank):
        return None
    keeps = sequence.operand(1) is not None or sequence.keepdims
    empty = equal(x.shape[axis_of(op.axis, rank)], 0)
    return x if keeps and not empty else None


@rule
def length_of_construct(op: SequenceLength) -> Outcome:
    """length(sequence(x, y)) = 2"""
    sequence = op.operands[0]
    if isinstance(sequence, SequenceConstruct):
        return Constant(np.array(len(sequence.operands), np.int64))
    return None


RULES: tuple[Rule, ...] = (
    at_of_construct,
    at_of_split,
    concat_of_construct,
    concat_of_split_sequence,
    length_of_construct,
)


@dataclass(frozen=True)
class Sequences(RulePass):
    """Use tensors where a sequence is built only to be taken apart.

    at(split_to_sequence(x, 2), 0)   -->   split(x)[0]
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
