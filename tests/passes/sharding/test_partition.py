"""Random plans of random graphs: what all devices compute together is the whole."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from random_plans import judged, on_sizes

from graphopt import testing
from graphopt.ir import Graph

MESHES = ("2", "4", "2x2", "2x2x2")

RELAXED = list(HealthCheck)


def check(graph: Graph, seed: int, mesh: str) -> None:
    sized = on_sizes(graph)
    assume(sized is not None)
    assert sized is not None
    found = judged(sized, seed, mesh)
    assume(found is not None)
    assert found is not None
    assert found.right, found


@settings(max_examples=50, deadline=None, suppress_health_check=RELAXED)
@given(testing.graphs(), st.integers(0, 1 << 30), st.sampled_from(MESHES))
def test_random_plans_of_random_graphs(graph: Graph, seed: int, mesh: str) -> None:
    check(graph, seed, mesh)


@pytest.mark.slow
@settings(max_examples=600, deadline=None, suppress_health_check=RELAXED)
@given(testing.graphs(max_ops=20), st.integers(0, 1 << 30), st.sampled_from(MESHES))
def test_many_random_plans_of_random_graphs(graph: Graph, seed: int, mesh: str) -> None:
    check(graph, seed, mesh)
