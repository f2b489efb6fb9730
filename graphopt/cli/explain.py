"""Say what was not done to a model, and why; and what was done.

Each rule that was tried in vain, with its reason and the ops; then each that fired.
--op follows one op of the model; --rule looks at one rule alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError, nearest
from ..explain import Event, events
from ..importer import load
from ..ir import Graph
from ..pipeline import RulePass
from ..provenance import names_of
from .arguments import add_pipeline, pipeline_of, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--op", metavar="NAME", help="a node, or a value it gives")
    parser.add_argument("--rule", metavar="NAME", help="only this rule")
    add_pipeline(parser)


def run(options: argparse.Namespace) -> int:
    """Optimize without writing, and tell."""
    pipeline = pipeline_of(options)
    if options.rule is not None:
        known = {
            rule.name
            for pass_ in pipeline.every
            if isinstance(pass_, RulePass)
            for rule in pass_.rules()
        }
        if options.rule not in known:
            raise UsageError(
                f"no rule is called {options.rule!r}{nearest(options.rule, known)}"
            )
    graph = load(options.model)
    if options.op is not None:
        known = {name for op in graph.ops for name in names_of(graph, op)}
        if options.op not in known:
            raise UsageError(
                f"no node or value is called {options.op!r}{nearest(options.op, known)}"
            )
    found = [
        event
        for event in events(graph, pipeline)
        if (options.rule is None or event.rule == options.rule)
        and (options.op is None or options.op in event.names)
    ]
    lines = list(_lines(found))
    if options.op is not None and not _is_there(pipeline(graph), options.op):
        lines.append(f"{options.op} is gone: equal to another op, or read by none")
    say(options, lines, events=[_json(event) for event in found])
    return 0


def _is_there(graph: Graph, name: str) -> bool:
    return any(name in names_of(inner, op) for inner, op in graph.walk())


def _json(event: Event) -> dict[str, object]:
    return {
        "pass": event.pass_,
        "rule": event.rule,
        "fired": event.fired,
        "op": event.op,
        "reason": event.reason,
    }


def _lines(found: list[Event]) -> Iterator[str]:
    if not found:
        yield "nothing: no rule fired on it, and none gave a reason not to"
    groups: dict[tuple[str, bool, str], dict[str, None]] = {}
    for event in found:
        key = (event.rule, event.fired, event.reason)
        groups.setdefault(key, {})[event.op] = None
    for done, head in ((False, "not done, and why:"), (True, "done:")):
        part = {key: ops for key, ops in groups.items() if key[1] is done}
        if done and 0 < len(part) < len(groups):
            yield ""
        if part:
            yield head
        for (rule, _, reason), ops in part.items():
            yield f"{rule}: {'fired' if done else reason}"
            shown = list(ops)[:5]
            yield from (f"    {op}" for op in shown)
            if len(ops) > len(shown):
                yield f"    and {len(ops) - len(shown)} more"
