"""List the passes, or explain one: its options, its rules, what it does to a graph.

With --target, those that run for it, in their order, with what lowers to it at the end.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from dataclasses import MISSING
from typing import Any

from ..driver import RUNTIMES, choose, require_target
from ..errors import UsageError, nearest
from ..passes import BY_NAME
from ..pipeline import Pass, RulePass
from ..plugins import KNOWN, plugins
from .arguments import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="explain this pass")
    parser.add_argument(
        "--target", metavar="T", help="those that optimize runs for this target"
    )
    parser.add_argument(
        "--fuse",
        choices=("auto", "max"),
        help=f"with --target {' or '.join(RUNTIMES)}: as of optimize",
    )


def run(options: argparse.Namespace) -> int:
    """Print all passes in pipeline order, or one in full."""
    running = _running(options)
    if options.name is not None:
        name = options.name.replace("_", "-")
        known = KNOWN if running is None else [p.name for p in running]
        if name not in known:
            raise UsageError(f"unknown pass {name!r}{nearest(name, known)}")
        chosen = next((p for p in running or () if p.name == name), None)
        row = _row(name, chosen)
        about = inspect.getdoc(KNOWN[name] if chosen is None else chosen) or ""
        say(options, _explained(about, row), passes=[row])
        return 0
    if running is None:
        listed = [(name, _row(name)) for name in KNOWN]
    else:
        listed = [(str(each), _row(each.name, each)) for each in running]
    width = max((len(shown) for shown, _ in listed), default=0)
    lines = [f"{shown:{width}}  {row['summary']}" for shown, row in listed]
    say(options, lines, passes=[row for _, row in listed])
    return 0


def _running(options: argparse.Namespace) -> tuple[Pass, ...] | None:
    """The passes of the target, in their order; None where none is named."""
    if options.fuse is not None and options.target not in RUNTIMES:
        raise UsageError(f"--fuse is for --target {' and '.join(RUNTIMES)}")
    if options.target is None:
        return None
    require_target(options.target)
    return choose(target=options.target, fuse=options.fuse or "auto").every


def _row(name: str, chosen: Pass | None = None) -> dict[str, Any]:
    """What there is to say about a pass; for a broken plugin, why it is one.

    Options are those of the ``chosen`` one, else the default ones.
    """
    try:
        cls = KNOWN[name] if chosen is None else type(chosen)
    except UsageError as error:
        return {"name": name, "summary": str(error), "options": {}, "rules": []}
    options = {n: getattr(chosen, n, default) for n, default in cls.options().items()}
    return {
        "name": name,
        "summary": (inspect.getdoc(cls) or "").split("\n")[0],
        "level": cls.level,
        "plugin": name not in BY_NAME and name in plugins(),
        "options": {n: None if v is MISSING else v for n, v in options.items()},
        "rules": list(_rules(chosen or cls() if issubclass(cls, RulePass) else None)),
    }


def _rules(pass_: Pass | None) -> Iterator[dict[str, Any]]:
    if isinstance(pass_, RulePass):
        for rule in pass_.rules():
            yield {"name": rule.name, "equation": rule.equation, "exact": rule.exact}


def _explained(about: str, row: dict[str, Any]) -> Iterator[str]:
    yield f"{row['name']}: {about}"
    if row["options"]:
        yield "\noptions"
        yield from (f"  {name} = {value!r}" for name, value in row["options"].items())
    if row["rules"]:
        yield "\nrules (~ where rounding may change)"
        width = max(len(rule["name"]) for rule in row["rules"])
        for rule in row["rules"]:
            mark = " " if rule["exact"] else "~"
            yield f"{mark} {rule['name']:{width}}  {rule['equation']}"
