"""What ONNX Runtime's own books say of a run: bytes and types after each node."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from graphopt.errors import BackendMissing
from graphopt.types import DType, TensorType

from .recipe import Recipe
from .session import Session, runtime

ENDING: Final = "_kernel_time"
"""Ends the names of events that are runs of nodes."""


@dataclass(frozen=True)
class Entry:
    """A node that ran. Bytes are those of the session's arena that are in use.

    ``peak`` is the most so far, of all runs. ``workspace`` is what its kernel took for
    itself, or a little more: pieces are summed up, though never to more than was in
    use. ``results`` are the types that it gave; None where the runtime does not say.
    """

    name: str
    kind: str
    before: int
    after: int
    peak: int
    workspace: int
    results: tuple[TensorType | None, ...]


def books(
    model: str | bytes,
    inputs: Mapping[str, Any],
    *,
    folder: str | None = None,
    recipe: Recipe | None = None,
    threads: int = 0,
    runs: int = 1,
) -> list[list[Entry]]:
    """The entries of each of some runs. Raises what `Session` raises.

    Nodes must have names, each its own; nodes of bodies are left out. The recipe must
    give the session an arena of its own: only that is counted. Raises BackendMissing
    where the runtime does not keep these books, as 1.32 does.
    """
    with tempfile.TemporaryDirectory() as scratch:
        counts = Path(scratch, "counts.csv")
        session = Session(
            model,
            folder=folder,
            recipe=recipe,
            threads=threads,
            traces=scratch,
            counts=counts,
        )
        for _ in range(runs):
            session(inputs)
        events = json.loads(Path(session.session.end_profiling()).read_bytes())
        taken = _workspaces(counts)
    nodes = [e for e in events if e["cat"] == "Node" and e["name"].endswith(ENDING)]
    if nodes and "mem_in_use_peak" not in nodes[0]["args"]:
        raise BackendMissing(
            f"ONNX Runtime {runtime().__version__} does not count the memory of nodes;"
            " 1.32 does"
        )
    entries = [_entry(node, taken) for node in nodes]
    each = len(entries) // runs
    return [entries[i * each : (i + 1) * each] for i in range(runs)]


def _workspaces(path: Path) -> dict[str, int]:
    """Bytes by the names of nodes, which the runtime ends with a number of its own."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return {row[0].rpartition("_")[0]: int(row[4]) for row in rows[1:]}


def _entry(event: Mapping[str, Any], workspaces: Mapping[str, int]) -> Entry:
    said = event["args"]
    name = event["name"].removesuffix(ENDING)
    after, peak = int(said["mem_bytes_in_use"]), int(said["mem_in_use_peak"])
    return Entry(
        name=name,
        kind=said["op_name"],
        before=after - int(said["mem_in_use_delta"]),
        after=after,
        peak=peak,
        workspace=min(workspaces.get(name, 0), peak - after),
        results=_types(said["output_type_shape"]),
    )


def _types(
    said: Sequence[Mapping[str, Sequence[int]]],
) -> tuple[TensorType | None, ...]:
    """``[{"float": [2, 3]}]`` -> f32[2, 3]."""
    found: list[TensorType | None] = []
    for each in said:
        ((name, shape),) = each.items()
        dtype = _NAMES.get(name)
        found.append(None if dtype is None else TensorType(dtype, tuple(shape)))
    return tuple(found)


_NAMES: Final = {
    "float": DType.F32,
    "double": DType.F64,
    "float16": DType.F16,
    "bfloat16": DType.BF16,
    "bool": DType.BOOL,
} | {
    f"{sign}int{bits}": DType[f"{sign.upper() or 'I'}{bits}"]
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}
"""What the runtime calls element types there."""
