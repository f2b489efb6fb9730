"""Node counts after graphopt and after its peers, model by model.

Every node counts: those of bodies of If, Loop and Scan, and of local functions, too.
`Constant` nodes compute nothing, so a second count leaves them out. The exit status
is 1 if on some model graphopt has more nodes, by either count, than the best peer.

A peer's result does not compete if it changed the model's interface (shown as `~`: an
input removed or its dimensions baked in; --any-interface lets it compete) or, with
--verify, if ONNX Runtime refuses it or computes something else from it (shown as `!`).
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import models
import tools

ORIGINAL = "original"
TOLERANCE = 5e-3


@dataclass(frozen=True)
class Result:
    """What one tool made of one model."""

    nodes: int = 0
    computing: int = 0
    ops: dict[str, int] | None = None
    interface_kept: bool = True
    relative_error: float | None = None
    verify_error: str = ""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    bytes: int = 0
    error: str = ""

    @property
    def correct(self) -> bool:
        """True unless running it showed otherwise."""
        error = self.relative_error
        return not self.verify_error and (error is None or error <= TOLERANCE)

    def competes(self, any_interface: bool) -> bool:
        """Whether the result may be compared with."""
        kept = self.interface_kept or any_interface
        return not self.error and kept and self.correct

    def __str__(self) -> str:
        if self.error:
            return "failed"
        mark = "" if self.interface_kept else "~"
        mark += "" if self.correct else "!"
        return f"{mark}{self.nodes} ({self.computing})"


def counted(ops: Counter[str]) -> tuple[int, int]:
    """All nodes, and those that are not `Constant`."""
    return ops.total(), ops.total() - ops["Constant"]


def graphopt_options(target: str) -> list[str]:
    """The most fusions, where there is a choice; else what peers do: keep the opset."""
    if target == "onnx":
        return ["--opset", "keep"]
    return [*tools.target_options(target), "--fuse", "max"]


def measure(
    tool: str,
    source: Path,
    target: Path,
    verifier: "Verifier | None",
    options: argparse.Namespace,
) -> Result:
    """Run one tool on one model and look at what it wrote."""
    extra = graphopt_options(options.target) if tool == tools.GRAPHOPT else []
    run = tools.optimize(tool, source, target, extra, options.limit, options.python)
    result = Result(cpu_seconds=run.cpu_seconds, wall_seconds=run.wall_seconds)
    if run.error:
        return replace(result, error=run.error)
    try:
        model = models.load_graph(target)
    except Exception as error:  # a protobuf error of some kind
        return replace(result, error=f"unreadable: {error}")
    ops = models.op_counts(model)
    nodes, computing = counted(ops)
    kept = models.interface(model) == models.interface(models.load_graph(source))
    difference, refusal = verifier.compare(target) if verifier else (None, "")
    return replace(
        result,
        nodes=nodes,
        computing=computing,
        ops=dict(ops.most_common()),
        interface_kept=kept,
        relative_error=difference,
        verify_error=refusal,
        bytes=sum(file.stat().st_size for file in written(target)),
    )


def written(target: Path) -> list[Path]:
    """The model file and the weight files that go with it."""
    return list(target.parent.glob(f"{target.name}*"))


class Verifier:
    """Runs a model in ONNX Runtime, unoptimized, and compares other models with it."""

    def __init__(self, source: Path, options: argparse.Namespace) -> None:
        self.inputs = models.make_inputs(
            source, models.chosen_dims(options), options.seed
        )
        self.expected = self._run(source)

    def _run(self, path: Path) -> list[object]:
        session = models.ort_session(path, optimized=False)
        return models.ort_run(session, self.inputs)

    def compare(self, path: Path) -> tuple[float | None, str]:
        """The error of the model in `path`, or why it does not run."""
        try:
            return models.relative_error(self.expected, self._run(path)), ""
        except Exception as error:  # the runtime's own, without a base
            return None, str(error)[:200]


def make_verifier(source: Path, options: argparse.Namespace) -> Verifier | None:
    """A verifier, if one is asked for and the original itself runs."""
    if not options.verify:
        return None
    try:
        return Verifier(source, options)
    except Exception as error:  # the runtime's own, without a base
        print(f"  not verified: {str(error)[:200]}")
        return None


def measure_model(
    name: str,
    source: Path,
    names: Sequence[str],
    folder: Path,
    options: argparse.Namespace,
) -> dict[str, Result]:
    """All tools on one model, and the original."""
    ops = models.op_counts(models.load_graph(source))
    nodes, computing = counted(ops)
    results = {ORIGINAL: Result(nodes, computing, dict(ops.most_common()))}
    verifier = make_verifier(source, options)
    for tool in names:
        target = folder / tool / f"{name}.onnx"
        results[tool] = measure(tool, source, target, verifier, options)
        if not options.keep:
            for file in written(target):
                file.unlink()
    return results


def losses(results: dict[str, Result], any_interface: bool) -> list[str]:
    """By which counts graphopt loses to its best peer on this model."""
    ours = results.get(tools.GRAPHOPT)
    peers = [
        result
        for tool, result in results.items()
        if tool not in (ORIGINAL, tools.GRAPHOPT) and result.competes(any_interface)
    ]
    if ours is None or not peers:
        return []
    if not ours.competes(any_interface):
        return [ours.error or "interface or results changed"]
    best = min(peer.nodes for peer in peers), min(peer.computing for peer in peers)
    found = []
    if ours.nodes > best[0]:
        found.append(f"{ours.nodes} nodes, best peer {best[0]}")
    if ours.computing > best[1]:
        found.append(f"{ours.computing} without Constant, best peer {best[1]}")
    return found


def main() -> int:
    """Measure, print, and say by the exit status whether graphopt lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models.add_model_arguments(parser)
    models.add_input_arguments(parser)
    tools.add_arguments(parser)
    parser.add_argument(
        "--verify", action="store_true", help="run each result in ONNX Runtime"
    )
    parser.add_argument(
        "--any-interface",
        action="store_true",
        help="compare with results whose inputs or outputs changed, too",
    )
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds for one tool on one model"
    )
    parser.add_argument("--keep", type=Path, help="keep the optimized models here")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    options = parser.parse_args()
    names = tools.installed(
        (tools.GRAPHOPT, *tools.TARGETS[options.target]), options.python
    )
    if tools.GRAPHOPT not in names:
        print("graphopt is not installed here: peers only")
    report = {}
    lost = {}
    found = models.chosen_models(options)
    width = max(len(name) for name in found)
    columns = [ORIGINAL, *names]
    print("nodes (without Constant)")
    print(f"{'model':{width}}", *(f"{column:>16}" for column in columns))
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        for name, source in found.items():
            results = measure_model(name, source, names, folder, options)
            row = (f"{results[column]!s:>16}" for column in columns)
            print(f"{name:{width}}", *row, flush=True)
            report[name] = {key: asdict(result) for key, result in results.items()}
            if reasons := losses(results, options.any_interface):
                lost[name] = reasons
    if options.json:
        head = {
            "schema": 1,
            "target": options.target,
            "versions": tools.versions(names, options.python),
        }
        options.json.write_text(json.dumps({**head, "models": report}, indent=1))
    for name, reasons in lost.items():
        print(f"graphopt behind on {name}: {'; '.join(reasons)}")
    return 1 if lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
