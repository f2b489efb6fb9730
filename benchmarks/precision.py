"""How far float16 models are off: by graphopt, and by the converters of its peers.

The truth is the float64 run of the original in graphopt's reference. An error is the
largest difference of an output as a share of its largest number; graphopt chooses on
other inputs than those. `reference` rounds each op's result, as devices with kernels
for float16 do; ONNX Runtime on the CPU computes float32 between casts. `cosine` is the
smallest one between rows of the first output and of the truth.

With --convert TOOL IN OUT it is one converter.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx

GRAPHOPT = "graphopt"
CONVERTERS = {
    "converter-common": "onnxconverter_common.float16",
    "transformers": "onnxruntime.transformers.float16",
}
PEERS = (*CONVERTERS, "onnxslim")
SMALL = {"batch": 1, "seq": 128, "sequence": 128}


def convert(tool: str, source: Path, target: Path, options: list[str]) -> None:
    """Write the model in float16; the interface stays where the tool can keep it."""
    if tool == GRAPHOPT:
        from graphopt import optimize

        target_name, precision = options or ("onnx", "fp16")
        made = optimize(source, target_name, precision=precision, check="off")
        made.save(target)
        print("; ".join(made.report.notes))
    elif tool == "onnxslim":
        onnxslim: Any = importlib.import_module("onnxslim")
        onnxslim.slim(str(source), str(target), dtype="fp16")
    else:
        converter: Any = importlib.import_module(CONVERTERS[tool])
        model = onnx.load(source)
        onnx.save(converter.convert_float_to_float16(model, keep_io_types=True), target)


def converted(
    tool: str, source: Path, target: Path, options: list[str], limit: float
) -> tuple[str, float]:
    """What went wrong in a process of its own, and its seconds."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--convert", tool, str(source), str(target)]
    try:
        done = subprocess.run(
            command + options, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return f"over {limit:.0f} s", limit
    seconds = time.monotonic() - began
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        return lines[-1][:120], seconds
    return "", seconds


def fed(session: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as a model takes them: a tool may have narrowed the interface."""
    types = {i.name: i.type for i in session.get_inputs()}
    return {
        name: array.astype(np.float16) if types[name] == "tensor(float16)" else array
        for name, array in inputs.items()
        if name in types
    }


def outputs_of(path: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What two executors make of a model; a text where one does not run it."""
    from graphopt import load
    from graphopt.reference import evaluate

    found: dict[str, Any] = {}
    try:
        session = models.ort_session(path)
        found["ort"] = session.run(None, fed(session, inputs))
    except Exception as error:
        found["ort"] = str(error)[:120]
    try:
        graph = load(path)
        narrow = {
            p.name: np.asarray(inputs[p.name]).astype(p.type.dtype.numpy)
            for p in graph.inputs
            if p.name in inputs
        }
        found["reference"] = evaluate(graph, narrow)
    except Exception as error:
        found["reference"] = str(error)[:120]
    return found


def error(truth: list[Any], made: Any) -> float:
    """The largest error of a float output, as a share of its largest number."""
    if isinstance(made, str):
        return float("inf")
    worst = 0.0
    for exact, array in zip(truth, made, strict=True):
        if exact.dtype.kind == "f" and exact.size:
            apart = np.max(np.abs(np.asarray(array, np.float64) - exact))
            worst = max(worst, float(apart / np.max(np.abs(exact))))
    return worst if np.isfinite(worst) else float("inf")


def cosine(truth: list[Any], made: Any) -> float:
    """The smallest cosine of rows of the first output."""
    if isinstance(made, str):
        return float("nan")
    exact, array = truth[0], np.asarray(made[0], np.float64)
    products = np.sum(exact * array, -1)
    return float(
        np.min(products / np.sqrt(np.sum(exact**2, -1) * np.sum(array**2, -1)))
    )


def measure(
    path: Path, tools: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Errors and cosines of one model by each tool."""
    from graphopt import load
    from graphopt.inputs import random_inputs, usual
    from graphopt.reference import evaluate

    graph = load(path)
    stated = models.example_dims(models.load_graph(path))
    dims = SMALL | stated | models.chosen_dims(options)
    inputs = random_inputs(graph, options.seed, usual(graph, dims))
    truth = evaluate(graph, inputs, precision="float64")
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for tool in tools:
            target = Path(folder, f"{tool}.onnx")
            extra = [options.target, options.to] if tool == GRAPHOPT else []
            failed, seconds = converted(tool, path, target, extra, options.limit)
            cell: dict[str, Any] = {"seconds": seconds, "failed": failed}
            if not failed:
                for executor, made in outputs_of(target, inputs).items():
                    cell[executor] = error(truth, made)
                    cell[f"{executor} cosine"] = cosine(truth, made)
                    if isinstance(made, str):
                        cell[f"{executor} failed"] = made
                cell["bytes"] = target.stat().st_size
            row[tool] = cell
    return row


def line(name: str, row: Mapping[str, Any]) -> str:
    """One row of the table: per executor our error, the best peer's, the ratio."""
    cells = [name]
    for executor in ("reference", "ort"):
        ours = row[GRAPHOPT].get(executor, float("inf"))
        peers = {
            tool: cell[executor]
            for tool, cell in row.items()
            if tool != GRAPHOPT and np.isfinite(cell.get(executor, float("inf")))
        }
        best = min(peers, key=lambda tool: peers[tool], default="")
        ratio = ours / peers[best] if best else float("nan")
        cells += [f"{ours:.2e}", f"{peers[best]:.2e} {best}" if best else "none runs"]
        cells.append(f"{ratio:.2f}")
    cells.append(f"{row[GRAPHOPT].get('reference cosine', float('nan')):.6f}")
    broken = [
        f"{tool}: {cell['failed'] or cell.get('ort failed', '')}"
        for tool, cell in row.items()
        if cell["failed"] or "ort failed" in cell
    ]
    return "| " + " | ".join([*cells, "; ".join(broken)]) + " |"


def main() -> None:
    if sys.argv[1:2] == ["--convert"]:
        tool, source, target, *options = sys.argv[2:]
        convert(tool, Path(source), Path(target), options)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    models.add_model_arguments(parser)
    models.add_input_arguments(parser)
    parser.set_defaults(seed=1)
    parser.add_argument("--to", default="fp16", help="graphopt's precision")
    parser.add_argument("--target", default="onnx", help="graphopt's target")
    parser.add_argument("--tools", metavar="A,B", default=",".join((GRAPHOPT, *PEERS)))
    parser.add_argument("--limit", type=float, default=600, help="seconds of a tool")
    parser.add_argument("--json", type=Path, help="where all numbers go")
    options = parser.parse_args()
    print("| model | reference: graphopt | best peer | ratio ", end="")
    print("| ONNX Runtime: graphopt | best peer | ratio | cosine | does not run |")
    print("|---" * 9 + "|")
    rows = {}
    for name, path in models.chosen_models(options).items():
        rows[name] = measure(path, options.tools.split(","), options)
        print(line(name, rows[name]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
