"""CPU time of graphopt's NumPy reference against ONNX's ReferenceEvaluator.

Each is timed twice: its run alone, of a model that it has taken in, and all of it, from
the loaded model to the outputs. Ratios say how many times as fast graphopt's is. The
largest error is relative to the largest value of each output. Set OMP_NUM_THREADS=1:
CPU time counts waiting threads as well, and both call the same BLAS.

`--against onnxruntime` takes ONNX Runtime instead, on one thread with its default
optimizations: then only runs are timed, of a session and of a model that were made
before, and the ratio says how many times ONNX Runtime's time the reference takes.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import intervals
import models
import onnx
import ort_time
import tools
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.lowering import find

OURS = "graphopt"
THEIRS = "onnx.reference"
RUNTIME = "onnxruntime"
OUR_RUN = f"{OURS}, run only"
THEIR_RUN = f"{THEIRS}, run only"


def timed(call: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    """CPU seconds of the process for one call, and what it returned."""
    begin = time.process_time()
    outputs = call()
    return time.process_time() - begin, outputs


def measure_model(source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Times of both references on one model, interleaved, and their difference."""
    model = onnx.load(source)
    inputs = models.make_inputs(source, models.chosen_dims(options), options.seed)
    evaluator = ReferenceEvaluator(model)
    executable = find("reference").open(source)
    calls: dict[str, Callable[[], list[Any]]] = {
        THEIRS: lambda: list(ReferenceEvaluator(model).run(None, inputs)),
        THEIR_RUN: lambda: list(evaluator.run(None, inputs)),
        OURS: lambda: list(graphopt.run_model(model, inputs, target="reference")),
        OUR_RUN: lambda: list(executable(inputs).values()),
    }
    outputs = {name: call() for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(options.seed).shuffle
    for _ in range(options.rounds):
        shuffle(order)
        for name in order:
            samples[name].append(timed(calls[name])[0])
    error = models.relative_error(outputs[THEIRS], outputs[OURS])
    ratio = intervals.median_of_ratios(samples[THEIRS], samples[OURS])
    run_ratio = intervals.median_of_ratios(samples[THEIR_RUN], samples[OUR_RUN])
    for name, seconds in samples.items():
        print(f"  {name:26} {intervals.median(seconds)} CPU s")
    print(f"  times as fast: run only {run_ratio}, all {ratio}; error {error:.2e}")
    return {
        "seconds": {
            name: asdict(intervals.median(seconds)) for name, seconds in samples.items()
        },
        "ratio": asdict(ratio),
        "run_ratio": asdict(run_ratio),
        "relative_error": error,
    }


def measure_against_runtime(
    source: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Times of runs on one model in ONNX Runtime and here, and their difference."""
    inputs = models.make_inputs(source, models.chosen_dims(options), options.seed)
    session = models.ort_session(source)
    executable = find("reference").open(source)
    calls: dict[str, Callable[[], list[Any]]] = {
        RUNTIME: lambda: models.ort_run(session, inputs),
        OURS: lambda: list(executable(inputs).values()),
    }
    expected, found = (call() for call in calls.values())
    samples = ort_time.interleaved(calls, options.rounds, options.sample, options.seed)
    error = models.relative_error(expected, found)
    ratio = intervals.median_of_ratios(samples[OURS], samples[RUNTIME])
    spent = {name: intervals.median(seconds) for name, seconds in samples.items()}
    shown = ", ".join(f"{name} {1000 * s.value:.3f} ms" for name, s in spent.items())
    print(f"  {shown}: times as long {ratio}; error {error:.2e}", flush=True)
    return {
        "seconds": {name: asdict(seconds) for name, seconds in spent.items()},
        "ratio": asdict(ratio),
        "relative_error": error,
    }


def main() -> None:
    """Measure each model that both can run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models.add_model_arguments(parser)
    models.add_input_arguments(parser)
    parser.add_argument("--against", choices=[THEIRS, RUNTIME], default=THEIRS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--sample",
        type=float,
        default=0.02,
        help="least CPU seconds of one sample, against onnxruntime",
    )
    parser.add_argument("--json", type=Path, help="write everything measured here")
    options = parser.parse_args()
    against_runtime = options.against == RUNTIME
    measure = measure_against_runtime if against_runtime else measure_model
    report = {}
    for name, source in models.chosen_models(options).items():
        print(name, flush=True)
        try:
            report[name] = measure(source, options)
        except Exception as error:  # either may lack an op
            print(f"  left out: {type(error).__name__}: {str(error)[:200]}")
    ratios = [measured["ratio"]["value"] for measured in report.values()]
    if ratios:
        print(f"median of {len(ratios)} ratios: {statistics.median(ratios):.2f}")
    if options.json:
        head = {
            "schema": 3,
            "against": options.against,
            "versions": tools.versions([OURS, "onnx", RUNTIME, "numpy"]),
        }
        options.json.write_text(json.dumps({**head, "models": report}, indent=1))


if __name__ == "__main__":
    main()
