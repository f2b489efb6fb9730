"""Each op against ONNX Runtime, onnx's reference, its body, XLA and float64."""

from __future__ import annotations

import functools

import cases_activation
import cases_attention
import cases_contraction
import cases_elementwise
import cases_generation
import cases_normalization
import cases_reduction
import pytest
import single
from single import Case, NoAnswer
from verdicts import VERDICTS

FAMILIES = [
    cases_activation,
    cases_attention,
    cases_contraction,
    cases_elementwise,
    cases_generation,
    cases_normalization,
    cases_reduction,
]


@functools.cache
def by_kind(every: bool = False) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for family in FAMILIES:
        for case in family.cases(every):
            found.setdefault(case.kind, []).append(case)
    return found


CASES = by_kind()

KINDS = sorted(CASES)


def faults_of_meaning(cases: list[Case]) -> list[str]:
    faults = []
    for case in cases:
        answered = False
        for peer in (single.runtime, single.reference):
            try:
                answers = peer(case)
            except NoAnswer:
                continue
            answered = True
            faults += single.disagreements(case, peer.__name__, answers)
        if not answered and not single.verdict(f"nobody: {case}"):
            faults.append(f"nobody runs {case}")
    return faults


@pytest.mark.parametrize("kind", KINDS)
def test_meaning(kind: str) -> None:
    assert faults_of_meaning(CASES[kind]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_types(kind: str) -> None:
    faults = [fault for case in CASES[kind] for fault in single.type_faults(case)]
    assert faults == []


@pytest.mark.parametrize("kind", KINDS)
def test_vague_operands(kind: str) -> None:
    faults = [fault for case in CASES[kind] for fault in single.vague_faults(case)]
    assert faults == []


@pytest.mark.parametrize("kind", KINDS)
def test_bodies(kind: str) -> None:
    faults = []
    for case in CASES[kind]:
        answers = single.expanded(case)
        if answers is not None:
            faults += single.disagreements(case, "body", answers)
    assert faults == []


@pytest.mark.parametrize("kind", KINDS)
def test_float64(kind: str) -> None:
    faults = []
    for case in CASES[kind]:
        faults += single.disagreements(case, "float64", single.widened(case))
    assert faults == []


@pytest.mark.xla
@pytest.mark.parametrize("kind", KINDS)
def test_traced(kind: str) -> None:
    pytest.importorskip("jax")
    cases = [case for case in CASES[kind] if case.traced][:2]
    faults = []
    for case in cases:
        faults += single.disagreements(case, "traced", single.traced(case))
    assert faults == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_combination(kind: str) -> None:
    cases = by_kind(every=True)[kind]
    faults = faults_of_meaning(cases)
    for case in cases:
        faults += single.type_faults(case)
        faults += single.vague_faults(case)
        faults += single.disagreements(case, "float64", single.widened(case))
        answers = single.expanded(case)
        if answers is not None:
            faults += single.disagreements(case, "body", answers)
    assert faults == []


@pytest.mark.slow
def test_every_verdict_is_needed() -> None:
    """Runs after the others of this module."""
    assert set(VERDICTS) - single.used == set()
