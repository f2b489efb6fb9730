"""What each model needs on TPUs, by their own compiler: compiled, not executed.

Each model is compiled for one chip of each topology by `graphopt inspect --target`, in
a process of its own, for the extents that `--dim` gives. No TPU is needed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import models
import numpy as np
import tools

TOPOLOGIES = ("v5e:2x2", "v6e:2x2")
MIB = 1 << 20


def compile_for(
    topology: str, source: Path, inputs: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """What the command prints for one model, with the CPU seconds that it takes."""
    command = [sys.executable, "-m", "graphopt.cli", "inspect", str(source), "--json"]
    command += ["--target", f"xla-tpu:{topology}", "--inputs", str(inputs)]
    if options.precision:
        command += ["--precision", options.precision]
    begin = _child_seconds()
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=options.limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": {"message": f"not done in {options.limit:.0f} s"}}
    try:
        found: dict[str, Any] = json.loads(run.stdout)
    except json.JSONDecodeError:
        found = {"error": {"message": run.stderr[-200:]}}
    found["cpu_seconds"] = _child_seconds() - begin
    return found


def _child_seconds() -> float:
    """CPU seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def row(found: dict[str, Any]) -> str:
    """The memory on one device in MiB, work and time; or what went wrong."""
    if "error" in found:
        return found["error"]["message"][:200]
    memory = found["memory"]
    kinds = ("argument", "output", "temp", "code")
    cells = [f"{memory[f'{kind}_bytes'] / MIB:9.1f}" for kind in kinds]
    cells.append(f"{memory['hbm_bytes'] / MIB:9.1f}")
    cells.append(f"{100 * memory['hbm_bytes'] / memory['hbm_limit_bytes']:6.2f}")
    cells.append(f"{(memory['vmem_bytes'] or 0) / MIB:9.2f}")
    cells.append(f"{(found['flops'] or 0) / 1e9:9.2f}")
    cells.append(f"{found['cpu_seconds']:7.1f}")
    return " ".join(cells)


def main() -> int:
    """Compile, print, and say by the exit status whether anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models.add_model_arguments(parser)
    models.add_input_arguments(parser)
    parser.add_argument(
        "--topology",
        action="append",
        metavar="CHIP:GRID",
        help=f"compile for it (default: {', '.join(TOPOLOGIES)})",
    )
    parser.add_argument("--precision", choices=("fp32",), help="of float32 products")
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds for one compilation"
    )
    parser.add_argument("--json", type=Path, help="write everything measured here")
    options = parser.parse_args()
    found = models.chosen_models(options)
    width = max(len(name) for name in found)
    names = ("argument", "output", "temp", "code", "HBM")
    columns = [f"{name:>9}" for name in names]
    columns += [f"{'%':>6}", f"{'VMEM':>9}", f"{'GFLOP':>9}", f"{'CPU s':>7}"]
    print("MiB on one device; HBM is the sum and its share, VMEM the most of one op")
    print(f"{'model':{width}} {'topology':12}", *columns)
    report: dict[str, dict[str, Any]] = {}
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch) / "inputs.npz"
        for name, source in found.items():
            dims = models.chosen_dims(options)
            np.savez(inputs, **models.make_inputs(source, dims, options.seed))
            report[name] = {}
            for topology in options.topology or TOPOLOGIES:
                result = compile_for(topology, source, inputs, options)
                report[name][topology] = result
                failed |= "error" in result
                print(f"{name:{width}} {topology:12} {row(result)}", flush=True)
    if options.json:
        head = {"schema": 1, "versions": tools.versions(["graphopt", "jax", "libtpu"])}
        options.json.write_text(json.dumps({**head, "models": report}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
