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
OTHERS = ("file", "onnxruntime", "greedy")
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


def means(rows: list[dict[str, Any]], base: str, kind: str) -> str:
    """By how much our peaks are below another's, where they could be, too."""
    less = [reduction(row, base) for row in rows]
    room = [reduction(row, base) for row in rows if row[base] > row["bound"]]
    return (
        f"{kind}: less than {base} by {statistics.fmean(less):.1%} in the mean of"
        f" {len(less)}, by {statistics.fmean(room or [0]):.1%} of the {len(room)} where"
        " it is not known that no order is better"
    )


def proofs(seeds: int, steps: int) -> str:
    """How many small networks are proved optimal."""
    nets = [net for seed in range(seeds) for net in branchy.small(seed).values()]
    rows = [measured("", net.inference(), steps) for net in nets]
    proved = sum(row["proof"] == "optimal" for row in rows)
    less = statistics.fmean(reduction(row, "file") for row in rows)
    return (
        f"{proved} of {len(rows)} of {min(row['ops'] for row in rows)} to"
        f" {max(row['ops'] for row in rows)} ops proved, the slowest in"
        f" {max(row['seconds'] for row in rows):.2f} s; less than file by {less:.1%}"
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
    parser.add_argument(
        "--small", type=int, default=0, help="seeds of small networks to prove, too"
    )
    parser.add_argument("--json", type=Path, help="write what was measured here")
    options = parser.parse_args()
    print(HEAD)
    rows = []
    for name, tasks in problems(options.only):
        rows.append(measured(name, tasks, options.steps))
        print(shown(rows[-1]), flush=True)
    training = [row for row in rows if "training" in row["name"]]
    inference = [row for row in rows if row not in training]
    for kind, some in (("inference", inference), ("training", training)):
        for base in OTHERS if some else ():
            print(means(some, base, kind))
    if options.small:
        print(proofs(options.small, options.steps))
    if options.json:
        options.json.write_text(json.dumps({"schema": 1, "rows": rows}, indent=1))
    return int(any(row["ours"] > row[base] for row in rows for base in OTHERS))


if __name__ == "__main__":
    raise SystemExit(main())
