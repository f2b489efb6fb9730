"""What graphopt means by each op, against those who share no code with it.

ONNX's backend suite has models of every op at every version, with stored outputs. The
reference must give them; what is folded must be what ONNX Runtime computes without its
optimizations; and what is written must run there, and give the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from backend_suite import Case, cases, disagreement
from onnx import ModelProto, numpy_helper

import graphopt
from graphopt.errors import GraphoptError
from graphopt.ops import Constant
from graphopt.reference import evaluate

_RANDOM = "draws random numbers, and the suite says no seed"
_PILLOW = find_spec("PIL") is not None

ROUNDED = "test_attention_4d_causal_fp16_expanded"
"""Stored in float16, rounded at each step of a softmax: we are nearer to the truth."""

WRONG = {
    ROUNDED: "the stored outputs are further from the truth than ours",
    **dict.fromkeys(
        (
            "test_bernoulli",
            "test_bernoulli_expanded",
            "test_bernoulli_double",
            "test_bernoulli_double_expanded",
            "test_bernoulli_seed",
            "test_bernoulli_seed_expanded",
        ),
        _RANDOM,
    ),
}
"""Cases whose stored outputs the reference does not give, and why."""

MISSING = {"Gradient": (2, "derives what other nodes compute; ops have no derivatives")}
if not _PILLOW:
    MISSING["ImageDecoder"] = (9, "Pillow, which reads images, is not installed")
"""Ops that have no reference, how many cases that are, and why."""


def every(step: int) -> Any:
    """Each case, or a sample of them; those that are left out are marked slow."""
    return pytest.mark.parametrize(
        "step", [step, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"]
    )


def sampled(step: int) -> Iterator[Case]:
    return (case for case in cases()[::step] if case.name not in WRONG)


def required(model: ModelProto) -> list[str]:
    """Names of the inputs that must be given."""
    known = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in known]


def assert_none(failures: Sequence[str]) -> None:
    assert not failures, "\n".join([f"{len(failures)} cases", *failures[:20]])


@every(12)
def test_the_reference_gives_the_stored_outputs(step: int) -> None:
    agreed: list[str] = []
    wrong: dict[str, str] = {}
    missing: dict[str, str] = {}
    for case in cases()[::step]:
        try:
            found = [
                disagreement(outputs, graphopt.run_model(case.model, inputs), case)
                for inputs, outputs in case.data
            ]
        except NotImplementedError as error:
            missing[case.name] = str(error)
            continue
        if any(found):
            wrong[case.name] = next(filter(None, found))
        else:
            agreed.append(case.name)
    assert {n: why for n, why in wrong.items() if n not in WRONG} == {}
    surprises = [
        f"{name}: {said}"
        for name, said in missing.items()
        if not any(op in said for op in MISSING)
    ]
    assert_none(surprises)
    if step > 1:
        return
    assert len(cases()) >= 2033
    unable = sum(count for count, _ in MISSING.values())
    assert len(agreed) >= 2033 - len(WRONG) - unable  # 2,024 where Pillow is installed


def test_where_we_differ_we_are_nearer_to_the_truth() -> None:
    case = next(case for case in cases() if case.name == ROUNDED)
    (inputs, (stored,)), graph = case.data[0], graphopt.load(case.model)
    (truth,) = evaluate(graph, inputs, precision="float64")
    (ours,) = evaluate(graph, inputs)
    assert np.abs(ours - truth).max() < np.abs(stored - truth).max()
    assert np.abs(ours - truth).mean() < np.abs(stored - truth).mean()


@every(12)
def test_optimized_models_give_the_stored_outputs(step: int) -> None:
    """With the default check, whatever it finds."""
    failures = []
    for case in sampled(step):
        made = graphopt.optimize_model(case.model)
        assert required(made) == required(case.model)
        for inputs, outputs in case.data:
            try:
                got = graphopt.run_model(made, inputs)
            except NotImplementedError:
                continue
            if said := disagreement(outputs, got, case):
                failures.append(f"{case.name}: {said}")
    assert_none(failures)


def baked(case: Case) -> ModelProto | None:
    """The model with its inputs as constants; None where they are no plain tensors."""
    model = ModelProto()
    model.CopyFrom(case.model)
    inputs, _ = case.data[0]
    del model.graph.input[:]
    for name, array in inputs.items():
        plain = isinstance(array, np.ndarray) and array.dtype.kind in "fiub"
        if not plain or array.dtype.type.__module__ != "numpy":
            return None
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def in_runtime(model: ModelProto, inputs: dict[str, Any]) -> list[Any] | None:
    """The outputs without any optimization; None where the runtime refuses."""
    from graphopt.lowering.ort.session import Session

    try:
        session = Session(model.SerializeToString(), optimized=False, threads=1)
        return list(session(inputs).values())
    except GraphoptError:
        return None


@pytest.mark.runtime
@every(12)
def test_folded_constants_are_what_the_runtime_computes(step: int) -> None:
    pytest.importorskip("onnxruntime")
    failures, folded = [], 0
    for case in sampled(step):
        model = baked(case)
        if model is None:
            continue
        try:
            graph = graphopt.optimize(graphopt.load(model), check="off").graph
        except GraphoptError:
            continue  # what a constant makes impossible
        if not all(isinstance(value, Constant) for value in graph.outputs):
            continue
        expected = in_runtime(model, {})
        if expected is None:
            continue
        ours = [value.constant.array() for value in graph.outputs]  # type: ignore[union-attr]
        folded += 1
        stored = case.data[0][1]
        # Where the two differ, the stored outputs say who is right.
        if disagreement(expected, ours, case) and disagreement(stored, ours, case):
            failures.append(f"{case.name}: {disagreement(expected, ours, case)}")
    assert_none(failures)
    assert folded >= 600 // step


@pytest.mark.runtime
@every(12)
def test_what_is_written_runs_where_the_source_ran(step: int) -> None:
    pytest.importorskip("onnxruntime")
    failures, ran = [], 0
    for case in sampled(step):
        inputs, outputs = case.data[0]
        before = in_runtime(case.model, inputs)
        if before is None or disagreement(outputs, before, case):
            continue
        ran += 1
        after = in_runtime(graphopt.optimize_model(case.model, check="off"), inputs)
        if after is None:
            failures.append(f"{case.name}: refused")
        elif said := disagreement(outputs, after, case):
            failures.append(f"{case.name}: {said}")
    assert_none(failures)
    assert ran >= 1400 // step
