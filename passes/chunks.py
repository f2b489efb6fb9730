"""Sequences that are split into chunks, and all that is computed of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from graphopt.dims import equal
from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    Concat,
    Constant,
    CumSum,
    Div,
    Einsum,
    Exp,
    Expand,
    Flatten,
    Gather,
    Gemm,
    Identity,
    MatMul,
    Mul,
    Neg,
    Pad,
    ReduceSum,
    Reshape,
    ScatterElements,
    ScatterND,
    Slice,
    Split,
    Squeeze,
    Sub,
    Sum,
    Tile,
    Transpose,
    Trilu,
    Unsqueeze,
    Where,
)
from graphopt.ops.bodies import vector
from graphopt.reference import schedule

ANALYTIC: Final = (
    *(Add, Concat, CumSum, Div, Einsum, Exp, Expand, Flatten, Gather, Gemm, Identity),
    *(MatMul, Mul, Neg, Pad, ReduceSum, Reshape, ScatterElements, ScatterND, Slice),
    *(Split, Squeeze, Sub, Sum, Tile, Transpose, Trilu, Unsqueeze, Where),
)
"""Ops that are analytic in their floats, whatever their conditions and positions are.

Of a quotient only the numerator may follow from the sources.
"""

MOST: Final = 20_000
"""Ops of a region; more are not looked at."""


@dataclass(frozen=True)
class Chunks:
    """The dims of ``[batch, chunk, step, head, size]``, or of heads before chunks."""

    batch: Any
    count: int
    length: int
    heads: int
    size: int
    heads_first: bool

    @property
    def steps(self) -> int:
        return self.count * self.length

    @classmethod
    def of(cls, y: Value) -> Iterator[Chunks]:
        """Both ways to read a shape of five dims."""
        if y.rank != 5 or y.shape is None:
            return
        batch, *rest = y.shape
        if not all(isinstance(d, int) and d > 1 for d in rest):
            return
        a, b, c, size = rest
        yield cls(batch, a, b, c, size, heads_first=False)
        yield cls(batch, b, c, a, size, heads_first=True)

    def splits(self, op: Op) -> Source | None:
        """What a reshape makes chunks of, if it does."""
        if not isinstance(op, Reshape):
            return None
        x = op.operands[0]
        if x is None or not x.shape or not op.shape:
            return None
        if not equal(x.shape[0], self.batch):
            return None
        axes = [i for i, d in enumerate(x.shape) if i and d != 1]
        split = [d for d in op.shape[1:] if d != 1]
        before = [x.shape[i] for i in axes]
        for at in range(len(before)):
            wanted = [*before[:at], self.count, self.length, *before[at + 1 :]]
            if split == wanted:
                return self.placed(x, axes, at)
        return None

    def placed(self, x: Value, axes: Sequence[int], at: int) -> Source | None:
        """A value whose steps lie at the ``at``-th of the axes that are not 1."""
        shape = x.shape or ()
        if len(axes) not in (2, 3) or at > 1:
            return None
        head = axes[1 - at]
        if shape[head] != self.heads or shape[axes[at]] != self.steps:
            return None
        size = shape[axes[2]] if len(axes) == 3 else 1
        return Source(x, axes[at], head, size) if isinstance(size, int) else None

    def read(self, x: Value) -> Source | None:
        """A value that has steps and heads, and nothing else."""
        if not x.shape or not equal(x.shape[0], self.batch):
            return None
        axes = [i for i, d in enumerate(x.shape) if i and d != 1]
        for at in (0, 1):
            found = self.placed(x, axes, at) if len(axes) == 2 else None
            if found is not None:
                return found
        return None


@dataclass(frozen=True)
class Source:
    """A value with steps and heads, at these axes, and ``size`` numbers for each."""

    value: Value
    steps: int
    heads: int
    size: int

    def packed(self) -> Value:
        """``[batch, step, head * size]``."""
        x, shape = self.value, self.value.shape or ()
        if self.heads < self.steps:
            perm = list(range(len(shape)))
            perm[self.heads], perm[self.steps] = self.steps, self.heads
            x = Transpose(x, perm=tuple(perm))
        steps, heads = shape[self.steps], shape[self.heads]
        return Reshape(x, vector(0, steps, heads * self.size))


@dataclass
class Region:
    """What lies between a result and the sequences that it splits into chunks."""

    y: Value
    chunks: Chunks
    sources: dict[Value, Source] = field(default_factory=dict)
    past: Value | None = None

    @classmethod
    def behind(cls, y: Value, chunks: Chunks) -> Region | None:
        """None where something else than these, constants and a state is read."""
        found, seen, pending = cls(y, chunks), {y}, [y]
        while pending:
            value = pending.pop()
            op = value.op
            source = None if op is None else chunks.splits(op)
            if isinstance(op, Constant) or value.constant is not None:
                continue
            if source is not None:
                found.sources[source.value] = source
                continue
            if op is None or not isinstance(op, ANALYTIC):
                if found.past not in (None, value) or value.rank != 4:
                    return None
                found.past = value
                continue
            fresh = [v for v in op.operands if v is not None and v not in seen]
            seen.update(fresh)
            pending += fresh
            if len(seen) > MOST:
                return None
        return found

    @property
    def given(self) -> list[Value]:
        """What the result is computed from."""
        return [*self.sources, *([] if self.past is None else [self.past])]

    def ops(self) -> list[Op]:
        """All that computes it, constants too."""
        return schedule([self.y], self.given)

    def followed(self) -> dict[Value, frozenset[Value]] | None:
        """The values that follow from what is given, and from which of it each does.

        None where one is not analytic in all of that.
        """
        found = {v: frozenset((v,)) for v in self.given}
        nothing: frozenset[Value] = frozenset()
        for op in self.ops():
            read = [
                nothing if v is None else found.get(v, nothing) for v in op.operands
            ]
            here = nothing.union(*read)
            if not here:
                continue
            if not isinstance(op, ANALYTIC) or (isinstance(op, Div) and read[1]):
                return None
            for v, sources in zip(op.operands, read, strict=True):
                if sources and (v is None or v.dtype is None or not v.dtype.is_float):
                    return None
            found |= dict.fromkeys(op.results, here)
        return found

    def exponents(self) -> set[Value] | None:
        """The sources that are in exponents; None where it is not analytic in all."""
        followed = self.followed()
        if followed is None:
            return None
        powers = [op.operands[0] for op in self.ops() if isinstance(op, Exp)]
        nothing: frozenset[Value] = frozenset()
        return set[Value]().union(*(followed.get(v, nothing) for v in powers if v))
