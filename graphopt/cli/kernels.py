"""List the kernels of ONNX Runtime: which ops, for which opsets and element types.

OP is a kind, ``Gelu`` or ``com.microsoft.Gelu``; without any, all of them are listed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from ..errors import UsageError, nearest
from ..lowering.ort.kernels import Kernels
from ..lowering.ort.recipe import PROVIDERS
from .arguments import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("ops", nargs="*", metavar="OP", help="only these kinds")
    parser.add_argument(
        "--provider",
        choices=PROVIDERS,
        default="cpu",
        help="where the kernels run (default: cpu)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the rows asked for."""
    kernels = Kernels.of(options.provider)
    rows = [row for row in _rows(kernels) if _is_wanted(row, options.ops)]
    for name in options.ops:
        if not any(_is_wanted(row, [name]) for row in rows):
            known = {kind for _, kind in kernels.kinds()}
            raise UsageError(
                f"no kernel of {kernels.source} is for {name!r}{nearest(name, known)}"
            )
    head = f"{kernels.source}: opsets up to {kernels.opset}"
    say(
        options,
        [head, *map(_line, rows)],
        provider=options.provider,
        source=kernels.source,
        version=kernels.version,
        opset=kernels.opset,
        kernels=rows,
    )
    return 0


def _rows(kernels: Kernels) -> Iterator[dict[str, Any]]:
    for domain, kind in kernels.kinds():
        for kernel in kernels.rows[domain, kind]:
            yield {
                "domain": domain,
                "kind": kind,
                "opsets": kernel.span,
                "types": {v: sorted(t) for v, t in kernel.types.items()},
            }


def _is_wanted(row: dict[str, Any], names: list[str]) -> bool:
    return not names or row["kind"] in names or _label(row) in names


def _label(row: dict[str, Any]) -> str:
    return ".".join(filter(None, (row["domain"], row["kind"])))


def _line(row: dict[str, Any]) -> str:
    types = "; ".join(f"{v}: {' '.join(t)}" for v, t in row["types"].items())
    return f"{_label(row):40}  {row['opsets']:6}  {types}".rstrip()
