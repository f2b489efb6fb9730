"""CPU time in ONNX Runtime of a model as it came, by graphopt, and by its peers.

All run in one process, on one thread, with ONNX Runtime's default optimizations, in a
new random order each round. A ratio is taken within a round, so that a slow spell of
the machine falls on both of its sides; the median over the rounds is printed with its
bootstrap 95 % interval. `control` is the original in a second session: as far as its
ratio misses 1, no difference means anything. `!`: computes something else.

Where a session's memory happens to lie may count for a few percent; with --openings N
the sessions are opened N times, and each time has its share of the rounds.
"""

import argparse
import functools
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import intervals
import models
import tools

ORIGINAL = "original"
CONTROL = "control"
CLOCK = "cpu"
TOLERANCE = 5e-3


def thread_seconds(call: Callable[[], object], repeats: int) -> float:
    """CPU seconds of this thread for one call, after one call to warm the caches."""
    call()
    begin = time.thread_time()
    for _ in range(repeats):
        call()
    return (time.thread_time() - begin) / repeats


def interleaved(
    calls: dict[str, Callable[[], object]], rounds: int, sample_s: float, seed: int
) -> dict[str, list[float]]:
    """Seconds of each call in each round, the order within a round being random."""
    once = max(thread_seconds(call, 1) for call in calls.values())
    repeats = max(1, round(sample_s / once))
    order = list(calls)
    shuffle = random.Random(seed).shuffle
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            samples[name].append(thread_seconds(calls[name], repeats))
    return samples


def graphopt_options(options: argparse.Namespace) -> list[str]:
    """What graphopt is given beside the files."""
    return [*tools.target_options(options.target), *options.options.split()]


def optimized_models(
    source: Path, names: Sequence[str], folder: Path, options: argparse.Namespace
) -> dict[str, Path]:
    """The model as each tool writes it; a tool that fails is said and left out."""
    written = {ORIGINAL: source, CONTROL: source}
    for tool in names:
        extra = graphopt_options(options) if tool == tools.GRAPHOPT else []
        target = folder / tool / "optimized.onnx"
        run = tools.optimize(tool, source, target, extra, options.limit, options.python)
        if run.error:
            print(f"  {tool}: {run.error}")
        else:
            written[tool] = target
    return written


def opened(
    written: dict[str, Path], inputs: models.Arrays, seed: int
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """What runs each model in a new session, and how far it is off the original.

    Sessions are opened in a random order. A model that does not run is said and left
    out of ``written``.
    """
    calls: dict[str, Callable[[], object]] = {}
    outputs: dict[str, list[Any]] = {}
    order = list(written)
    random.Random(seed).shuffle(order)
    for name in order:
        try:
            session = models.ort_session(written[name])
            outputs[name] = models.ort_run(session, inputs)
        except Exception as error:
            if name == ORIGINAL:
                raise
            print(f"  {name}: {str(error)[:200]}")
            del written[name]
            continue
        calls[name] = functools.partial(models.ort_run, session, inputs)
    expected = outputs[ORIGINAL]
    errors = {n: models.relative_error(expected, outputs[n]) for n in written}
    return {name: calls[name] for name in written}, errors


def measure_model(
    source: Path, names: Sequence[str], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Sessions for all sides, their agreement, their times and the ratios of these."""
    inputs = models.make_inputs(source, models.chosen_dims(options), options.seed)
    written = optimized_models(source, names, folder, options)
    samples: dict[str, list[float]] = {}
    errors: dict[str, float] = {}
    for opening in range(options.openings):
        seed = options.seed + opening
        calls, errors = opened(written, inputs, seed)
        rounds = -(-options.rounds // options.openings)
        for name, found in interleaved(calls, rounds, options.sample, seed).items():
            samples.setdefault(name, []).extend(found)
        del calls
    result: dict[str, Any] = {}
    for name, seconds in samples.items():
        peer, more = None, ""
        peers = tools.TARGETS[options.target]
        if name in peers and tools.GRAPHOPT in samples:
            peer = intervals.median_of_ratios(samples[tools.GRAPHOPT], seconds)
            more = f"   graphopt to this: {peer}"
        mark = "" if errors[name] <= TOLERANCE else "!"
        sides = {CLOCK: seconds}, {CLOCK: samples[ORIGINAL]}
        found = intervals.shown(mark + name, *sides, more)[CLOCK]
        result[name] = {
            "seconds": found["seconds"],
            "ratio_to_original": found["ratio"],
            "relative_error": errors[name],
        }
        if peer is not None:
            result[name]["graphopt_ratio"] = asdict(peer)
    return result


def main() -> None:
    """Measure each model, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models.add_model_arguments(parser)
    models.add_input_arguments(parser)
    tools.add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--openings", type=int, default=1, help="how often all sessions are opened"
    )
    parser.add_argument(
        "--sample", type=float, default=0.02, help="least CPU seconds of one sample"
    )
    parser.add_argument(
        "--options", default="", help="more options for graphopt, in one string"
    )
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds for one tool on one model"
    )
    parser.add_argument("--json", type=Path, help="write everything measured here")
    options = parser.parse_args()
    names = tools.installed(
        (tools.GRAPHOPT, *tools.TARGETS[options.target]), options.python
    )
    report = {}
    for name, source in models.chosen_models(options).items():
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            try:
                report[name] = measure_model(source, names, Path(scratch), options)
            except Exception as error:  # the original does not run
                print(f"  left out: {str(error)[:200]}")
    if options.json:
        head = {
            "schema": 1,
            "target": options.target,
            "versions": tools.versions([*names, "onnxruntime"], options.python),
            "rounds": options.rounds,
            "openings": options.openings,
        }
        options.json.write_text(json.dumps({**head, "models": report}, indent=1))


if __name__ == "__main__":
    main()
