"""Biases that activations add in room of their own, added before where that is less.

    FastGelu(x, bias)   -->   FastGelu(x + bias)
    BiasGelu(x, bias)   -->   Gelu(x + bias)

The fused kernel has operand, sum and result at once; apart there are two of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from graphopt.ir import Graph, Op, Value, rebuild
from graphopt.ops import Add
from graphopt.ops.contrib import FastGelu, Gelu

from .workspace import BIASED


def is_biased(op: Op) -> bool:
    """Whether the kernel of an op adds a bias into room of its own."""
    return op.label in BIASED and op.operand(1) is not None


def biases_apart(
    graph: Graph, order: Sequence[Op], ops: Collection[Op]
) -> tuple[Graph, list[Op]]:
    """The graph with the biases of some ops added before, and its ops in that order."""
    made: dict[Op, list[Op]] = {}

    def build(op: Op, operands: tuple[Value | None, ...]) -> Op:
        if op not in ops:
            new = op.with_operands(operands)
            made[op] = [new]
            return new
        total = Add(*operands, instance=op.instance)
        kind = FastGelu if isinstance(op, FastGelu) else Gelu
        new = kind(total, instance=op.instance)
        made[op] = [total, new]
        return new

    built = rebuild(graph, build)
    return built, [*dict.fromkeys(new for op in order for new in made[op])]
