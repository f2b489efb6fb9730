"""Programs that a TPU has no room for: what its compiler says, in bytes and names."""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping
from typing import Any, Final

from graphopt.cost import value_bytes
from graphopt.errors import GraphoptError, UnsupportedModel
from graphopt.ir import Graph, Value
from graphopt.provenance import named_values, place
from graphopt.reference import OutOfBudget

NAMED_VALUES: Final = 5
"""Values that are named where a program does not fit."""

_HBM: Final = re.compile(
    r"CompileTimeHbmOom.*?\((?P<needed>[\d.]+[KMGTP]?)\) exceeds available HBM"
    r" \((?P<limit>[\d.]+[KMGTP]?)\)",
    re.DOTALL,
)
_VMEM: Final = re.compile(
    r"CompileTimeScopedVmemOom.*?Scoped allocation with size (?P<needed>[\d.]+[KMGTP]?)"
    r" and limit (?P<limit>[\d.]+[KMGTP]?)",
    re.DOTALL,
)
_OP: Final = re.compile(r'op_name="([^"]*)"')


class DoesNotFit(OutOfBudget):
    """A program needs more memory than a device has.

    ``details`` are members of the JSON object for the error.
    """

    def __init__(
        self, message: str, details: Mapping[str, Any], *, where: str | None = None
    ) -> None:
        super().__init__(message, where=where)
        self.details = dict(details)


def refused(said: str, graph: Graph, symbols: Mapping[str, int]) -> GraphoptError:
    """The error for what a compiler said when it refused a program of the graph."""
    if found := _HBM.search(said):
        needed, limit = amount(found["needed"]), amount(found["limit"])
        largest = _largest(graph, symbols)
        listed = ", ".join(f"{name} {gib(size)}" for name, size in largest)
        return DoesNotFit(
            f"the program does not fit: it needs {gib(needed)} of HBM, and there are"
            f" {gib(limit)}; the largest values are {listed}",
            {
                "fits": False,
                "memory": {"hbm_bytes": needed, "hbm_limit_bytes": limit},
                "largest": [{"name": n, "bytes": size} for n, size in largest],
            },
        )
    if found := _VMEM.search(said):
        needed, limit = amount(found["needed"]), amount(found["limit"])
        named = _OP.search(said)
        op = named and named[1].removeprefix("jit(call)/")
        return DoesNotFit(
            f"an op does not fit: it needs {needed:,} bytes of VMEM at once, and may"
            f" have {limit:,}",
            {
                "fits": False,
                "memory": {"vmem_bytes": needed, "vmem_limit_bytes": limit},
                "op": op,
            },
            where=op,
        )
    line = " ".join(said.split())[:500]
    return UnsupportedModel(f"XLA does not compile the program: {line}")


def limit_of_hbm(said: str) -> int | None:
    """Bytes of HBM that there are, by what a compiler said that lacked some."""
    found = _HBM.search(said)
    return amount(found["limit"]) if found else None


def amount(text: str) -> int:
    """Bytes of ``15.75G``: the compiler counts in powers of 1024."""
    power = "KMGTP".find(text[-1]) + 1
    return int(float(text.rstrip("KMGTP")) * 1024**power)


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:,.2f} GiB"


def _largest(graph: Graph, symbols: Mapping[str, int]) -> list[tuple[str, int]]:
    """The values that take most bytes where shapes are known, by name."""
    sizes: dict[Value, int] = {}
    for value in [*graph.inputs, *(r for op in graph.ops for r in op.results)]:
        sizes[value] = value_bytes(value, symbols) or 0
    names = {value: name for name, value in named_values(graph).items()}
    top = heapq.nlargest(NAMED_VALUES, sizes.items(), key=lambda item: item[1])
    return [(names.get(v) or (place(graph, v.op) if v.op else "?"), n) for v, n in top]
