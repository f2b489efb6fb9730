"""Peak memory of branchy networks by the order in which their ops run.

Compares the file's order, the one in which ONNX Runtime runs it by default, the best
greedy one and ours. The exit status is 1 if ours is worse than any of them anywhere.

With ``--sums`` also what sums of partial products take (`passes/memory/partial.py`):
`sums` where each product is a value of its own, which a sum may write over; `onto`
where a convolution is added onto the one before, as by ONNX Runtime's kernel;
`runtime`, as plans for `ort-cpu` count: sums are no other value's memory, transposed
convolutions hold their windows; there the file's and our order, and then sums.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import branchy
from networks import Net

from graphopt.cost import cost
from graphopt.ir import Graph
from graphopt.passes.memory import (
    SPACES,
    Space,
    Tasks,
    peak,
    plan_memory,
    schedule,
    summed,
)
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
    ours = schedule(tasks, steps=steps, seconds=float("inf"))
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


PLAIN = Space(alignment=1, outputs=True)
"""As the tasks of `networks` count."""

RUNTIME = replace(SPACES["ort-cpu"], outputs=True)

SUMS = (
    "| network | ours | sums | onto | without | operations | sums, less than file"
    " | onto, less than file | runtime: file | ours | onto |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def summed_row(net: Net, row: dict[str, Any]) -> dict[str, Any]:
    """The peaks of a network, measured in ``row``, with sums of partial products."""
    graph = net.graph()
    found: dict[str, Any] = {}
    for name, space, onto in (
        ("sums", PLAIN, False),
        ("onto", PLAIN, True),
        ("runtime_onto", RUNTIME, True),
    ):
        made = summed(graph, space=space, onto=onto, seconds=float("inf"))
        found[name] = height(made.graph, space, made.order)
        if name == "onto":
            found["without"] = len(made.avoided)
            found["operations"] = flops(made.graph) / flops(graph) - 1
    for name in ("sums", "onto"):
        found[name] = min(found[name], row["ours"])
    plan = plan_memory(graph, space=RUNTIME)
    ours = height(graph, RUNTIME, plan.order)
    found["runtime_onto"] = min(found["runtime_onto"], ours)
    return {**row, **found, "runtime_file": plan.lower_bound, "runtime_ours": ours}


def height(graph: Graph, space: Space, order: Any) -> int:
    """The most live bytes in the best order that is found."""
    return plan_memory(graph, space=space, order=order, reorder=True).lower_bound


def flops(graph: Graph) -> int:
    found = cost(graph).flops
    assert isinstance(found, int)
    return found


def shown_sums(row: dict[str, Any]) -> str:
    """A row of the table of sums."""
    first, last = ("ours", "sums", "onto"), ("file", "ours", "onto")
    peaks = " | ".join(f"{row[key] / MB:.2f}" for key in first)
    runtime = " | ".join(f"{row[f'runtime_{key}'] / MB:.2f}" for key in last)
    less = " | ".join(f"{1 - row[key] / row['file']:.1%}" for key in first[1:])
    return (
        f"| {row['name']} | {peaks} | {row['without']} | {row['operations']:+.2%} |"
        f" {less} | {runtime} |"
    )


def means_of_sums(rows: list[dict[str, Any]]) -> Iterator[str]:
    """By how much sums take less than orders, in the mean."""
    for ours in ("sums", "onto"):
        less = []
        for base in (*OTHERS, "ours"):
            mean = statistics.fmean(1 - row[ours] / row[base] for row in rows)
            less.append(f"{base} by {mean:.1%}")
        yield f"{ours}: less than {', '.join(less)} in the mean of {len(rows)}"
    for base in ("runtime_file", "runtime_ours"):
        mean = statistics.fmean(1 - row["runtime_onto"] / row[base] for row in rows)
        yield f"runtime_onto: less than {base} by {mean:.1%}"


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
    parser.add_argument(
        "--sums", action="store_true", help="of inference, with sums of parts, too"
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
    if options.sums:
        print(SUMS)
        for i, row in enumerate(inference):
            inference[i] = summed_row(branchy.NETWORKS[row["name"]](), row)
            print(shown_sums(inference[i]), flush=True)
        print(*means_of_sums(inference), sep="\n")
        rows = [*inference, *training]
    if options.json:
        options.json.write_text(json.dumps({"schema": 1, "rows": rows}, indent=1))
    return int(any(row["ours"] > row[base] for row in rows for base in OTHERS))


if __name__ == "__main__":
    raise SystemExit(main())
