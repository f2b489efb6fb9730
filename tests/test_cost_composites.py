"""Costs of ops that are what their bodies are."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import pytest
from composite_ops import composites, inner

from graphopt import ops
from graphopt.cost import cost, op_cost, value_bytes
from graphopt.ir import Graph, Parameter
from graphopt.ops.registry import kinds
from graphopt.ops.structured import Composite, Structured

MOVED = {"Pad", "Trilu", "GatherND", "ExpandDims", "Range"}
"""Kinds whose bodies compute nothing."""


@pytest.mark.parametrize("op", composites(), ids=lambda op: op.kind)
def test_costs_and_types_of_bodies_compose(op: Composite) -> None:
    assert op.expansion is not None
    assert [value.type for value in op.expansion[: op.outs]] == list(op.types)
    given = [value for value in op.operands if isinstance(value, Parameter)]
    whole = cost(Graph(given, op.expansion[: op.outs]))
    assert whole.unknown == {}
    assert op_cost(op).flops == whole.flops
    assert isinstance(whole.flops, int)
    assert whole.flops > 0 or op.kind in MOVED
    values = {value: None for value in (*op.operands, *op.results) if value is not None}
    assert op_cost(op).bytes == sum(value_bytes(value, {}) or 0 for value in values)
    assert isinstance(whole.bytes, int)
    fewer_bytes = op_cost(op).bytes < whole.bytes
    assert fewer_bytes == (len(inner(op)) > 1)


def test_every_composite_without_maps_is_tried() -> None:
    for module in iter_modules(ops.__path__):
        import_module(f"graphopt.ops.{module.name}")
    assert {op.kind for op in composites()} == {
        kind
        for (_, kind), cls in kinds.items()
        if issubclass(cls, Composite)
        and not issubclass(cls, Structured)
        and kind != "Unique"  # how large its result is depends on data
        and kind not in ("Strips", "Tiled")  # a run of the tiles counts, not its text
    }
