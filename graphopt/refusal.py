"""What is said where no plan keeps to a limit: what would do, what is in the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from .dim_names import said, shown
from .fitted import DoesNotFit, Fitted
from .ir import Graph, Op
from .memory_words import buffer_named, without_size
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
        *_left_out(best),
        *_counted(counted),
        *_in_the_way(best),
    ]
    return DoesNotFit("\n  ".join(lines), sizes=sizes)


def _over(best: Fitted) -> Iterator[str]:
    """Each limit that is not kept, and what would do."""
    limits, what = best.limits, "plan" if best.counted is None else "program"
    between = f", {best.lost}," if best.lost else ","
    least = "at least " if best.is_partial else ""
    do = "would do for all that has a size" if best.is_partial else "would do"
    if limits.memory is not None and best.resident > limits.memory:
        yield (
            f"the smallest {what} found takes {least}{sized(best.resident)} with"
            f" weights, inputs and outputs{between} over the {sized(limits.memory)}"
            f" that it may: --max-memory {best.resident} {do}"
        )
    if limits.activations is not None and best.activations > limits.activations:
        yield (
            f"the smallest {what} found takes {least}{sized(best.activations)} for"
            f" activations{between} over the {sized(limits.activations)} that they"
            f" may: --max-activations {best.activations} {do}"
        )


def _left_out(best: Fitted) -> Iterator[str]:
    """What no number has."""
    if best.is_partial:
        yield f"this leaves out {without_size(best.plan, best.graph)}"


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
        each = ", ".join(buffer_named(one, best.graph, plan) for one in there[:SHOWN])
        more = len(there) - SHOWN
        others = f" and {more} smaller" if more > 0 else ""
        who = _who(best.graph, plan.order[step])
        by = "" if best.counted is None else "by the plan "
        yield f"{by}most is live at {who}: {each}{others}"


def _who(graph: Graph, op: Op) -> str:
    """An op by its node; one that runs others in parts by these."""
    who = place(graph, op)
    if op.kind != "Tiled":
        return who
    kinds = dict.fromkeys(o.label for o in op.bodies[0].ops if o.constant is None)
    return f"{who} ({', '.join([*kinds][:SHOWN])}{', …' * (len(kinds) > SHOWN)})"
