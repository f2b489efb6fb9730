"""Transposes moved down, to where they may meet others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ops import Transpose
from graphopt.ops.structured import Elementwise
from graphopt.passes.match import perm_of
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule


@rule
def transposes_meet(op: Elementwise, scene: Scene) -> Outcome:
    """f(transpose(x, p), transpose(y, p)) = transpose(f(x, y), p)

    One of the two is read by nothing else, so that there are no more of them.
    """
    rank, moving = op.rank, [v for v in op.operands if isinstance(v, Transpose)]
    if rank is None or len(moving) < 2 or op.outs != 1 or "axis" in op.attrs:
        return None
    perms = {perm_of(rank, v.perm) for v in moving if v.rank == rank}
    if len(perms) != 1 or any(v.rank != rank for v in moving):
        return miss("they are transposed differently", op)
    others = [v for v in op.operands if v is not None and v not in moving]
    if not all(v.shape is not None and set(v.shape) <= {1} for v in others):
        return miss("an operand is not transposed", op)
    if not op.deterministic or not any(map(scene.single, moving)):
        return miss("all the transposes are read elsewhere too", op)
    operands = [v.operands[0] if isinstance(v, Transpose) else v for v in op.operands]
    return Transpose(op.with_operands(operands), perm=perms.pop())


RULES: tuple[Rule, ...] = (transposes_meet,)


@dataclass(frozen=True)
class SinkTransposes(RulePass):
    """Transposes after the elementwise ops of transposed operands.

    transpose(x, p) + transpose(y, p)   -->   transpose(x + y, p)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
