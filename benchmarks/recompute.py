"""Training steps in a share of their memory: bytes and FLOPs, and the exact optimum.

Each model is compiled for XLA's CPU once as it is, and once for each share of the
temporary memory that this takes (`memory_analysis`); FLOPs are XLA's count
(`cost_analysis`). With --run, each program also runs, alone in its process, and its
CPU time and the growth of the resident memory are noted. --small compares plans for
small graphs with the exact optimum, --deep the least memory of flat and nested plans.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import optax
from onnx import numpy_helper

from graphopt import load
from graphopt.inputs import random_inputs
from graphopt.ir import Graph
from graphopt.lowering import graph_of
from graphopt.lowering.xla.function import Function
from graphopt.reference import OutOfBudget
from graphopt.testing.pebbling import cheapest
from graphopt.training.batches import Batch
from graphopt.training.budget import least, lowest, retain
from graphopt.training.retention import Step, Training
from graphopt.training.steps import Steps, mesh_of
from graphopt.training.weights import kept
from graphopt.training.within import segmented, within

MB = 1_000_000


def loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Of the next token, where there are scores of tokens; else mean squares."""
    if isinstance(prediction, dict):
        prediction = next(iter(prediction.values()))
    if prediction.ndim != 3:
        return jnp.square(prediction).reshape(len(prediction), -1).mean(1)
    chosen = jnp.arange(prediction.shape[1]) % prediction.shape[2]
    scores = jax.nn.log_softmax(prediction[:, :-1], axis=-1)
    picked = jnp.take_along_axis(scores, chosen[None, 1:, None], axis=2)
    return -picked.reshape(len(prediction), -1).mean(1)


def a_step(graph: Graph, sizes: dict[str, int]) -> tuple[Steps, list[object]]:
    """The programs of a run with plain gradient descent, and arguments for one step."""
    steps = Steps(
        graph,
        optax.sgd(1e-3),
        {"loss": loss},
        lambda prediction: {},
        None,
        mesh_of(None),
        "fp32",
    )
    function = Function(graph)
    still = kept(graph, function.weights, ())
    params = function.params
    trained = {n: a for n, a in params.items() if n not in still}
    others = {n: a for n, a in params.items() if n in still}
    trained, others = jax.device_put((trained, others), steps.everywhere)
    inputs = random_inputs(graph, 0, sizes)
    count = max(1, *[len(a) for a in inputs.values() if np.ndim(a)])
    batch = Batch(inputs, np.zeros(count, np.int64), np.ones(count, np.float32))
    state = steps.optimizer.init(trained)
    return steps, [trained, state, others, batch, jax.random.key(0)]


def measured(path: Path, share: float, most: int, sizes: dict[str, int], run: bool):
    """A row: bytes, FLOPs, what is kept, and how a step runs."""
    with jax.enable_x64(True):
        steps, arguments = a_step(load(path), sizes)
        begin = time.perf_counter()
        program, said = within(steps, int(share * most) or 1 << 60, *arguments)
        row = vars(said) | {"seconds_to_plan": time.perf_counter() - begin}
        if run:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            trained, state, *rest = arguments
            times = []
            for _ in range(5):
                begin = time.process_time()
                trained, state, _ = jax.block_until_ready(
                    program(trained, state, *rest)
                )
                times.append(time.process_time() - begin)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            row |= {"seconds": min(times), "resident": grown * 1024}
    return row


def small_graphs() -> dict[str, Training]:
    """Chains of equal and of other steps, residual blocks, and skips."""
    found = {"chain of 8": _chain([2] * 8, [4] * 8)}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        sizes, flops = rng.integers(1, 5, 8).tolist(), rng.integers(1, 17, 8).tolist()
        found[f"chain of 8, seed {seed}"] = _chain(sizes, flops)
    found["residual, 9 steps"] = _chain([2] * 9, [8, 8, 1] * 3, {2: 0, 5: 2, 8: 5})
    found["skips, 9 steps"] = _chain([4, 4, 2, 1, 1, 1, 2, 4, 4], [8] * 9, {6: 2, 7: 1})
    return found


def _chain(
    sizes: Sequence[int], flops: Sequence[int], also: dict[int, int] | None = None
) -> Training:
    steps = []
    for i, (size, cost) in enumerate(zip(sizes, flops, strict=True)):
        reads = {i - 1} if i else set()
        reads |= {also[i]} if also and i in also else set()
        needs = frozenset(reads) if cost > 1 else frozenset()
        steps.append(
            Step(
                tuple(sorted(reads)),
                size,
                cost,
                needs,
                tuple(sorted(reads)),
                back=2 * cost,
            )
        )
    last = len(steps) - 1
    steps.append(Step((last,), 0, 0, frozenset({last}), (last,)))
    return Training(steps)


def small() -> None:
    print("| graph | budget | FLOPs | made at most | optimum | over |")
    print("|---|---|---|---|---|---|")
    for name, training in small_graphs().items():
        plain = training.plain_peak()
        for share in (0.5, 0.6, 0.75):
            budget = int(share * plain)
            found = retain(training, budget)
            best = cheapest(training.nodes, budget)
            ours, most, over = "none", "", ""
            if found is not None:
                order = training.sequence(found.plan)
                ours, most = f"{found.flops}", f"{max(map(order.count, order))}"
            if found is not None and best is not None:
                over = f"{found.flops / best - 1:.1%}"
            least = "does not exist" if best is None else f"{best:.0f}"
            print(f"| {name} | {share:.0%} | {ours} | {most} | {least} | {over} |")


DEEP = {
    "products and Tanh": (48, "a{0} = MatMul (h{0}, w{0}) h{1} = Tanh (a{0})"),
    "residual blocks": (
        16,
        "n{0} = LayerNormalization (h{0}, s{0}) a{0} = MatMul (n{0}, w{0})"
        " g{0} = Gelu (a{0}) m{0} = MatMul (g{0}, v{0}) h{1} = Add (h{0}, m{0})",
    ),
}
"""Networks of so many equal layers, 32 wide."""


def deep_graph(name: str) -> Graph:
    count, layer = DEEP[name]
    lines = [layer.format(i, i + 1) for i in range(count)]
    text = f"y = Identity (h{count})"
    body = f"h0 = Identity (x) {' '.join(lines)} {text}"
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]>'
        f"net (float[n, 32] x) => (float[n, 32] y) {{ {body} }}"
    )
    rng = np.random.default_rng(0)
    wide = 128 if "v{0}" in layer else 32
    shapes = {"s": (32,), "w": (32, wide), "v": (wide, 32)}
    for letter, shape in shapes.items():
        for i in range(count if f"{letter}{{0}}" in layer else 0):
            array = rng.normal(0, 0.4, shape).astype(np.float32)
            named = numpy_helper.from_array(array, f"{letter}{i}")
            model.graph.initializer.append(named)
    return graph_of(model)


def deep() -> None:
    print("| layers | plan | depth | planned MB | temporary MB | GFLOP | more |")
    print("|---|---|---|---|---|---|---|")
    for name, (count, _) in DEEP.items():
        with jax.enable_x64(True):
            steps, arguments = a_step(deep_graph(name), {"n": 8192})
            forward = steps.forward(*arguments)
            training = forward.training
            plain = None
            for plan in (None, least(training), lowest(training)):
                made = steps if plan is None else segmented(steps, forward, plan.plan)
                program = made.train.lower(*arguments).compile()
                size = program.memory_analysis().temp_size_in_bytes / MB
                flops = program.cost_analysis()["flops"]
                plain = plain or flops
                held = training.plain_peak() if plan is None else plan.peak
                said = "all is kept" if plan is None else "flat, least"
                said = "nested, least" if plan and plan.plan.nested else said
                levels = plan.plan.depth if plan else 0
                print(
                    f"| {count} {name} | {said} | {levels} | {held / MB:.1f}"
                    f" | {size:.1f} | {flops / 1e9:.2f} | {flops / plain - 1:.0%} |",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE")
    parser.add_argument("--shares", default="0.75,0.5,0.35")
    parser.add_argument("--run", action="store_true", help="time steps, too")
    parser.add_argument("--small", action="store_true", help="against the optimum")
    parser.add_argument("--deep", action="store_true", help="flat and nested plans")
    parser.add_argument("--one", metavar="SHARE,BYTES", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = {n: int(s) for n, s in (text.split("=") for text in args.dim)}
    if args.small:
        small()
    if args.deep:
        deep()
    if args.one:
        share, most = args.one.split(",")
        try:
            row = measured(args.models[0], float(share), int(most), sizes, args.run)
        except OutOfBudget as error:
            row = {"error": str(error)}
        print(json.dumps(row))
        return
    for path in args.models:
        table(path, [0.0, *map(float, args.shares.split(","))])


def table(path: Path, shares: Sequence[float]) -> None:
    """Rows for one model, each from a process of its own."""
    print(f"\n{path.stem}\n")
    heads = "temporary MB | GFLOP | more | kept | segments | CPU s | resident MB"
    print(f"| share | {heads} |")
    print("|---|---|---|---|---|---|---|---|")
    most = 0
    for share in shares:
        words = [sys.executable, *sys.argv, "--one", f"{share},{most}"]
        names = [w for w in words if not w.endswith(".onnx")] + [str(path)]
        done = subprocess.run(names, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-2000:])
            return
        row = json.loads(done.stdout.splitlines()[-1])
        if "error" in row:
            print(f"| {share:.0%} | {row['error']} |")
            continue
        most = most or row["bytes"]
        print(
            f"| {'plain' if not share else format(share, '.0%')}"
            f" | {row['bytes'] / MB:,.0f} | {row['flops'] / 1e9:,.1f}"
            f" | {row['flops'] / row['plain_flops'] - 1:.1%}"
            f" | {row['kept']} of {row['values']} | {row['segments']}"
            f" | {row.get('seconds', float('nan')):.2f}"
            f" | {row.get('resident', 0) / MB:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
