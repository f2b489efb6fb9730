"""CPU time of ONNX Runtime's fused kernels against the ops that they stand for.

Each case is run in three ways, interleaved, on one thread, all with the runtime's
default optimizations: `fused`, the contrib op; `apart`, the ops themselves, while the
runtime's own fusions of the kind are switched off; `loaded`, the ops themselves, and
whatever the runtime makes of them when it loads them. Ratios are medians within a
round, with their bootstrap 95 % interval; below 1 the fused kernel is the faster one.
A model holds a chain of copies where it can, so that what a call costs by itself hides
nothing. Results that differ from those of the parts by more than 1e-4 are an error.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import intervals
import numpy as np
import onnx
import onnxruntime as ort
import tools
from fused_attention import attentions
from fused_cases import Model, cases
from fused_recurrences import recurrences
from ort_time import interleaved

APART = (
    *("SkipLayerNormFusion", "BiasSkipLayerNormFusion", "EmbedLayerNormFusion"),
    *("SimplifiedLayerNormFusion", "BiasGeluFusion", "FastGeluFusion"),
    *("QuickGeluFusion", "GeluFusionL1", "GeluFusionL2", "GemmActivationFusion"),
    *("MatMulScaleFusion", "MatmulTransposeFusion", "MatMulActivationFusion"),
    *("ConvActivationFusion", "ConvAddActivationFusion"),
)
"""The runtime's own fusions that make the contrib ops at hand."""
TOLERANCE = 1e-4


def session(model: onnx.ModelProto, apart: bool) -> tuple[Any, list[str]]:
    """A session on one thread, and the ops that it runs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "loaded.onnx")
        options.optimized_model_filepath = str(path)
        made = ort.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(APART) if apart else None,
        )
        return made, [node.op_type for node in onnx.load(path).graph.node]


def ops_of(kinds: list[str]) -> str:
    """`2 Conv, Relu`, in the order in which they appear first."""
    counts = {kind: kinds.count(kind) for kind in kinds}
    return ", ".join(k if n == 1 else f"{n} {k}" for k, n in counts.items())


def measure(
    fused: Callable[[Model], str], parts: Callable[[Model], str], rounds: int, seed: int
) -> dict[str, Any]:
    """Times and ratios of one case, and what ran."""
    sessions, ran, calls = {}, {}, {}
    expected: Any = None
    for name, build in (("apart", parts), ("loaded", parts), ("fused", fused)):
        model = Model()
        proto = model.proto(build(model))
        sessions[name], ran[name] = session(proto, name == "apart")
        feeds = model.inputs
        (result,) = sessions[name].run(None, feeds)
        expected = result if expected is None else expected
        error = np.abs(result - expected).max() / np.abs(expected).max()
        if error > TOLERANCE:
            raise SystemExit(f"{name} is off by {error}")

        def call(session: Any = sessions[name], feeds: Any = feeds) -> object:
            return session.run(None, feeds)

        calls[name] = call
    samples = interleaved(calls, rounds, 0.01, seed)
    return {
        "apart_ms": 1000 * float(np.median(samples["apart"])),
        "to_apart": asdict(
            intervals.median_of_ratios(samples["fused"], samples["apart"])
        ),
        "to_loaded": asdict(
            intervals.median_of_ratios(samples["fused"], samples["loaded"])
        ),
        "loaded_to_apart": asdict(
            intervals.median_of_ratios(samples["loaded"], samples["apart"])
        ),
        "loads": ops_of(ran["loaded"]),
        "fused_runs": ops_of(ran["fused"]),
    }


def main() -> None:
    """Measure each case, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with TEXT")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write everything measured here")
    options = parser.parse_args()
    report: dict[str, dict[str, Any]] = {}
    print("| fused op | size | apart, ms | fused / apart | loaded / apart | loaded |")
    print("|---|---|---|---|---|---|")
    for case in chain(cases(), recurrences(), attentions()):
        if options.only not in case.name:
            continue
        found = measure(case.fused, case.parts, options.rounds, options.seed)
        report.setdefault(case.name, {})[case.size] = found
        ratios = [
            "{value:.2f} [{low:.2f}, {high:.2f}]".format(**found[key])
            for key in ("to_apart", "loaded_to_apart")
        ]
        columns = (case.name, case.size, f"{found['apart_ms']:.3f}", *ratios)
        print("|", " | ".join([*columns, found["loads"]]), "|", flush=True)
    if options.json:
        head = {"schema": 1, "versions": tools.versions(["onnxruntime"])}
        options.json.write_text(json.dumps({**head, "cases": report}, indent=1))


if __name__ == "__main__":
    main()
