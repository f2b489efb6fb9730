"""Mutants of graphs: one wrong op must make the check fail.

Each op of some twenty graphs (`mutation_graphs`) and of the model that comes with the
repository is changed in every way that leaves the types as they were (`mutation_ops`).
What the check does not notice must be known here, with its reason: as another way to
say the same, or as a difference that no input of the check happens to show.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import NamedTuple

import pytest
from conftest import MODELS
from mutation_graphs import builders
from mutation_ops import mutants_of

from graphopt import check, load

GRAPHS = [*builders, "digits"]
SHARES = {"digits": 2}
"""Of large graphs one mutant of so many is tried."""

_CLAMPED = "a bound beyond the end means the end, and from 5 down 6 is 7 is 8 is none"
_UNREACHED = "with these strides no window gets there, and it would not count"
EQUIVALENT = {
    "attention: Trilu 1, operand 0[18]": "it lies below the diagonal",
    "reductions: ReduceMin 1, operand 1 = [2, 1]": "the order of axes means nothing",
    "slices: Slice 3, operand 1 = [6]": _CLAMPED,
    "slices: Slice 3, operand 2 = [-6]": "5, 3, 1: neither 0 nor -1 is on the way",
    "slices: Slice 3, operand 2 = [-8]": _CLAMPED,
    "slices: Slice 3, window moved": _CLAMPED,
    "pooling: MaxPool 1, ceil_mode=1": "the strides divide what there is",
    "pooling: MaxPool 1, pads=(1, 0, 1, 1)": _UNREACHED,
    "pooling: AveragePool 1, ceil_mode=1": "the strides divide what there is",
    "pooling: AveragePool 1, pads=(1, 1, 1, 0)": _UNREACHED,
    "pooling: AveragePool 2, pads=(1, 0, 2, 1)": "the border does not count",
    "branches: ReduceSum 1, ReduceMean instead": "the mean has the sign of the sum",
    "gemms: Gemm 2, beta=3.0": "there is no bias that it could scale",
    "activations: Clip 1, operands 0, 1": "max(x, low) = max(low, x)",
    "digits: Conv 2, pads=(1, 1, 0, 1)": "with a stride of 2 no window gets there",
    "digits: Add 2, operand 0[31]": (
        "the bias of the keys adds one number to all scores of a query,"
        " and softmax takes only their differences"
    ),
}
"""Mutants that compute the same, and why."""

MISSED = {
    "branches: Greater 1, operand 1[0]": (
        "the branch is another one only where a sum is between 0 and 0.1"
    ),
}
"""Mutants that differ where the inputs of the check do not go."""


class Verdict(NamedTuple):
    kind: str
    caught: bool


@cache
def verdicts(name: str) -> dict[str, Verdict]:
    """Whether the check fails for each mutant of a graph."""
    graph = load(MODELS / "digits.onnx") if name == "digits" else builders[name]()
    same = check(graph, graph, mode="full")
    assert same.passed
    assert not same.unchecked
    return {
        mutant.key: Verdict(mutant.kind, not check(graph, mutant.graph).passed)
        for mutant in mutants_of(graph, name, SHARES.get(name, 1))
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_what_survives_is_known(name: str) -> None:
    found = verdicts(name)
    known = {key for key in EQUIVALENT | MISSED if key.startswith(f"{name}: ")}
    survivors = {key for key, verdict in found.items() if not verdict.caught}
    assert survivors <= known, f"the check passes {sorted(survivors - known)}"
    assert known <= set(found), f"no such mutants: {sorted(known - set(found))}"
    assert known <= survivors, f"the check fails now: {sorted(known - survivors)}"


@pytest.mark.slow
def test_nearly_all_are_caught() -> None:
    every = {key: v for name in GRAPHS for key, v in verdicts(name).items()}
    wrong = {key: v for key, v in every.items() if key not in EQUIVALENT}
    caught = [key for key, verdict in wrong.items() if verdict.caught]
    print(f"{len(every)} mutants of graphs, {len(every) - len(wrong)} of them equal")
    print(f"{len(caught)} of {len(wrong)} caught; by kind:")
    kinds = Counter(verdict.kind for verdict in wrong.values())
    print(", ".join(f"{kind} {count}" for kind, count in kinds.items()))
    for key in sorted(set(wrong) - set(caught)):
        print(f"survived: {key} ({MISSED.get(key, 'no reason known')})")
    assert len(wrong) >= 400
    assert len(caught) >= 0.98 * len(wrong)
    expected = {"dropped op", "swapped", "kind", "attribute", "lost attribute"}
    assert set(kinds) == expected | {"axis", "epsilon", "weight", "bound"}
