"""Sharded programs written by hand, with the graphs that they share out.

`CASES` by name: a graph for one device, a program for eight, and inputs. Run as a
script, it has JAX run one of them: see `main`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from graphopt import Graph
from graphopt.index import Replicated, Split
from graphopt.ir import Parameter, Value
from graphopt.ops import (
    Add,
    Constant,
    MatMul,
    Relu,
)
from graphopt.ops.mesh import (
    AllReduce,
    Shard,
)
from graphopt.passes.sharding import Mesh, Program
from graphopt.types import DType, tensor

R: Final = Replicated()


def S(dim: int) -> Split:
    return Split(dim)


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


CASES: Final[dict[str, Callable[[], Case]]] = {"megatron": megatron}


def main(out: str, names: list[str]) -> None:
    """Run cases on 8 CPU devices, those of all processes together.

    Outputs are saved as ``case/output``, and what the program says of itself as JSON.
    """
    from graphopt.lowering.xla.environment import show_devices

    show_devices(8)
    import jax

    from graphopt.lowering.xla.distributed import is_first, join
    from graphopt.lowering.xla.sharded import ShardedProgram

    join()
    arrays: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for name in names:
        case = CASES[name]()
        program = ShardedProgram(case.program, "xla-cpu", jax.devices())
        made = program(case.inputs)
        arrays |= {f"{name}/{output}": array for output, array in made.items()}
        said[name] = dict(program.used())
    if is_first():
        np.savez(f"{out}.npz", **arrays)
        Path(f"{out}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
