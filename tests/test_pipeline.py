"""Passes and pipelines: options, records, repetition, observers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from graphopt.errors import UsageError
from graphopt.ir import Graph, Parameter
from graphopt.ops import Abs, Add, Neg, Relu
from graphopt.pipeline import Pass, Pipeline, RulePass, count_ops, parse_pass
from graphopt.rewrite import Log, Outcome, Rule, rule
from graphopt.types import DType, tensor

X = Parameter(tensor(DType.F32, 3), "x")


@rule
def double_negation(op: Neg) -> Outcome:
    """-(-x) = x"""
    inner = op.operands[0]
    return inner.operands[0] if isinstance(inner, Neg) else None


@rule(exact=False)
def relu_of_abs(op: Relu) -> Outcome:
    """relu(|x|) = |x|"""
    inner = op.operands[0]
    return inner if isinstance(inner, Abs) else None


@dataclass(frozen=True)
class TidySigns(RulePass):
    """-(-x)   -->   x"""

    depth: int = 3
    mode: str = "all"

    def rules(self) -> Sequence[Rule]:
        return (double_negation, relu_of_abs)


@dataclass(frozen=True)
class AbsToNegs(Pass):
    """abs(x)   -->   -(-x): gives the other pass something to do."""

    def run(self, graph: Graph, log: Log) -> Graph:
        mapping = {op: Neg(Neg(op.operands[0])) for op in graph.ops if type(op) is Abs}
        return graph.substitute(mapping) if mapping else graph


def test_a_deadline_does_not_keep_from_lowering() -> None:
    """What comes then is no improvement: it must have run."""
    lowering = Pipeline((AbsToNegs(),), then=Pipeline((TidySigns(),)))
    graph = Graph([X], [Relu(Abs(X))])
    late, records = Pipeline((TidySigns(),), then=lowering).run(graph, deadline=0.0)
    assert [record.name for record in records] == ["abs-to-negs", "tidy-signs"]
    assert late.outputs == (Relu(X),)
    again = Pipeline((), then=Pipeline((TidySigns(), AbsToNegs()), rounds=6))
    late, records = again.run(graph, deadline=0.0)
    assert late.outputs == (Neg(Neg(X)),)  # one round


KNOWN: dict[str, type[Pass]] = {c.name: c for c in (TidySigns, AbsToNegs)}


def test_names_come_from_the_class() -> None:
    assert TidySigns.name == "tidy-signs"
    assert AbsToNegs.name == "abs-to-negs"


def test_a_pass_is_a_function() -> None:
    assert TidySigns()(Graph([X], [Neg(Neg(X))])).outputs == (X,)


def test_exact_leaves_out_rules_that_round() -> None:
    exact = TidySigns().limited_to_exact()
    assert exact == TidySigns(exact=True)
    graph = Graph([X], [Relu(Abs(X))])
    assert exact(graph) is graph
    assert TidySigns()(graph).outputs == (Abs(X),)


def test_a_later_pass_makes_the_first_run_again() -> None:
    graph = Graph([X], [Add(Abs(X), X)])
    done, records = Pipeline((TidySigns(), AbsToNegs())).run(graph)
    assert done.outputs == (Add(X, X),)
    assert [(r.name, r.ops_before, r.ops_after) for r in records] == [
        ("tidy-signs", 2, 0),
        ("abs-to-negs", 2, 3),
    ]
    assert records[0].fired == {"double_negation": 1}


def test_what_is_no_pass_is_refused_before_anything_runs() -> None:
    wrong: list[tuple[object, str]] = [
        ((double_negation,), r"double_negation is a rule, no pass: write a RulePass"),
        (double_negation, r"double_negation is a rule, no pass"),
        (("tidy-signs",), r"no pass: 'tidy-signs'; names are for optimize"),
        ((None,), r"no pass: None; give a Pass"),
    ]
    for passes, why in wrong:
        for make in (Pipeline, Pipeline.of):
            with pytest.raises(UsageError, match=why):
                make(passes)  # type: ignore[arg-type, operator]


def test_one_pass_a_class_and_any_row_of_them_are_passes() -> None:
    given: list[Any] = [TidySigns(), [TidySigns], (p() for p in (TidySigns,))]
    for passes in given:
        assert Pipeline(passes).passes == (TidySigns(),)


def test_a_settled_graph_comes_back_itself() -> None:
    graph = Graph([X], [Neg(X)])
    assert Pipeline((TidySigns(), AbsToNegs()))(graph) is graph


def test_observers_see_changes_only() -> None:
    seen: list[tuple[str, int, int]] = []
    Pipeline((AbsToNegs(), TidySigns())).run(
        Graph([X], [Neg(Neg(X))]),
        observe=lambda p, a, b: seen.append((p.name, count_ops(a), count_ops(b))),
    )
    assert seen == [("tidy-signs", 2, 0)]


def test_each_new_graph_is_verified() -> None:
    verified: list[Graph] = []
    done, _ = Pipeline((TidySigns(),)).run(
        Graph([X], [Neg(Neg(Neg(X)))]), verify=verified.append
    )
    assert verified == [done]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("tidy-signs", TidySigns()),
        ("tidy_signs", TidySigns()),
        ("tidy-signs()", TidySigns()),
        ("tidy-signs(depth=5)", TidySigns(depth=5)),
        ("tidy-signs(depth=5, mode='some')", TidySigns(depth=5, mode="some")),
        ("tidy-signs(mode=some)", TidySigns(mode="some")),
    ],
)
def test_specs(spec: str, expected: Pass) -> None:
    assert parse_pass(spec, KNOWN) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tidy-sings", "did you mean 'tidy-signs'"),
        ("tidy-signs(dept=1)", "did you mean 'depth'"),
        ("tidy-signs(5)", "options are named"),
        ("tidy-signs(depth=", "cannot read"),
        ("tidy-signs(depth=__import__('os'))", "cannot read"),
    ],
)
def test_bad_specs_say_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_pass(spec, KNOWN)


def test_a_pass_prints_as_its_spec() -> None:
    assert str(TidySigns(depth=5)) == "tidy-signs(depth=5)"
