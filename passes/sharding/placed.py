"""Parts of values on the devices, as a local graph is built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np

from graphopt.errors import UsageError
from graphopt.index import Combiner, Partial
from graphopt.ir import Value
from graphopt.ops import Constant
from graphopt.types import TensorType

from .layout import (
    Cost,
    Layout,
    Step,
    is_partial,
    layouts,
    path,
    replicated,
    sent,
    text,
)
from .mesh import Mesh
from .resharding import tree
from .states import States


class Placed:
    """Local values by the value that they are of, in each layout that was made.

    Asked for another layout, it takes the cheapest steps from those there are.
    """

    def __init__(self, mesh: Mesh, cost: Cost | None = None) -> None:
        self.mesh = mesh
        self.cost = cost or sent(mesh)
        self._made: dict[Value, dict[Layout, Value]] = {}
        self._states: dict[tuple[TensorType, frozenset[Combiner]], States] = {}

    def put(self, value: Value, layout: Layout, part: Value) -> None:
        self._made.setdefault(value, {})[layout] = part

    def known(self, value: Value) -> dict[Layout, Value]:
        """What there is of a value; a constant lies replicated."""
        found = self._made.get(value)
        if found is None:
            whole: Value = value
            if not isinstance(value, Constant):
                ints = value.ints
                assert ints is not None, value
                assert value.dtype is not None
                array = np.array(ints, value.dtype.numpy).reshape(value.shape)
                whole = Constant(array)
            found = self._made[value] = {replicated(self.mesh): whole}
        return found

    def get(self, value: Value, layout: Layout) -> Value:
        """A device's part of a value in this layout.

        Raises UsageError for a layout that the value cannot have.
        """
        made = self.known(value)
        if layout in made:
            return made[layout]
        type_ = cast(TensorType, value.type)
        ways: list[tuple[float, int, int, list[Step], Layout]] = []
        for source in made:
            steps = path(source, layout, type_, self.mesh, self.cost)
            if steps is not None:
                spent = sum(self.cost(step, type_) for step in steps)
                ways.append((spent, len(steps), len(ways), steps, source))
        if not ways:
            lying = " or ".join(map(text, made))
            raise UsageError(
                f"{type_} that lies as {lying} cannot be brought to {text(layout)} on"
                f" the mesh {self.mesh}"
            )
        *_, steps, source = min(ways)
        at = made[source]
        for step in steps:
            at = step.applied(at, self.mesh)
            made.setdefault(step.target, at)
        return at

    def spread(self, value: Value, wants: Iterable[Layout]) -> None:
        """Make several layouts of a value together, by the cheapest tree of steps.

        One alone is left to `get`; so is what cannot be reached.
        """
        made = self.known(value)
        left = [layout for layout in dict.fromkeys(wants) if layout not in made]
        if len(left) < 2 or len(made) > 1:
            return
        ((source, part),) = made.items()
        type_ = cast(TensorType, value.type)
        states = (s for layout in (source, *left) for s in layout)
        partial = {s.combiner for s in states if isinstance(s, Partial)}
        key = type_, frozenset({Combiner.SUM, *partial})
        found = self._states.get(key)
        if found is None:
            found = self._states[key] = States(self.mesh, self.cost, *key)
        at = {source: part}
        for step in tree(found, source, left) or ():
            at[step.target] = step.applied(at[step.source], self.mesh)
        made.update(at)

    def keep(self, value: Value, layout: Layout, part: Value) -> None:
        """Forget the other layouts of a value: it is stored in this one."""
        self._made[value] = {layout: part}

    def settled(self, value: Value) -> Layout:
        """The layout that is least trouble to have a value in, without partial sums.

        The first that was made, or else the one that is cheapest to make.
        """
        made = self.known(value)
        for layout in made:
            if not is_partial(layout):
                return layout
        type_ = cast(TensorType, value.type)
        assert type_.shape is not None
        costs = []
        for number, target in enumerate(layouts(type_.shape, self.mesh)):
            for source in made:
                steps = path(source, target, type_, self.mesh, self.cost)
                if steps is not None:
                    spent = sum(self.cost(step, type_) for step in steps)
                    costs.append((spent, number, target))
        return min(costs)[2]

    def layouts(self) -> dict[Value, Layout]:
        """The layout of every local value; of what several share, the first."""
        found: dict[Value, Layout] = {}
        for made in self._made.values():
            for layout, part in made.items():
                found.setdefault(part, layout)
        return found
