"""Offsets for buffers: what greedy orders and what the search find, and how soon.

Reads files NAME.CAPACITY.csv with the columns id, lower, upper, size, such as those in
benchmarks/challenging of Google's MiniMalloc. Each is packed to its capacity, or with
`--least` as low as can be found. Peaks are relative to the capacity; no line is printed
before its packing is checked. The exit status is 1 if one is above its capacity.

Without numba the search is plain Python; with it, it is compiled where that pays.
"""

import argparse
import csv
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from graphopt.passes.memory import STEPS, Buffer, lower_bound, pack

COLUMNS = (
    *("buffers", "bound", "best greedy", "peak", "proof"),
    *("method", "steps", "s", "CPU s"),
)


def main() -> int:
    """Pack all instances, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, help="CSV files, or folders")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each")
    parser.add_argument("--steps", type=int, default=STEPS, help="for each")
    parser.add_argument("--least", action="store_true", help="as low as can be found")
    parser.add_argument("--no-solver", action="store_true", help="without CP-SAT")
    parser.add_argument("--json", type=Path, help="write all that was measured")
    options = parser.parse_args()
    methods = ("search",) if options.no_solver else ("search", "constraint")
    print(_versions(), end="\n\n")
    print(f"| | {' | '.join(COLUMNS)} |")
    print("|---" * (1 + len(COLUMNS)) + "|", flush=True)
    rows = []
    for path in _files(options.paths):
        buffers, capacity = read(path)
        greedy = pack(buffers, methods=())
        start, start_cpu = time.perf_counter(), time.process_time()
        packing = pack(
            buffers,
            None if options.least else capacity,
            seconds=options.seconds,
            steps=options.steps,
            methods=methods,
        )
        seconds = time.perf_counter() - start
        cpu_seconds = time.process_time() - start_cpu
        check(buffers, packing.offsets, packing.peak)
        row = {
            "instance": path.name.split(".")[0],
            "buffers": len(buffers),
            "bound": lower_bound(buffers) / capacity,
            "greedy": greedy.peak / capacity,
            "peak": packing.peak / capacity,
            "proof": packing.proof,
            "method": packing.method,
            "steps": packing.steps,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
        }
        rows.append(row)
        print(
            f"| {row['instance']} | {row['buffers']} | {row['bound']:.4f}"
            f" | {row['greedy']:.3f} | {row['peak']:.4f} | {row['proof']}"
            f" | {row['method']} | {row['steps']}"
            f" | {seconds:.2f} | {cpu_seconds:.2f} |",
            flush=True,
        )
    packed = sum(row["peak"] <= 1 for row in rows)
    slowest = max((row["seconds"] for row in rows), default=0.0)
    print(
        f"\n{packed} of {len(rows)} within their capacity; the slowest {slowest:.2f} s"
    )
    if options.json:
        options.json.write_text(json.dumps({"tools": _versions(), "rows": rows}))
    return 0 if packed == len(rows) else 1


def read(path: Path) -> tuple[list[Buffer], int]:
    """The buffers of an instance, and its capacity."""
    with path.open() as file:
        rows = [
            Buffer(row["id"], int(row["lower"]), int(row["upper"]), int(row["size"]))
            for row in csv.DictReader(file)
        ]
    return rows, int(path.name.split(".")[1])


def check(buffers: Sequence[Buffer], offsets: Mapping[Any, int], peak: int) -> None:
    """Raise AssertionError where live buffers overlap, or for a wrong peak."""
    top = 0
    for i, a in enumerate(buffers):
        start, stop = offsets[a.id], offsets[a.id] + a.size
        assert start >= 0
        top = max(top, stop)
        for b in buffers[:i]:
            if a.lower < b.upper and b.lower < a.upper:
                other = offsets[b.id]
                assert stop <= other or other + b.size <= start, (a, b)
    assert top == peak


def _files(paths: Sequence[Path]) -> list[Path]:
    return [
        file
        for path in paths
        for file in (sorted(path.glob("*.*.csv")) if path.is_dir() else [path])
    ]


def _versions() -> str:
    have = [
        f"{name} {version(name) if importlib.util.find_spec(name) else 'absent'}"
        for name in ("numpy", "numba", "ortools")
    ]
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    return ", ".join((f"Python {platform.python_version()}", *have, load))


if __name__ == "__main__":
    sys.exit(main())
