"""The optimizers for ONNX Runtime alone, as one program: `ort_peers.py PEER IN OUT`.

`ort_fusions` is onnxscript's `optimize_for_ort`, `ort_extended` what ONNX Runtime saves
with extended optimizations, `ort_transformers` its optimizer for transformers.
"""

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import onnx

TOLERANCE = 5e-3


def fuse_with_onnxscript(source: Path, target: Path) -> None:
    """The fusions of onnxscript for ONNX Runtime, with its defaults."""
    fusions: Any = importlib.import_module("onnxscript.rewriter.ort_fusions")
    ir: Any = importlib.import_module("onnx_ir")
    model, _ = fusions.optimize_for_ort(ir.load(source))
    ir.save(model, target)


def save_from_runtime(
    source: Path, target: Path, level: str = "EXTENDED", skip: tuple[str, ...] = ()
) -> None:
    """What ONNX Runtime makes of the model at one of its levels, on the CPU."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    settings.graph_optimization_level = getattr(levels, f"ORT_ENABLE_{level}")
    settings.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(
        str(source),
        settings,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(skip),
    )


def transformers_results(source: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """What ONNX Runtime's optimizer writes for each model type of the same producer.

    Like its command line with its defaults (numbers of heads and features being
    detected), but torch, which that imports to ask for a GPU, need not be there.
    """
    optimizer: Any = importlib.import_module("onnxruntime.transformers.optimizer")
    kinds: dict[str, Any] = optimizer.MODEL_TYPES
    producer = onnx.load(source, load_external_data=False).producer_name
    known = {made_by for _, made_by, _ in kinds.values()}
    skip = ("ConstantSharing",)
    later = (
        "MatMulScaleFusion",
        "MatMulAddFusion",
        "MatmulTransposeFusion",
        "GemmActivationFusion",
        "BiasSoftmaxFusion",
    )
    begun = {0: source}
    for level, name, skipped in ((1, "BASIC", skip), (2, "EXTENDED", skip + later)):
        begun[level] = folder / f"{name}.onnx"
        save_from_runtime(source, begun[level], name, skipped)
    tried = set()
    for kind, (fusions, made_by, level) in kinds.items():
        if (producer in known and made_by != producer) or (fusions, level) in tried:
            continue
        tried.add((fusions, level))
        target = folder / f"{kind}.onnx"
        try:
            made = optimizer.optimize_model(str(begun[level]), kind, opt_level=0)
            made.save_model_to_file(str(target))
        except Exception as error:  # the type does not apply
            print(f"{kind}: {error!r}", file=sys.stderr)
        else:
            yield kind, target


def fuse_for_transformers(source: Path, target: Path) -> None:
    """The result with fewest nodes that still computes the same."""
    inputs = models.make_inputs(source, {})
    expected = models.ort_run(models.ort_session(source, optimized=False), inputs)
    best: tuple[int, str] | None = None
    with tempfile.TemporaryDirectory() as scratch:
        for kind, path in transformers_results(source, Path(scratch)):
            count = models.op_counts(models.load_graph(path)).total()
            if best is not None and count >= best[0]:
                continue
            try:
                actual = models.ort_run(models.ort_session(path), inputs)
            except Exception as error:  # the runtime's own, without a base
                print(f"{kind}: {error!r}", file=sys.stderr)
                continue
            if models.relative_error(expected, actual) <= TOLERANCE:
                best = count, kind
                onnx.save(onnx.load(path), target)
            else:
                print(f"{kind}: computes something else", file=sys.stderr)
    if best is None:
        raise SystemExit("no model type applies")
    print(f"{best[1]}: {best[0]} nodes", file=sys.stderr)


PEERS: dict[str, Callable[[Path, Path], None]] = {
    "ort_fusions": fuse_with_onnxscript,
    "ort_transformers": fuse_for_transformers,
    "ort_extended": save_from_runtime,
}


if __name__ == "__main__":
    PEERS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
