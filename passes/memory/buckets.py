"""Plans for a model of symbolic dims: one for the sizes of each run, or for buckets."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from graphopt.errors import UsageError
from graphopt.ir import Graph

from .plan import MemoryPlan, plan_memory
from .ranges import Size

KEPT: Final = 64
"""Plans that are kept; those that were not used for longest go first."""


class Plans:
    """The plan for each run of a graph, made when its sizes are first met.

    ``buckets`` gives greatest sizes of some dims, ``{"length": (128, 512)}``: a run
    uses the plan of the least bucket that holds it, which is made once. Other options
    are those of `plan_memory`.
    """

    def __init__(
        self,
        graph: Graph,
        buckets: Mapping[str, Sequence[int]] | None = None,
        **options: Any,
    ) -> None:
        self.graph = graph
        self.buckets = {name: sorted(sizes) for name, sizes in (buckets or {}).items()}
        self.options = options
        self._made: OrderedDict[tuple[tuple[str, Size], ...], MemoryPlan] = (
            OrderedDict()
        )

    def at(self, sizes: Mapping[str, int]) -> MemoryPlan:
        """The plan for a run of these sizes.

        Raises UsageError for a size over all buckets.
        """
        binding = {name: self._bucket(name, size) for name, size in sizes.items()}
        key = tuple(sorted(binding.items()))
        plan = self._made.get(key)
        if plan is None:
            plan = self._made[key] = plan_memory(self.graph, binding, **self.options)
            if len(self._made) > KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return plan

    def _bucket(self, name: str, size: int) -> Size:
        """The range of sizes that share a plan with this one."""
        if name not in self.buckets:
            return size
        if size < 1:
            return size
        least = 1
        for greatest in self.buckets[name]:
            if size <= greatest:
                return least, greatest
            least = greatest + 1
        raise UsageError(
            f"{name} = {size} is over the largest bucket, {self.buckets[name][-1]}"
        )

    def all(self, others: Mapping[str, int] | None = None) -> list[MemoryPlan]:
        """The plans of all buckets, other dims having the sizes given."""
        names = list(self.buckets)
        return [
            self.at({**(others or {}), **dict(zip(names, sizes, strict=True))})
            for sizes in itertools.product(*self.buckets.values())
        ]
