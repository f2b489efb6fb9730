"""What optimizing costs: CPU seconds of whole processes, start-up included.

Takes two models of one architecture, small and large (such as 12 and 120 blocks).
Prints graphopt's seconds against a peer's on the small model, and how graphopt's
grow from the small model to the large one. Checking is off (`--check off`): peers do
not check. The commands are interleaved, in a new random order each round.
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
            run = tools.optimize(tool, source, target, limit_s=options.limit)
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
    parser.add_argument("large", type=Path, help="for example deep120.onnx")
    parser.add_argument("--peer", choices=tools.PEERS, default="onnxslim")
    parser.add_argument(
        "--peer-large", action="store_true", help="run the peer on the large model too"
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="seed of the order")
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds for one command"
    )
    parser.add_argument("--json", type=Path, help="write everything measured here")
    options = parser.parse_args()
    names = tools.installed((tools.GRAPHOPT, options.peer))
    paths = {"small": options.small, "large": options.large}
    sides = {
        (tool, size): path
        for tool in names
        for size, path in paths.items()
        if size == "small" or tool == tools.GRAPHOPT or options.peer_large
    }
    with tempfile.TemporaryDirectory() as scratch:
        samples = measure(sides, Path(scratch), options)
    report: dict[str, Any] = {"schema": 1, "versions": tools.versions(names)}
    nodes = {
        size: models.op_counts(models.load_graph(path)).total()
        for size, path in paths.items()
    }
    print(f"nodes: {nodes['small']} and {nodes['large']}")
    report["nodes"] = nodes
    report["seconds"] = {}
    for (tool, size), seconds in samples.items():
        middle = intervals.median(seconds)
        print(f"{tool} on {size}: {middle} CPU s")
        report["seconds"][f"{tool} {size}"] = asdict(middle)
    ours, peer = tools.GRAPHOPT, options.peer
    questions = {
        f"{ours} to {peer} on small": ((ours, "small"), (peer, "small")),
        f"{ours} to {peer} on large": ((ours, "large"), (peer, "large")),
        f"large to small for {ours}": ((ours, "large"), (ours, "small")),
        f"large to small for {peer}": ((peer, "large"), (peer, "small")),
    }
    report["ratios"] = {}
    for text, (above, below) in questions.items():
        if above in samples and below in samples:
            ratio = intervals.median_of_ratios(samples[above], samples[below])
            print(f"{text}: {ratio}")
            report["ratios"][text] = asdict(ratio)
    print(f"large to small in nodes: {nodes['large'] / nodes['small']:.3f}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
