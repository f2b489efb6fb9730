"""What changed between opsets: one meaning in one place, both directions side by side.

The IR means every op as the newest opset does. A `Change` says for one kind what the
opset ``since`` altered: how to read the older form into the newer, and how to spell the
newer as the older. Forms are carried across several opsets change by change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from ..ir import Value
from .spelling import breakpoints


@dataclass(slots=True)
class Node:
    """An op as some opset spells it, on its way from or to a file.

    ``used`` tells for each result whether anybody wants it; when reading, whether the
    file names it. ``token`` is for reading what is random into several ops.
    """

    kind: str
    operands: list[Value | None]
    attrs: dict[str, Any] = field(default_factory=dict)
    used: tuple[bool, ...] = (True,)
    token: int = 0

    def operand(self, index: int) -> Value | None:
        return self.operands[index] if index < len(self.operands) else None

    def put(self, index: int, value: Value | None) -> None:
        """Set an operand; those before it that are missing become absent."""
        while len(self.operands) <= index:
            self.operands.append(None)
        self.operands[index] = value

    def drop(self, index: int) -> None:
        """Take an operand and all behind it away."""
        del self.operands[index:]

    @property
    def data(self) -> Value:
        """The first operand, which must be there."""
        value = self.operands[0]
        assert value is not None
        return value


Read: TypeAlias = "Node | Sequence[Value] | None"
"""What reading gives: a newer form; or values that mean it; or None: no newer form."""


ReadForm: TypeAlias = Callable[[Node], Read]
Spell: TypeAlias = Callable[[Node], "Node | None"]


class Change(NamedTuple):
    """What opset ``since`` altered for a kind; ``older`` is its name before that."""

    kind: str
    since: int
    read: ReadForm
    spell: Spell
    older: str


_by_newer: dict[str, list[Change]] = defaultdict(list)
"""The changes of the default domain, by what they make."""
_by_older: dict[tuple[str, str], list[Change]] = defaultdict(list)
"""All changes, by the domain and what they alter."""


def same(node: Node) -> Node:
    """Both forms are written alike."""
    return node


def never(node: Node) -> None:
    """The other form cannot say it."""


def changed(
    kinds: str,
    since: int,
    *,
    read: ReadForm = same,
    spell: Spell = same,
    older: str = "",
    domain: str = "",
) -> None:
    """State what opset ``since`` altered for some kinds (names with spaces between).

    ``read`` turns the older form into the newer one (or into values that mean it, or
    None where nothing newer does); ``spell`` is its inverse, None where the older
    opset cannot say it. Both may change the node they get. Of other domains than the
    default one older forms are only read: they must mean what the same opset says.
    """
    for kind in kinds.split():
        change = Change(kind, since, read, spell, older or kind)
        if not domain:
            _by_newer[kind].append(change)
        _by_older[domain, change.older].append(change)


def spelled_before(kind: str, since: int, spell: Spell, *, older: str) -> None:
    """State how a kind that is in no opset is said before ``since``."""
    _by_newer[kind].append(Change(kind, since, never, spell, older))


@cache
def changes_after(kind: str, version: int, domain: str = "") -> tuple[Change, ...]:
    """The changes that stand between an older form and the newest, in order."""
    path: list[Change] = []
    while True:
        later = [c for c in _by_older[domain, kind] if c.since > version]
        if not later:
            return tuple(path)
        step = min(later, key=lambda c: c.since)
        path.append(step)
        kind, version = step.kind, step.since


@cache
def changes_back_to(kind: str, version: int) -> tuple[Change, ...]:
    """The changes that stand between the newest form and an older, newest first."""
    path: list[Change] = []
    limit = 1 << 30
    while True:
        earlier = [c for c in _by_newer[kind] if version < c.since < limit]
        if not earlier:
            return tuple(path)
        step = max(earlier, key=lambda c: c.since)
        path.append(step)
        kind, limit = step.older, step.since


def has_changed(kind: str, version: int, domain: str = "") -> str | None:
    """What a kind is called now, if it changed since an opset; else None."""
    changes = changes_after(kind, version, domain)
    return changes[-1].kind if changes else None


@cache
def turning_points(kind: str) -> tuple[int, ...]:
    """The opsets at which a kind of the newest opset may become sayable, in order."""
    found = {c.since for c in _by_newer[kind]}
    kinds = {kind} | {c.older for c in _by_newer[kind]}
    return tuple(sorted(found.union(*map(breakpoints, kinds))))


def read(node: Node, version: int, domain: str = "") -> Read:
    """The newest form of a node."""
    for change in changes_after(node.kind, version, domain):
        made = change.read(node)
        if not isinstance(made, Node):
            return made
        node = made
        node.kind = change.kind
    return node


def spell(node: Node, version: int) -> Node | None:
    """A node of the newest form as an older opset says it; None where it cannot."""
    for change in changes_back_to(node.kind, version):
        made = change.spell(node)
        if made is None:
            return None
        node = made
        node.kind = change.older
    return node
