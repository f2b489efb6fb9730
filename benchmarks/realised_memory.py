"""What models really take in a runtime, beside what was planned and foreseen.

ONNX Runtime on the CPU (`--target ort-cpu`), for each model:

- `default`: the smallest arena in which it runs as the runtime opens it by itself;
- `own order`, `our order`: as the runtime has optimized it, in its order and in ours;
  `peak` is the smallest arena in which it runs, `foreseen` what our account of the
  runtime's planner says of that after one run, `ratio` the one over the other, and
  `planned` the peak of a `MemoryPlan` of the same order with outputs in the arena;
- `growth`: by how much the process grows while it runs in that arena; for `default` in
  the arena that it has by itself.

With `--share 0.4` instead: the model as `optimize --target ort-cpu` writes it where
activations may take that share of what they are planned to take without a limit, or
the least that a plan was found for;
`foreseen` is what the limit was held against, with the outputs beside it.

XLA on the CPU (`--target xla-cpu`), for each model as JAX compiles it by itself
(`itself`), and as where memory is planned, with `joined` or `single` ops for the
library: `counted` is what `memory_analysis()` says of temporaries and outputs,
`foreseen` that with what kernels take, `growth` what is seen of the process, the median
of `--repeats` children, `ratio` this over `foreseen`, and `planned` as above, in the
best order.

In kB; weights and inputs apart.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import models
import onnx
from branchy_graphs import NETWORKS

import graphopt
from graphopt.errors import GraphoptError
from graphopt.exporter import save, source_order
from graphopt.feeds import bind
from graphopt.fitted import DoesNotFit
from graphopt.inputs import bindings, random_inputs, usual
from graphopt.ir import Graph, Op
from graphopt.lowering.ort.measured import measured
from graphopt.lowering.ort.meter import growth, realised_peak as ort_peak
from graphopt.lowering.ort.ordered import honoured
from graphopt.lowering.ort.recipe import Recipe
from graphopt.lowering.ort.session import RunFailed, Session
from graphopt.lowering.xla.meter import realised_peak as xla_peak
from graphopt.passes.memory import SPACES, MemoryPlan, plan_memory

PLAIN = Recipe(session={"enable_mem_pattern": False})
"""Each buffer is asked for by itself."""


@dataclass(frozen=True)
class Row:
    """Bytes of one way to run a model; None where it is not known."""

    model: str
    way: str
    planned: int | None = None
    foreseen: int | None = None
    peak: int | None = None
    counted: int | None = None
    growth: int | None = None
    error: str = ""

    @property
    def ratio(self) -> float | None:
        """What it takes, as a multiple of what was foreseen."""
        return self.peak / self.foreseen if self.peak and self.foreseen else None


def rows_of_ort(
    name: str, path: Path, inputs: Mapping[str, Any], seconds: float, repeats: int
) -> Iterator[Row]:
    """The runtime's own way, its order and ours, once each: they do not vary."""
    found = ort_peak(path, inputs)
    plain = growth(path, inputs)
    yield Row(name, "default", peak=found.peak, counted=found.counted, growth=plain)

    def ours(graph: Graph) -> Sequence[Op]:
        return planned(graph, sizes_of(graph, inputs), seconds, reorder=True).order

    ways = {"own order": source_order, "our order": ours}
    with tempfile.TemporaryDirectory() as folder:
        for way, order_of in ways.items():
            to = Path(folder, f"{way}.onnx")
            recipe = honoured(path, to, order_of, recipe=PLAIN, inputs=inputs)
            model = onnx.load(to, load_external_data=False)
            executed = measured(model, inputs, folder=to.parent, recipe=recipe)
            graph = executed.graph
            plan = planned(graph, executed.sizes, seconds, order=source_order(graph))
            reuse = bool(recipe.session.get("enable_mem_reuse", True))
            foreseen = executed.foreseen(reuse=reuse)
            real = ort_peak(to, inputs, recipe=recipe)
            yield Row(
                name,
                way,
                None if plan.unknown else plan.peak,
                None if foreseen is None else foreseen.block,
                real.peak,
                real.counted,
                real.growth,
            )


def rows_of_limits(
    name: str, path: Path, inputs: Mapping[str, Any], share: float
) -> Iterator[Row]:
    """The model with a limit of activations, opened by its recipe."""
    sizes = sizes_of(graphopt.load(path), inputs)
    limited: dict[str, Any] = {"target": "ort-cpu", "memory_sizes": sizes}
    whole = graphopt.optimize(path, max_activations=1 << 46, check="off", **limited)
    assert whole.report.memory is not None
    limit = int(share * whole.report.memory.activations)
    try:
        made = graphopt.optimize(path, max_activations=limit, check="off", **limited)
    except DoesNotFit as error:
        limit = int(re.findall(r"--max-activations (\d+) would do", str(error))[0])
        made = graphopt.optimize(path, max_activations=limit, check="off", **limited)
    fitted = made.report.memory
    assert fitted is not None
    assert fitted.arena is not None
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder, "model.onnx")
        made.save(to)
        real = ort_peak(to, inputs, recipe=Recipe.beside(to))
    yield Row(
        name,
        f"{limit / whole.report.memory.activations:.0%}",
        fitted.plan.peak + fitted.plan.beside,
        fitted.arena + fitted.plan.beside,
        real.peak,
        real.counted,
        real.growth,
    )


def rows_of_xla(
    name: str, path: Path, inputs: Mapping[str, Any], seconds: float, repeats: int
) -> Iterator[Row]:
    """The compiler's ways: it takes no order."""
    graph = graphopt.load(path)
    space = replace(SPACES["xla-cpu"], outputs=True)
    sizes = sizes_of(graph, inputs)
    plan = plan_memory(graph, sizes, space=space, reorder=True, seconds=seconds)
    for way, how in LIBRARY.items():
        found = [xla_peak(path, inputs, planned=how) for _ in range(repeats)]
        growths = [each.growth for each in found if each.growth is not None]
        grown = int(median(growths)) if growths else None
        yield Row(
            name,
            way,
            planned=None if plan.unknown else plan.peak,
            foreseen=found[0].foreseen,
            peak=grown,
            counted=found[0].counted,
            growth=grown,
        )


def planned(
    graph: Graph, sizes: Mapping[str, int], seconds: float, **how: Any
) -> MemoryPlan:
    """A plan with outputs in the arena, as runtimes have them."""
    space = replace(SPACES["ort-cpu"], outputs=True)
    return plan_memory(graph, sizes, space=space, seconds=seconds, **how)


def sizes_of(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of symbolic dims that the inputs settle."""
    return bind(graph, inputs)[1]


ROWS = {"ort-cpu": rows_of_ort, "xla-cpu": rows_of_xla}

LIBRARY = {"itself": "", "joined": "joined", "single": "single"}
"""Ways to compile for XLA, by what a plan says of its library."""


def main() -> int:
    """Measure each model, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models.add_model_arguments(parser)
    models.add_input_arguments(parser)
    parser.add_argument(
        "--branchy",
        action="store_true",
        help="the networks of branchy_graphs.py instead of models on disk",
    )
    parser.add_argument("--target", choices=ROWS, default="ort-cpu")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="for the search for one order"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="children that are watched for XLA"
    )
    parser.add_argument(
        "--share", type=float, help="of the activations, which are then the limit"
    )
    parser.add_argument("--json", type=Path, help="write what was measured here")
    options = parser.parse_args()
    rows: list[Row] = []
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        made = written(Path(folder)) if options.branchy else None
        for name, path in (made or models.chosen_models(options)).items():
            for row in rows_of(name, path, options):
                rows.append(row)
                print(line(row), flush=True)
    for way in dict.fromkeys(row.way for row in rows):
        ratios = [row.ratio for row in rows if row.way == way and row.ratio]
        if ratios:
            within = sum(0.9 <= ratio <= 1.1 for ratio in ratios)
            print(f"\n{way}, peak over foreseen: {within} of {len(ratios)} within 10 %")
    if options.json:
        found = [{**asdict(row), "ratio": row.ratio} for row in rows]
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def written(folder: Path) -> dict[str, Path]:
    """The branchy networks, as files."""
    paths = {name: folder / f"{name}.onnx" for name in NETWORKS}
    for name, path in paths.items():
        save(NETWORKS[name](), path)
    return paths


def rows_of(name: str, path: Path, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of a model; one with the reason where it cannot be measured."""
    try:
        graph = graphopt.load(path)
        inputs = inputs_of(graph, path, options)
        if options.share is not None:
            yield from rows_of_limits(name, path, inputs, options.share)
            return
        rows = ROWS[options.target]
        yield from rows(name, path, inputs, options.seconds, options.repeats)
    except GraphoptError as error:
        yield Row(name, "-", error=str(error).splitlines()[0][:80])


def inputs_of(graph: Graph, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Inputs of usual sizes, or of others where the model does not run on those."""
    fixed = models.chosen_dims(options)
    usual_sizes = usual(graph, fixed)
    others = next(bindings(graph, fixed))
    inputs = random_inputs(graph, options.seed, usual_sizes)
    try:
        Session(path, threads=1)(inputs)
    except RunFailed:
        inputs = random_inputs(graph, options.seed, others)
    return inputs


HEAD = (
    "| model | way | planned | foreseen | peak | ratio | counted | growth |\n"
    "|---|---|---|---|---|---|---|---|"
)


def line(row: Row) -> str:
    """A row of the table, sizes in kB."""
    if row.error:
        return f"| {row.model} | {row.error} |"
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
    sizes = [
        "" if size is None else f"{size / 1000:,.1f}"
        for size in (row.planned, row.foreseen, row.peak, row.counted, row.growth)
    ]
    sizes.insert(3, ratio)
    return f"| {row.model} | {row.way} | {' | '.join(sizes)} |"


if __name__ == "__main__":
    raise SystemExit(main())
