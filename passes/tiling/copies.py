"""Cheap values that many read, made by each reader: so that tiles of it make their own.

A mask that all layers share is whole as long as one of them reads all of it. Copies are
ops of another ``instance``; those that no tiles took are merged again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from graphopt import dims
from graphopt.cost import op_flops
from graphopt.ir import Graph, Op, Value, rebuild
from graphopt.ops import Constant
from graphopt.ops.control import Control
from graphopt.ops.structured import Computed
from graphopt.substitution import substitute

from .needs import Meter

DEEPEST: Final = 24
"""Ops that a copy may have, one after the other."""

EACH: Final = 4
"""Operations that a cheap op takes for each byte of its result, at most."""


def apart(graph: Graph, meter: Meter, least: int) -> tuple[Graph, Collection[int]]:
    """The graph whose ops make what they read of cheap values of ``least`` bytes.

    Also the instances of the copies. What nobody else reads is no copy.
    """
    chains = _Chains(graph, meter, least)
    first = fresh = 1 + max((op.instance for op in graph.ops), default=0)
    new: dict[Value, Value] = {}
    for op in graph.ops:
        if chains.below(op) is not None:
            continue  # its readers have it of their own
        copied: dict[Op, Op] = {}
        operands = [v and chains.copy(v, fresh, copied) for v in op.operands]
        if any(graph.uses[old] > 1 for old in copied):
            made = op.with_operands(operands)
            new |= zip(op.results, made.results, strict=True)
            fresh += 1
    return (substitute(graph, new), range(first, fresh)) if new else (graph, ())


def together(graph: Graph, copies: Collection[int]) -> Graph:
    """The graph with copies of these instances one op again, but for those in tiles."""
    if not any(op.instance in copies for op in graph.ops):
        return graph

    def build(op: Op, operands: tuple[Value | None, ...]) -> Op:
        merged = op.instance in copies
        return op.copy(operands=operands, instance=0 if merged else op.instance)

    return rebuild(graph, build)


def makers(value: Value | None, copies: Collection[int]) -> list[Op]:
    """The copies of these instances that a value is made of, each once, its own first.

    What such a copy reads of other ops is none of them.
    """
    found: dict[Op, None] = {}
    pending = [value]
    while pending:
        value = pending.pop()
        op = None if value is None else value.op
        if op is not None and op.instance in copies and op not in found:
            found[op] = None
            pending += reversed(op.operands)
    return [*found]


class _Chains:
    """Which ops make large values from small ones, with few operations."""

    def __init__(self, graph: Graph, meter: Meter, least: int) -> None:
        self.meter, self.least = meter, least
        self._depth: dict[Op, int | None] = {}
        for op in graph.ops:
            self._depth[op] = self._read(op)

    def below(self, op: Op | None) -> int | None:
        """How many large ops it takes in a row; None where that is not cheap."""
        return None if op is None else self._depth.get(op)

    def _read(self, op: Op) -> int | None:
        if isinstance(op, Constant | Control) or not isinstance(op, Computed):
            return None
        known = op.deterministic and op.outs == 1 and op.instance == 0
        size = self.meter.bytes(op)
        work = dims.substitute(op_flops(op), self.meter.binding)
        if not known or size < self.least or not isinstance(work, int):
            return None
        if work > EACH * size:
            return None
        deepest = 0
        for value in op.operands:
            if value is not None and self.meter.bytes(value) >= self.least:
                depth = self.below(value.op)
                if depth is None:
                    return None
                deepest = max(deepest, depth)
        return deepest + 1 if deepest < DEEPEST else None

    def copy(self, value: Value, instance: int, copied: dict[Op, Op]) -> Value:
        """The value with the ops that make it copied, as far as they are cheap."""
        op = value.op
        if op is None or self.below(op) is None:
            return value
        if op not in copied:
            operands = [v and self.copy(v, instance, copied) for v in op.operands]
            copied[op] = op.copy(operands=operands, instance=instance)
        return copied[op]
