"""What a model consists of and costs: interface, ops, parameters, FLOPs, bytes, memory.

Costs of symbolic dims are expressions; --dim gives sizes. --text prints the graph.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..cost import cost
from ..importer import load
from ..ir import Graph
from ..report import kinds_of, table
from .arguments import add_sizes, say, sizes_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--text", action="store_true", help="print the graph as text")
    add_sizes(parser, "size of a symbolic dim, for the costs")


def run(options: argparse.Namespace) -> int:
    """Load, read the costs, print."""
    graph = load(options.model)
    if options.text:
        say(options, str(graph).splitlines(), text=str(graph))
        return 0
    found = facts(graph, sizes_of(options, graph))
    say(options, _lines(found), **found)
    return 0


def facts(graph: Graph, binding: Mapping[str, int]) -> dict[str, Any]:
    """What there is to say of a graph, as plain data."""
    total = cost(graph, binding)
    kinds = kinds_of(graph)
    return {
        "name": graph.name,
        "opsets": dict(graph.header.opsets),
        "producer": " ".join(filter(None, graph.header.producer)),
        "inputs": {p.name: str(p.type) for p in graph.inputs},
        "outputs": {
            name: str(value.type)
            for name, value in zip(graph.output_names, graph.outputs, strict=True)
        },
        "ops": {"total": sum(kinds.values()), "by_kind": dict(kinds.most_common())},
        "parameters": total.parameters,
        "parameter_bytes": total.parameter_bytes,
        "flops": _plain(total.flops),
        "bytes": _plain(total.bytes),
        "peak_bytes": _plain(total.peak),
        "unknown": dict(total.unknown),
    }


def _plain(dim: Any) -> int | str | None:
    return dim if dim is None or isinstance(dim, int) else str(dim)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    opsets = ", ".join(f"{d or 'onnx'} {v}" for d, v in found["opsets"].items())
    yield f"{found['name'] or 'graph'}: {opsets}  {found['producer']}".rstrip()
    yield from (f"  input {n}: {t}" for n, t in found["inputs"].items())
    yield from (f"  output {n}: {t}" for n, t in found["outputs"].items())
    yield ""
    yield from table(
        [
            ("ops", f"{found['ops']['total']:,}"),
            *((f"  {k}", f"{n:,}") for k, n in found["ops"]["by_kind"].items()),
        ]
    )
    yield ""
    yield from table(
        [
            ("parameters", _number(found["parameters"])),
            ("bytes of parameters", _number(found["parameter_bytes"])),
            ("floating-point operations", _counted(found, "flops")),
            ("bytes read and written", _counted(found, "bytes")),
            ("peak bytes of activations", _number(found["peak_bytes"])),
        ]
    )
    if found["peak_bytes"] is None:
        yield "the peak needs the size of every value, and of some it is not known"
    for kind, count in found["unknown"].items():
        yield f"not counted: {count} {kind}"


def _counted(found: Mapping[str, Any], what: str) -> str:
    """A sum; unknown where nothing could be counted, at least so much where not all."""
    missing = sum(found["unknown"].values())
    if missing and missing == found["ops"]["total"]:
        return "?"
    return _number(found[what]) + (" and more" if missing else "")


def _number(value: int | str | None) -> str:
    if value is None:
        return "?"
    return f"{value:,}" if isinstance(value, int) else value
