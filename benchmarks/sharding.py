"""Plans for meshes: what they cost by the model next to plans made by hand, and how
soon they are found and proved.

A cell is a network, a regime and a mesh; `--share` adds one in which each device has
room for that share of the weights besides what the unlimited plan takes for all else.
Hand plans give each axis a role (`passes/sharding/hand.py`); the best that fits counts.
`--deep` times a deep decoder instead. Costs are the model's: nothing is run.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sharded_graphs import NETWORKS, decoder

from graphopt import Graph
from graphopt.passes.sharding import Mesh
from graphopt.passes.sharding.hand import NoHandPlan, hand_plan, role_rows
from graphopt.passes.sharding.machine import Machine
from graphopt.passes.sharding.planner import Planner, Sharding
from graphopt.passes.sharding.solve import NoPlan

COLUMNS = (
    *("mesh", "room", "plan: us", "best by hand: us", "roles", "fit", "ratio"),
    *("gap", "CPU s"),
)
DEEP = ("mesh", "regime", "room", "plan: ms", "gap", "columns", "s", "CPU s")


def main() -> int:
    """Plan all cells, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="networks with this in their name")
    parser.add_argument("--mesh", nargs="*", default=["8", "2x4", "2x8", "2x2x2"])
    parser.add_argument("--target", default="h100", help="a device")
    parser.add_argument("--share", type=float, help="of the weights, on each device")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each plan")
    parser.add_argument("--deep", type=int, help="time a decoder of so many layers")
    parser.add_argument("--json", type=Path, help="write all that was measured")
    options = parser.parse_args()
    print(_versions(), end="\n\n")
    rows = [*(deep if options.deep else cells)(options)]
    if options.json:
        options.json.write_text(json.dumps({"tools": _versions(), "rows": rows}))
    if options.deep:
        return 0
    ratios = [row["ratio"] for row in rows if row["ratio"]]
    worse = sum(ratio > 1 + 1e-6 for ratio in ratios)
    better = sum(ratio <= 0.9 for ratio in ratios)
    alone = len(rows) - len(ratios)
    print(
        f"\n{len(ratios)} cells with a hand plan that fits, {worse} of them worse,"
        f" {better} at least 10 % better; median ratio {statistics.median(ratios):.3f};"
        f" {alone} cells where none fits"
    )
    return 1 if worse else 0


def cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each, printed as it is known."""
    print(f"| | {' | '.join(COLUMNS)} |")
    print("|---" * (1 + len(COLUMNS)) + "|", flush=True)
    for network, regimes in NETWORKS.items():
        for regime, make in regimes.items():
            if options.only not in network:
                continue
            for mesh in options.mesh:
                machine = Machine.of(options.target, Mesh.parse(mesh))
                for row in cell(make, machine, options.share, options.seconds):
                    row |= {"network": f"{network}, {regime}", "mesh": mesh}
                    _show(row)
                    yield row


def cell(
    make: Callable[[], Graph], machine: Machine, share: float | None, seconds: float
) -> Iterator[dict[str, Any]]:
    """Without a limit of memory but the device's, and with one."""
    graph = make()
    start = time.process_time()
    planner = Planner(graph, machine)
    made = time.process_time() - start
    weights = sum(tensor.nbytes for tensor in graph.tensors())
    rooms: list[float] = [machine.device.memory]
    for room in rooms:
        start = time.process_time()
        try:
            plan = planner.plan(room, seconds=seconds)
        except NoPlan:
            continue
        spent = made + time.process_time() - start
        if share is not None and len(rooms) == 1:
            rooms.append(share * weights + plan.memory - _stored(planner, plan))
        best, roles, fit = math.inf, "", 0
        for row in role_rows(len(machine.mesh.axes), graph):
            try:
                other = hand_plan(planner, row, room)
            except (NoHandPlan, NoPlan):
                continue
            fit += 1
            if other.seconds < best:
                best, roles = other.seconds, " × ".join(row)
        yield {
            "room": None if room is rooms[0] else room,
            "seconds": plan.seconds,
            "hand": best if fit else None,
            "roles": roles,
            "fit": fit,
            "ratio": plan.seconds / best if fit else None,
            "gap": plan.solution.gap,
            "cpu": spent,
            "sent": dict(plan.sent),
        }


def _stored(planner: Planner, plan: Sharding) -> int:
    """Bytes of the weights on a device."""
    solution, nodes = plan.solution, planner.problem.nodes
    return sum(
        node.times * node.options[k].bytes
        for node, k in zip(nodes, solution.chosen, strict=True)
        if node.name == "Constant"
    )


def _show(row: dict[str, Any]) -> None:
    hand = f"{row['hand'] * 1e6:.1f}" if row["fit"] else "-"
    ratio = f"{row['ratio']:.3f}" if row["fit"] else "-"
    room = f"{row['room'] / 1e9:.2f} GB" if row["room"] else "all"
    print(
        f"| {row['network']} | {row['mesh']} | {room} | {row['seconds'] * 1e6:.1f}"
        f" | {hand} | {row['roles']} | {row['fit']} | {ratio} | {row['gap']:.0e}"
        f" | {row['cpu']:.1f} |",
        flush=True,
    )


def deep(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """How soon plans of a deep decoder are proved, from the graph on."""
    print(f"| {' | '.join(DEEP)} |")
    print("|---" * len(DEEP) + "|", flush=True)
    regimes = {
        "prefill": {"batch": 1},
        "batch": {"batch": 16},
        "decode": {"batch": 16, "seq": 1, "past": 4096},
    }
    for regime, sizes in regimes.items():
        graph = decoder(options.deep, **sizes)
        weights = sum(tensor.nbytes for tensor in graph.tensors())
        for mesh in options.mesh:
            machine = Machine.of(options.target, Mesh.parse(mesh))
            free = Planner(graph, machine).plan(seconds=options.seconds)
            apart = free.memory - _stored(Planner(graph, machine), free)
            for share in dict.fromkeys((None, options.share)):
                room = math.inf if share is None else share * weights + apart
                wall, cpu = time.perf_counter(), time.process_time()
                try:
                    plan = Planner(graph, machine).plan(room, seconds=options.seconds)
                except NoPlan as error:
                    print(f"| {mesh} | {regime} | {share} | {error} |")
                    continue
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                row = {
                    "mesh": mesh,
                    "regime": regime,
                    "share": share,
                    "seconds": plan.seconds,
                    "gap": plan.solution.gap,
                    "columns": plan.solution.columns,
                    "wall": wall,
                    "cpu": cpu,
                }
                room_text = "all" if share is None else f"{share:g} of the weights"
                print(
                    f"| {mesh} | {regime} | {room_text} | {plan.seconds * 1e3:.3f}"
                    f" | {row['gap']:.0e} | {row['columns']}"
                    f" | {wall:.1f} | {cpu:.1f} |",
                    flush=True,
                )
                yield row


def _versions() -> str:
    have = [f"{name} {version(name)}" for name in ("graphopt", "numpy", "scipy")]
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    return ", ".join((f"Python {platform.python_version()}", *have, load))


if __name__ == "__main__":
    sys.exit(main())
