"""Long sums in an order that is wanted, and convolutions added onto what is there.

    (a + b) + c                       -->   (a + c) + b
    conv(x, v, b) + conv(y, w, c)     -->   fusedconv(x, v, b, conv(y, w, c))

So each part of a sum can die as soon as it is there. Sums are rounded in another order.
The second is for ONNX Runtime's kernel on the CPU, which writes over what it adds to:
where that is a convolution's, it is in the layout that the kernel is fast in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from graphopt.ir import Graph, Op, Value, rebuild
from graphopt.ops import Add, Conv
from graphopt.ops.contrib import FusedConv
from graphopt.types import DType

from .match import same_type
from .parted import WIDE

RANKS: Final = (3, 4, 5)
"""Of what the kernel convolves."""


@dataclass(frozen=True)
class Term:
    """What is added: a value, or a convolution that nothing else reads.

    ``value`` is None for a convolution that is fused with a sum now.
    """

    value: Value | None
    product: tuple[Value | None, ...] = ()
    attrs: Mapping[str, Any] | None = None

    @property
    def reads(self) -> list[Value]:
        """What must be there for it to be added."""
        found = [self.value] if self.attrs is None else self.product
        return [v for v in found if v is not None]

    def added(self, total: Value | None, new: Mapping[Value, Value]) -> Value:
        """Its sum with a total, of values made anew."""
        operands = [None if v is None else new.get(v, v) for v in self.product]
        if self.attrs is not None and isinstance(total, Conv | FusedConv):
            return FusedConv(*operands, total, **self.attrs)
        if self.value is None:
            assert self.attrs is not None
            value: Value = Conv(*operands, **self.attrs)
        else:
            value = new.get(self.value, self.value)
        return value if total is None else Add(total, value)


@dataclass(frozen=True)
class Sums:
    """How the sums of a graph are written anew.

    ``ranks`` say when its ops run. Convolutions are added ``onto`` what is there where
    a kernel does that. With ``deep`` a term comes when that is there which the chain of
    ops begins with that makes it for the sum alone.
    """

    graph: Graph
    ranks: Mapping[Op, int]
    onto: bool = False
    deep: bool = False

    def in_order(self) -> Graph:
        """The graph with the terms of each sum in the order in which they are there."""
        inner = {
            v.op for op in self.graph.ops for v in summands(op) if self._is_inner(v)
        }
        new: dict[Value, Value] = {}

        def build(op: Op, operands: tuple[Value | None, ...]) -> Op | Sequence[Value]:
            made: Op | Sequence[Value]
            if summands(op) and op not in inner:
                made = [self._total(op, new)]
            else:
                made = op if operands == op.operands else op.with_operands(operands)
            values = made.results if isinstance(made, Op) else made
            new.update(zip(op.results, values, strict=True))
            return made

        return rebuild(self.graph, build)

    def _total(self, op: Op, new: Mapping[Value, Value]) -> Value:
        """A sum of values made anew; a convolution with an activation comes last."""
        terms = self._terms(op)
        last = terms.pop() if isinstance(op, FusedConv) and op.activation else None
        total: Value | None = None
        for term in sorted(terms, key=self._place):
            total = term.added(total, new)
        assert total is not None
        if last is None:
            return total
        operands = [None if v is None else new.get(v, v) for v in last.product]
        attrs: dict[str, Any] = dict(op.attrs)
        return FusedConv(*operands, total, **attrs)

    def _is_inner(self, value: Value) -> bool:
        """True for a sum that only another one reads."""
        op = value.op
        if op is None or not summands(op) or self.graph.uses[value] > 1:
            return False
        return not isinstance(op, FusedConv) or not op.activation

    def _terms(self, op: Op) -> list[Term]:
        """All terms of a sum, the convolution of a fused one last."""
        found: list[Term] = []
        pending: list[Op] = [op]
        while pending:
            each = pending.pop()
            if isinstance(each, FusedConv):
                found.append(Term(None, each.operands[:3], each.plain()))
            for value in reversed(summands(each)):
                if self._is_inner(value):
                    assert value.op is not None
                    pending.append(value.op)
                elif self._goes_onto(value):
                    assert value.op is not None
                    operands = (*value.op.operands, None)[:3]
                    found.append(Term(value, operands, value.op.attrs))
                else:
                    found.append(Term(value))
        return found[::-1]

    def _goes_onto(self, value: Value) -> bool:
        """True for a convolution that the kernel can add to something."""
        if not self.onto or not isinstance(value, Conv):
            return False
        fits = value.dtype is DType.F32 and value.rank in RANKS
        return fits and self.graph.uses[value] == 1

    def _place(self, term: Term) -> tuple[bool, int]:
        """When a term is added: convolutions first, each onto those before."""
        when = max((self._since(v) for v in term.reads), default=-1)
        return self.onto and term.attrs is None, when

    def _since(self, value: Value) -> int:
        """When a value is there, or what its chain begins with."""
        while self.deep and value.op is not None and self.graph.uses[value] == 1:
            read = [v for v in value.op.operands if v is not None and not v.constant]
            if len(read) != 1 or value.op.outs > 1:
                break
            value = read[0]
        return -1 if value.op is None else self.ranks.get(value.op, -1)


def summands(op: Op) -> tuple[Value, ...]:
    """The values that an op adds, of the type of its result; none for other ops."""
    if op.dtype not in WIDE:
        return ()
    if isinstance(op, FusedConv):
        z = op.operand(3)
        return () if z is None or not same_type(z, op) else (z,)
    if not isinstance(op, Add):
        return ()
    found = tuple([v for v in op.operands if v is not None and same_type(v, op)])
    return found if len(found) == 2 else ()
