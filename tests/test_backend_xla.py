"""ONNX's backend suite on XLA: the stored outputs, or a refusal that names the op."""

from __future__ import annotations

import re
from typing import Final

import pytest
from backend_suite import Case, cases, disagreement

import graphopt

pytest.importorskip("jax")
pytestmark = pytest.mark.xla

_EXTENT: Final = "the extent of its result is data"
_STRINGS: Final = "XLA has no strings"
_TRAINING: Final = "an op of the training preview, not modelled"

REFUSED: Final = {
    "Adagrad": _TRAINING,
    "Adam": _TRAINING,
    "Equal": _STRINGS,
    "FlexAttention": "an op of a preview domain, not modelled",
    "Gradient": _TRAINING,
    "ImageDecoder": "needs an image codec",
    "LabelEncoder": _STRINGS,
    "Momentum": _TRAINING,
    "NonMaxSuppression": _EXTENT,
    "RegexFullMatch": _STRINGS,
    "Scan": "version 8 scans a batch at a time, not modelled",
    "StringConcat": _STRINGS,
    "StringNormalizer": _STRINGS,
    "StringSplit": _STRINGS,
    "TreeEnsemble": "an op of ai.onnx.ml, not modelled",
    "Unique": _EXTENT,
}
"""Ops that XLA does not run, and why."""

RANDOM: Final = re.compile("test_bernoulli")
"""Cases that draw random numbers, and do not say how."""

LEAST: Final = 1464
"""Cases that agree, of 1,544."""


def outcome(case: Case) -> str:
    """The op that is refused; "" where all agrees. Raises AssertionError."""
    try:
        for inputs, outputs in case.data:
            made = graphopt.run_model(case.model, inputs, target="xla-cpu")
            said = disagreement(outputs, made, case)
            assert not said, f"{case.name}: {said}"
    except NotImplementedError as error:
        said = f"{case.name}: {error}"
    else:
        return ""
    named = [op for op in REFUSED if re.search(rf"\b{op}\b", said)]
    assert named, said
    return named[0]


def chosen(step: int) -> list[Case]:
    plain = [case for case in cases() if not case.name.endswith("_expanded")]
    return [case for case in plain[::step] if not RANDOM.match(case.name)]


def test_a_sample_of_the_suite() -> None:
    for case in chosen(40):
        outcome(case)


@pytest.mark.slow
def test_the_suite() -> None:
    assert sum(not outcome(case) for case in chosen(1)) >= LEAST
