"""Tokens one after the other on a mesh: the cache never leaves its devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt import ops
from graphopt.ir import Graph, Parameter, Value
from graphopt.reference import run
from graphopt.types import DType, tensor

pytestmark = pytest.mark.xla

BATCH, HEADS, LENGTH, EACH, WORDS = 4, 4, 16, 8, 32
WIDTH = HEADS * EACH


def decoder() -> Graph:
    """One token of each sample, keys and values written into buffers."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Value:
        return ops.Constant(rng.normal(size=shape).astype(np.float32) / 4)

    def heads(x: Value) -> Value:
        shaped = ops.Reshape(x, ops.Constant(np.array([BATCH, 1, HEADS, EACH])))
        return ops.Transpose(shaped, perm=(0, 2, 1, 3))

    ids = Parameter(tensor(DType.I64, BATCH, 1), "ids")
    at = Parameter(tensor(DType.I64, BATCH), "at")
    shape = (BATCH, HEADS, LENGTH, EACH)
    old = [Parameter(tensor(DType.F32, *shape), n) for n in ("keys", "values")]
    x = ops.Gather(weight(WORDS, WIDTH), ids, axis=0)
    q, *rows = (heads(ops.MatMul(x, weight(WIDTH, WIDTH))) for _ in range(3))
    new = [ops.TensorScatter(b, r, at, axis=2) for b, r in zip(old, rows, strict=True)]
    count = ops.Add(at, ops.Constant(np.array([1])))
    seen = ops.Attention(q, *new, None, None, None, count)
    turned = ops.Transpose(seen, perm=(0, 2, 1, 3))
    merged = ops.Reshape(turned, ops.Constant(np.array([BATCH, 1, WIDTH])))
    logits = ops.MatMul(merged, weight(WIDTH, WORDS))
    names = ["logits", "new_keys", "new_values"]
    return Graph([ids, at, *old], [logits, *new], output_names=names)


def steps(count: int) -> dict[str, Any]:
    """Errors of the logits, and whether the buffers lie as the next step wants them."""
    graph = decoder()
    made = graphopt.shard(graph, (2, 2), "xla-cpu", max_memory=60_000)
    program: Any = made.compile("xla-cpu")
    zeros = np.zeros((BATCH, HEADS, LENGTH, EACH), np.float32)
    truth: dict[str, Any] = dict.fromkeys(("keys", "values"), zeros)
    state, ids = dict(truth), np.zeros((BATCH, 1), np.int64)
    errors = []
    for step in range(count):
        fed = {"ids": ids, "at": np.full(BATCH, step)}
        out = program.on_mesh({**fed, **state})
        ref = run(graph, {**fed, **truth})
        state = {name: out[f"new_{name}"] for name in state}
        truth = {name: ref[f"new_{name}"] for name in truth}
        errors.append(float(np.abs(np.asarray(out["logits"]) - ref["logits"]).max()))
        ids = np.argmax(ref["logits"], -1)
    function = program.sharded
    stay = [
        array.sharding.is_equivalent_to(function.sharding(function.specs[name]), 4)
        for name, array in state.items()
    ]
    split = [array.sharding.is_fully_replicated for array in state.values()]
    return {"errors": errors, "stay": stay, "whole": split}


@pytest.mark.slow
def test_a_cache_stays_on_its_devices() -> None:
    done = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["stay"] == [True, True]
    assert found["whole"] == [False, False]
    assert len(found["errors"]) == 5
    assert max(found["errors"]) < 1e-5


if __name__ == "__main__":
    print(json.dumps(steps(5)))
