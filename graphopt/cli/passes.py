"""List the passes, or explain one: its options, its rules, what it does to a graph."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

from ..errors import UsageError, nearest
from ..passes import BY_NAME
from ..pipeline import Pass, RulePass
from ..plugins import KNOWN
from .arguments import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="explain this pass")


def run(options: argparse.Namespace) -> int:
    """Print all passes in pipeline order, or one in full."""
    if options.name is not None:
        name = options.name.replace("_", "-")
        if name not in KNOWN:
            raise UsageError(f"unknown pass {name!r}{nearest(name, KNOWN)}")
        row = _row(name)
        say(options, _explained(KNOWN[name], row), passes=[row])
        return 0
    rows = [_row(name) for name in KNOWN]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{row['name']:{width}}  {row['summary']}" for row in rows]
    say(options, lines, passes=rows)
    return 0


def _row(name: str) -> dict[str, Any]:
    """What there is to say about a pass; for a broken plugin, why it is one."""
    try:
        cls = KNOWN[name]
    except UsageError as error:
        return {"name": name, "summary": str(error), "options": {}, "rules": []}
    return {
        "name": name,
        "summary": (inspect.getdoc(cls) or "").split("\n")[0],
        "level": cls.level,
        "plugin": name not in BY_NAME,
        "options": {
            f.name: None if f.default is dataclasses.MISSING else f.default
            for f in dataclasses.fields(cls)
        },
        "rules": list(_rules(cls)),
    }


def _rules(cls: type[Pass]) -> Iterator[dict[str, Any]]:
    if issubclass(cls, RulePass):
        for rule in cls().rules():
            yield {"name": rule.name, "equation": rule.equation, "exact": rule.exact}


def _explained(cls: type[Pass], row: dict[str, Any]) -> Iterator[str]:
    yield f"{row['name']}: " + (inspect.getdoc(cls) or "")
    if row["options"]:
        yield "\noptions"
        yield from (f"  {name} = {value!r}" for name, value in row["options"].items())
    if row["rules"]:
        yield "\nrules (~ where rounding may change)"
        width = max(len(rule["name"]) for rule in row["rules"])
        for rule in row["rules"]:
            mark = " " if rule["exact"] else "~"
            yield f"{mark} {rule['name']:{width}}  {rule['equation']}"
