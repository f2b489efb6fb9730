"""What the rules of a pipeline did to a model, and what they could not do, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .ir import Graph, Op, Value
from .pipeline import Observer, Pass, Pipeline
from .provenance import names_of, place
from .rewrite import Log, Miss, Rule


@dataclass(frozen=True)
class Event:
    """A rule that fired on an op, or did not, with its ``reason``.

    ``op`` is the op in words; ``names`` are those that people may know it by.
    """

    pass_: str
    rule: str
    fired: bool
    op: str
    names: tuple[str, ...]
    reason: str = ""


def events(graph: Graph, pipeline: Pipeline) -> list[Event]:
    """All that happens to ``graph``, then what does not, and why."""
    steps: list[tuple[Pass, Graph, Graph]] = []
    stages = list(_stages(graph, pipeline, lambda *step: steps.append(step)))
    found: list[Event] = []
    for pass_, before, after in steps:
        fired: list[tuple[Rule, Op]] = []
        pass_.run(before, Log(on_fire=_noting(fired)))
        for rule, op in fired:
            known = before if op in before.sources else after
            event = _event(known, pass_, rule, op)
            names = {*event.names, *names_of(before, op), *names_of(after, op)}
            found.append(replace(event, names=tuple(sorted(names))))
    return found + _misses(stages)


def misses(graph: Graph, pipeline: Pipeline) -> list[Event]:
    """What does not happen to ``graph``, and why.

    Most misses are overcome on the way, so they are those on what the pass, and those
    that it is repeated with, leave in the end. What comes after may spell it otherwise.
    """
    return _misses(_stages(graph, pipeline))


def _stages(
    graph: Graph, pipeline: Pipeline, observe: Observer | None = None
) -> Iterator[tuple[Pipeline, Graph]]:
    """The pipeline, those that come after it, and the graph that each one leaves."""
    graph = pipeline.opened(graph)
    stage: Pipeline | None = pipeline
    while stage is not None:
        graph, _ = replace(stage, then=None).run(graph, observe=observe)
        yield stage, graph
        stage = stage.then


def _misses(stages: Iterable[tuple[Pipeline, Graph]]) -> list[Event]:
    last: dict[str, tuple[Pass, Graph]] = {}
    for stage, left in stages:
        for pass_ in stage.passes:
            last.pop(str(pass_), None)  # it ran again
            last[str(pass_)] = pass_, left
    found: list[Event] = []
    for pass_, left in last.values():
        missed: list[tuple[Rule, Op, Miss]] = []
        pass_.run(left, Log(on_miss=lambda *miss, to=missed: to.append(miss)))
        found += [_event(left, pass_, rule, op, miss) for rule, op, miss in missed]
    return found


def _noting(fired: list[tuple[Rule, Op]]) -> Callable[..., None]:
    def on_fire(rule: Rule, op: Op, values: Sequence[Value]) -> None:
        fired.append((rule, op))

    return on_fire


def _event(
    graph: Graph, pass_: Pass, rule: Rule, op: Op, miss: Miss | None = None
) -> Event:
    return Event(
        pass_.name,
        rule.name,
        miss is None,
        place(graph, op),
        tuple(names_of(graph, op)),
        "" if miss is None else miss.reason,
    )
