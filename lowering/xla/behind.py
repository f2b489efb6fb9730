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
    evaluator = Evaluator(symbols=symbols)
    env: dict[Value, Array] = {
        p: evaluator.adopt(_on_host(fed[p] if p in fed else made[p.name]))
        for p in parts.tail.inputs
    }
    found = evaluator.run(parts.tail.outputs, env)
    known = {**made, **dict(zip(parts.tail.output_names, found, strict=True))}
    return {name: known[name] for name in parts.outputs}


def _on_host(value: Array) -> Array:
    """A value as NumPy has it; a sequence by its elements, nothing as nothing."""
    if isinstance(value, list):
        return [_on_host(element) for element in value]
    return None if value is None else np.asarray(value)
