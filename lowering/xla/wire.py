"""Bytes that devices send each other: as a program says, and as XLA compiled it.

Both count what one device sends under ring algorithms, so that they can be compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from graphopt.cost import trips
from graphopt.ir import Graph, Op
from graphopt.ops import If
from graphopt.ops.mesh import OverMesh
from graphopt.passes.sharding import Program
from graphopt.passes.sharding.layout import wire_bytes
from graphopt.passes.sharding.program import handled_bytes


@dataclass(frozen=True)
class Traffic:
    """Bytes that a device sends in one run, by the kind of collective in XLA's words.

    ``complete`` is False where the turns of a loop are not told, as the compiler for
    TPUs never does; they count as one. Of branches the one that sends most counts.
    """

    bytes: Mapping[str, float]
    complete: bool = True

    @property
    def total(self) -> float:
        return math.fsum(self.bytes.values())

    def times(self, count: int | None) -> Traffic:
        """Of so many turns; None where that is not known."""
        if count is None:
            return Traffic(self.bytes, self.complete and not self.bytes)
        made = {kind: size * count for kind, size in self.bytes.items() if count}
        return Traffic(made, self.complete)


def _sum(parts: Iterable[Traffic]) -> Traffic:
    total: dict[str, float] = {}
    complete = True
    for part in parts:
        complete = complete and part.complete
        for kind, size in part.bytes.items():
            total[kind] = total.get(kind, 0.0) + size
    return Traffic(dict(sorted(total.items())), complete)


def _most(parts: Iterable[Traffic]) -> Traffic:
    return max(parts, key=lambda part: part.total, default=Traffic({}))


# --- what a program says -------------------------------------------------------------

_XLA_KINDS: Final = {
    "AllGather": "all-gather",
    "AllReduce": "all-reduce",
    "AllToAll": "all-to-all",
    "Permute": "collective-permute",
    "ReduceScatter": "reduce-scatter",
    "Shift": "collective-permute",
}


def predicted(program: Program) -> Traffic:
    """The bytes of all collectives of the local graph, as often as they run."""
    return _of_graph(program.graph)


def _of_graph(graph: Graph) -> Traffic:
    return _sum(_of_op(op) for op in graph.ops)


def _of_op(op: Op) -> Traffic:
    if isinstance(op, OverMesh):
        if not op.communicates:
            return Traffic({})
        size = wire_bytes(op.kind, op.ways, handled_bytes(op))
        return Traffic({_XLA_KINDS[op.kind]: size} if size else {})
    if not op.bodies:
        return Traffic({})
    bodies = list(map(_of_graph, op.bodies))
    if isinstance(op, If):
        return _most(bodies)
    count = trips(op)
    return _sum(bodies).times(count if isinstance(count, int) else None)


# --- what XLA compiled ---------------------------------------------------------------

_HEAD: Final = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_COLLECTIVE: Final = re.compile(
    r" = (?P<type>\(.*?\)|\S+) (?P<kind>all-gather|all-reduce|all-to-all"
    r"|collective-broadcast|collective-permute|ragged-all-to-all|reduce-scatter)"
    r"(?P<start>-start)?\("
)
_WHILE: Final = re.compile(r" while\(.*?body=%?([\w.\-]+)")
_TURNS: Final = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BRANCHES: Final = re.compile(
    r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)"
)
_CALLED: Final = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_LISTED: Final = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED: Final = re.compile(r"replica_groups=\[(?:\d+,)*(\d+)\]<=")
_DEVICES: Final = re.compile(r"\b(?:num_partitions|replica_count)=(\d+)")
_ARRAY: Final = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


def compiled(text: str) -> Traffic:
    """The bytes of all collectives in a program of XLA, from its text after all passes.

    What runs while another thing does (``-start``, ``-done``) counts once.
    """
    head = text.partition("\n")[0]
    everyone = math.prod(map(int, _DEVICES.findall(head)))
    blocks, entry = _blocks(text)
    known: dict[str, Traffic] = {}

    def of(name: str) -> Traffic:
        if name not in known:
            known[name] = _sum(line_of(line) for line in blocks.get(name, ()))
        return known[name]

    def line_of(line: str) -> Traffic:
        if found := _COLLECTIVE.search(line):
            return _sent(found, line, everyone)
        if found := _WHILE.search(line):
            turns = _TURNS.search(line)
            return of(found[1]).times(int(turns[1]) if turns else None)
        if " conditional(" in line:
            return _most(map(of, _branches(line)))
        if "async-done(" in line or "async-update(" in line:
            return Traffic({})
        return _sum(map(of, _CALLED.findall(line)))

    return of(entry)


def _blocks(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the first one that runs."""
    blocks: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if found := _HEAD.match(line):
            lines = blocks[found[2]] = []
            entry = found[2] if found[1] else entry
        else:
            lines.append(line)
    return blocks, entry


def _branches(line: str) -> Iterator[str]:
    for listed, single in _BRANCHES.findall(line):
        for name in (listed or single).split(","):
            yield name.strip().lstrip("%")


def _sent(found: re.Match[str], line: str, everyone: int) -> Traffic:
    """What a device sends in one collective."""
    kind, type_ = found["kind"], found["type"]
    if found["start"] and kind != "all-reduce":
        type_ = _elements(type_)[1]  # what it is given, what it gives, what it keeps
    size, group = _size(type_), _group(line, everyone)
    share = (group - 1) / group
    factor = {
        "all-gather": share,
        "all-reduce": 2 * share,
        "all-to-all": share,
        "ragged-all-to-all": share,
        "reduce-scatter": float(group - 1),
    }
    sent = factor.get(kind, 1.0) * size
    return Traffic({kind: sent} if sent else {})


def _elements(type_: str) -> list[str]:
    """The types in a tuple's."""
    parts, depth, begin = [], 0, 1
    for i, letter in enumerate(type_):
        if letter == "," and depth == 1:
            parts.append(type_[begin:i])
            begin = i + 1
        depth += (letter in "([{") - (letter in ")]}")
    return [*parts, type_[begin:-1]]


def _size(type_: str) -> int:
    """Bytes of all arrays in a type."""
    total = 0
    for name, bits, dims in _ARRAY.findall(type_):
        count = math.prod(map(int, dims.split(","))) if dims else 1
        total += -(-count * (8 if name == "pred" else int(bits)) // 8)
    return total


def _group(line: str, everyone: int) -> int:
    """How many devices take part in each group of a collective."""
    if found := _LISTED.search(line):
        return found[1].count(",") + 1
    if found := _COUNTED.search(line):
        return int(found[1])
    return everyone
