"""What optimizing costs: CPU seconds of whole processes, start-up included.

Takes a model, and if wanted a larger one of the same architecture (such as 12 and 120
blocks). Prints graphopt's seconds against those of its peers, and how they grow from
the small model to the large one. Checking is off (`--check off`): peers do not check.
The commands are interleaved, in a new random order each round.
"""

import argparse
import json
import random
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import intervals
import models
import tools

Side = tuple[str, str]


def measure(
    sides: dict[Side, Path], folder: Path, options: argparse.Namespace
) -> dict[Side, list[float]]:
    """CPU seconds of each (tool, model) in each round, after a round unmeasured."""
    shuffle = random.Random(options.seed).shuffle
    order = list(sides)
    samples: dict[Side, list[float]] = {side: [] for side in sides}
    for turn in range(-1, options.rounds):
        shuffle(order)
        for tool, size in order:
            source = sides[tool, size]
            target = folder / tool / "optimized.onnx"
            given = tools.target_options(options.target)
            run = tools.optimize(
                *(tool, source, target, given if tool == tools.GRAPHOPT else []),
                limit_s=options.limit,
                python=options.python,
            )
            if run.error:
                raise SystemExit(f"{tool} on {source.name}: {run.error}")
            if turn >= 0:
                samples[tool, size].append(run.cpu_seconds)
    return samples


def main() -> None:
    """Measure, print the seconds and the two ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("small", type=Path, help="for example deep12.onnx")
    parser.add_argument("large", type=Path, nargs="?", help="for example deep120.onnx")
    parser.add_argument(
        "--peer",
        nargs="+",
        choices=(*tools.PEERS, *tools.ORT_PEERS),
        default=["onnxslim"],
    )
    parser.add_argument(
        "--peer-large", action="store_true", help="run peers on the large model too"
    )
    tools.add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="seed of the order")
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds for one command"
    )
    parser.add_argument("--json", type=Path, help="write everything measured here")
    options = parser.parse_args()
    names = tools.installed((tools.GRAPHOPT, *options.peer), options.python)
    paths = {"small": options.small}
    if options.large:
        paths["large"] = options.large
    sides = {
        (tool, size): path
        for tool in names
        for size, path in paths.items()
        if size == "small" or tool == tools.GRAPHOPT or options.peer_large
    }
    with tempfile.TemporaryDirectory() as scratch:
        samples = measure(sides, Path(scratch), options)
    versions = tools.versions(names, options.python)
    report: dict[str, Any] = {"schema": 1, "versions": versions}
    nodes = {
        size: models.op_counts(models.load_graph(path)).total()
        for size, path in paths.items()
    }
    print("nodes:", *nodes.values())
    report["nodes"] = nodes
    report["seconds"] = {}
    for (tool, size), seconds in samples.items():
        middle = intervals.median(seconds)
        print(f"{tool} on {size}: {middle} CPU s")
        report["seconds"][f"{tool} {size}"] = asdict(middle)
    ours = tools.GRAPHOPT
    questions = {
        f"{ours} to {peer} on {size}": ((ours, size), (peer, size))
        for peer in options.peer
        for size in paths
    }
    questions |= {
        f"large to small for {tool}": ((tool, "large"), (tool, "small"))
        for tool in names
    }
    report["ratios"] = {}
    for text, (above, below) in questions.items():
        if above in samples and below in samples:
            ratio = intervals.median_of_ratios(samples[above], samples[below])
            print(f"{text}: {ratio}")
            report["ratios"][text] = asdict(ratio)
    if options.large:
        print(f"large to small in nodes: {nodes['large'] / nodes['small']:.3f}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
