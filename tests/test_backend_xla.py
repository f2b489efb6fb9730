"""ONNX's backend suite on XLA: the stored outputs, or a refusal that names the op."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

import pytest
from backend_suite import Case, cases, disagreement

import graphopt

pytest.importorskip("jax")
pytestmark = pytest.mark.xla

REFUSED: Final = {
    # the extent of the result is data
    "NonMaxSuppression": 10,
    "Unique": 3,
    # XLA has no strings
    "Equal": 2,
    "LabelEncoder": 4,
    "RegexFullMatch": 3,
    "StringConcat": 5,
    "StringNormalizer": 12,
    "StringSplit": 6,
    # a codec of the host
    "ImageDecoder": 9,
    # not modelled
    "Gradient": 2,
}
"""How many cases of an op XLA does not run."""

LEFT_OUT: Final = re.compile("test_bernoulli")
"""Cases without a right answer: they draw random numbers, and do not say how."""


def outcome(case: Case) -> str:
    """The op that is refused; "" where all agrees. Raises AssertionError."""
    try:
        for inputs, outputs in case.data:
            made = graphopt.run_model(case.model, inputs, target="xla-cpu")
            wrong = disagreement(outputs, made, case)
            assert not wrong, f"{case.name}: {wrong}"
    except NotImplementedError as error:
        said = f"{case.name}: {error}"
    else:
        return ""
    named = [op for op in REFUSED if re.search(rf"\b{op}\b", said)]
    assert named, said
    return named[0]


def chosen(step: int) -> list[Case]:
    """Cases without those that are function bodies, written out."""
    plain = [case for case in cases() if "_expanded" not in case.name]
    return [case for case in plain[::step] if not LEFT_OUT.match(case.name)]


def test_a_sample_of_the_suite() -> None:
    sample = chosen(40)
    refused = [op for op in map(outcome, sample) if op]
    assert len(refused) < len(sample) / 10


@pytest.mark.slow
def test_the_suite() -> None:
    """All 1,553 cases: 1,494 agree, 3 are left out, the rest is refused by name."""
    found = Counter(map(outcome, chosen(1)))
    assert found.pop("") >= 1494
    assert found == REFUSED
