"""Run the tail of a graph behind its program: on the host, by the NumPy reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.feeds import bind, widened
from graphopt.ir import Value
from graphopt.reference import Evaluator

from .. import Array
from .tail import Split

Arrays = Mapping[str, Array]


def outputs_of(parts: Split, inputs: Arrays, made: Arrays) -> dict[str, Array]:
    """The outputs of the whole graph, from its inputs and what the head made."""
    fed, symbols = bind(parts.head, inputs, widened)
    known = {**{p.name: array for p, array in fed.items()}, **made}
    tail = parts.tail
    evaluator = Evaluator(seed=0, symbols=symbols)
    env: dict[Value, Array] = {
        p: evaluator.adopt(np.asarray(known[p.name])) for p in tail.inputs
    }
    found = evaluator.run(tail.outputs, env)
    known |= dict(zip(tail.output_names, found, strict=True))
    return {name: known[name] for name in parts.outputs}
