"""Decode of one token with a cache on meshes: what it costs that the cache stays put.

    python benchmarks/sharded_decoding.py [--mesh 8 2x4] [--share 0.3] [--buffer]

Each cell is planned with caches tied (they go out as they come in) and free; "moved" is
what the next step of the free plan would exchange before it begins, which its own
seconds do not count. Hand plans are tied too. Costs are the model's: nothing is run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharded_graphs import decoder, gated

from graphopt import Graph
from graphopt.mesh_regimes import regime, regime_facts
from graphopt.passes.sharding import Mesh
from graphopt.passes.sharding.caches import caches
from graphopt.passes.sharding.hand import NoHandPlan, hand_plan, role_rows
from graphopt.passes.sharding.machine import Machine
from graphopt.passes.sharding.planner import Planner
from graphopt.passes.sharding.solve import NoPlan
from graphopt.sharded import Sharded

NETWORKS = {"decoder": decoder, "gated decoder": gated}
CELLS = ((1, 4096), (8, 4096), (64, 1024), (16, 32768))
"""Batches, and tokens that their caches hold."""
COLUMNS = (
    *("network", "batch", "past", "mesh", "room", "tied: us", "free: us", "moved: us"),
    *("cache, MB", "best by hand: us", "roles", "ratio", "gap", "CPU s"),
)


def main() -> int:
    """Plan all cells, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mesh", nargs="*", default=["8", "2x4"])
    parser.add_argument("--target", default="h100", help="a device")
    parser.add_argument("--share", type=float, help="of weights and caches, on each")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each plan")
    parser.add_argument("--buffer", action="store_true", help="caches of fixed length")
    parser.add_argument("--cells", nargs="*", help="as 1x32768: batch and tokens")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write all rows, as they are known")
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    worse = 0
    for row in cells(options):
        _show(row)
        worse += row["hand"] is not None and row["tied"] > row["hand"] * (1 + 1e-6)
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return 1 if worse else 0


def cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows."""
    for mesh in options.mesh:
        machine = Machine.of(options.target, Mesh.parse(mesh))
        for name, make in NETWORKS.items():
            for batch, past in _asked(options.cells):
                graph = make(
                    options.layers,
                    batch=batch,
                    seq=1,
                    past=past,
                    buffered=options.buffer,
                )
                assert options.buffer or regime(graph).name == "decode"
                for room in rooms(graph, machine, options.share):
                    found = cell(graph, machine, room, options.seconds)
                    if found is not None:
                        head = {"network": name, "batch": batch, "past": past}
                        yield {**head, "mesh": mesh, "room": room, **found}


def _asked(cells: list[str] | None) -> list[tuple[int, int]]:
    if cells is None:
        return [*CELLS]
    pairs = [cell.split("x") for cell in cells]
    return [(int(batch), int(past)) for batch, past in pairs]


def rooms(graph: Graph, machine: Machine, share: float | None) -> Iterator[float]:
    """Bytes of a device: all it has, and a share of what weights and caches take."""
    yield machine.device.memory
    if share is not None:
        held = sum(tensor.nbytes for tensor in graph.tensors())
        for cache in caches(graph):
            held += 2 * 2 * math.prod(cache.past.shape or ())  # type: ignore[arg-type]
        yield share * held


def cell(
    graph: Graph, machine: Machine, room: float, seconds: float
) -> dict[str, Any] | None:
    """One graph on one mesh; None where no plan fits."""
    kept = caches(graph)
    start = time.process_time()
    bound = Planner(graph, machine, ties=[cache.names for cache in kept])
    free = Planner(graph, machine)
    try:
        tied = bound.plan(room, seconds=seconds)
        spent = time.process_time() - start
        apart = free.plan(room, seconds=seconds)
    except NoPlan:
        return None
    facts = {
        name: regime_facts(
            Sharded(graph, machine, plan.decisions, plan, None, planner, kept)
        )["cache"]
        for name, plan, planner in (("tied", tied, bound), ("free", apart, free))
    }
    assert not facts["tied"]["apart"]
    best, roles = math.inf, ""
    for row in role_rows(len(machine.mesh.axes)):
        try:
            other = hand_plan(bound, row, room).seconds
        except (NoHandPlan, NoPlan):
            continue
        if other < best:
            best, roles = other, " × ".join(row)
    return {
        "tied": tied.seconds,
        "free": apart.seconds,
        "moved": facts["free"]["moved_seconds"],
        "apart": facts["free"]["apart"],
        "cache_bytes": facts["tied"]["bytes"],
        "hand": best if roles else None,
        "roles": roles,
        "gap": tied.solution.gap,
        "cpu": spent,
    }


def _show(row: Mapping[str, Any]) -> None:
    hand = f"{row['hand'] * 1e6:.1f}" if row["hand"] else "-"
    ratio = f"{row['tied'] / row['hand']:.3f}" if row["hand"] else "-"
    moved = "no way" if row["moved"] is None else f"{row['moved'] * 1e6:.1f}"
    print(
        f"| {row['network']} | {row['batch']} | {row['past']} | {row['mesh']} |"
        f" {row['room'] / 1e9:.2f} GB | {row['tied'] * 1e6:.1f} |"
        f" {row['free'] * 1e6:.1f} | {moved} | {row['cache_bytes'] / 1e6:.1f} |"
        f" {hand} | {row['roles']} | {ratio} | {row['gap']:.0e} | {row['cpu']:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
