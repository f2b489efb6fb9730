"""What every pass must hold, tried on random graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnx import ModelProto

from ..check import check
from ..exporter import to_proto
from ..importer import load
from ..ir import Graph
from ..pipeline import Pass, Pipeline
from ..text import format_graph, parse
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
    """Both compute the same, by the NumPy reference, within the stated tolerance.

    ``exact`` compares bitwise. Raises CheckFailed with the first outputs that differ.
    """
    check(
        _graph(before), _graph(after), exact=exact, seed=seed, inputs=inputs
    ).raise_if_failed()


def assert_legal_pass(subject: Subject, graph: Graph, *, exact: bool = False) -> Graph:
    """One graph through one pass: legal, equivalent, same interface, settled.

    Asserts that the result verifies and prints to text that parses back, that names,
    types and order of inputs and outputs stay, that a second run changes nothing, that
    two runs write the same bytes, and that both graphs compute the same. Returns the
    result.
    """
    run = _on_graphs(subject)
    after = run(graph)
    verify(after)
    assert parse(format_graph(after)).key == after.key, "text does not parse back"
    assert interface(after) == interface(graph), "the interface changed"
    again = run(after)
    assert again.key == after.key, "a second run changes the graph again"
    twin = run(load(to_proto(graph)))
    first = to_proto(after).SerializeToString(deterministic=True)
    second = to_proto(twin).SerializeToString(deterministic=True)
    assert first == second, "two runs write different bytes"
    assert_equivalent(graph, after, exact=exact)
    return after


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

    ``subject`` is a Pass, a Pipeline, a function from Graph to Graph, or a function from
    ModelProto to ModelProto (annotated so, or taking nothing else). ``only`` limits the
    op families; ``exact`` demands equal bits; ``seed`` makes the run repeatable. For
    foreign functions only equivalence and the interface are asserted.
    """
    from hypothesis import HealthCheck, given, settings
    from hypothesis import seed as seeded

    from .strategies import graphs

    foreign = is_foreign(subject)

    def one(graph: Graph) -> None:
        if not foreign:
            assert_legal_pass(subject, graph, exact=exact)
            return
        model = to_proto(graph)
        after = load(_copy_through(subject, model))
        assert interface(after) == interface(graph), "the interface changed"
        assert_equivalent(graph, after, exact=exact)

    strategy = graphs(max_ops=max_ops, opset=opset, only=only)
    test = given(strategy)(one)
    test = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed is None,
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
    """True for a function on ModelProto rather than on Graph."""
    if isinstance(subject, Pass | Pipeline):
        return False
    hints = getattr(subject, "__annotations__", {})
    return not any(h in (Graph, "Graph") for h in hints.values())


def _copy_through(subject: Any, model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    made = subject(copy)
    assert isinstance(made, ModelProto), f"it returned {type(made).__name__}"
    return made


def _graph(model: Graph | ModelProto) -> Graph:
    return model if isinstance(model, Graph) else load(model)


def _on_graphs(subject: Subject) -> Callable[[Graph], Graph]:
    if not is_foreign(subject):
        return subject  # type: ignore[return-value]
    return lambda graph: load(_copy_through(subject, to_proto(graph)))
