"""Random legal plans of random graphs: the oracle, and XLA, against the whole graph.

    python benchmarks/plan_fuzz.py --oracle 10000 --xla 200 [--spanning | --loops]

Random graphs are those of `graphopt.testing`, or with ``--spanning`` of ops that read
along dims which devices share out (slices, concatenations, sums, attention), or with
``--loops`` of loops, scans and branches around layers with weights. Each op
runs in a way drawn from its choices, each input and weight lies in a layout drawn from
those that the mesh divides. Prints how many plans gave something else than the whole
graph, how many collectives they had, and for XLA the bytes that devices send over those
of the plan.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

sys.path.append(str(Path(__file__).parents[1] / "tests" / "passes" / "sharding"))

from looped_graphs import looped
from random_plans import Judged, judged, on_sizes
from spanning_graphs import spanning

from graphopt import testing
from graphopt.ir import Graph
from graphopt.lowering.xla.environment import prepare, show_devices
from graphopt.ops.mesh import Permute

MESHES = ("2", "4", "8", "2x2", "2x4", "2x2x2")


def through(
    count: int, judge: Callable[[Graph, int, str], Judged | None]
) -> list[Judged]:
    """What so many plans gave; graphs that cannot run do not count."""
    found: list[Judged] = []
    drawn = 0

    def one(graph: Graph, seed: int, mesh: str) -> None:
        nonlocal drawn
        sized = on_sizes(graph)
        if sized is None or len(found) >= count:
            return
        judged = judge(sized, seed, mesh)
        if judged is not None and judged.exchanges:
            found.append(judged)
            if not judged.right:
                print("wrong:", judged.what, "on", mesh, "seed", seed, flush=True)
                print(sized, flush=True)

    plans = st.tuples(
        testing.graphs(max_ops=16), st.integers(0, 1 << 30), st.sampled_from(MESHES)
    )
    run = given(plans)(lambda plan: one(*plan))
    settings(
        max_examples=4 * count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(run)()
    return found


def along(
    count: int,
    judge: Callable[[Graph, int, str], Judged | None],
    make: Callable[[int], Graph],
) -> list[Judged]:
    """What so many plans of graphs that are made by seeds gave."""
    found: list[Judged] = []
    for seed in range(4 * count):
        graph, mesh = make(seed), MESHES[seed % len(MESHES)]
        judged = judge(graph, seed, mesh)
        if judged is not None and judged.exchanges:
            found.append(judged)
            if not judged.right:
                print("wrong:", judged.what, "on", mesh, "seed", seed, flush=True)
        if len(found) == count:
            break
    return found


def in_xla(graph: Graph, seed: int, mesh: str) -> Judged | None:
    """A plan that runs on virtual devices; None where XLA has no such graph."""
    import jax

    from graphopt.errors import GraphoptError
    from graphopt.lowering import on_mesh

    if any(not op.deterministic for _, op in graph.walk()):
        return None  # another generator draws other numbers
    ratios: list[float] = []

    def run(program: Any, inputs: Any) -> dict[str, Any]:
        executable: Any = on_mesh(program, "xla-cpu")
        made = executable(inputs)
        ratios.append(executable.traffic(inputs).total)
        return dict(made)

    try:
        found = judged(graph, seed, mesh, run)
    except GraphoptError:
        return None
    finally:
        jax.clear_caches()
    if found is not None and ratios:
        SENT.append((ratios[0], found))
    return found


def permuted(judged: Judged) -> int:
    return sum(isinstance(op, Permute) for op in judged.program.collectives())


SENT: list[tuple[float, Judged]] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oracle", type=int, default=10000)
    parser.add_argument("--xla", type=int, default=200)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--spanning", action="store_const", dest="make", const=spanning)
    group.add_argument("--loops", action="store_const", dest="make", const=looped)
    options = parser.parse_args()
    prepare("xla-cpu", alone=True)
    show_devices(8)
    for name, count, judge in (
        ("oracle", options.oracle, judged),
        ("XLA", options.xla, in_xla),
    ):
        if not count:
            continue
        begin = time.process_time()
        make = options.make
        found = through(count, judge) if make is None else along(count, judge, make)
        wrong = sum(not each.right for each in found)
        print(
            f"{name}: {len(found)} plans, {wrong} wrong,"
            f" {sum(each.exchanges for each in found)} collectives,"
            f" {sum(map(permuted, found))} of them permutations,"
            f" {time.process_time() - begin:.0f} CPU s",
            flush=True,
        )
    if SENT:
        from graphopt.lowering.xla.wire import predicted

        pairs = [(sent, predicted(j.program).total) for sent, j in SENT]
        ratios = sorted(sent / foreseen for sent, foreseen in pairs if foreseen)
        print(
            f"bytes sent over foreseen: {ratios[0]:.3f} to {ratios[-1]:.3f},"
            f" {sum(0.95 <= r <= 1.0 + 1e-9 for r in ratios)} of {len(ratios)} within"
            " 0.95 to 1.00"
        )


if __name__ == "__main__":
    main()
