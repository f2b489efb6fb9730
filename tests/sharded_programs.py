"""Sharded programs written by hand, with the graphs that they share out.

`CASES` by name: a graph for one device, a program for eight, and inputs. Run as a
script, it has JAX run one of them: see `main`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from mixtures import mixture, tokens

from graphopt import Graph
from graphopt.index import Replicated, Split as Parts
from graphopt.ir import Op, Parameter, Value
from graphopt.ops import (
    Add,
    Attention,
    Cast,
    Concat,
    Constant,
    CumSum,
    If,
    Loop,
    MatMul,
    Mul,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    Relu,
    Scan,
    Slice,
    Split,
    TensorScatter,
)
from graphopt.ops.mesh import (
    Addend,
    AllGather,
    AllReduce,
    AllToAll,
    Position,
    ReduceScatter,
    Shard,
    Shift,
)
from graphopt.passes.sharding import (
    Decisions,
    Layout,
    Mesh,
    Program,
    choices,
    partition,
)
from graphopt.passes.sharding.hand import hand_plan
from graphopt.passes.sharding.machine import Machine
from graphopt.passes.sharding.planner import Planner
from graphopt.types import DType, tensor

R: Final = Replicated()


def S(dim: int) -> Parts:
    return Parts(dim)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weight(*shape: int, seed: int = 0) -> Constant:
    return Constant(normal(*shape, seed=seed) / np.float32(np.sqrt(shape[0])))


@dataclass(frozen=True)
class Case:
    """A graph and what devices make of it."""

    graph: Graph
    program: Program
    inputs: dict[str, Any]


def on(mesh: Mesh, name: str) -> dict[str, Any]:
    return {"axis": name, "ways": dict(mesh.axes)[name]}


def _mlp(x: Value, up: Value, b: Value, down: Value) -> Value:
    return MatMul(Relu(Add(MatMul(x, up), b)), down)


def megatron(layers: int = 2) -> Case:
    """Columns of the first weight, rows of the second, one sum a layer."""
    mesh = Mesh.parse("model=8")
    model = on(mesh, "model")
    x = Parameter(tensor(DType.F32, 4, 32), "x")
    whole: Value = x
    local: Value = x
    for i in range(layers):
        up, b = weight(32, 64, seed=3 * i), weight(64, seed=3 * i + 1)
        down = weight(64, 32, seed=3 * i + 2)
        whole = Add(whole, _mlp(whole, up, b, down))
        part = _mlp(
            local,
            Shard(up, dim=1, **model),
            Shard(b, dim=0, **model),
            Shard(down, dim=0, **model),
        )
        local = Add(local, AllReduce(part, combiner="sum", **model))
    graph = Graph([x], [whole], output_names=["y"])
    made = Graph([x], [local], output_names=["y"])
    return Case(graph, Program(mesh, made, ((R,),), ((R,),)), {"x": normal(4, 32)})


def fsdp() -> Case:
    """Rows of the batch; weights stored in parts, gathered where they are read."""
    mesh = Mesh.parse("data=8")
    data = on(mesh, "data")
    x, part = (Parameter(tensor(DType.F32, rows, 32), "x") for rows in (16, 2))
    up, b, down = weight(32, 64), weight(64, seed=1), weight(64, 32, seed=2)
    gathered = [AllGather(Shard(w, dim=0, **data), dim=0, **data) for w in (up, down)]
    local = _mlp(part, gathered[0], b, gathered[1])
    return _case(mesh, x, _mlp(x, up, b, down), part, local, (S(0),), (S(0),))


def sequence(ways: int = 8) -> Case:
    """Tokens are split between the layers, hidden features within."""
    mesh = Mesh.parse(f"model={ways}")
    model = on(mesh, "model")
    x, part = (Parameter(tensor(DType.F32, 2, n, 32), "x") for n in (16, 16 // ways))
    up, b, down = weight(32, 64), weight(64, seed=1), weight(64, 32, seed=2)
    inner = _mlp(
        AllGather(part, dim=1, **model),
        Shard(up, dim=1, **model),
        Shard(b, dim=0, **model),
        Shard(down, dim=0, **model),
    )
    local = Add(part, ReduceScatter(inner, combiner="sum", dim=1, **model))
    whole = Add(x, _mlp(x, up, b, down))
    return _case(mesh, x, whole, part, local, (S(1),), (S(1),))


def grid() -> Case:
    """Batch and model; a weight is stored by both axes on one dim, model innermost."""
    mesh = Mesh.parse("data=2,model=4")
    data, model = on(mesh, "data"), on(mesh, "model")
    x, part = (Parameter(tensor(DType.F32, rows, 32), "x") for rows in (8, 4))
    up, b, down = weight(32, 64), weight(64, seed=1), weight(64, 32, seed=2)
    stored = Shard(Shard(down, dim=0, **data), dim=0, **model)  # rows, in 8 parts
    rows = AllGather(AllGather(stored, dim=0, **model), dim=0, **data)
    total = AllReduce(
        _mlp(
            part,
            Shard(up, dim=1, **model),
            Shard(b, dim=0, **model),
            Shard(rows, dim=0, **model),
        ),
        combiner="sum",
        **model,
    )
    local = Shard(total, dim=1, **model)
    layout = (S(0), S(1))
    return _case(mesh, x, _mlp(x, up, b, down), part, local, (S(0), R), layout)


def nested() -> Case:
    """A dim in parts by two axes, of the input and of the output; one is moved."""
    mesh = Mesh.parse("2x2x2")
    y, z = on(mesh, "y"), on(mesh, "z")
    x = Parameter(tensor(DType.F32, 16, 8), "x")
    part = Parameter(tensor(DType.F32, 2, 8), "x")
    local = AllToAll(Relu(part), dim=1, joined=0, **z)
    local = AllToAll(AllGather(local, dim=1, **z), dim=1, joined=0, **y)
    layout = (S(0), S(1), R)
    return _case(mesh, x, Relu(x), part, local, (S(0), S(0), S(0)), layout)


def places() -> Case:
    """Devices by their number, addends, and what neighbours have."""
    mesh = Mesh.parse("data=2,model=4")
    model = on(mesh, "model")
    x = Parameter(tensor(DType.F32, 16, 4), "x")
    part = Parameter(tensor(DType.F32, 4, 4), "x")
    number = Cast(Position(**model), to=DType.F32.value)
    once = AllReduce(Addend(Constant(normal(4, 4)), **model), combiner="sum", **model)
    ends = [Slice(part, ints(a), ints(b), ints(0)) for a, b in ((3, 4), (0, 1))]
    before, after = (
        Shift(e, by=by, **model) for e, by in zip(ends, (1, -1), strict=True)
    )
    near = Add(Slice(Concat(before, part, axis=0), ints(0), ints(4), ints(0)), once)
    near = Add(near, Slice(Concat(part, after, axis=0), ints(1), ints(5), ints(0)))
    local = Add(near, number)

    zeros = Constant(np.zeros((1, 4), np.float32))
    rows = Constant(np.repeat(np.arange(4, dtype=np.float32), 4)[:, None])
    again = Constant(np.tile(normal(4, 4), (4, 1)))
    over = Slice(Concat(zeros, x, axis=0), ints(0), ints(16), ints(0))
    under = Slice(Concat(x, zeros, axis=0), ints(1), ints(17), ints(0))
    whole = Add(Add(Add(over, again), under), rows)
    return _case(mesh, x, whole, part, local, (R, S(0)), (R, S(0)))


def merged(kind: str, dtype: DType, reduce: type[Op]) -> Case:
    """Parts of a reduced axis by their combiner: for all, and each to its place."""
    mesh = Mesh.parse("8")
    x8 = on(mesh, "x")
    x, part = (Parameter(tensor(dtype, rows, 16, 3), "x") for rows in (24, 3))
    axes = ints(0)
    local = reduce(part, axes, keepdims=0)
    one = reduce(reduce(part, axes, keepdims=0), ints(0, 1), keepdims=0)
    whole = reduce(x, axes, keepdims=0)
    graph = Graph([x], [whole, whole, reduce(x, ints(0, 1, 2), keepdims=0)])
    outputs = [
        AllReduce(local, combiner=kind, **x8),
        ReduceScatter(local, combiner=kind, dim=0, **x8),
        AllReduce(one, combiner=kind, **x8),
    ]
    made = Graph([part], outputs)
    fed = np.random.default_rng(0).uniform(0.9, 1.1, (24, 16, 3))
    made_of: dict[DType, Any] = {
        DType.F32: fed.astype(np.float32),
        DType.I64: (fed * 1000).astype(np.int64) - 1000,
        DType.BOOL: fed > 0.9 + 0.1 / 16,
    }
    program = Program(mesh, made, ((S(0),),), ((R,), (S(0),), (R,)))
    return Case(graph, program, {"x": made_of[dtype]})


def turns() -> Case:
    """Collectives and stored parts of weights in the bodies of a Loop and an If."""
    mesh = Mesh.parse("model=8")
    model = on(mesh, "model")
    x = Parameter(tensor(DType.F32, 4, 32), "x")
    sure = Parameter(tensor(DType.BOOL), "sure")
    up, b, down = weight(32, 64), weight(64, seed=1), weight(64, 32, seed=2)
    parts = (
        Shard(up, dim=1, **model),
        Shard(b, dim=0, **model),
        Shard(down, dim=0, **model),
    )

    def over(share: bool) -> list[Value]:
        state = Parameter(tensor(DType.F32, 4, 32), "state")
        turn, keep = (
            Parameter(tensor(DType.I64), "i"),
            Parameter(tensor(DType.BOOL), "c"),
        )
        if share:
            made: Value = AllReduce(_mlp(state, *parts), combiner="sum", **model)
        else:
            made = _mlp(state, up, b, down)
        body = Graph([turn, keep, state], [keep, made, made])
        limit, yes = Constant(np.array(3)), Constant(np.array(True))
        end, rows = Loop(limit, yes, x, bodies=(body,)).results
        then, other = Parameter(x.type, "a"), Parameter(x.type, "b")
        doubled: Value = Add(then, then)
        if share:
            eighth = Mul(doubled, Constant(np.float32(0.125)))
            doubled = AllReduce(eighth, combiner="sum", **model)
        bodies = Graph([then], [doubled]), Graph([other], [Relu(other)])
        return [If(sure, end, bodies=bodies), rows]

    graph = Graph([x, sure], over(False), output_names=["y", "rows"])
    made = Graph([x, sure], over(True), output_names=["y", "rows"])
    program = Program(mesh, made, ((R,), (R,)), ((R,), (R,)))
    return Case(graph, program, {"x": normal(4, 32), "sure": np.array(True)})


def scanned() -> Case:
    """Stored parts in the body of a Scan over what devices have of each slice."""
    mesh = Mesh.parse("data=2,model=4")
    data, model = on(mesh, "data"), on(mesh, "model")
    w = weight(16, 16)

    def over(rows: int, weight: Value, share: bool) -> tuple[Parameter, list[Value]]:
        x = Parameter(tensor(DType.F32, 5, rows, 16), "x")
        state, row = (Parameter(tensor(DType.F32, rows, 16), n) for n in ("s", "r"))
        product: Value = MatMul(Add(state, row), weight)
        if share:
            product = AllGather(product, dim=1, **model)
        total: Value = ReduceSum(row, ints(0), keepdims=0)
        if share:
            total = AllReduce(total, combiner="sum", **data)
        body = Graph([state, row], [product, total])
        zeros = Constant(np.zeros((rows, 16), np.float32))
        return x, list(Scan(zeros, x, num_scan_inputs=1, bodies=(body,)).results)

    x, whole = over(8, w, False)
    part, local = over(4, Shard(w, dim=1, **model), True)
    graph = Graph([x], whole, output_names=["y", "sums"])
    made = Graph([part], local, output_names=["y", "sums"])
    program = Program(mesh, made, ((S(1), R),), ((S(0), R), (R, R)))
    return Case(graph, program, {"x": normal(5, 8, 16)})


def moved() -> Case:
    """Halves turned as in rotary embeddings, and sums up to each position."""
    mesh = Mesh.parse("data=2,model=4")
    x = Parameter(tensor(DType.F32, 4, 64), "x")
    first, second = Split(x, ints(32, 32), axis=1, outs=2).results
    turned = Concat(second, first, axis=1)
    last = Slice(x, ints(-1), ints(64), ints(1))
    sums = CumSum(turned, Constant(np.array(1)))
    graph = Graph([x], [turned, last, sums], output_names=["turned", "last", "sums"])
    forms = {"Split": "moved", "Concat": "moved", "Slice": "added", "CumSum": "running"}
    return _chosen(graph, mesh, forms, {x: (S(0), S(1))}, {"x": normal(4, 64)})


def keys() -> Case:
    """Two tokens written into a cache whose positions are in parts, which they read."""
    mesh = Mesh.parse("data=2,model=4")
    q = Parameter(tensor(DType.F32, 2, 8, 2, 4), "q")
    rows = Parameter(tensor(DType.F32, 2, 4, 2, 4), "rows")
    at = Parameter(tensor(DType.I64, 2), "at")
    old = [Parameter(tensor(DType.F32, 2, 4, 32, 4), name) for name in ("k", "v")]
    new = [TensorScatter(cache, rows, at, axis=2) for cache in old]
    made = Attention(q, *new, None, None, None, Add(at, ints(2)), is_causal=1)
    graph = Graph([q, rows, at, *old], [made, *new], output_names=["y", "nk", "nv"])
    given = {q: (S(0), R), rows: (S(0), R), at: (S(0), R)}
    given |= dict.fromkeys(old, (S(0), S(2)))
    arrays = {p.name: normal(*map(int, p.shape or ())) for p in (q, rows, *old)}  # type: ignore[arg-type]
    forms = {"TensorScatter": "written", "Attention": "combined"}
    fed = {**arrays, "at": np.array([5, 22])}
    return _chosen(graph, mesh, forms, given, fed)


def experts() -> Case:
    """Tokens go to their experts, which other devices have, and come back."""
    graph, mesh = mixture(layers=1), Mesh.parse("model=8")
    made = Planner(graph, Machine.of("h100", mesh))
    plan = hand_plan(made, ["experts"])
    return Case(graph, partition(graph, mesh, plan.decisions), tokens())


def _chosen(
    graph: Graph,
    mesh: Mesh,
    forms: dict[str, str],
    given: dict[Value, Layout],
    inputs: dict[str, Any],
) -> Case:
    """Ops by parts of the batch along the first axis, in these forms along the second.

    Results are in parts of the batch, and along the second axis as they can be.
    """
    chosen = {
        op: next(
            choice
            for choice in choices(op, mesh)
            if [way.form for way in choice.ways] == ["plain", forms[op.kind]]
            and all(layout[0] == S(0) for layout in choice.results)
        )
        for op in graph.ops
        if op.kind in forms
    }
    return Case(graph, partition(graph, mesh, Decisions(chosen, given)), inputs)


def ints(*values: int) -> Constant:
    return Constant(np.array(values, np.int64))


def _case(
    mesh: Mesh,
    x: Parameter,
    whole: Value,
    part: Parameter,
    local: Value,
    given: Layout,
    left: Layout,
) -> Case:
    """Of one input and one output."""
    graph = Graph([x], [whole], output_names=["y"])
    made = Graph([part], [local], output_names=["y"])
    assert x.shape is not None
    array = normal(*x.shape)
    return Case(graph, Program(mesh, made, (given,), (left,)), {"x": array})


CASES: Final[dict[str, Callable[[], Case]]] = {
    "megatron": megatron,
    "fsdp": fsdp,
    "sequence": sequence,
    "grid": grid,
    "nested": nested,
    "places": places,
    "turns": turns,
    "scanned": scanned,
    "moved": moved,
    "keys": keys,
    "experts": experts,
    "sum": partial(merged, "sum", DType.F32, ReduceSum),
    "max": partial(merged, "max", DType.F32, ReduceMax),
    "min": partial(merged, "min", DType.I64, ReduceMin),
    "prod": partial(merged, "prod", DType.F32, ReduceProd),
    "any": partial(merged, "max", DType.BOOL, ReduceMax),
    "all": partial(merged, "min", DType.BOOL, ReduceMin),
}


def copies(array: Any) -> float:
    """How often this process has each of the parts that are there."""
    shards = array.addressable_shards
    places = {shard.data.unsafe_buffer_pointer() for shard in shards}
    return len(places) / len({str(shard.index) for shard in shards})


def main(out: str, names: list[str]) -> None:
    """Run cases on 8 CPU devices, those of all processes together.

    Outputs are saved as ``case/output``, and what the program says of itself as JSON.
    """
    from graphopt.lowering.xla.environment import show_devices

    show_devices(8)
    import jax

    from graphopt.lowering.xla.distributed import is_first, join
    from graphopt.lowering.xla.sharded import ShardedProgram
    from graphopt.lowering.xla.shards import bytes_held

    join()
    arrays: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for name in names:
        case = CASES[name]()
        program = ShardedProgram(case.program, "xla-cpu", jax.devices())
        made = program(case.inputs)
        arrays |= {f"{name}/{output}": array for output, array in made.items()}
        traffic, memory = program.traffic(case.inputs), program.memory(case.inputs)
        said[name] = {
            **program.used(),
            "sent": traffic.total,
            "complete": traffic.complete,
            "argument": memory.argument,
            "weights": bytes_held(program.sharded.weights),
            "copies": max(map(copies, program.params.values()), default=1),
        }
    if is_first():
        np.savez(f"{out}.npz", **arrays)
        Path(f"{out}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
