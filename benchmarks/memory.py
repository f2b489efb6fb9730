"""Peak private memory while a model with 1 GB of external weights is optimized.

Writes the model (a chain of MatMul and Relu over distinct weights) to a temporary
folder, optimizes it in a child and samples RssAnon from /proc (so: Linux). RssAnon is
memory that only this process has; weights mapped from their file are not in it. The
exit status is 1 if the peak is over the goal.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import tools
from onnx import TensorProto, helper

MB = 1_000_000
GOAL_MB = 250
WIDTH = 4096
INTERVAL_S = 0.005


def write_model(folder: Path, weights: int, width: int) -> Path:
    """Write the chain; weights go straight to their file, one at a time."""
    rng = np.random.default_rng(0)
    data = folder / "model.onnx.data"
    size = 4 * width * width
    nodes, initializers = [], []
    value = "x"
    with data.open("wb") as file:
        for index in range(weights):
            weight = rng.standard_normal((width, width), dtype=np.float32)
            file.write((weight / np.float32(width) ** 0.5).tobytes())
            initializers.append(_external(f"w{index}", data.name, index * size, width))
            result = "y" if index == weights - 1 else f"relu{index}"
            product = f"product{index}"
            nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [product]))
            nodes.append(helper.make_node("Relu", [product], [result]))
            value = result
    dims: list[str | int | None] = ["batch", width]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 17)]
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def _external(name: str, location: str, offset: int, width: int) -> TensorProto:
    tensor = TensorProto(
        name=name,
        data_type=TensorProto.FLOAT,
        dims=[width, width],
        data_location=TensorProto.EXTERNAL,
    )
    entries = {"location": location, "offset": offset, "length": 4 * width * width}
    for key, entry in entries.items():
        tensor.external_data.add(key=key, value=str(entry))
    return tensor


def rss_anon(pid: int) -> int:
    """RssAnon of a process in bytes, 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def peak_while_running(command: list[str]) -> tuple[int, float]:
    """The largest RssAnon of the command's process, and its wall seconds."""
    peak = 0
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while child.poll() is None:
            peak = max(peak, rss_anon(child.pid))
            time.sleep(INTERVAL_S)
        if child.returncode:
            said.seek(0)
            text = said.read()[-500:]
            raise SystemExit(f"exit status {child.returncode}: {text}")
    return peak, time.perf_counter() - begin


def main() -> int:
    """Make the model, optimize it, compare the peak with the goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tool",
        choices=(tools.GRAPHOPT, *tools.PEERS),
        default=tools.GRAPHOPT,
        help="what to run",
    )
    parser.add_argument(
        "--check", default="off", help="graphopt's --check (default: off)"
    )
    parser.add_argument(
        "--weights", type=int, default=16, help="how many weights of 67 MB"
    )
    parser.add_argument("--goal", type=float, default=GOAL_MB, help="in MB")
    parser.add_argument(
        "--folder", type=Path, help="where the temporary folder goes (needs 2.2 GB)"
    )
    parser.add_argument("--json", type=Path, help="write what was measured here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        source = write_model(Path(scratch), options.weights, WIDTH)
        target = Path(scratch) / "out" / "model.onnx"
        target.parent.mkdir()
        extra = ["--check", options.check] if options.tool == tools.GRAPHOPT else []
        command = tools.command(options.tool, source, target, extra)
        peak, seconds = peak_while_running(command)
        if not target.exists():
            raise SystemExit(f"{options.tool} wrote nothing")
        written = sum(file.stat().st_size for file in target.parent.iterdir())
    report = {
        "schema": 1,
        "versions": tools.versions([options.tool]),
        "weights_mb": options.weights * 4 * WIDTH * WIDTH / MB,
        "peak_rss_anon_mb": peak / MB,
        "goal_mb": options.goal,
        "written_mb": written / MB,
        "wall_seconds": seconds,
    }
    print(
        f"{options.tool}: {report['weights_mb']:.0f} MB of weights, "
        f"peak RssAnon {report['peak_rss_anon_mb']:.1f} MB (goal {options.goal:g}), "
        f"{seconds:.1f} s, {report['written_mb']:.0f} MB written"
    )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return int(peak / MB > options.goal)


if __name__ == "__main__":
    raise SystemExit(main())
