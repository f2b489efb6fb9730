"""The optimizers that are compared, each run as a command in a process of its own.

Run as a program, `tools.py IN OUT` is the onnxscript peer, which has no command line.
"""

import importlib.metadata
import importlib.util
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


def installed(names: Sequence[str] = (GRAPHOPT, *PEERS)) -> list[str]:
    """Those of `names` that can be run here."""

    def is_installed(name: str) -> bool:
        if name == GRAPHOPT:
            return graphopt_program() is not None
        return importlib.util.find_spec(name) is not None

    return [name for name in names if is_installed(name)]


def versions(names: Sequence[str]) -> dict[str, str]:
    """The installed version of each package, for the head of a report."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def command(
    tool: str, source: Path, target: Path, options: Sequence[str] = ()
) -> list[str]:
    """The command line by which `tool` turns `source` into `target`.

    Peers run with their defaults; `options` are added for any tool.
    """
    python = [sys.executable, "-P"]
    files = [str(source), str(target)]
    if tool == GRAPHOPT:
        program = graphopt_program() or GRAPHOPT
        fixed = ["-o", files[1], "-f", "-q", "--check", "off"]
        return [program, "optimize", files[0], *fixed, *options]
    if tool == "onnxscript":
        return [*python, __file__, *files, *options]
    return [*python, "-m", tool, *files, *options]


def optimize(
    tool: str,
    source: Path,
    target: Path,
    options: Sequence[str] = (),
    limit_s: float = 600,
) -> Run:
    """Run `tool` on `source` in a child, within `limit_s` seconds of wall time.

    CPU seconds are those of the child and of all that it started and waited for.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    cpu, wall = _children_cpu_seconds(), time.perf_counter()
    child = subprocess.Popen(
        command(tool, source, target, options),
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
