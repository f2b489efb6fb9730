"""Products of what is joined as sums of products of its parts, so that nothing is.

    conv(concat(a, b), w)    -->   conv(a, w[:, :k]) + conv(b, w[:, k:])
    f(concat(a, b))          -->   concat(f(a), f(b))
    concat(concat(a, b), c)  -->   concat(a, b, c)
    conv(x, w)               -->   concat(conv(x, w[:k]), conv(x, w[k:]))

f computes the positions of the joined axis one by one: activations, norms, pooling,
convolutions whose groups are whole in each part. Sums are rounded in another order.
Ahn et al., "Ordering Chaos: Memory-Aware Scheduling of Irregularly Wired Neural
Networks for Edge Devices", MLSys 2020, arXiv 2003.02369.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Final

import numpy as np

from graphopt.ir import Graph, Op, Value, rebuild
from graphopt.ops import Concat, Constant, Conv, ConvTranspose
from graphopt.ops.contrib import FusedConv
from graphopt.weights import Tensor

from .parted import (
    Cut,
    Parts,
    by_group,
    by_position,
    by_rows,
    flattened,
    parts_of,
    pieces,
    spans,
    summed,
)

SHARED: Final = 1 << 12
"""Bytes of a constant that is cut though others read it whole."""

CONVOLUTIONS: Final = (Conv, ConvTranspose, FusedConv)
"""Kinds of which pieces are computed: products of tokens are rather cut by tokens."""


class PartialSums:
    """A graph in which some of what is joined is not.

    What was cut of a weight once is kept, so that graphs with other ``joins`` share it.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._cuts: dict[tuple[Tensor, int, int, int], Constant] = {}

    @cached_property
    def joins(self) -> tuple[Op, ...]:
        """The ops that join what is only read in parts then."""
        found = [op for op in self._inner if isinstance(op, Concat) and parts_of(op)]
        return self._avoided(found)

    @cached_property
    def products(self) -> tuple[Op, ...]:
        """The convolutions between two products, of which pieces can be read alone.

        They are larger than what they are made of, which stays until the last piece.
        """
        found = [op for op in self._inner if isinstance(op, CONVOLUTIONS)]
        return self._avoided([op for op in found if pieces(op) > 1])

    @property
    def _inner(self) -> list[Op]:
        outputs = frozenset(self.graph.outputs)
        return [op for op in self.graph.ops if op not in outputs]

    def _avoided(self, found: Sequence[Op]) -> tuple[Op, ...]:
        """Those that nothing needs as they are."""
        while True:
            whole = self._built(found)[1]
            if not whole:
                return tuple(found)
            found = [op for op in found if op not in whole]

    def without(self, avoided: Collection[Op]) -> Graph:
        """The graph without these `joins` and `products`, but for their parts."""
        return self._built(avoided)[0]

    def _built(self, avoided: Collection[Op]) -> tuple[Graph, set[Op]]:
        """That graph, and those of ``avoided`` that something needs as they are."""
        parts: dict[Value, Parts] = {}
        whole: dict[Value, Op] = {}

        def build(op: Op, operands: tuple[Value | None, ...]) -> Op | Sequence[Value]:
            given = [parts.get(v) if v is not None else None for v in operands]
            made = op if operands == op.operands else op.with_operands(operands)
            found: Parts | None = None
            result: Value | None = None
            if isinstance(made, Concat):
                result = flattened(made, given)
                found = parts_of(result) if op in avoided else None
            if result is None or (result is made and found is None):
                if op in avoided:
                    found = self._cut_up(made, given)
                else:
                    result, found = self._carried(made, given)
            if found is not None:
                result = Concat(*found.values, axis=found.axis)
                parts[result] = found
                if op in avoided:
                    whole[result] = op
            return made if result is None else [result]

        graph = rebuild(self.graph, build)
        return graph, {whole[op] for op in graph.ops if op in whole}

    def _carried(
        self, op: Op, given: Sequence[Parts | None]
    ) -> tuple[Value | None, Parts | None]:
        """The sum that an op of parts is, or its parts; neither where it needs all."""
        if op.outs != 1 or not any(given):
            return None, None
        cut = self._cutter(op, given)
        for place, each in enumerate(given):
            if each is None:
                continue
            total = summed(op, place, each, cut)
            if total is not None:
                return total, None
            found = by_group(op, place, each, cut) or by_position(op, place, each, cut)
            if found is not None:
                return None, found
        return None, None

    def _cut_up(self, op: Op, given: Sequence[Parts | None]) -> Parts | None:
        """The pieces of a product; each is a sum where it reads what has parts."""
        found = by_rows(op, self._cutter(op, given))
        if found is None:
            return None
        sums = [self._carried(v, given)[0] or v for v in found.values if v.op]  # type: ignore[arg-type]
        return Parts(tuple(sums), found.axis)

    def _cutter(self, op: Op, given: Sequence[Parts | None]) -> Cut:
        """How the operands of an op are cut."""

        def cut(place: int, axis: int, sizes: Sequence[int]) -> Sequence[Value] | None:
            value = op.operands[place]
            own = given[place] if place < len(given) else None
            if own is not None:
                alike = own.axis == axis and own.sizes == tuple(sizes)
                return own.values if alike else None
            tensor = None if value is None else value.constant
            if value is None or tensor is None:
                return None
            if self.graph.uses.get(value, 0) > 1 and tensor.nbytes > SHARED:
                return None  # it would be there twice
            return [self._piece(tensor, axis, *span) for span in spans(sizes)]

        return cut

    def _piece(self, tensor: Tensor, axis: int, start: int, stop: int) -> Constant:
        key = tensor, axis, start, stop
        if key not in self._cuts:
            index = (slice(None),) * axis + (slice(start, stop),)
            self._cuts[key] = Constant(np.ascontiguousarray(tensor.array()[index]))
        return self._cuts[key]
