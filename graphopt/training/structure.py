"""What a model computes of its weights, as text: equal for equal models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from ..ir import Graph, Value
from ..literal import Weights, format_tensor
from ..ops.constant import Constant
from ..text import format_op

_TOKEN: Final = re.compile(r" token \d+")
"""What keeps ops apart that draw numbers; each time that a model is read, another."""


def structure(graph: Graph, weights: Mapping[str, Value]) -> list[str]:
    """Inputs, ops and outputs, one a line, operands first, in any process the same.

    Weights have their names; their elements are left out, and so are names of ops and
    of values between them.
    """
    return list(_lines(graph, {value: name for name, value in weights.items()}, ""))


def _lines(graph: Graph, weights: Mapping[Value, str], inner: str) -> Iterator[str]:
    labels: dict[Value, str] = {}
    for i, parameter in enumerate(graph.inputs):
        labels[parameter] = f"%{inner}in{i}"
        named = "" if inner else f" {parameter.name!r}"
        yield f"input {labels[parameter]}{named} : {parameter.type}"
    for op in graph.ops:
        results = [f"%{inner}{len(labels) + i}" for i in range(len(op.results))]
        labels |= zip(op.results, results, strict=True)
        if op in weights:
            text = f"weight {weights[op]!r} : {op.type}"
        elif isinstance(op, Constant) and op.tensor.location is not None:
            text = f"{op.type}({op.tensor.digest()})"  # wherever the file lies
        elif isinstance(op, Constant):
            text = format_tensor(op.tensor, Weights())
        else:
            text = _TOKEN.sub("", format_op(op, labels))
        yield f"{', '.join(results)} = {text}"
        for i, body in enumerate(op.bodies):
            yield f"body {i} of {results[0]}"
            yield from _lines(body, weights, f"{results[0][1:]}.{i}.")
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        yield f"output {'' if inner else repr(name)} = {labels[value]}"
