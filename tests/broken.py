"""Passes that break models, for tests of whatever must notice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt import Graph, Outcome, Pass, Rule, RulePass, rule
from graphopt.ops import Constant, Gemm, Identity, Mul, Sigmoid
from graphopt.rewrite import Log


@rule
def damped_sigmoid(op: Sigmoid) -> Outcome:
    """sigmoid(x) = 1.001 * sigmoid(x), which it is not"""
    x = op.operands[0]
    if isinstance(x, Identity):
        return None
    return Mul(Sigmoid(Identity(x)), Constant(np.float32(1.001)))


@dataclass(frozen=True)
class Damp(RulePass):
    """sigmoid(x)   -->   1.001 * sigmoid(x)"""

    def rules(self) -> Sequence[Rule]:
        return (damped_sigmoid,)


@rule
def faulty_gemm(op: Gemm) -> Outcome:
    """asks for what no op has"""
    found: Outcome = op.nowhere
    return found


@dataclass(frozen=True)
class Faulty(RulePass):
    """gemm(x)   -->   an AttributeError"""

    def rules(self) -> Sequence[Rule]:
        return (faulty_gemm,)


@dataclass(frozen=True)
class Bloat(Pass):
    """f(x)   -->   identity(identity(f(x)))"""

    def run(self, graph: Graph, log: Log) -> Graph:
        if any(isinstance(v, Identity) for v in graph.outputs):
            return graph
        log.fired["bloat"] += 1
        return graph.replace(outputs=[Identity(Identity(v)) for v in graph.outputs])
