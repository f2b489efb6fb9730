"""Plan models for meshes with no hints, run them on virtual devices, compare.

    python benchmarks/sharded_models.py FOLDER... [--mesh 8 2x4 2x2x2] [--share 0.3]

Each model is planned for H100s of which each may hold a share of the model's weights,
inputs and outputs (rounded up to what is possible), run on as many virtual CPU devices,
and compared with the NumPy reference of the whole model. Bytes that devices send are
those of XLA's program over those of the plan.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SIZES = {"batch": 8, "image": 64, "": 16}


def one(path: Path, mesh: str, share: float) -> dict[str, Any]:
    """Plan, run and compare one model; in a process of its own."""
    import numpy as np

    import graphopt
    from graphopt.inputs import random_inputs, usual
    from graphopt.limits import DoesNotFit
    from graphopt.lowering.xla.wire import predicted
    from graphopt.reference import run
    from graphopt.sharded import sized

    graph = graphopt.load(path)
    sizes = sizes_of(usual(graph))
    whole = sized(graph, sizes)
    inputs = random_inputs(whole)
    begin = time.process_time()
    made, limit = None, None
    weights = sum(t.nbytes for t in whole.tensors())
    tried = share
    while made is None:
        limit = int(weights * tried)
        try:
            made = graphopt.shard(
                path, mesh, "xla-cuda:h100", dims=sizes, max_memory=limit
            )
        except DoesNotFit:
            tried *= 1.5
            if tried > 4:
                raise
    planned = time.process_time() - begin
    truth = run(whole, inputs)
    executable: Any = made.compile("xla-cpu")
    begin = time.perf_counter()
    found = executable(inputs)
    ran = time.perf_counter() - begin
    worst = 0.0
    for name, array in truth.items():
        wide = np.asarray(array, np.float64)
        scale = max(float(np.abs(wide).max(initial=0)), 1e-30)
        apart = float(np.abs(np.asarray(found[name], np.float64) - wide).max(initial=0))
        worst = max(worst, apart / scale)
    foreseen = predicted(made.program).total
    sent = executable.traffic(inputs).total
    assert made.plan is not None
    return {
        "ops": len(made.graph.ops),
        "plan_cpu_seconds": round(planned, 1),
        "gap": made.plan.solution.gap,
        "predicted_ms": made.plan.seconds * 1e3,
        "stored_bytes": made.plan.stored,
        "weights": weights,
        "limit": limit,
        "foreseen_bytes": foreseen,
        "sent_bytes": sent,
        "error": worst,
        "run_seconds": round(ran, 1),
    }


def sizes_of(usual: dict[str, int]) -> dict[str, int]:
    """Small sizes that eight devices divide."""
    return {
        name: {1: 8, 128: 16, 224: 224}.get(size, size) for name, size in usual.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--mesh", nargs="+", default=["8", "2x4", "2x2x2"])
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("-o", dest="output", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.mesh[0], options.share)))
        return
    folders = options.folders or [Path(os.environ["GRAPHOPT_MODELS"])]
    models = sorted(
        path
        for folder in folders
        for path in ([folder] if folder.is_file() else folder.rglob("*.onnx"))
    )
    rows = [
        "| model | mesh | ops | plan, CPU s | gap | held, MB | of | ms | sent/foreseen"
        " | error |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(rows), flush=True)
    for model in models:
        for mesh in options.mesh:
            command = [sys.executable, __file__, "--one", str(model), "--mesh", mesh]
            command += ["--share", str(options.share)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=options.seconds
                )
                found = json.loads(done.stdout.splitlines()[-1])
            except subprocess.TimeoutExpired:
                late = f"no answer in {options.seconds:.0f} s"
                rows.append(f"| {model.stem} | {mesh} | {late} |")
            except (IndexError, ValueError):
                said = done.stderr.strip().splitlines()[-1:] or ["?"]
                rows.append(f"| {model.stem} | {mesh} | {said[0][:160]} |")
            else:
                foreseen = found["foreseen_bytes"]
                ratio = f"{found['sent_bytes'] / foreseen:.3f}" if foreseen else "none"
                rows.append(
                    f"| {model.stem} | {mesh} | {found['ops']} |"
                    f" {found['plan_cpu_seconds']} | {found['gap']:.1e} |"
                    f" {found['stored_bytes'] / 1e6:.1f} |"
                    f" {found['weights'] / 1e6:.1f} |"
                    f" {found['predicted_ms']:.3f} | {ratio} | {found['error']:.1e} |"
                )
            print(rows[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
