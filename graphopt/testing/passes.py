"""What every pass must hold, tried on random graphs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import onnx
from onnx import ModelProto

from ..check import check
from ..exporter import choose_opset, to_proto
from ..importer import load
from ..ir import Graph
from ..pipeline import Pass, Pipeline
from ..text import format_graph, parse, weights_of
from ..verify import verify

Subject = (
    Pass | Pipeline | Callable[[Graph], Graph] | Callable[[ModelProto], ModelProto]
)


def assert_equivalent(
    before: Graph | ModelProto,
    after: Graph | ModelProto,
    *,
    exact: bool = False,
    seed: int = 0,
    inputs: Any = None,
) -> None:
    """Both have one interface and compute the same, by the NumPy reference.

    Within what `graphopt.check.tolerance` allows, or with equal bits where ``exact``.
    Raises CheckFailed with the first outputs that differ, and AssertionError where
    nothing could be compared.
    """
    result = check(_graph(before), _graph(after), exact=exact, seed=seed, inputs=inputs)
    result.raise_if_failed()
    lost = ", ".join(result.lost)
    assert not lost, f"nothing is known of {lost}: {result.notes}"


def assert_legal_pass(subject: Subject, graph: Graph, *, exact: bool = False) -> Graph:
    """One graph through one of our passes: legal, equivalent, settled. The result.

    Asserts that the result verifies and prints to text that parses back, that the
    interface stays, that a second run changes nothing, that two runs write the same
    bytes, that what is written is a model that ONNX's checker accepts at the opset of
    the source, and that both graphs compute the same.
    """
    run: Callable[[Graph], Graph] = subject  # type: ignore[assignment]
    after = run(graph)
    verify(after)
    text = parse(format_graph(after), weights_of(after))
    assert text.key == after.key, "the text does not parse back"
    assert interface(after) == interface(graph), "the interface changed"
    assert run(after).key == after.key, "a second run changes the graph again"
    needed, had = choose_opset(after), choose_opset(graph).version
    assert needed.version <= had, f"{needed.forced_by} needs opset {needed.version}"
    model = to_proto(graph)
    first, second = (to_proto(run(load(model))) for _ in range(2))
    assert _bytes(first) == _bytes(second), "two runs write different bytes"
    onnx.checker.check_model(first, full_check=True)
    assert_equivalent(graph, after, exact=exact)
    return after


def assert_legal_function(
    function: Callable[[ModelProto], ModelProto], model: ModelProto
) -> ModelProto:
    """One model through any optimizer: accepted by the checker, same interface, equal.

    Returns the result. The function gets a copy, so that it may change its argument.
    """
    onnx.checker.check_model(model, full_check=True)
    copy = ModelProto()
    copy.CopyFrom(model)
    made = function(copy)
    assert isinstance(made, ModelProto), f"it returned {type(made).__name__}"
    onnx.checker.check_model(made, full_check=True)
    before, after = load(model), load(made)
    assert interface(after) == interface(before), (
        f"the interface changed from {interface(before)} to {interface(after)}"
    )
    assert_equivalent(before, after)
    return made


def check_pass(
    subject: Subject,
    *,
    examples: int = 50,
    max_ops: int = 12,
    opset: int = 20,
    only: Sequence[str] | None = None,
    exact: bool = False,
    seed: int | None = None,
) -> None:
    """Try a pass on ``examples`` random graphs; the smallest failure is shown.

    ``subject`` is a Pass, a Pipeline, a function from Graph to Graph that says so in an
    annotation, or else a function from ModelProto to ModelProto. What is asserted: see
    `assert_legal_pass` and `assert_legal_function`. ``only`` limits the op families;
    ``exact`` demands equal bits; another ``seed`` is another run, and each repeats.
    """
    from hypothesis import HealthCheck, given, seed as seeded, settings

    from .strategies import graphs

    foreign = is_foreign(subject)

    def one(graph: Graph) -> None:
        try:
            if foreign:
                assert_legal_function(subject, to_proto(graph))  # type: ignore[arg-type]
            else:
                assert_legal_pass(subject, graph, exact=exact)
        except BaseException as error:
            error.add_note(f"on the graph\n{format_graph(graph)}")
            raise

    test = given(graphs(max_ops=max_ops, opset=opset, only=only))(one)
    test = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed is None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )(test)
    if seed is not None:
        test = seeded(seed)(test)
    test()


def interface(graph: Graph) -> tuple[Any, ...]:
    """What callers see: names, order, declared types, defaults."""
    return (
        tuple((p.name, p.type, p.default and p.default.digest()) for p in graph.inputs),
        tuple(zip(graph.output_names, graph.output_types, strict=True)),
    )


def is_foreign(subject: Subject) -> bool:
    """True for a function on ModelProto: whatever does not speak of Graph."""
    if isinstance(subject, Pass | Pipeline):
        return False
    while isinstance(subject, partial):
        subject = subject.func
    function = subject if inspect.isroutine(subject) else type(subject).__call__
    hints = getattr(function, "__annotations__", {}).values()
    return not any(h is Graph or str(h).rpartition(".")[2] == "Graph" for h in hints)


def _bytes(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def _graph(model: Graph | ModelProto) -> Graph:
    return model if isinstance(model, Graph) else load(model)
