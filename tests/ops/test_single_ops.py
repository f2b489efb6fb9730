"""Each op against ONNX Runtime, onnx's reference, its body, XLA and float64."""

from __future__ import annotations

import functools
import os
from types import ModuleType

import cases_activation
import cases_attention
import cases_contraction
import cases_convolution
import cases_elementwise
import cases_generation
import cases_indexing
import cases_movement
import cases_normalization
import cases_quantization
import cases_recurrent
import cases_reduction
import cases_sampling
import cases_strings
import comparison
import peers
import pytest
import type_faults
from peers import NoAnswer
from single import Case
from verdicts import VERDICTS

from graphopt import ops
from graphopt.ops.registry import RUNTIME, kinds

FAMILIES = [
    cases_activation,
    cases_attention,
    cases_contraction,
    cases_convolution,
    cases_elementwise,
    cases_generation,
    cases_indexing,
    cases_movement,
    cases_normalization,
    cases_quantization,
    cases_recurrent,
    cases_reduction,
    cases_sampling,
    cases_strings,
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
TRACED = 1
"""So many cases of each kind are compiled by XLA, which takes its time."""
RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
"""No two generators agree: see `test_random_ops`."""


def faults_of_meaning(cases: list[Case]) -> list[str]:
    faults = []
    for case in cases:
        answered = False
        for peer in (peers.runtime, peers.reference):
            try:
                answers = peer(case)
            except NoAnswer:
                continue
            answered = True
            faults += comparison.disagreements(case, peer.__name__, answers)
        if not answered and not comparison.verdict(f"nobody: {case}"):
            faults.append(f"nobody runs {case}")
    return faults


def test_no_op_of_a_tried_module_is_left_out() -> None:
    modules = {kinds["", kind].__module__ for kind in KINDS}
    wanted = {k for (_, k), cls in kinds.items() if cls.__module__ in modules}
    assert wanted - set(KINDS) == RANDOM


def test_every_op_is_there_by_its_name() -> None:
    for (domain, kind), cls in kinds.items():
        home: ModuleType = ops
        if domain == ops.mesh.MESH:
            home = ops.mesh
        elif domain in (ops.contrib.DOMAIN, RUNTIME):
            home = ops.contrib
        assert getattr(home, kind) is cls, (domain, kind)


@pytest.mark.runtime
@pytest.mark.parametrize("kind", KINDS)
def test_meaning(kind: str) -> None:
    pytest.importorskip("onnxruntime")
    assert faults_of_meaning(CASES[kind]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_types(kind: str) -> None:
    faults = [fault for case in CASES[kind] for fault in type_faults.type_faults(case)]
    assert faults == []


@pytest.mark.parametrize("kind", KINDS)
def test_vague_operands(kind: str) -> None:
    faults = [fault for case in CASES[kind] for fault in type_faults.vague_faults(case)]
    assert faults == []


@pytest.mark.parametrize("kind", KINDS)
def test_bodies(kind: str) -> None:
    faults = []
    for case in CASES[kind]:
        answers = peers.expanded(case)
        if answers is not None:
            faults += comparison.disagreements(case, "body", answers)
    assert faults == []


@pytest.mark.parametrize("kind", KINDS)
def test_float64(kind: str) -> None:
    faults = []
    for case in CASES[kind]:
        faults += comparison.disagreements(case, "float64", peers.widened(case))
    assert faults == []


@pytest.mark.xla
@pytest.mark.parametrize("kind", KINDS)
def test_traced(kind: str) -> None:
    pytest.importorskip("jax")
    cases = [case for case in CASES[kind] if case.traced][:TRACED]
    faults = []
    for case, answers in zip(cases, peers.traced(cases), strict=True):
        faults += comparison.disagreements(case, "traced", answers)
    assert faults == []


@pytest.mark.slow
@pytest.mark.xla
@pytest.mark.parametrize("kind", KINDS)
def test_every_case_traced(kind: str) -> None:
    pytest.importorskip("jax")
    cases = [case for case in CASES[kind] if case.traced]
    faults = []
    for case, answers in zip(cases, peers.traced(cases), strict=True):
        faults += comparison.disagreements(case, "traced", answers)
    assert faults == []


@pytest.mark.slow
@pytest.mark.runtime
@pytest.mark.parametrize("kind", KINDS)
def test_every_combination(kind: str) -> None:
    pytest.importorskip("onnxruntime")
    cases = by_kind(every=True)[kind]
    faults = faults_of_meaning(cases)
    for case in cases:
        faults += type_faults.type_faults(case)
        faults += type_faults.vague_faults(case)
        faults += comparison.disagreements(case, "float64", peers.widened(case))
        answers = peers.expanded(case)
        if answers is not None:
            faults += comparison.disagreements(case, "body", answers)
    assert faults == []


@pytest.mark.slow
@pytest.mark.skipif(
    "GRAPHOPT_VERDICTS" not in os.environ,
    reason="true only where all tests of this module ran before, in this process",
)
def test_every_verdict_is_needed() -> None:
    """Runs after the others of this module."""
    assert set(VERDICTS) - comparison.used == set()
