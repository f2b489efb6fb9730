"""Constants that hold the same bits become one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

from graphopt.ir import Graph, Op, Value, rebuild
from graphopt.ops import Constant
from graphopt.pipeline import Pass
from graphopt.rewrite import Log
from graphopt.weights import Tensor

SAMPLE = 1 << 12
"""Bytes that are compared before a whole weight is read."""


@dataclass(frozen=True)
class MergeConstants(Pass):
    """Keep one of several equal constants: same element type, dims and bits.

    a = [1, 2], b = [1, 2], f(a, b)   -->   a = [1, 2], f(a, a)

    A weight whose element type and dims no other has is never read.
    """

    def run(self, graph: Graph, log: Log) -> Graph:
        mapping = _twins(graph)
        if not mapping:
            return graph
        log.fired["merge_constants"] += len(mapping)
        return _replaced(graph, mapping)


def _replaced(graph: Graph, mapping: dict[Value, Value]) -> Graph:
    def build(op: Op, operands: tuple[Value | None, ...]) -> Op:
        bodies = [_replaced(body, mapping) for body in op.bodies]
        return op.copy(operands=operands, bodies=bodies)

    return rebuild(graph, build, mapping)


def _twins(graph: Graph) -> dict[Value, Value]:
    """For each constant that repeats an earlier one, that one."""
    alike: dict[Hashable, list[Constant]] = defaultdict(list)
    seen: set[Op] = set()
    for _, op in graph.walk():
        if isinstance(op, Constant) and op not in seen:
            seen.add(op)
            alike[op.tensor.dtype, op.tensor.shape].append(op)
    mapping: dict[Value, Value] = {}
    for group in alike.values():
        if len(group) < 2:
            continue
        by_sample: dict[bytes, list[Constant]] = defaultdict(list)
        for constant in group:
            kept = by_sample[_sample(constant.tensor)]
            for first in kept:
                if first.tensor.same_bits(constant.tensor):
                    mapping[constant] = first
                    break
            else:
                kept.append(constant)
    return mapping


def _sample(tensor: Tensor) -> bytes:
    """The first bytes of a tensor; nothing of a string one."""
    if not tensor.dtype.bits:
        return b""
    flat = tensor.array().reshape(-1)
    return flat[: max(1, SAMPLE // max(1, flat.itemsize))].tobytes()
