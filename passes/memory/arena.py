"""Run a graph inside of one byte array, each value where a plan has it.

What dies is poisoned: bytes of ones are NaN as floats, -1 as integers. Where a plan
frees too early, or has two values in one place, the results are others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from graphopt.feeds import bind
from graphopt.ir import Graph, Value
from graphopt.ops import Constant
from graphopt.ops.structured import Computed
from graphopt.reference import Evaluator

from .plan import MemoryPlan, Placement
from .validate import PlanIsWrong

Array = Any

POISON: Final = 0xFF


def run_in_arena(
    graph: Graph,
    plan: MemoryPlan,
    inputs: Mapping[str, Array] | Sequence[Array],
    *,
    seed: int | None = None,
) -> list[Array]:
    """The outputs in order, all arrays that have a place being in ``plan.peak`` bytes.

    ``plan`` is of this graph at these sizes. Raises PlanIsWrong where a result has
    another size than the plan says, else as `graphopt.reference.evaluate`.
    """
    fed, symbols = bind(graph, inputs)
    arena = np.full(plan.peak, POISON, np.uint8)
    runner = _Runner(plan, arena, seed=seed, symbols=symbols)
    with runner.xp.scope():
        known: dict[Value, Array] = dict(fed.items())
        return runner.computed(graph, plan, known, 0)


class _Runner(Evaluator):
    """Computes op by op, results being copied to their places."""

    def __init__(self, plan: MemoryPlan, arena: Array, **options: Any) -> None:
        super().__init__(**options)
        self.arena = arena
        self.current = plan
        self.base = 0

    def computed(
        self, graph: Graph, plan: MemoryPlan, known: dict[Value, Array], base: int
    ) -> list[Array]:
        """The outputs of a graph whose arena begins at byte ``base``."""
        outer = self.current, self.base
        self.current, self.base = plan, base
        ends = _ends(plan)
        for step, op in enumerate(plan.order):
            operands = [self._of(v, known) for v in op.operands]
            made = self.apply(op, operands)
            for value, array in zip(op.results, made, strict=True):
                known[value] = self._placed(value, array)
            for place in ends.get(step + 1, ()):
                self._at(place)[:] = POISON
        found = [np.array(self._of(value, known)) for value in graph.outputs]
        for place in ends.get(len(plan.order), ()):
            self._at(place)[:] = POISON
        self.current, self.base = outer
        return found

    def _of(self, value: Value | None, known: Mapping[Value, Array]) -> Array:
        if value is None or value in known:
            return None if value is None else known[value]
        assert isinstance(value, Constant)
        return value.tensor.array()

    def _placed(self, value: Value, array: Array) -> Array:
        """The array, in the bytes that the plan gives it; others stay as they are."""
        place = self.current.place_of.get(value)
        narrow = value.dtype is not None and value.dtype.bits < 8
        if place is None or narrow:  # of narrow types NumPy has a byte for each
            return self._apart(array)
        if array.nbytes > place.buffer.size:
            raise PlanIsWrong(
                f"{value.type} takes {array.nbytes} bytes, "
                f"not the {place.buffer.size} of the plan"
            )
        region = self._at(place)[: array.nbytes]
        bits = np.ascontiguousarray(self._apart(array)).reshape(-1).view(np.uint8)
        region[:] = bits
        return region.view(array.dtype).reshape(array.shape)

    def _apart(self, array: Array) -> Array:
        """An array that does not look into the arena, as views of operands do."""
        if isinstance(array, list):
            return [self._apart(element) for element in array]
        if isinstance(array, np.ndarray) and np.may_share_memory(array, self.arena):
            return array.copy()
        return array

    def _at(self, place: Placement) -> Array:
        return self.arena[self.base + place.offset : self.base + place.end]

    def _compute(self, op: Computed, operands: Sequence[Array]) -> Any:
        plans = self.current.nested.get(op)
        if plans is None:
            return super()._compute(op, operands)
        work = self.current.workspace_of.get(op)
        base = self.base + (work.offset if work is not None else 0)

        def body(index: int, arrays: Sequence[Array]) -> list[Array]:
            graph = op.bodies[index]
            known: dict[Value, Array] = dict(zip(graph.inputs, arrays, strict=True))
            return self.computed(graph, plans[index], known, base)

        return op.compute(self.xp, *operands, run=body)  # type: ignore[call-arg]


def _ends(plan: MemoryPlan) -> Mapping[int, list[Placement]]:
    """What dies before each step; nested outputs at the end, when they are copied."""
    found: dict[int, list[Placement]] = {}
    last = len(plan.order)
    for place in plan.placements:
        end = place.buffer.upper
        if end < last or not plan.space.outputs:
            found.setdefault(end, []).append(place)
    return found
