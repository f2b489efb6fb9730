"""What lies in a memory plan, in words: buffers, what is in them, what has no size."""

from __future__ import annotations

from .ir import Graph, Op
from .passes.memory.plan import MemoryPlan, Placement
from .provenance import place
from .report import sized


def buffer_named(one: Placement, graph: Graph, plan: MemoryPlan) -> str:
    """A buffer by what lies there last, and its size."""
    size = sized(one.buffer.size)
    if not one.values:
        assert one.op is not None  # only ops have buffers without values
        most = most_inside(one.op, plan)
        return f"{size} that it works in" + (f" ({most})" if most else "")
    what = _named(one, graph)
    return f"{what} {size}" if what else size


def most_inside(op: Op, plan: MemoryPlan) -> str:
    """The largest buffer in the bodies of an op, and in theirs; nothing where none is.

    It says more than the kind of op that works in so much.
    """
    found, where = "", ""
    while largest := _largest(op, plan):
        body, plan, one = largest
        size = f"{sized(one.buffer.size)} of it"
        if one.op is None:
            what = _named(one, body)
            return f"{size} for {what}{where}" if what else f"{size}{where}"
        op, who = one.op, place(body, one.op)
        found, where = f"{size} by {who}{where}", f" in {who}"
    return found


def without_size(plan: MemoryPlan, graph: Graph, *, counted: bool = False) -> str:
    """How many values have no size, the first of them; how to have it, unless it is."""
    return left_out(plan.left_out, first_without_size(plan, graph), counted=counted)


def left_out(count: int, first: str, *, counted: bool) -> str:
    """The same of so many values."""
    values = "1 value" if count == 1 else f"{count:,} values"
    which = f" ({'the first is ' if count > 1 else ''}{first})" if first else ""
    said = f"{values}, whose size is not known before a run{which}"
    helps = "inspect --memory --measure --target ort-cpu says what they take"
    return said if counted else f"{said}; {helps}"


def first_without_size(plan: MemoryPlan, graph: Graph) -> str:
    """The first value without a size as it runs: of a body, before what that gives."""
    return _first_without_size(plan, graph, "")


def _first_without_size(plan: MemoryPlan, graph: Graph, where: str) -> str:
    unknown = {*plan.unknown}
    for parameter in graph.inputs:
        if parameter in unknown:
            return f"{'' if where else 'the input '}{parameter.name!r}{where}"
    for op in plan.order:
        bodies = zip(op.bodies, plan.nested.get(op, ()), strict=False)
        for body, inner in bodies:
            within = f" in {place(graph, op)}"
            if found := _first_without_size(inner, body, within):
                return found
        for value in op.results:
            if value in unknown:
                return f"what {place(graph, op)} gives{where}"
    return ""


def _largest(op: Op, plan: MemoryPlan) -> tuple[Graph, MemoryPlan, Placement] | None:
    """The largest buffer of the body that takes most, at its peak."""
    bodies = [
        (body, inner)
        for body, inner in zip(op.bodies, plan.nested.get(op, ()), strict=False)
        if inner.placements
    ]
    if not bodies:
        return None
    body, inner = max(bodies, key=lambda each: each[1].peak)
    return body, inner, inner.at(inner.live.index(max(inner.live)))[0]


def _named(one: Placement, graph: Graph) -> str:
    """What lies there last; nothing where that has no name, and no op makes it."""
    value = one.values[-1]
    if value in graph.names:
        return repr(graph.names[value])
    return "" if value.op is None else f"what {place(graph, value.op)} gives"
