"""The choice of one option for each node of a program, without the program.

A node is an op, a weight, an input or an output, or a class of equal ones. What it
costs depends on its option; what a value costs, on the layout that its source gives it
and those that its sinks want.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .layout import Layout
from .resharding import tree_seconds
from .states import States

UNIT: Final = 1e-6
"""Seconds of which costs are multiples: the solver's tolerances are absolute."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a node: layouts of operands and results, in their order.

    ``seconds`` are those of one member of the class, and so are ``bytes``: what it
    occupies all the time on each device.
    """

    wants: tuple[Layout, ...]
    gives: tuple[Layout, ...]
    seconds: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class Node:
    """A class of ``times`` equal ops, which have one option together."""

    name: str
    options: Sequence[Option]
    times: int = 1


Port = tuple[int, int]
"""A node, and the position of an operand or of a result."""


@dataclass(frozen=True)
class Carried:
    """A class of ``times`` equal values, from a result of a node to operands of others.

    Each sink is there once, though a value may be read often by members of a class.
    """

    states: States
    source: Port
    sinks: tuple[Port, ...]
    times: int = 1


@dataclass(frozen=True)
class Row:
    """``sum over nodes of amount[node][option] <= limit``"""

    amounts: Mapping[int, Sequence[float]]
    limit: float


@dataclass(frozen=True)
class Problem:
    """Nodes, what they pass on, and the bytes that fit on a device.

    ``rows`` are further limits. An operand may be fed by several classes of values, and
    by none: then its layout costs nothing.
    """

    nodes: Sequence[Node]
    carried: Sequence[Carried]
    limit: float = math.inf
    rows: tuple[Row, ...] = ()

    def bytes(self, chosen: Sequence[int]) -> int:
        """What the chosen options occupy on each device."""
        pairs = zip(self.nodes, chosen, strict=True)
        return sum(n.times * n.options[k].bytes for n, k in pairs)

    @property
    def most(self) -> int:
        """What options occupy where each is the largest of its node."""
        return sum(n.times * max(o.bytes for o in n.options) for n in self.nodes)

    def seconds(self, chosen: Sequence[int]) -> float:
        """What the chosen options cost; inf where a layout cannot be reached."""
        run = sum(
            node.times * node.options[k].seconds
            for node, k in zip(self.nodes, chosen, strict=True)
        )
        return run + sum(self.moved(value, chosen) for value in self.carried)

    def moved(self, value: Carried, chosen: Sequence[int]) -> float:
        """What all resharding of one class of values costs."""
        node, result = value.source
        source = self.nodes[node].options[chosen[node]].gives[result]
        wants = [self.nodes[n].options[chosen[n]].wants[i] for n, i in value.sinks]
        return value.times * tree_seconds(value.states, source, wants)

    def keeps(self, chosen: Sequence[int]) -> bool:
        """True where the chosen options keep all limits."""
        if self.bytes(chosen) > self.limit:
            return False
        return all(
            sum(amounts[chosen[n]] for n, amounts in row.amounts.items()) <= row.limit
            for row in self.rows
        )
