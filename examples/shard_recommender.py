"""Run a recommender whose embedding tables are larger than the memory of a device.

    pip install 'graphopt[jax]'
    python examples/shard_recommender.py recommender.onnx

Users, items, shops and cities are looked up in tables, and meet in an MLP, as in DLRM
(Naumov et al., arXiv 1906.00091). Nobody says how to share them out: a plan is found
in which no device holds more than a limit, which is less than what the largest table
takes. It is run on eight virtual devices of this CPU, and what these hold is counted.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt import ops
from graphopt.exporter import save
from graphopt.ir import Graph, Parameter, Value
from graphopt.mesh_view import mesh_facts, mesh_lines
from graphopt.report import sized
from graphopt.types import DType, TensorType

TABLES = {"user": 65536, "item": 32768, "shop": 8192, "city": 1024}
BATCH, NUMBERS, WIDTH = 256, 16, 64
LIMIT = 5 << 20


def weight(seed: int, *shape: int) -> ops.Constant:
    random = np.random.default_rng(seed)
    array = shape[-1] ** -0.5 * random.normal(size=shape)
    return ops.Constant(array.astype(np.float32))


def mlp(x: Value, *sizes: int) -> Value:
    """Products with a Relu between them."""
    for i, size in enumerate(sizes):
        assert x.shape is not None
        x = ops.MatMul(ops.Relu(x) if i else x, weight(size + i, x.shape[-1], size))
    return x


def recommender() -> Graph:
    """Ids and numbers of a user and an item --> how likely one takes the other."""
    numbers = Parameter(TensorType(DType.F32, (BATCH, NUMBERS)), "numbers")
    ids = [Parameter(TensorType(DType.I64, (BATCH,)), name) for name in TABLES]
    tables = [weight(i, rows, WIDTH) for i, rows in enumerate(TABLES.values())]
    dense = mlp(numbers, 256, WIDTH)
    found = [ops.Gather(t, i) for t, i in zip(tables, ids, strict=True)]
    axis = ops.Constant(np.array([1]))
    rows = ops.Concat(*[ops.Unsqueeze(x, axis) for x in (dense, *found)], axis=1)
    pairs = ops.MatMul(rows, ops.Transpose(rows, perm=(0, 2, 1)))
    met = ops.Concat(dense, ops.Flatten(pairs, axis=1), axis=1)
    score = ops.Sigmoid(mlp(met, 256, 128, 1))
    return Graph(
        [numbers, *ids],
        [score],
        output_names=["score"],
        names={t: f"table.{n}" for t, n in zip(tables, TABLES, strict=True)},
    )


def batch() -> dict[str, Any]:
    random = np.random.default_rng(0)
    ids = {name: random.integers(0, rows, BATCH) for name, rows in TABLES.items()}
    return {"numbers": random.normal(size=(BATCH, NUMBERS)).astype(np.float32), **ids}


def held(weights: Mapping[str, Any]) -> Counter[str]:
    """The bytes of weights on each device of JAX, by its name."""
    found: Counter[str] = Counter()
    for array in weights.values():
        for shard in array.addressable_shards:
            found[str(shard.device)] += shard.data.nbytes
    return found


def main() -> None:
    """Write the recommender, plan it, run it on virtual devices, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="where to write it")
    parser.add_argument("--mesh", default="8")
    options = parser.parse_args()
    save(recommender(), options.model)

    planned = graphopt.shard(
        options.model, options.mesh, "xla-cuda:h100", max_memory=LIMIT
    )
    print(*mesh_lines(mesh_facts(planned)), sep="\n")

    inputs = batch()
    program = planned.compile("xla-cpu")
    score = program(inputs)["score"]
    (expected,) = graphopt.run_model(options.model, inputs)
    tables = sum(TABLES.values()) * WIDTH * 4
    print(f"\nthe tables take {sized(tables)}, a device may hold {sized(LIMIT)}")
    for device, size in held(program.params).items():  # type: ignore[attr-defined]
        print(f"{device} holds {sized(size)}")
        if size > LIMIT:
            sys.exit("which is too much")
    error = np.abs(score - expected).max()
    print(f"scores are {error:.1e} from the reference")
    if error > 1e-5:
        sys.exit("which is too much")


if __name__ == "__main__":
    main()
