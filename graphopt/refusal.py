"""What is said where no plan keeps to a limit: what would do, what is in the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from .dim_names import said, shown
from .fitted import DoesNotFit, Fitted
from .ir import Graph, Op
from .passes.memory.plan import MemoryPlan, Placement
from .provenance import place
from .report import sized

if TYPE_CHECKING:
    from .lowering.xla.report import Memory

SHOWN: Final = 3
"""So many of the largest buffers are named."""


def refusal(best: Fitted, counted: Memory | None = None) -> DoesNotFit:
    """The error for limits that the smallest plan does not keep to.

    ``counted`` is what the compiler says of its program.
    """
    sizes = {shown(name): size for name, size in best.sizes.items()}
    at = said(best.sizes)
    over = "; ".join(_over(best))
    lines = [
        f"{f'with {at}, ' if at else ''}{over}",
        *_counted(counted),
        *_in_the_way(best),
    ]
    return DoesNotFit("\n  ".join(lines), sizes=sizes)


def _over(best: Fitted) -> Iterator[str]:
    """Each limit that is not kept, and what would do."""
    limits, what = best.limits, "plan" if best.counted is None else "program"
    between = f", {best.lost}," if best.lost else ","
    if limits.memory is not None and best.resident > limits.memory:
        yield (
            f"the smallest {what} found takes {sized(best.resident)} with weights,"
            f" inputs and outputs{between} over the {sized(limits.memory)} that it"
            f" may: --max-memory {best.resident} would do"
        )
    if limits.activations is not None and best.activations > limits.activations:
        yield (
            f"the smallest {what} found takes {sized(best.activations)} for"
            f" activations{between} over the {sized(limits.activations)} that they"
            f" may: --max-activations {best.activations} would do"
        )


def _counted(memory: Memory | None) -> Iterator[str]:
    """What a compiler's number is made of, and the kernel that takes most."""
    if memory is None:
        return
    parts = f"{sized(memory.temp)} of that are the compiler's temporaries"
    size, node = memory.kernel
    if memory.scratch:
        parts += f", {sized(memory.scratch)} are taken beside by kernels for themselves"
    if size and node:
        parts += f"; most is taken by that of {node!r}: {sized(size)} while it runs"
    yield parts


def _in_the_way(best: Fitted) -> Iterator[str]:
    """What is there beside activations, and what is there at the peak of these."""
    plan, most = best.plan, best.limits.memory
    whatever = plan.constants + plan.inputs + plan.outputs  # all are there in the end
    if most is not None and whatever > most:
        yield (
            f"whatever the plan, {sized(whatever)} are there in the end, over the limit"
            f" already: {sized(plan.constants)} of weights, {sized(plan.inputs)} of"
            f" inputs, {sized(plan.outputs)} of outputs"
        )
    elif plan.placements:
        step = plan.live.index(max(plan.live))
        there = plan.at(step)
        each = ", ".join(_named(one, best.graph, plan) for one in there[:SHOWN])
        more = len(there) - SHOWN
        others = f" and {more} smaller" if more > 0 else ""
        who = _who(best.graph, plan.order[step])
        by = "" if best.counted is None else "by the plan "
        yield f"{by}most is live at {who}: {each}{others}"


def _named(one: Placement, graph: Graph, plan: MemoryPlan) -> str:
    """A buffer by what lies there last, and its size."""
    size = sized(one.buffer.size)
    if not one.values:
        return f"{size} that it works in{_within(one.op, plan)}"
    value = one.values[-1]
    if value in graph.names:
        return f"{graph.names[value]!r} {size}"
    made = None if value.op is None else place(graph, value.op)
    return f"what {made} gives {size}" if made else size


def _who(graph: Graph, op: Op) -> str:
    """An op by its node; one that runs others in parts by these."""
    who = place(graph, op)
    if op.kind != "Tiled":
        return who
    kinds = dict.fromkeys(o.label for o in op.bodies[0].ops if o.constant is None)
    return f"{who} ({', '.join([*kinds][:SHOWN])}{', …' * (len(kinds) > SHOWN)})"


def _within(op: Op | None, plan: MemoryPlan) -> str:
    """The largest buffer in the bodies of an op, which say more than its kind."""
    bodies = (
        [
            (body, inner)
            for body, inner in zip(op.bodies, plan.nested.get(op, ()), strict=False)
            if inner.placements
        ]
        if op is not None
        else []
    )
    if not bodies:
        return ""
    body, inner = max(bodies, key=lambda each: each[1].peak)
    there = inner.at(inner.live.index(max(inner.live)))
    return f" (inside: {', '.join(_named(one, body, inner) for one in there[:1])})"
