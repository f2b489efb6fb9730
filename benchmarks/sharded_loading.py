"""Memory of processes that each load their parts of a large model.

Makes a chain of matrix products with its weights in one file beside it (sparse: it
takes no disk), shares it out to the devices of several processes, which load it and run
it, and watches the anonymous memory of each from outside, every millisecond: `start` is
what JAX takes before a weight is read, `peak` the most until the run has ended, and
`over` the peak less the share of the weights. The pages of the mapped file are not
counted, being the system's to drop. In MB; the last column is the time to load.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import Graph
from graphopt.cli.launch import launch
from graphopt.importer import load
from graphopt.index import Replicated
from graphopt.ir import Value
from graphopt.lowering.xla.environment import show_devices
from graphopt.ops import MatMul
from graphopt.ops.mesh import AllReduce, Shard
from graphopt.passes.sharding import Mesh, Program

MB = 1_000_000
LIMIT = 500 * MB
"""What a process may take besides its share."""

WATCH = """
import sys, threading, time
most, done = 0, threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
while not done.is_set():
    for line in open(f"/proc/{sys.argv[1]}/status"):
        if line.startswith("RssAnon:"):
            most = max(most, int(line.split()[1]))
    time.sleep(0.001)
print(most * 1024)
"""


def write_model(folder: Path, layers: int, width: int) -> Path:
    """A chain of products; zeros in a file of which nothing is on the disk."""
    from onnx import TensorProto, helper, save

    size = 4 * width * width
    with (folder / "weights").open("wb") as file:
        file.truncate(layers * size)
    weights, nodes, last = [], [], "x"
    for i in range(layers):
        weight = TensorProto(name=f"w{i}", data_type=1, dims=[width, width])
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights"), ("offset", i * size)):
            weight.external_data.add(key=key, value=str(value))
        weights.append(weight)
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"y{i}"]))
        last = f"y{i}"
    x, y = (helper.make_tensor_value_info(n, 1, [1, width]) for n in ("x", last))
    graph = helper.make_graph(nodes, "chain", [x], [y], weights)
    opsets = [helper.make_opsetid("", 21)]
    path = folder / "chain.onnx"
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def shared_out(graph: Graph, mesh: Mesh) -> Program:
    """Columns of one weight, rows of the next, a sum after each two."""
    ((name, ways),) = mesh.axes
    place: dict[str, Any] = {"axis": name, "ways": ways}
    value: Value = graph.inputs[0]
    for i, op in enumerate(op for op in graph.ops if isinstance(op, MatMul)):
        (_, weight) = op.operands
        assert weight is not None
        value = MatMul(value, Shard(weight, dim=1 - i % 2, **place))
        if i % 2:
            value = AllReduce(value, combiner="sum", **place)
    local = Graph(graph.inputs, [value], output_names=graph.output_names)
    replicated = ((Replicated(),),)
    return Program(mesh, local, replicated, replicated)


@contextmanager
def watched(found: dict[str, Any]) -> Iterator[None]:
    """Adds the most anonymous memory that this process has meanwhile."""
    words = [sys.executable, "-S", "-c", WATCH, str(os.getpid())]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as watcher:
        yield
        found["peak"] = int(watcher.communicate()[0])


def anonymous() -> int:
    """Bytes of this process's own."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("the system does not say what memory is anonymous")


def work(model: Path, mesh: Mesh, out: Path) -> None:
    """One process of several: load, run, and write what that took."""
    show_devices(mesh.devices)
    import jax

    from graphopt.lowering.xla.distributed import join
    from graphopt.lowering.xla.sharded import ShardedProgram
    from graphopt.lowering.xla.shards import bytes_held

    join()
    devices = jax.devices()
    found: dict[str, Any] = {"start": anonymous()}
    with watched(found):
        begin = time.perf_counter()
        graph = load(model)
        program = ShardedProgram(shared_out(graph, mesh), "xla-cpu", devices)
        jax.block_until_ready(program.params)
        found["seconds"] = time.perf_counter() - begin
        (width,) = graph.inputs[0].shape[1:]  # type: ignore[index]
        (made,) = program(x=np.ones((1, width), np.float32)).values()
    assert not made.any()
    local = len(jax.local_devices())
    found["share"] = local * bytes_held(program.sharded.weights)
    found["rank"] = jax.process_index()
    (out / f"{found['rank']}.json").write_text(json.dumps(found))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--processes", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--devices", type=int, default=4, help="of all processes")
    parser.add_argument("--scratch", type=Path, help="a folder for the model")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    mesh = Mesh((("model", options.devices),))
    if options.work:
        work(options.work[0], mesh, options.work[1])
        return 0
    rows: list[dict[str, Any]] = []
    print("| processes | rank | share | start | peak | over | seconds |")
    print("|---|---|---|---|---|---|---|")
    for processes in options.processes:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            folder = Path(scratch)
            model = write_model(folder, options.layers, options.width)
            words = [sys.executable, __file__, "--devices", str(options.devices)]
            code = launch([*words, "--work", str(model), scratch], processes)
            if code:
                return code
            for rank in range(processes):
                row = json.loads((folder / f"{rank}.json").read_text())
                row |= {"processes": processes, "over": row["peak"] - row["share"]}
                rows.append(row)
                names = ("share", "start", "peak", "over")
                numbers = " | ".join(f"{row[name] / MB:,.0f}" for name in names)
                print(f"| {processes} | {rank} | {numbers} | {row['seconds']:.1f} |")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1))
    return int(any(row["over"] > LIMIT for row in rows))


if __name__ == "__main__":
    sys.exit(main())
