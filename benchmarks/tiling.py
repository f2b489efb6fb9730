"""What tiles save, and what they cost, in ONNX Runtime and in XLA on the CPU.

For each model (attention alone and with `--heads` heads over a vocabulary, which are
built here, and files of `long_models.py`):

- `process`: by how many bytes a process grows while the model runs twice, as it is
  optimized for the target and as it is with `--max-activations`; `model` is the first,
  `tiled` the second, each in a process of its own;
- `planned`: the peaks of both plans, outputs and inputs apart, as in the limit;
- `time`: both in one process, run by turns, the median of the ratios of each turn;
  `CPU`: the same of the CPU time of all threads;
- `more`: floating-point operations more than without tiles, as a share.

The limit is a share of the plan without tiles: 0.2, 0.25 for what has "mobilenet" in
its name, 0.06 for attention alone, 0.15 for heads; or what can be reached where that is
more. ONNX Runtime has one thread, XLA those of the machine. In MB.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt.exporter import save
from graphopt.fitted import DoesNotFit
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter, Value
from graphopt.lowering.ort.meter import growth as ort_growth
from graphopt.lowering.ort.recipe import Recipe
from graphopt.lowering.resident import growth_of
from graphopt.lowering.xla.heap import trim
from graphopt.lowering.xla.meter import aligned
from graphopt.ops import (
    ArgMax,
    Constant,
    MatMul,
    Mul,
    Reshape,
    Softmax,
    SoftmaxCrossEntropyLoss,
    TopK,
    Transpose,
)
from graphopt.passes.memory import SPACES, MemoryPlan, plan_memory
from graphopt.types import DType, tensor

GROW = "--grow"
TARGETS = ("ort-cpu", "xla-cpu")
SHARES = {"attention": 0.06, "mobilenet": 0.25, "head": 0.15}
SHARE = 0.2
TRIES = (1.0, 1.15, 1.4, 2.0, 3.0, 4.0)
"""Multiples of the limit that are tried where it is too low."""


@dataclass(frozen=True)
class Row:
    """One model in one target; bytes, and ratios of tiled over not."""

    model: str
    target: str
    planned: tuple[int, int]
    process: tuple[int | None, int | None]
    time: float
    cpu: float
    seconds: float
    more: float
    difference: float

    @property
    def line(self) -> str:
        """As a row of a table."""
        first, last = self.planned
        before, after = self.process
        return " | ".join(
            [
                f"| {self.model} | {self.target}",
                f"{first / 1e6:,.1f} | {last / 1e6:,.1f} | {1 - last / first:.0%}",
                *(f"{(size or 0) / 1e6:,.1f}" for size in (before, after)),
                f"{1 - (after or 0) / (before or 1):.0%}",
                f"{self.seconds:.2f} | {self.time:.2f} | {self.cpu:.2f}",
                f"{self.more:.1%}",
                f"{self.difference:.0e} |",
            ]
        )


HEAD = (
    "| model | target | plan | tiled | less | process | tiled | less | s | time | CPU"
    " | more | error |\n" + "|---" * 13 + "|"
)


def attention(heads: int = 8, length: int = 4096, width: int = 64) -> Graph:
    """As exporters write it: softmax(q k' / 8) v."""
    q, k, v = (
        Parameter(tensor(DType.F32, 1, heads, length, width), name) for name in "qkv"
    )
    scores = MatMul(q, Transpose(k, perm=(0, 1, 3, 2)))
    scaled = Mul(scores, Constant(np.float32(width**-0.5)))
    graph = Graph([q, k, v], [MatMul(Softmax(scaled), v)], output_names=["y"])
    return graph.with_header(opsets={"": 17}, ir_version=8)


HEADS = ("a loss", "the largest", "the five best")


def head(
    kept: str, positions: int = 512, width: int = 512, classes: int = 32000
) -> Graph:
    """The end of a language model: scores, and what is kept of them."""
    h = Parameter(tensor(DType.F32, 1, positions, width), "h")
    labels = Parameter(tensor(DType.I64, positions), "labels")
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((width, classes), np.float32) / width**0.5
    scores: Value = MatMul(h, Constant(weight))
    scores = Reshape(scores, Constant(np.asarray([positions, classes])))
    outputs: dict[str, Callable[[], Sequence[Value]]] = {
        "a loss": lambda: [SoftmaxCrossEntropyLoss(scores, labels)],
        "the largest": lambda: [ArgMax(scores, axis=1, keepdims=0)],
        "the five best": lambda: TopK(scores, Constant(np.asarray([5]))).results,
    }
    inputs = [h, labels] if kept == "a loss" else [h]
    graph = Graph(inputs, outputs[kept]())
    return graph.with_header(opsets={"": 17}, ir_version=8)


def plan_of(graph: Graph, target: str) -> MemoryPlan:
    """In the best order that is found, as limits see it."""
    return plan_memory(graph, space=SPACES[target], reorder=True)


def made_of(path: Path, target: str, limit: int) -> graphopt.Result:
    """A model optimized for a target; with a limit of activations unless that is 0."""
    return graphopt.optimize(
        path, target=target, check="off", max_activations=limit or None
    )


def share_of(name: str) -> float:
    """Of the plan without tiles, what the limit is."""
    return next((s for word, s in SHARES.items() if word in name), SHARE)


def tiled(path: Path, target: str, least: int) -> tuple[graphopt.Result, int]:
    """The model with a limit, the lowest that can be kept, and that."""
    for factor in TRIES:
        limit = int(least * factor)
        try:
            return made_of(path, target, limit), limit
        except DoesNotFit:
            continue
    raise SystemExit(f"{path}: no limit of {TRIES[-1] * least:,.0f} bytes can be kept")


def measured(name: str, path: Path, target: str, options: Any) -> Row:
    """Both forms of a model."""
    plain = made_of(path, target, 0)
    first = plan_of(plain.graph, target)
    made, limit = tiled(path, target, int(first.peak * share_of(name)))
    fitted = made.report.memory
    assert fitted is not None
    inputs = random_inputs(plain.original, options.seed)
    grown = [
        growth(result, (str(path), target, str(bound), str(options.seed)), inputs)
        for result, bound in ((plain, 0), (made, limit))
    ]
    *times, difference = by_turns((plain, made), inputs, options.turns)
    flops = [graphopt.cost(result.graph).flops for result in (plain, made)]
    return Row(
        name,
        target,
        (first.peak, fitted.plan.peak),
        (grown[0], grown[1]),
        *times,
        int(str(flops[1])) / int(str(flops[0])) - 1,
        difference,
    )


def growth(
    result: graphopt.Result, asked: Sequence[str], inputs: Mapping[str, Any]
) -> int | None:
    """By how much a process grows that runs a result, which was asked for so."""
    if asked[1].startswith("ort"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            result.save(path)
            return ort_growth(path, inputs, recipe=Recipe.beside(path))
    done = subprocess.run(
        [sys.executable, __file__, GROW, *asked],
        capture_output=True,
        text=True,
        check=True,
    )
    found: int | None = json.loads(done.stdout)
    return found


def grow(path: str, target: str, limit: str, seed: str) -> None:
    """In the child: make the program once more, compile it, and say how much it grew.

    What making it has freed is given back first, or the run would take it from there.
    Inputs are the caller's: they lie where JAX takes them without a copy.
    """
    result = made_of(Path(path), target, int(limit))
    program = result.compile(target)
    inputs = random_inputs(result.original, int(seed))
    inputs = {name: aligned(array) for name, array in inputs.items()}
    program.memory(inputs)  # type: ignore[attr-defined]
    del result
    trim()
    print(json.dumps(growth_of(lambda: program(inputs))))


def opened(result: graphopt.Result, path: Path) -> Any:
    """What can be called with inputs, as the recipe beside a file says."""
    if result.report.target.startswith("xla"):
        return result.compile(result.report.target)
    result.save(path)
    return graphopt.session(path, threads=1)


def by_turns(
    forms: Sequence[graphopt.Result], inputs: Mapping[str, Any], turns: int
) -> tuple[float, float, float, float]:
    """The median ratios of wall and CPU time, the first's time, how far they differ."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [opened(form, Path(folder, f"{i}.onnx")) for i, form in enumerate(forms)]
    made = [run(inputs) for run in runs]
    difference = max(
        float(np.max(np.abs(made[0][name].astype(np.float64) - made[1][name])))
        for name in made[0]
    )
    clocks = time.perf_counter, time.process_time
    times: list[list[tuple[float, ...]]] = [[], []]
    for turn in range(turns):
        for i in (0, 1) if turn % 2 else (1, 0):
            begin = [clock() for clock in clocks]
            runs[i](inputs)
            times[i].append(tuple(c() - t for c, t in zip(clocks, begin, strict=True)))
    wall, cpu = (
        statistics.median(
            after[k] / before[k] for before, after in zip(*times, strict=True)
        )
        for k in (0, 1)
    )
    return wall, cpu, statistics.median(t for t, _ in times[0]), difference


def models(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """Attention, heads where they are asked for, and the files that were named."""
    if not options.no_attention:
        path = folder / "attention.onnx"
        save(attention(), path)
        yield "attention 8 x 4096", path
    for kept in HEADS if options.heads else ():
        path = folder / f"head_{kept.replace(' ', '_')}.onnx"
        save(head(kept), path)
        yield f"head, {kept}", path
    yield from ((path.stem, path) for path in options.models)


def main() -> int:
    """Measure each model, print a table."""
    if sys.argv[1:2] == [GROW]:
        grow(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-attention", action="store_true")
    parser.add_argument("--heads", action="store_true")
    parser.add_argument("--json", type=Path, help="write what was measured here")
    options = parser.parse_args()
    rows: list[Row] = []
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for name, path in models(options, Path(folder)):
            for target in options.target or TARGETS:
                rows.append(measured(name, path, target, options))
                print(rows[-1].line, flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
