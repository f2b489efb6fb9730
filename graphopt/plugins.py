"""Passes by name: those that come with graphopt, and those of other packages.

A package offers passes under the entry-point group ``graphopt.passes``. Entry points
are read only when a name is not one of ours, or when all passes are listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from .errors import UsageError
from .passes import BY_NAME
from .pipeline import Pass, parse_pass

GROUP: Final = "graphopt.passes"


class _Known(Mapping[str, type[Pass]]):
    """Pass classes by name; a plugin is imported when it is asked for."""

    def __getitem__(self, name: str) -> type[Pass]:
        if name in BY_NAME:  # a plugin never hides a pass of ours
            return BY_NAME[name]
        return load(plugins()[name])

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*BY_NAME, *plugins()]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


KNOWN: Final[Mapping[str, type[Pass]]] = _Known()
"""Every pass, by name. Raises UsageError for a plugin that cannot be imported."""


def find(spec: str) -> Pass:
    """The pass that ``name`` or ``name(option=value)`` asks for.

    Raises UsageError for an unknown pass or option, and for a broken plugin.
    """
    if set(spec.partition("(")[0]) & set(".:/\\"):
        raise UsageError(
            f"{spec!r} is no name of a pass; one of your own gets a name from an"
            f" installed package with an entry point in the group {GROUP!r}, or is"
            " given in Python, as an object (docs/write-a-pass.md)"
        )
    return parse_pass(spec, KNOWN)


@cache
def plugins() -> Mapping[str, EntryPoint]:
    """What installed packages offer, by the names that they gave."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def load(entry: EntryPoint) -> type[Pass]:
    """The pass class of an entry point. Raises UsageError where there is none."""
    where = entry.value
    if entry.dist is not None:
        where += f", of the package {entry.dist.name}"
    try:
        found = entry.load()
    except Exception as error:  # whatever a stranger's module raises
        raise UsageError(
            f"the plugin pass {entry.name!r} cannot be imported:"
            f" {type(error).__name__}: {error}",
            where=where,
        ) from None
    if not isinstance(found, type) or not issubclass(found, Pass):
        raise UsageError(
            f"the plugin pass {entry.name!r} is no subclass of graphopt.Pass",
            where=where,
        )
    return found
