"""Memory plans of real models: the arena against what is live, in two orders.

For each model: ops and buffers, the arena in the order of the file and the most that is
live in it, the same in the best order that was found, what is proved of that order, and
CPU seconds for the first plan and for the search. All plans are validated. Last comes
the share of models whose arena is as small as it can be for its order.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import models

from graphopt.driver import choose
from graphopt.fitting import fitting
from graphopt.importer import load
from graphopt.ir import Graph
from graphopt.passes.memory import SPACES, MemoryPlan, plan_memory, validate

MB = 1_000_000
HEAD = (
    "| model | ops | buffers | file: arena | live | best: arena | live | order | "
    "seconds | search |\n|---|---|---|---|---|---|---|---|---|---|"
)


def measured(graph: Graph, sizes: dict[str, int], target: str) -> dict[str, Any]:
    """Both plans of a graph, as numbers."""

    def timed(*, reorder: bool) -> tuple[MemoryPlan, float]:
        begin = time.process_time()
        plan = plan_memory(graph, sizes, space=SPACES[target], reorder=reorder)
        seconds = time.process_time() - begin
        validate(plan, graph)
        return plan, seconds

    file, seconds = timed(reorder=False)
    best, search = timed(reorder=True)
    assert best.schedule is not None
    return {
        "ops": len(file.order),
        "buffers": len(file.placements),
        "file": {"peak": file.peak, "live": file.lower_bound, "proof": file.proof},
        "best": {"peak": best.peak, "live": best.lower_bound, "proof": best.proof},
        "order": {"bound": best.schedule.lower_bound, "proof": best.schedule.proof},
        "seconds": seconds,
        "search": search,
    }


def shown(name: str, row: dict[str, Any]) -> str:
    """A row of the table."""
    plans = (row["file"], row["best"])
    pairs = [plan[key] / MB for plan in plans for key in ("peak", "live")]
    numbers = " | ".join(f"{each:.3f}" for each in pairs)
    return (
        f"| {name} | {row['ops']} | {row['buffers']} | {numbers} |"
        f" {row['order']['proof']} | {row['seconds']:.2f} | {row['search']:.2f} |"
    )


def main() -> None:
    """Plan each model, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models.add_model_arguments(parser)
    parser.add_argument("--target", choices=tuple(SPACES), default="ort-cpu")
    parser.add_argument(
        "--optimized", action="store_true", help="plan what graphopt makes of the model"
    )
    parser.add_argument("--json", type=Path, help="write everything measured here")
    options = parser.parse_args()
    print(HEAD)
    rows = {}
    for name, path in models.chosen_models(options).items():
        try:
            sizes, graph = fitting(load(path))
        except Exception as error:  # not a model that graphopt takes
            print(f"left out {name}: {str(error)[:100]}")
            continue
        if options.optimized:
            graph = choose().run(graph)[0]
        rows[name] = measured(graph, dict(sizes), options.target)
        print(shown(name, rows[name]), flush=True)
    counted = [row for row in rows.values() if row["buffers"]]
    plans = [row[which] for row in counted for which in ("file", "best")]
    least = sum(plan["peak"] == plan["live"] for plan in plans)
    print(f"\n{least} of {len(plans)} arenas take no more than what is live")
    if options.json:
        options.json.write_text(json.dumps({"schema": 1, "models": rows}, indent=1))


if __name__ == "__main__":
    main()
