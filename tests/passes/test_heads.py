"""Queries, keys and values by head, in the ways that they are among the batch."""

from __future__ import annotations

import numpy as np
from equations import N, graph_of, ints, param, typed

from graphopt.dims import Dim
from graphopt.ir import Value
from graphopt.ops import Reshape, Transpose
from graphopt.passes.heads import by_head
from graphopt.reference import evaluate
from graphopt.types import DType, TensorType


def merged(name: str, size: int, rows: Dim = 5) -> Value:
    """Heads that were merged into the batch."""
    return Reshape(param(name, 2, 3, rows, size), ints(6, -1, size))


def test_operands_by_head() -> None:
    q, k, v = (param(n, 2, 3, 5, 4) for n in "qkv")
    assert by_head(q, k, v, []) is not None
    for one in (param("k", 1, 3, 5, 4), param("k", 2, 1, 5, 4)):
        assert by_head(q, one, v, []) is None
        assert by_head(q, k, one, []) is None
        assert by_head(one, k, v, []) is None
    unknown = typed("u", TensorType(DType.F32))
    for i in range(3):
        given = [q, k, v]
        given[i] = unknown
        assert by_head(given[0], given[1], given[2], []) is None
    assert by_head(q, k, v, [param("m", 2, 1, 5, 5)]) is not None
    assert by_head(q, k, v, [param("m", 3, 1, 5, 5)]) is None


def test_masks_of_merged_heads_are_split_too() -> None:
    """Slopes of positions, as BLOOM adds them."""
    q, k, v = (merged(n, 4) for n in "qkv")
    m = param("m", 6, 1, 5)
    found = by_head(q, k, v, [m])
    assert found is not None
    assert not found.heads
    numbers = np.arange(30, dtype=np.float32).reshape(6, 1, 5)
    made = evaluate(graph_of(found.masks[0], m), {"m": numbers})[0]
    np.testing.assert_array_equal(made, numbers.reshape(2, 3, 1, 5))
    one = param("m", 1, 5, 5)
    found = by_head(q, k, v, [one])
    assert found is not None
    assert found.masks == [one]


def test_a_head_of_keys_and_values_for_all_queries() -> None:
    q, k, v = param("q", 2, 3, 5, 4), param("k", 2, 1, 5, 4), param("v", 2, 1, 5, 4)
    assert by_head(q, k, v, [param("m", 2, 3, 5, 5)]) is not None
    assert by_head(q, k, v, [param("m", 2, 2, 5, 5)]) is None
    assert by_head(q, param("k", 1, 1, 5, 4), v, []) is None


def test_results_of_merged_heads_have_their_rows() -> None:
    q, k, v = merged("q", 4, N), merged("k", 4, N), merged("v", 7, N)
    assert k.rank == 3
    found = by_head(q, k, v, [])
    assert found is not None
    assert found.q.rank == 4
    y = param("y", 2, 3, N, 7)
    graph = graph_of(found.restored(y), q)
    numbers = np.arange(2 * 3 * 5 * 7, dtype=np.float32).reshape(2, 3, 5, 7)
    feeds = {"y": numbers, "q": np.zeros((2, 3, 5, 4), np.float32)}
    made = evaluate(graph, feeds)[0]
    np.testing.assert_array_equal(made, numbers.reshape(6, 5, 7))


def test_positions_first_and_a_mask_of_batches() -> None:
    """One instance is left out: a mask of two is of something else."""
    q, k, v = (Transpose(param(n, 5, 3, 4), perm=(1, 0, 2)) for n in "qkv")
    found = by_head(q, k, v, [param("m", 3, 5, 5)])
    assert found is not None
    assert found.heads["q_num_heads"] == 3
    assert by_head(q, k, v, [param("m", 2, 1, 5, 5)]) is None
