"""Orders that are found at once; ONNX Runtime's by what it runs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.passes.memory import Task, Tasks
from graphopt.passes.memory.orders import RANKS, greedy, reverse_depth_first


def drawn(seed: int, count: int = 30) -> tuple[Tasks, onnx.ModelProto]:
    """Random tasks of one buffer each, and a model of the same ops."""
    rng = random.Random(seed)
    reads = [
        rng.sample(range(max(0, i - 8), i), min(i, rng.randint(1, 2)))
        for i in range(count)
    ]
    read = {j for each in reads for j in each}
    ends = [i for i in range(count) if i not in read]
    nodes = [
        helper.make_node(
            "Add" if len(each) == 2 else "Neg" if each else "Abs",
            [f"v{j}" for j in each] or ["x"],
            [f"v{i}"],
            f"n{i}",
        )
        for i, each in enumerate(reads)
    ]
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, [4]) for i in ends],
    )
    opsets = [helper.make_opsetid("", 17)]
    tasks = Tasks(
        tuple(
            Task(frozenset(each), frozenset({i}), frozenset())
            for i, each in enumerate(reads)
        ),
        (16,) * count,
        frozenset(ends),
    )
    return tasks, helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.runtime
@pytest.mark.parametrize("seed", range(6))
def test_reverse_depth_first_is_what_onnx_runtime_does(
    seed: int, tmp_path: Path
) -> None:
    ort = pytest.importorskip("onnxruntime")
    tasks, model = drawn(seed)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    session.run(None, {"x": np.ones(4, np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    suffix = "_kernel_time"
    ran = [e["name"] for e in events if e["name"].endswith(suffix)]
    expected = [f"n{i}{suffix}" for i in reverse_depth_first(tasks)]
    assert ran == expected
    assert expected != [f"n{i}{suffix}" for i in tasks.file_order]


def test_greedy_follows_its_rank() -> None:
    """Of 0, 1 and 2, the third makes least; 3 shrinks once 0 ran."""
    tasks = Tasks(
        tuple(
            Task(frozenset(reads), frozenset(makes), frozenset())
            for reads, makes in (([], [0]), ([], [1]), ([], [2]), ([0], [3]))
        ),
        (30, 20, 10, 5),
        frozenset(range(1, 4)),
    )
    assert greedy(tasks, RANKS["least growth"]) == (2, 1, 0, 3)
    assert greedy(tasks, RANKS["latest ready"]) == (2, 1, 0, 3)
    assert greedy(tasks, lambda step, growth, ready: (-growth,)) == (0, 1, 2, 3)


def test_greedy_sees_what_dies_meanwhile() -> None:
    """Task 2 is worth nothing until 1, the other reader, ran."""
    tasks = Tasks(
        tuple(
            Task(frozenset(reads), frozenset(makes), frozenset())
            for reads, makes in (([], [0]), ([0], [1]), ([0], [2]), ([], [3]))
        ),
        (30, 1, 20, 5),
        frozenset({1, 2, 3}),
    )
    assert greedy(tasks, RANKS["least growth"]) == (3, 0, 1, 2)
