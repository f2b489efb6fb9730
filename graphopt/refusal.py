"""What is said where no plan keeps to a limit: what would do, what is in the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .dim_names import said, shown
from .fitted import DoesNotFit, Fitted
from .ir import Graph
from .passes.memory.plan import Placement
from .provenance import place
from .report import sized

SHOWN: Final = 3
"""So many of the largest buffers are named."""


def refusal(best: Fitted) -> DoesNotFit:
    """The error for limits that the smallest plan does not keep to."""
    sizes = {shown(name): size for name, size in best.sizes.items()}
    at = said(sizes)
    over = "; ".join(_over(best))
    lines = [f"{f'with {at}, ' if at else ''}{over}", *_in_the_way(best)]
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
        each = ", ".join(_named(one, best.graph) for one in there[:SHOWN])
        more = len(there) - SHOWN
        others = f" and {more} smaller" if more > 0 else ""
        who = place(best.graph, plan.order[step])
        yield f"most is live at {who}: {each}{others}"


def _named(one: Placement, graph: Graph) -> str:
    """A buffer by what lies there last, and its size."""
    size = sized(one.buffer.size)
    if not one.values:
        return f"{size} that it works in"
    value = one.values[-1]
    if value in graph.names:
        return f"{graph.names[value]!r} {size}"
    made = None if value.op is None else place(graph, value.op)
    return f"what {made} gives {size}" if made else size
