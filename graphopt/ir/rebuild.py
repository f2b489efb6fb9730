"""Walking a graph in order and building it anew, iteratively."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from .values import Op, Value

if TYPE_CHECKING:
    from .graph import Graph


def postorder(values: Iterable[Value]) -> list[Op]:
    """The ops that ``values`` need, each after its operands. Iterative."""
    order: list[Op] = []
    done: set[Op] = set()
    for value in values:
        root = value.op
        if root is None or root in done:
            continue
        stack: list[tuple[Op, Iterator[Value | None]]] = [(root, iter(root.operands))]
        done.add(root)
        while stack:
            op, rest = stack[-1]
            for operand in rest:
                producer = None if operand is None else operand.op
                if producer is not None and producer not in done:
                    done.add(producer)
                    stack.append((producer, iter(producer.operands)))
                    break
            else:
                order.append(op)
                stack.pop()
    return order


def rebuild(
    graph: Graph,
    build: Callable[[Op, tuple[Value | None, ...]], Op | Sequence[Value]],
    mapping: Mapping[Value, Value] | None = None,
) -> Graph:
    """Build the graph anew, op by op: ``build`` gets each op and its new operands.

    It returns the new op, or one value for each result. Names and sources follow.
    """
    new: dict[Value, Value] = dict(mapping or {})
    names = dict(graph.names)
    sources = dict(graph.sources)
    for op in graph.ops:
        results = op.results
        if results[0] in new and all(r in new for r in results):
            continue
        operands = tuple([None if v is None else new.get(v, v) for v in op.operands])
        made = build(op, operands)
        values = made.results if isinstance(made, Op) else made
        for old, value in zip(results, values, strict=True):
            if value is not old:
                new.setdefault(old, value)
        forward(op, values, names, sources)
    return graph.replace(
        outputs=[new.get(v, v) for v in graph.outputs], names=names, sources=sources
    )


def forward(
    op: Op,
    values: Sequence[Value],
    names: dict[Value, str],
    sources: dict[Op, tuple[str, ...]],
) -> None:
    """Let the values that stand for ``op`` inherit its names and provenance."""
    origin = sources.get(op, ())
    for old, value in zip(op.results, values, strict=True):
        if value is old:
            continue
        if old in names:
            names.setdefault(value, names[old])
        producer = value.op
        if origin and producer is not None and producer is not op:
            have = sources.get(producer, ())
            if have != origin:
                sources[producer] = tuple(dict.fromkeys(have + origin))
