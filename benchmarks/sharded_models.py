"""Plan models for meshes with no hints, run them on virtual devices, compare.

    python benchmarks/sharded_models.py FOLDER... -o rows.jsonl [--mesh 8 2x4 2x2x2]
    python benchmarks/sharded_models.py --table rows.jsonl

Each model is planned for H100s of which each may hold a share of the model's weights,
inputs and outputs (rounded up to what is possible), run on as many virtual CPU devices,
and compared with the NumPy reference of the whole model, in float32 and in float64.
Bytes that devices send are those of XLA's program over those of the plan. Symbolic dims
have sizes on which the model runs. A row is written as soon as it is known; what the
file has already is not run again, unless it failed and `--again` is given.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BATCH, LENGTHS = 8, (16, 1)
"""Sizes that eight devices divide, and a length that some exporters bake in."""

MOST = 4
"""Shares of the weights from which on there is no limit."""


def one(path: Path, mesh: str, share: float, seconds: float) -> dict[str, Any]:
    """Plan, run and compare one model; in a process of its own."""
    from graphopt.lowering.xla.wire import predicted
    from graphopt.reference import run

    whole, sizes, inputs, truth = runnable(path)
    weights = sum(t.nbytes for t in whole.tensors())
    begin = time.process_time()
    made, limit = planned(path, mesh, sizes, weights, share, seconds)
    planning = time.process_time() - begin
    executable: Any = made.compile("xla-cpu")
    begin = time.perf_counter()
    found = executable(inputs)
    ran = time.perf_counter() - begin
    exact = run(whole, inputs, precision="float64")
    foreseen = predicted(made.program).total
    return {
        "sizes": sizes,
        "caches": len(made.caches),
        "ops": len(made.graph.ops),
        "plan_cpu_seconds": round(planning, 1),
        "gap": made.plan.solution.gap,
        "predicted_ms": made.plan.seconds * 1e3,
        "stored_bytes": made.plan.stored,
        "weights": weights,
        "limit": limit,
        "foreseen_bytes": foreseen,
        "sent_bytes": executable.traffic(inputs).total,
        "error": apart(found, truth),
        "error64": apart(found, exact),
        "reference_error64": apart(truth, exact),
        "run_seconds": round(ran, 1),
    }


def runnable(
    path: Path,
) -> tuple[Any, dict[str, int], Mapping[str, Any], Mapping[str, Any]]:
    """A model with sizes on which the reference runs it: with them, inputs, results.

    Raises GraphoptError, that of the last sizes, where it runs on none.
    """
    import graphopt
    from graphopt.inputs import random_inputs
    from graphopt.reference import run
    from graphopt.sharded import with_sizes

    graph = graphopt.load(path)
    for sizes in candidates(graph):
        try:
            whole = with_sizes(graph, sizes)
            inputs = random_inputs(whole)
            return whole, sizes, inputs, run(whole, inputs)
        except graphopt.GraphoptError as error:
            reason = error
    raise reason


def planned(
    path: Path,
    mesh: str,
    sizes: Mapping[str, int],
    weights: int,
    share: float,
    seconds: float,
) -> tuple[Any, int | None]:
    """The plan for H100s that hold a share of the weights, and the bytes that is.

    Where it does not fit, they hold half as much again, until there is no limit. Raises
    DoesNotFit where that is too little.
    """
    import graphopt
    from graphopt.fitted import DoesNotFit

    while True:
        limit = int(weights * share) if share < MOST else None
        try:
            made = graphopt.shard(
                path,
                mesh,
                "xla-cuda:h100",
                dims=sizes,
                max_memory=limit,
                seconds=seconds,
            )
        except DoesNotFit:
            if limit is None:
                raise
            share *= 1.5
        else:
            assert made.plan is not None
            return made, limit


def candidates(graph: Any) -> Iterator[dict[str, int]]:
    """Sizes of symbolic dims to be tried: long first, then each length in turn 1."""
    from graphopt.inputs import usual

    given = {1: BATCH, 128: 0}
    sizes = {n: given.get(s, s) for n, s in usual(graph).items() if s in (*given, 224)}
    free = [name for name, size in sizes.items() if not size]
    for row in itertools.product(LENGTHS, repeat=len(free)):
        fixed = {**sizes, **dict(zip(free, row, strict=True))}
        yield usual(graph, fixed)  # sums of others follow
    yield {}  # what graphopt.shard finds by itself


def apart(found: Mapping[str, Any], truth: Mapping[str, Any]) -> float:
    """The largest error of an output, relative to its largest number."""
    import numpy as np

    worst = 0.0
    for name, array in truth.items():
        wide = np.asarray(array, np.float64)
        made = np.asarray(found[name], np.float64)
        finite = np.isfinite(wide)
        if not np.array_equal(finite, np.isfinite(made)):
            return float("inf")
        scale = max(float(np.abs(wide[finite]).max(initial=0)), 1e-30)
        worst = max(worst, float(np.abs(made - wide)[finite].max(initial=0)) / scale)
    return worst


COLUMNS = (
    *("model", "mesh", "ops", "plan, CPU s", "gap", "held, MB", "of", "ms"),
    *("sent/foreseen", "error", "from float64", "reference from it"),
)


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    head = f"| {row['model']} | {row['mesh']} |"
    if "failed" in row:
        return f"{head} {row['failed'][:160]} |"
    foreseen = row["foreseen_bytes"]
    ratio = f"{row['sent_bytes'] / foreseen:.3f}" if foreseen else "none"
    return (
        f"{head} {row['ops']} | {row['plan_cpu_seconds']} | {row['gap']:.1e} |"
        f" {row['stored_bytes'] / 1e6:.1f} | {row['weights'] / 1e6:.1f} |"
        f" {row['predicted_ms']:.3f} | {ratio} | {row['error']:.1e} |"
        f" {row['error64']:.1e} | {row['reference_error64']:.1e} |"
    )


def started(model: Path, mesh: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a process finds of one model, or why it found nothing."""
    command = [sys.executable, __file__, "--one", str(model), "--mesh", mesh]
    command += ["--share", str(options.share), "--search", str(options.search)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=options.seconds
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer in {options.seconds:.0f} s"}
    except (IndexError, ValueError):
        return {"failed": (done.stderr.strip().splitlines()[-1:] or ["?"])[0]}
    return found


def known(path: Path | None, again: bool) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of a file by model and mesh, the last of each."""
    if path is None or not path.exists():
        return {}
    rows = map(json.loads, path.read_text().splitlines())
    found = {(row["model"], row["mesh"]): row for row in rows}
    return {k: row for k, row in found.items() if not (again and "failed" in row)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--mesh", nargs="+", default=["8", "2x4", "2x2x2"])
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--seconds", type=float, default=600, help="for each model")
    parser.add_argument("--search", type=float, default=60, help="of them, for a plan")
    parser.add_argument(
        "--again", action="store_true", help="run what failed once more"
    )
    parser.add_argument("-o", dest="output", type=Path, help="rows as JSON lines")
    parser.add_argument("--table", type=Path, help="print the rows of a file alone")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        try:
            found = one(options.one, options.mesh[0], options.share, options.search)
        except Exception as error:  # whatever it is, it is a row
            found = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(found))
        return
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---|---" + "|--:" * (len(COLUMNS) - 2) + "|", flush=True)
    if options.table:
        print(
            "\n".join(
                line(row) for _, row in sorted(known(options.table, False).items())
            )
        )
        return
    folders = options.folders or [Path(os.environ["GRAPHOPT_MODELS"])]
    models = sorted(
        path
        for folder in folders
        for path in ([folder] if folder.is_file() else folder.rglob("*.onnx"))
    )
    have = known(options.output, options.again)
    for mesh, model in itertools.product(options.mesh, models):
        name = f"{model.parent.name}/{model.stem}"
        row = have.get((name, mesh))
        if row is None:
            row = {"model": name, "mesh": mesh, **started(model, mesh, options)}
            if options.output:
                with options.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
