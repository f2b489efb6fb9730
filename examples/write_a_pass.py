"""Write a pass in 20 lines: multiply by the reciprocal instead of dividing.

Run it with ``python examples/write_a_pass.py examples/models/digits.onnx``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import graphopt
from graphopt import Outcome, Rule, RulePass, miss, rule
from graphopt.ops import Constant, Div, Mul


@rule(exact=False)
def divide_by_constant(op: Div) -> Outcome:
    """x / c = x * (1 / c)"""
    x, divisor = op.operands
    if divisor is None or divisor.constant is None:
        return miss("the divisor is no constant", divisor)
    if divisor.dtype is None or not divisor.dtype.is_float:
        return miss("integers have no reciprocals", divisor)
    return Mul(x, Constant(1 / divisor.constant.array()))


@dataclass(frozen=True)
class Reciprocals(RulePass):
    """x / 8   -->   x * 0.125"""

    def rules(self) -> Sequence[Rule]:
        return (divide_by_constant,)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} MODEL.onnx")
    result = graphopt.optimize(sys.argv[1], add=[Reciprocals()])
    print(result.report)
