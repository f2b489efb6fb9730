"""Inputs and outputs that lie alike: what a step leaves is what the next one finds.

A cache of keys and values comes in, grows by a token and goes out again. If it left in
another layout than it came in, each step would begin with an exchange that no plan of
one step counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graphopt.errors import UsageError

from .layout import Layout
from .problem import Node, Option, Port, Problem


@dataclass(frozen=True)
class Tied:
    """A problem in which one node stands for all that are to lie alike.

    ``leaders`` names it for each of the others. These keep as many options as it has,
    of no bytes, and nothing goes to them or comes from them.
    """

    problem: Problem
    leaders: Mapping[int, int] = field(default_factory=dict)

    def followed(self, chosen: Sequence[int]) -> Sequence[int]:
        """What was chosen, with the option of a leader for all that it stands for."""
        found = list(chosen)
        for number, leader in self.leaders.items():
            found[number] = found[leader]
        return found


def tied(problem: Problem, pairs: Iterable[tuple[int, int]]) -> Tied:
    """The problem whose inputs and outputs lie alike that pairs of nodes join.

    The node that stands for them takes what the outputs do, gives what the inputs do,
    and has the layouts that all of them have. Raises UsageError where there is none.
    """
    groups = _joined(pairs)
    nodes, leaders = list(problem.nodes), dict[int, int]()
    moved: dict[tuple[bool, Port], Port] = {}
    for members in groups:
        leader = members[0]
        lying = [_bytes(nodes[n]) for n in members]
        common = [x for x in lying[0] if all(x in each for each in lying)]
        if not common:
            names = " and ".join(dict.fromkeys(nodes[n].name for n in members))
            raise UsageError(f"{names} are tied, and no layout is allowed for both")
        ends = [n for n in members if nodes[n].options[0].wants]
        starts = [n for n in members if n not in ends]
        moved |= {(False, (n, 0)): (leader, i) for i, n in enumerate(ends)}
        moved |= {(True, (n, 0)): (leader, i) for i, n in enumerate(starts)}
        options = []
        for x in common:
            size = sum(
                nodes[n].times * each[x] for n, each in zip(members, lying, strict=True)
            )
            options.append(Option((x,) * len(ends), (x,) * len(starts), 0.0, size))
        for n in members[1:]:
            leaders[n] = leader
            alone = [
                Option((x,), ()) if n in ends else Option((), (x,)) for x in common
            ]
            nodes[n] = replace(nodes[n], options=alone)
        nodes[leader] = Node(nodes[leader].name, options)
    carried = [
        replace(
            value,
            source=moved.get((True, value.source), value.source),
            sinks=tuple([moved.get((False, sink), sink) for sink in value.sinks]),
        )
        for value in problem.carried
    ]
    return Tied(replace(problem, nodes=nodes, carried=carried), leaders)


def _joined(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The nodes that pairs join, directly or by others: rising."""
    group: dict[int, int] = {}
    for a, b in pairs:
        low, high = sorted((group.setdefault(a, a), group.setdefault(b, b)))
        group |= {n: low for n, of in group.items() if of == high}
    found: dict[int, list[int]] = defaultdict(list)
    for number in sorted(group):
        found[group[number]].append(number)
    return [members for members in found.values() if len(members) > 1]


def _bytes(node: Node) -> dict[Layout, int]:
    """The layouts of an input or an output, and its bytes in each."""
    return {(o.gives or o.wants)[0]: o.bytes for o in node.options}
