"""Models with plans for a mesh, and their multi-device annotations."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt import ops
from graphopt.exporter import to_proto
from graphopt.ir import Graph, Header, Parameter
from graphopt.passes.sharding.choices import choices
from graphopt.passes.sharding.devices import annotate
from graphopt.passes.sharding.mesh import Mesh
from graphopt.passes.sharding.partition import Decisions
from graphopt.passes.sharding.saved import layout_text, saved
from graphopt.passes.sharding.stages import ordered
from graphopt.plan import annotated
from graphopt.types import DType, tensor

MESH = Mesh.parse("data=2,model=2")
HEADER = Header(opsets={"": 20}, ir_version=9)


def weight(*shape: int) -> ops.Constant:
    rng = np.random.default_rng(len(shape))
    return ops.Constant(rng.normal(size=shape).astype(np.float32))


def block(header: Header = HEADER) -> Graph:
    """A feed-forward with a residual connection."""
    x = Parameter(tensor(DType.F32, 4, 16), "x")
    hidden = ops.Relu(ops.MatMul(x, weight(16, 32)))
    out = ops.Add(ops.MatMul(hidden, weight(32, 16)), x)
    names = {hidden: "hidden", hidden.op.operands[0]: "up", out.op.operands[0]: "down"}
    return Graph([x], [out], output_names=["y"], header=header, names=names)


def megatron(cuts: tuple[int, ...] = (2,), header: Header = HEADER) -> ModelProto:
    """Rows of the input on one axis, the hidden dim on the other; in two stages."""
    graph = block(header)
    wanted = ["S(0),R R,S(1)", "S(0),S(1)", "S(0),S(1) R,S(0)", "S(0),R S(0),R"]
    chosen = {
        op: next(
            choice
            for choice in choices(op, MESH)
            if " ".join(map(layout_text, choice.operands)) == text
        )
        for op, text in zip(ordered(graph), wanted, strict=True)
    }
    return to_proto(annotated(graph, saved(graph, MESH, Decisions(chosen), cuts)))


def random_plan(
    graph: Graph, seed: int, mesh: Mesh = MESH, cuts: tuple[int, ...] = ()
) -> ModelProto:
    rng = random.Random(seed)
    chosen = {
        op: rng.choice(choices(op, mesh))
        for op in graph.ops
        if not isinstance(op, ops.Constant)
    }
    return to_proto(annotated(graph, saved(graph, mesh, Decisions(chosen), cuts)))


def valid() -> ModelProto:
    """Annotated, in two stages of four devices, all of which have names."""
    return annotate(megatron(), devices=[f"gpu{i}" for i in range(8)]).model


def spec_of(model: ModelProto, node: int, name: str) -> Any:
    (found,) = (
        spec
        for spec in model.graph.node[node].device_configurations[0].sharding_spec
        if spec.tensor_name == name
    )
    return found
