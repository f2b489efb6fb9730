"""Rotary embedding in ONNX Runtime: angles as its kernel takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ops import Gather, RotaryEmbedding
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, rule


@rule
def looked_up_angles(op: RotaryEmbedding) -> Outcome:
    """rotary(x, c, s, i) = rotary(x, c[i], s[i]), where i may be negative

    The kernel refuses such places; a look-up counts them from the end.
    """
    x, cosine, sine, *places = op.operands
    if not places or places[0] is None:
        return None
    known = places[0].constant
    if known is not None and (not known.size or known.array().min() >= 0):
        return None
    return op.with_operands([x, Gather(cosine, places[0]), Gather(sine, places[0])])


@dataclass(frozen=True)
class LowerRotary(RulePass):
    """Look angles up before a rotary embedding, where its kernel might refuse to.

    rotary(x, cos, sin, ids)   -->   rotary(x, cos[ids], sin[ids])
    """

    def rules(self) -> Sequence[Rule]:
        return (looked_up_angles,)
