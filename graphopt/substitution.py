"""Read other values in a graph's stead: what rules return, put in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .errors import GraphoptError
from .ir import Graph, Value, forward


class RewriteLimit(GraphoptError):
    """Rules kept firing: two of them undo each other."""


def substitute(graph: Graph, mapping: Mapping[Value, Value]) -> Graph:
    """Read ``mapping[v]`` wherever ``v`` is read, also inside the new values.

    Several values at once. Raises RewriteLimit where the result would feed itself.
    """
    new: dict[Value, Value] = {}
    names, sources = dict(graph.names), dict(graph.sources)
    entered: set[Value] = set()
    for output in graph.outputs:
        stack = [output]
        while stack:
            value = stack[-1]
            if value in new:
                stack.pop()
                continue
            target = mapping.get(value)
            op = value.op
            needs: Iterable[Value | None]
            if target is not None and target is not value:
                needs = (target,)
            elif op is None:
                new[value] = value
                stack.pop()
                continue
            else:
                needs = op.operands
            waiting = [v for v in needs if v is not None and v not in new]
            if waiting:
                if value in entered:
                    raise RewriteLimit("a replacement would feed itself")
                entered.add(value)
                stack.extend(waiting)
                continue
            stack.pop()
            if target is not None and target is not value:
                new[value] = new[target]
                if value in names:
                    names.setdefault(new[target], names[value])
                continue
            assert op is not None
            made = op.with_operands(
                [None if v is None else new[v] for v in op.operands]
            )
            for was, now in zip(op.results, made.results, strict=True):
                new[was] = now
            forward(op, made.results, names, sources)
    return graph.replace(
        outputs=[new[v] for v in graph.outputs], names=names, sources=sources
    )
