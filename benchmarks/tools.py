"""The optimizers that are compared, each run as a command in a process of its own.

Run as a program, `tools.py IN OUT` is the onnxscript peer, which has no command line.
"""

import argparse
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GRAPHOPT = "graphopt"
PEERS = ("onnxslim", "onnxsim", "onnxscript")
ORT_PEERS = {
    "ort_fusions": "onnxscript",
    "ort_transformers": "onnxruntime",
    "ort_extended": "onnxruntime",
}
"""Peers whose results only ONNX Runtime can run, and the package of each."""
TARGETS = {"onnx": PEERS, "ort-cpu": (*PEERS, *ORT_PEERS)}
"""What a comparison is for, and the peers in it."""


@dataclass(frozen=True)
class Run:
    """One optimizer on one model: the file that it wrote, or why there is none."""

    tool: str
    path: Path
    cpu_seconds: float
    wall_seconds: float
    error: str = ""


def graphopt_program() -> str | None:
    """The `graphopt` command of this environment, else the one on PATH."""
    beside = Path(sys.executable).with_name(GRAPHOPT)
    return str(beside) if beside.exists() else shutil.which(GRAPHOPT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides which tools are compared, and where the peers are."""
    parser.add_argument(
        "--target",
        choices=tuple(TARGETS),
        default="onnx",
        help="what graphopt and its peers optimize for (default: any runtime)",
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PROGRAM",
        help="the Python that has the peers (default: this one)",
    )


def target_options(target: str) -> list[str]:
    """What makes graphopt optimize for `target`."""
    return [] if target == "onnx" else ["--target", target]


def installed(
    names: Sequence[str] = (GRAPHOPT, *PEERS), python: str = sys.executable
) -> list[str]:
    """Those of `names` that can be run; `python` has the peers."""
    have = _peer_versions(tuple(sorted({*PEERS, *ORT_PEERS.values()})), python)

    def is_installed(name: str) -> bool:
        if name == GRAPHOPT:
            return graphopt_program() is not None
        return ORT_PEERS.get(name, name) in have

    return [name for name in names if is_installed(name)]


def versions(names: Sequence[str], python: str = sys.executable) -> dict[str, str]:
    """The installed version of each tool's package, for the head of a report."""
    here = {name for name in names if name not in TARGETS["ort-cpu"]}
    found: dict[str, str] = {}
    for side, names_there in ((sys.executable, here), (python, {*names} - here)):
        packages = {name: ORT_PEERS.get(name, name) for name in names_there}
        have = _peer_versions(tuple(packages.values()), side)
        found |= {name: have.get(packages[name], "unknown") for name in packages}
    return {name: found[name] for name in names}


@functools.cache
def _peer_versions(packages: tuple[str, ...], python: str) -> dict[str, str]:
    """The version of each package that `python` has."""
    program = (
        "import importlib.metadata as m, json, sys; "
        "names = {d.metadata['Name'].lower(): d.version for d in m.distributions()}; "
        "print(json.dumps({n: names[n] for n in sys.argv[1:] if n in names}))"
    )
    said = subprocess.run(
        [python, "-P", "-c", program, *packages],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(said.stdout)
    return found


def command(
    tool: str,
    source: Path,
    target: Path,
    options: Sequence[str] = (),
    python: str = sys.executable,
) -> list[str]:
    """The command line by which `tool` turns `source` into `target`.

    Peers run with their defaults, in `python`; `options` are added for any tool.
    """
    files = [str(source), str(target)]
    if tool == GRAPHOPT:
        program = graphopt_program() or GRAPHOPT
        fixed = ["-o", files[1], "-f", "-q", "--check", "off"]
        return [program, "optimize", files[0], *fixed, *options]
    if tool in ORT_PEERS:
        program = str(Path(__file__).with_name("ort_peers.py"))
        return [python, program, tool, *files, *options]
    if tool == "onnxscript":
        return [python, "-P", __file__, *files, *options]
    return [python, "-P", "-m", tool, *files, *options]


def optimize(
    tool: str,
    source: Path,
    target: Path,
    options: Sequence[str] = (),
    limit_s: float = 600,
    python: str = sys.executable,
) -> Run:
    """Run `tool` on `source` in a child, within `limit_s` seconds of wall time.

    CPU seconds are those of the child and of all that it started and waited for.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    cpu, wall = _children_cpu_seconds(), time.perf_counter()
    child = subprocess.Popen(
        command(tool, source, target, options, python),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    error = ""
    try:
        _, said = child.communicate(timeout=limit_s)
        if child.returncode:
            error = f"exit status {child.returncode}: {_last_line(said)}"
        elif not target.exists():
            error = f"wrote nothing: {_last_line(said)}"
    except subprocess.TimeoutExpired:
        error = f"over {limit_s:g} s"
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    return Run(
        tool,
        target,
        _children_cpu_seconds() - cpu,
        time.perf_counter() - wall,
        error,
    )


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"


def _optimize_with_onnxscript(source: str, target: str) -> None:
    """Optimize, then rewrite with the default rules; keep what has fewer nodes."""
    import onnx
    from onnxscript import optimizer, rewriter

    def size(model: onnx.ModelProto) -> int:
        bodies = [model.graph.node, *(body.node for body in model.functions)]
        return sum(len(nodes) for nodes in bodies)

    optimized = optimizer.optimize(onnx.load(source))
    try:
        rewritten = rewriter.rewrite(optimized)
    except Exception as error:  # it costs only the rewrite
        print(f"rewrite failed: {error}", file=sys.stderr)
        rewritten = optimized
    onnx.save(min(optimized, rewritten, key=size), target)


if __name__ == "__main__":
    _optimize_with_onnxscript(sys.argv[1], sys.argv[2])
