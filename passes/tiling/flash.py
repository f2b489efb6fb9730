"""Attention by blocks of keys, with sums that are corrected as larger scores turn up.

Rabe and Staats, "Self-attention does not need O(n^2) memory", arXiv 2112.05682; Dao and
others, "FlashAttention", arXiv 2205.14135.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from graphopt.ir import Graph, Op, Parameter, Value, rebuild
from graphopt.ops import (
    Add,
    Attention,
    Div,
    Equal,
    Exp,
    Expand,
    MatMul,
    Max,
    Mul,
    ReduceMax,
    ReduceSum,
    Reshape,
    Strips,
    Sub,
    Tanh,
    Tiled,
    Transpose,
    Where,
)
from graphopt.ops.attention import SWAPPED, repeated
from graphopt.ops.bodies import cast, scalar, vector, widest
from graphopt.ops.tiled import NUMBER, resized
from graphopt.pipeline import Pass
from graphopt.rewrite import Log, Miss, miss
from graphopt.types import DType

from ..memory.attended import Sizes, sizes_of
from ..memory.kernel import Blocks, blocks
from .copies import apart, makers, together
from .needs import Meter
from .pieces import seen_by
from .tiles import cut, tile


@dataclass(frozen=True)
class _Sums:
    """What is known of each query after some keys: their largest score, and sums."""

    top: Value
    total: Value
    weighted: Value

    def finished(self) -> Value:
        """The mean of the values; 0 for a query that sees no key."""
        dtype = self.total.dtype
        assert dtype is not None
        none = Equal(self.total, scalar(0, dtype))
        return Div(self.weighted, Where(none, scalar(1, dtype), self.total))


def by_keys(op: Attention, size: int) -> Value | Miss:
    """attention(q, k, v) = merge of exp(q k[i:j]' - top) v[i:j] over blocks of keys

    The merge is that of log-sum-exp, kept apart as largest score and sum; rounding
    differs. A miss where the op has a past, lengths, other results, or unknown dims.
    """
    found = cuttable(op, size)
    return found if isinstance(found, Miss) else _Blocks(op, found, size).run()


def cuttable(op: Attention, size: int) -> Sizes | Miss:
    """The dims of an attention that `by_keys` takes; nothing is built."""
    found = sizes_of(op)
    if isinstance(found, Miss):
        return found
    if op.dtype is None:
        return miss("its type is not known", op)
    if not 0 < size < found.keys:
        return miss(f"{size} of {found.keys} keys are no block", op)
    return found


class _Blocks:
    """The blocks of one attention."""

    def __init__(self, op: Attention, sizes: Sizes, size: int) -> None:
        assert op.dtype is not None
        self.op, self.sizes, self.size, self.own = op, sizes, size, op.dtype
        precision = [] if op.softmax_precision is None else [op.softmax_precision]
        self.wide = widest(DType.F32, op.dtype, *map(DType, precision))

    def run(self) -> Value:
        """The result of the op."""
        q, k, v = self.op.operands[:3]
        mask = seen_by(self.op, self.op.operands, None)
        assert q is not None
        assert k is not None
        assert v is not None
        scale = self.op.scale
        if scale is None:
            scale = 1 / math.sqrt(self.sizes.width)
        q = cast(self._by_head(q, self.sizes.heads), self.wide)
        q = Mul(q, scalar(scale, self.wide))
        cuts: list[tuple[Value, int]] = [(k, self._axis), (v, self._axis)]
        if mask is not None:
            cuts.append((mask, len(mask.shape or ()) - 1))
        count, rest = divmod(self.sizes.keys, self.size)
        sums = self._start()
        states: Sequence[Value] = (sums.top, sums.total, sums.weighted)
        if count:
            states = Tiled(
                *(*states, *[x for x, _ in cuts], q),
                bodies=(self._body(states, cuts, q),),
                count=count,
                states=3,
                captures=1,
                axes=tuple([axis for _, axis in cuts]),
                starts=(0,) * len(cuts),
                steps=(self.size,) * len(cuts),
            ).results
        if rest:
            span = (self.sizes.keys - rest, self.sizes.keys)
            last = [cut(x, axis, span) for x, axis in cuts]
            states = self._step(states, last, q)
        top, total, weighted = states
        y = cast(_Sums(top, total, weighted).finished(), self.own)
        if self.op.rank == 3:
            y = Reshape(Transpose(y, perm=SWAPPED), vector(0, 0, -1))
        return y

    @property
    def _axis(self) -> int:
        """The dim of keys and values that is cut."""
        return 2 if self.op.rank == 4 else 1

    def _start(self) -> _Sums:
        """Before any key: a score below all, as minus infinity would give NaN."""
        sizes = self.sizes
        rows = (sizes.batch, sizes.heads, sizes.queries)
        double = self.wide is DType.F64
        lowest = float((np.finfo(np.float64 if double else np.float32)).min)
        zero = scalar(0, self.wide)
        return _Sums(
            Expand(scalar(lowest, self.wide), vector(*rows, 1)),
            Expand(zero, vector(*rows, 1)),
            Expand(zero, vector(*rows, sizes.depth)),
        )

    def _body(
        self,
        states: Sequence[Value],
        cuts: Sequence[tuple[Value, int]],
        q: Value,
    ) -> Graph:
        number = Parameter(NUMBER, "number")
        carried = [Parameter(v.type, f"state_{i}") for i, v in enumerate(states)]
        parts = [
            Parameter(resized(x.type, axis, self.size), f"tile_{i}")
            for i, (x, axis) in enumerate(cuts)
        ]
        whole = Parameter(q.type, "queries")
        made = self._step(carried, parts, whole)
        return Graph([number, *carried, *parts, whole], made, name="keys")

    def _step(
        self, states: Sequence[Value], parts: Sequence[Value], q: Value
    ) -> tuple[Value, ...]:
        """The sums with one more block of keys."""
        top, total, weighted = states
        sizes = self.sizes
        k, v = (cast(self._by_head(x, sizes.shared), self.wide) for x in parts[:2])
        each = sizes.heads // sizes.shared
        if each > 1:
            k = repeated(k, each, sizes.heads, sizes.width)
            v = repeated(v, each, sizes.heads, sizes.depth)
        scores: Value = MatMul(q, Transpose(k, perm=(0, 1, 3, 2)))
        if self.op.softcap > 0:
            cap = scalar(self.op.softcap, self.wide)
            scores = Mul(cap, Tanh(Div(scores, cap)))
        mask = parts[2:]
        if mask and mask[0].dtype is DType.BOOL:
            scores = Where(mask[0], scores, scalar(-math.inf, self.wide))
        elif mask:
            scores = Add(scores, cast(mask[0], self.wide))
        higher = Max(top, ReduceMax(scores, vector(-1)))
        powers = Exp(Sub(scores, higher))
        less = Exp(Sub(top, higher))
        return (
            higher,
            Add(Mul(total, less), ReduceSum(powers, vector(-1))),
            Add(Mul(weighted, less), MatMul(powers, v)),
        )

    def _by_head(self, x: Value, heads: int) -> Value:
        """x as [batch, head, position, size]."""
        if x.rank == 4:
            return x
        return Transpose(Reshape(x, vector(0, 0, heads, -1)), perm=SWAPPED)


SHARED: Final = 1 << 20
"""A mask of so many bytes is made by each attention that reads it."""


@dataclass(frozen=True)
class Flash(Pass):
    """Attention that never has all its scores: ``queries`` by ``keys`` at a time.

    With the ``target`` xla-tpu it is left whole where that has a kernel which does it.

    attention(q, k, v)   -->   tiled(q[i:j]) {merge of attention(…, k[m:n], v[m:n])}
    """

    trades: ClassVar = True
    keys: int = 512
    queries: int = 128
    target: str = ""

    def run(self, graph: Graph, log: Log) -> Graph:
        said: Counter[str] = Counter()
        given = graph
        graph, copies = apart(graph, Meter({}), SHARED)
        asked: dict[Op, bool] = {}
        while (found := self._next(graph, copies, asked)) is not None:
            op, graph = found
            said[self._said(op, tiled=True)] += 1
        if taken := sum(asked.values()):
            log.fired["by_keys"] += taken
        for op in graph.ops:
            if isinstance(op, Attention):
                said[self._said(op)] += 1
        log.notes += [f"{count} x attention {text}" for text, count in said.items()]
        return self._blocks(together(graph, copies)) if taken else given

    def _next(
        self, graph: Graph, copies: Collection[int], asked: dict[Op, bool]
    ) -> tuple[Op, Graph] | None:
        """One more attention, and the graph with it in tiles; None where none is left.

        ``asked`` are the ops that were looked at, and whether they go by blocks.
        """
        for op in graph.ops:
            if op in asked:
                continue
            asked[op] = self._takes(op)
            if not asked[op]:
                continue
            axis = 2 if op.rank == 4 else 1
            region = [op, *makers(op.operand(3), copies)]
            made = tile(graph, region, op, axis, self.queries)
            if isinstance(made, Graph):
                return op, made
        return None

    def _takes(self, op: Op) -> bool:
        if not isinstance(op, Attention) or isinstance(self._kernel(op), Blocks):
            return False
        return not isinstance(cuttable(op, self.keys), Miss)

    def _kernel(self, op: Attention) -> Blocks | Miss:
        if not self.target.startswith("xla-tpu"):
            return miss("no TPU", op)
        return blocks(op)

    def _said(self, op: Op, *, tiled: bool = False) -> str:
        """How an attention runs, and why so."""
        assert isinstance(op, Attention)
        kernel = self._kernel(op)
        if isinstance(kernel, Blocks):
            return f"by the kernel of TPUs, {kernel}"
        why = f"; no kernel: {kernel.reason}" if self.target else ""
        looped = cuttable(op, self.keys)
        if isinstance(looped, Miss):
            return f"as a whole: {looped.reason}{why}"
        rows = f"{self.queries} queries by " if tiled else ""
        return f"in a loop over blocks, {rows}{self.keys} keys{why}"

    def _blocks(self, graph: Graph) -> Graph:
        """Every attention by blocks of keys, those in tiles too."""

        def build(op: Op, operands: tuple[Value | None, ...]) -> Op | Sequence[Value]:
            bodies = op.bodies
            if isinstance(op, Tiled | Strips):
                bodies = tuple(map(self._blocks, bodies))
            new = op.copy(operands=operands, bodies=bodies)
            if isinstance(new, Attention) and self._takes(new):
                made = by_keys(new, self.keys)
                assert not isinstance(made, Miss)
                return (made,)
            return new

        return rebuild(graph, build)
