"""The order of a graph's ops that holds the fewest bytes at once.

The graph becomes abstract tasks and buffers: a view is its operand's buffer, and an op
that may work in place says over which operand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir import Graph, Op, Value

from .aliases import overwritten, viewed
from .bounds import own_bound
from .buffers import refuse_too_large
from .lives import steps_of
from .schedule import STEPS, Schedule, schedule
from .sizes import Sizes
from .tasks import Task, Tasks


def least_order(
    graph: Graph,
    sizes: Sizes,
    need: Mapping[Op, int],
    *,
    seconds: float,
    steps: int = STEPS,
    baselines: Sequence[Sequence[Op]] = (),
) -> tuple[tuple[Op, ...], Schedule]:
    """The order of least peak that was found, and what is known of it.

    It is never worse than the graph's own, what ONNX Runtime would take, and the
    ``baselines``. ``need`` are the bytes of each op's workspace. Bounds are those of
    `schedule`. Raises UsageError for a baseline that is no order of the ops.
    """
    ops = steps_of(graph)
    number = {op: i for i, op in enumerate(ops)}
    known = [[number[op] for op in steps_of(graph, order)] for order in baselines]
    tasks = tasks_of(graph, sizes, need)
    refuse_too_large(tasks.sizes)
    found = schedule(tasks, seconds=seconds, steps=steps, baselines=known)
    return tuple([ops[i] for i in found.order]), found


def most_held(graph: Graph, sizes: Sizes) -> int:
    """Bytes that the largest op holds in any order: what it reads and makes itself."""
    tasks = tasks_of(graph, sizes, {})
    return own_bound(tasks) if tasks.tasks else 0


def tasks_of(graph: Graph, sizes: Sizes, need: Mapping[Op, int]) -> Tasks:
    """The ops of a graph as tasks, in the order of the file, with the arena's buffers.

    Inputs, constants and what has no size take no place in the arena; outputs do where
    the space says so.
    """
    space, outputs = sizes.space, frozenset(graph.outputs)
    ops = steps_of(graph)
    number = {op: i for i, op in enumerate(ops)}
    buffer_of: dict[Value, int] = {}
    bytes_of: list[int] = []
    tasks = []
    for op in ops:
        made: list[int] = []
        for result in op.results:
            source = viewed(op, sizes) if result not in outputs else None
            if source is not None:
                if source in buffer_of:
                    buffer_of[result] = buffer_of[source]
                continue
            size = sizes.of(result)
            if size and (space.outputs or result not in outputs):
                buffer_of[result] = len(bytes_of)
                made.append(len(bytes_of))
                bytes_of.append(size)
        operands = [v for v in op.operands if v is not None]
        reads = frozenset(buffer_of[v] for v in operands if v in buffer_of)
        after = frozenset(number[v.op] for v in operands if v.op in number)
        over = _over(op, sizes, buffer_of, made, outputs)
        tasks.append(
            Task(reads - {*made}, frozenset(made), after, need.get(op, 0), over)
        )
    kept = [buffer_of[v] for v in outputs if v in buffer_of]
    return Tasks(tuple(tasks), tuple(bytes_of), frozenset(kept))


def _over(
    op: Op,
    sizes: Sizes,
    buffer_of: Mapping[Value, int],
    made: Sequence[int],
    outputs: frozenset[Value],
) -> tuple[tuple[int, int], ...]:
    """Where the result may lie: an operand's buffer that nothing else here reads."""
    if len(made) != 1 or op.results[0] in outputs:
        return ()
    places = overwritten(op, sizes)
    found = []
    for place in places:
        below = buffer_of.get(op.operands[place])  # type: ignore[arg-type]
        others = [
            v
            for i, v in enumerate(op.operands)
            if i not in places and v is not None and buffer_of.get(v) == below
        ]
        if below is not None and not others:
            found.append((made[0], below))
    return tuple(dict.fromkeys(found))
