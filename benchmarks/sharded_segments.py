"""Networks that slice, join and sum along dims which devices share out.

    python benchmarks/sharded_segments.py [--mesh 8 2x4] [--share 0.2]

Each is planned with all the room there is, and with room for that share of its weights
besides what the plan takes for all else. Costs are the model's: nothing is run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import numpy as np
from sharded_graphs import Network

from graphopt import Graph, ops
from graphopt.ir import Value
from graphopt.passes.sharding import Mesh
from graphopt.passes.sharding.machine import Machine
from graphopt.passes.sharding.planner import Planner, Sharding
from graphopt.passes.sharding.solve import NoPlan
from graphopt.passes.sharding.spanning import SPANNING

WIDTH = 4096


def last_token() -> Graph:
    """A prompt, of which only the last token is scored."""
    net = Network()
    x: Value = net.input("x", 1, 4096, WIDTH)
    for _ in range(2):
        x = net.layer(x, 32)
    last = ops.Slice(net.norm(x), _ints(-1), _ints(1 << 60), _ints(1))
    return net.graph(scores=net.linear(last, 32768))


def packed() -> Graph:
    """Queries, keys and values by one product, as they are stored."""
    net = Network()
    x: Value = net.input("x", 1, 2048, WIDTH)
    for _ in range(2):
        made = net.linear(net.norm(x), 3 * WIDTH)
        parts = ops.Split(made, _ints(WIDTH, WIDTH, WIDTH), axis=-1, outs=3).results
        seen = ops.Attention(*[net.heads(part, 32) for part in parts], is_causal=1)
        x = ops.Add(x, net.linear(net.merged(seen), WIDTH))
        x = ops.Add(x, net.linear(ops.Gelu(net.linear(net.norm(x), 4 * WIDTH)), WIDTH))
    return net.graph(y=x)


def skips() -> Graph:
    """Convolutions of what comes from before and what was kept, along channels."""
    net = Network()
    x: Value = net.input("x", 1, 512, 64, 64)
    kept: list[Value] = []
    for _ in range(3):
        x = ops.Relu(net.conv(x, 512, 3))
        kept.append(x)
    for skip in reversed(kept):
        x = ops.Relu(net.conv(ops.Concat(x, skip, axis=1), 512, 3))
    return net.graph(y=x)


def sums() -> Graph:
    """Running sums between two products."""
    net = Network()
    x: Value = net.input("x", 1, 1 << 16, 512)
    summed = ops.CumSum(net.linear(x, 512), ops.Constant(np.array(1)))
    return net.graph(y=net.linear(summed, 512))


CELLS: Mapping[str, Callable[[], Graph]] = {
    "last token of a prompt": last_token,
    "packed projections": packed,
    "skip connections": skips,
    "running sums": sums,
}


def _ints(*values: int) -> Value:
    return ops.Constant(np.asarray(values, np.int64))


def spanned(plan: Sharding | None) -> str:
    """The ops of a plan that read what other devices have."""
    ways = {
        f"{op.kind} {way.form}"
        for op, choice in (plan.decisions.choices.items() if plan else ())
        for way in choice.ways
        if way.form in SPANNING
    }
    return ", ".join(sorted(ways))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mesh", nargs="*", default=["8", "2x4"])
    parser.add_argument("--share", type=float, default=0.2, help="of the weights")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each plan")
    options = parser.parse_args()
    columns = ("network", "mesh", "us", "ops", "us in little room", "ops")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, make in CELLS.items():
        graph = make()
        weights = sum(tensor.nbytes for tensor in graph.tensors())
        for mesh in options.mesh:
            made = Planner(graph, Machine.of("h100", Mesh.parse(mesh)))
            free = made.plan(seconds=options.seconds)
            beside = free.memory - min(free.stored, weights)
            tight: Sharding | None = None
            try:
                room = options.share * weights + beside
                tight = made.plan(room, seconds=options.seconds)
            except NoPlan:
                pass
            spent = f"{tight.seconds * 1e6:.1f}" if tight else "no plan"
            print(
                f"| {name} | {mesh} | {free.seconds * 1e6:.1f} | {spanned(free)} |"
                f" {spent} | {spanned(tight)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
