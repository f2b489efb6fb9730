"""Peak memory of branchy networks by the order in which their ops run.

Compares the file's order, the one in which ONNX Runtime runs it by default, the best
greedy one and ours. The exit status is 1 if ours is worse than any of them anywhere.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import branchy

from graphopt.passes.memory import Tasks, peak, schedule
from graphopt.passes.memory.orders import RANKS, greedy, reverse_depth_first
from graphopt.passes.memory.schedule import STEPS

MB = 1_000_000
HEAD = (
    "| network | ops | file | ONNX Runtime | greedy | ours | bound | proof"
    " | less than file | seconds |\n|---|---|---|---|---|---|---|---|---|---|"
)


def problems(only: str) -> Iterator[tuple[str, Tasks]]:
    """The networks with ``only`` in their name, those of `TRAINED` as training too."""
    for name, make in branchy.NETWORKS.items():
        if only in name:
            yield name, make().inference()
    for name in branchy.TRAINED:
        if only in f"{name}, training":
            yield f"{name}, training", branchy.NETWORKS[name]().training()


def measured(name: str, tasks: Tasks, steps: int) -> dict[str, Any]:
    """The peaks of one network in bytes, and the CPU seconds that ours took."""
    begin = time.process_time()
    ours = schedule(tasks, steps=steps)
    seconds = time.process_time() - begin
    return {
        "name": name,
        "ops": len(tasks.tasks),
        "file": peak(tasks, tasks.file_order),
        "onnxruntime": peak(tasks, reverse_depth_first(tasks)),
        "greedy": min(peak(tasks, greedy(tasks, rank)) for rank in RANKS.values()),
        "ours": peak(tasks, ours.order),
        "bound": ours.lower_bound,
        "proof": ours.proof,
        "method": ours.method,
        "seconds": seconds,
    }


def reduction(row: dict[str, Any], base: str) -> float:
    """By what share our peak is below another's."""
    return 1 - float(row["ours"]) / float(row[base])


def shown(row: dict[str, Any]) -> str:
    """A row of the table."""
    peaks = (
        row[key] / MB for key in ("file", "onnxruntime", "greedy", "ours", "bound")
    )
    numbers = " | ".join(f"{each:.2f}" for each in peaks)
    return (
        f"| {row['name']} | {row['ops']} | {numbers} | {row['proof']} |"
        f" {reduction(row, 'file'):.1%} | {row['seconds']:.2f} |"
    )


def main() -> int:
    """Print the table and the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="networks with this in their name")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="what a search may cost"
    )
    parser.add_argument("--json", type=Path, help="write what was measured here")
    options = parser.parse_args()
    print(HEAD)
    rows = []
    for name, tasks in problems(options.only):
        rows.append(measured(name, tasks, options.steps))
        print(shown(rows[-1]), flush=True)
    others = ("file", "onnxruntime", "greedy")
    for base in others:
        mean = statistics.fmean(reduction(row, base) for row in rows)
        print(f"mean reduction against {base}: {mean:.1%}")
    if options.json:
        options.json.write_text(json.dumps({"schema": 1, "rows": rows}, indent=1))
    return int(any(row["ours"] > row[base] for row in rows for base in others))


if __name__ == "__main__":
    raise SystemExit(main())
