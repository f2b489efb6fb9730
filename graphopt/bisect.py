"""Find the pass, the rule and the op that broke a model.

A pipeline is a row of small steps, each known by its graphs before and after: a binary
search over the passes, then over the firings of the rules in the guilty one, takes a
few runs of the check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .extract import cut
from .ir import Graph, Op, Parameter, Value
from .pipeline import Pass, Pipeline
from .provenance import place
from .rewrite import Log, Rule

Broken = Callable[[Graph], bool]
"""True for a graph that does not compute what the original does."""


@dataclass(frozen=True)
class Culprit:
    """What broke a model: ``op`` of ``before``, by ``rule``, in ``pass_``.

    ``rule`` is empty where the pass does not consist of rules.
    """

    pass_: Pass
    rule: str
    op: Op | None
    before: Graph
    after: Graph

    @property
    def place(self) -> str:
        """The op in words."""
        return "" if self.op is None else place(self.before, self.op)

    def __str__(self) -> str:
        if not self.rule:
            return f"pass {self.pass_}"
        return f"pass {self.pass_}, rule {self.rule}, on {self.place}"


def culprit(graph: Graph, pipeline: Pipeline, broken: Broken) -> Culprit | None:
    """What makes ``pipeline`` break ``graph``; None where it does not.

    Assumes that what is broken stays broken: a later pass that heals hides the first.
    """
    steps: list[tuple[Pass, Graph, Graph]] = []
    pipeline.run(graph, observe=lambda *step: steps.append(step))
    if not steps or not broken(steps[-1][2]):
        return None
    index = _first(len(steps), lambda i: broken(steps[i][2]))
    pass_, before, after = steps[index]
    log = Log()
    pass_.run(before, log)
    count = log.fired.total()
    if not count:
        return Culprit(pass_, "", None, before, after)

    def limited(firings: int) -> tuple[Graph, list[tuple[Rule, Op]]]:
        fired: list[tuple[Rule, Op]] = []
        made = pass_.run(
            before,
            Log(limit=firings, on_fire=lambda rule, op, _: fired.append((rule, op))),
        )
        return made, fired

    last = 1 + _first(count, lambda i: broken(limited(i + 1)[0]))
    made, fired = limited(last)
    if not fired:
        return Culprit(pass_, "", None, before, made)
    good = limited(last - 1)[0]
    rule, op = fired[-1]
    return Culprit(pass_, rule.name, op, _holding(op, good, before), made)


def _first(count: int, bad: Callable[[int], bool]) -> int:
    """The smallest index that is bad, where the last one is."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if bad(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _holding(op: Op, *graphs: Graph) -> Graph:
    """The graph that has the op, to name it by."""
    for graph in graphs:
        if any(op is other for other in graph.ops):
            return graph
    return graphs[0]


def smallest(found: Culprit, differs: Callable[[Graph, Graph], bool]) -> Graph | None:
    """The smallest part of the graph around the culprit that the pass still breaks.

    ``differs`` compares two graphs. None where only the whole graph fails, as when use
    counts matter.
    """
    op = found.op
    if op is None or all(op is not other for other in found.before.ops):
        return None
    depth, tried = 0, 0
    while True:
        part = _around(found.before, op, depth)
        if differs(part, found.pass_.run(part, Log())):
            return part
        if len(part.ops) == tried:
            return None
        depth, tried = 2 * depth or 1, len(part.ops)


def _around(graph: Graph, op: Op, depth: int) -> Graph:
    """The op with what it is computed from, ``depth`` ops back; the rest is free."""
    inside: dict[Op, None] = {op: None}
    frontier: Sequence[Op] = [op]
    for _ in range(depth):
        frontier = [
            value.op
            for inner in frontier
            for value in inner.operands
            if value is not None and value.op is not None and value.op not in inside
        ]
        inside.update(dict.fromkeys(frontier))
    free = dict.fromkeys(
        value
        for inner in inside
        for value in inner.operands
        if value is not None and value.op not in inside and value.constant is None
    )
    starts: dict[str, Value] = {}
    for value in free:
        name = value.name if isinstance(value, Parameter) else graph.names.get(value)
        if not name or name in starts:
            name = f"value_{len(starts)}"
        starts[name] = value
    ends = list(op.results)
    names = [graph.names.get(v, f"result_{i}") for i, v in enumerate(ends)]
    return cut(graph, starts, ends, names)
