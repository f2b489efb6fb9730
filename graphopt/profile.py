"""Where a model spends its time: by kind of op, by nodes of the source model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .ir import Graph, Op, Parameter, Value
from .lowering.ort.trace import NodeTime, trace
from .provenance import named_values
from .report import table

SHOWN: Final = 10
"""Kinds and nodes that the tables show."""

NAMED: Final = 3
"""Source nodes of a node that the table names."""


@dataclass(frozen=True)
class Hot:
    """A node that is executed, and the source nodes that it stands for."""

    time: NodeTime
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """The nodes of one model, in the order of execution; seconds are on the clock."""

    model: str
    nodes: tuple[Hot, ...]

    @property
    def seconds(self) -> float:
        """Of all nodes; what is between them is not in it."""
        return sum(hot.time.seconds for hot in self.nodes)

    def kinds(self) -> dict[str, tuple[int, float]]:
        """The count and the seconds of each kind of node, the slowest first."""
        found: dict[str, tuple[int, float]] = {}
        for hot in self.nodes:
            count, seconds = found.get(hot.time.kind, (0, 0.0))
            found[hot.time.kind] = count + 1, seconds + hot.time.seconds
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))

    def to_json(self) -> dict[str, Any]:
        """All kinds and all nodes, the slowest first."""
        return {
            "model": self.model,
            "seconds": self.seconds,
            "kinds": [
                {"kind": kind, "count": count, "seconds": seconds}
                for kind, (count, seconds) in self.kinds().items()
            ],
            "nodes": [
                {
                    "name": hot.time.name,
                    "kind": hot.time.kind,
                    "seconds": hot.time.seconds,
                    "sources": list(hot.sources),
                }
                for hot in self._slowest()
            ],
        }

    def lines(self) -> Iterator[str]:
        """Two tables: kinds of op, and the slowest nodes."""
        whole = self.seconds or 1.0
        yield f"{self.model}: {len(self.nodes)} nodes, {1000 * self.seconds:.3f} ms"
        rows = [("kind", "count", "ms", "share")]
        kinds = list(self.kinds().items())
        rest = kinds[SHOWN:]
        if len(rest) > 1:
            others = [numbers for _, numbers in rest]
            count, seconds = sum(n for n, _ in others), sum(s for _, s in others)
            kinds = [*kinds[:SHOWN], (f"{len(rest)} other kinds", (count, seconds))]
        rows += [
            (kind, str(count), f"{1000 * seconds:.3f}", f"{seconds / whole:.0%}")
            for kind, (count, seconds) in kinds
        ]
        yield from table(rows)
        yield ""
        for hot in self._slowest()[:SHOWN]:
            seconds = hot.time.seconds
            yield (
                f"{1000 * seconds:8.3f} ms {seconds / whole:4.0%}  {hot.time.kind}"
                f" {hot.time.name!r}{_said(hot)}"
            )

    def _slowest(self) -> list[Hot]:
        return sorted(self.nodes, key=lambda hot: -hot.time.seconds)


def profile(
    models: Sequence[str | os.PathLike[str]],
    inputs: Mapping[str, Any],
    source: Graph,
    *,
    runs: int = 10,
    threads: int = 1,
) -> list[Profile]:
    """The profiles of models in ONNX Runtime on the CPU; see `stands_for`.

    Raises what `lowering.ort.session.Session` raises.
    """
    found = []
    for model in models:
        times = trace(model, inputs, runs=runs, threads=threads)
        nodes = zip(times, stands_for(times, source), strict=True)
        hot = tuple(Hot(time, names) for time, names in nodes)
        found.append(Profile(os.fspath(model), hot))
    return found


def stands_for(times: Sequence[NodeTime], source: Graph) -> list[tuple[str, ...]]:
    """The names of the source's nodes that each node computes what they do.

    Optimizers keep names of values where these survive. A node stands for all of the
    source that its outputs need, back to values that other nodes give, but for what
    depends on no input; where no output has a name that the source knows, for the node
    of its own name, or of what that begins with.
    """
    known = named_values(source)
    varying = _varying(source)
    nodes = {name for names in source.sources.values() for name in names}
    given = [[known[n] for n in time.outputs if n in known] for time in times]
    all_given = {value for values in given for value in values}
    found = []
    for time, values in zip(times, given, strict=True):
        if values:
            found.append(tuple(_names(source, _between(values, all_given, varying))))
        else:
            found.append(_namesake(time.name, nodes))
    return found


def _namesake(name: str, nodes: Collection[str]) -> tuple[str, ...]:
    """The node of that name; the runtime's fusions put their own behind a slash."""
    while name and name not in nodes:
        name = name.rpartition("/")[0]
    return (name,) if name else ()


def _varying(graph: Graph) -> set[Op]:
    """The ops that depend on an input: a runtime computes the others once."""
    found: set[Op] = set()
    for op in graph.ops:
        values = [v for v in op.operands if v is not None]
        if any(isinstance(v, Parameter) or v.op in found for v in values):
            found.add(op)
    return found


def _between(
    values: Iterable[Value], stops: Collection[Value], among: Collection[Op]
) -> list[Op]:
    """The ops that values need, the last first, back to where others are given."""
    pending = deque(value.op for value in values)
    found: dict[Op, None] = {}
    while pending:
        op = pending.popleft()
        if op is not None and op in among and op not in found:
            found[op] = None
            needed = [v for v in op.operands if v is not None and v not in stops]
            pending += [v.op for v in needed]
    return list(found)


def _names(graph: Graph, ops: Iterable[Op]) -> Iterator[str]:
    for op in ops:
        yield from graph.sources.get(op, ())


def _said(hot: Hot) -> str:
    """The source nodes, if they are more than the node itself."""
    names = [name for name in hot.sources if name != hot.time.name]
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f" for {', '.join(map(repr, names[:NAMED]))}{more}"
