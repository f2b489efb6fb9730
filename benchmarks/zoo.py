"""Export many architectures to ONNX, with seeded random weights; nothing is downloaded.

Needs `torch transformers onnx onnxscript`. `trace` is torch's older exporter, with
dynamic batch and lengths (much shape arithmetic); `dynamo` is the current one, with the
shapes of the example. `spellings` are graphs written node by node, as other exporters
write them, the same for both.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import onnx  # noqa: E402
import torch  # noqa: E402
from architectures import (  # noqa: E402
    BUILDS,
    CAPTURED_ONLY,
    SYMBOL,
    TRANSLATIONS,
    Build,
    randomize_constants,
)
from architectures.spellings import SPELLINGS  # noqa: E402

TRACE_OPSET = 17
DYNAMO_OPSET = 20


def export_traced(build: Build, path: Path) -> None:
    """Trace the module; axes that `build` names are dynamic."""
    torch.onnx.export(
        build.module,
        tuple(build.inputs.values()),
        str(path),
        dynamo=False,
        opset_version=TRACE_OPSET,
        input_names=list(build.inputs),
        output_names=list(build.outputs),
        dynamic_axes={name: dict(axes) for name, axes in build.axes.items()},
    )


def export_captured(build: Build, path: Path) -> None:
    """Capture the module as a program, and write it without optimizing it."""
    torch.onnx.export(
        build.module,
        tuple(build.inputs.values()),
        str(path),
        dynamo=True,
        opset_version=DYNAMO_OPSET,
        input_names=list(build.inputs),
        output_names=list(build.outputs),
        custom_translation_table=TRANSLATIONS,
        optimize=False,
        external_data=False,
        verbose=False,
    )


EXPORTERS = {"trace": export_traced, "dynamo": export_captured}


def example_dims(build: Build) -> dict[str, int]:
    """What extents dynamic axes have in the example; sums follow from their parts."""
    return {
        name: build.inputs[key].shape[axis]
        for key, axes in build.axes.items()
        for axis, name in axes.items()
        if name.isidentifier()
    }


def write_example_dims(build: Build, path: Path) -> None:
    """Say in the model which extents benchmarks should take."""
    if dims := example_dims(build):
        model = onnx.load(path)
        text = ",".join(f"{name}={extent}" for name, extent in dims.items())
        onnx.helper.set_model_props(model, {"example_dims": text})
        onnx.save(model, path)


def export(make: Callable[[], Build], path: Path, exporter: str, seed: int = 0) -> None:
    """Build an architecture with weights of `seed`, and write it to `path`."""
    torch.manual_seed(seed)
    build = make()
    build.module.eval()
    randomize_constants(build.module)
    with torch.no_grad():
        EXPORTERS[exporter](build, path)
    if exporter == "trace":
        write_example_dims(build, path)


def main() -> int:
    """Export what is asked for; the exit status says whether any failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [*BUILDS, *SPELLINGS]
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"default: all of {', '.join(known)}",
    )
    parser.add_argument("--exporter", choices=tuple(EXPORTERS), default="trace")
    options = parser.parse_intermixed_args()
    if unknown := set(options.names) - set(known):
        parser.error(f"no architecture {', '.join(sorted(unknown))}")
    options.out_dir.mkdir(parents=True, exist_ok=True)
    torch.onnx.register_custom_op_symbolic("zoo::suppressed", SYMBOL, TRACE_OPSET)
    failed = False
    left_out = CAPTURED_ONLY if options.exporter == "trace" else {}
    for name in options.names or known:
        if name in left_out:
            print(f"{name}: left out: {left_out[name]}", flush=True)
            continue
        path = options.out_dir / f"{name}.onnx"
        try:
            if name in SPELLINGS:
                onnx.save(SPELLINGS[name](), path)
            else:
                export(BUILDS[name], path, options.exporter)
        except Exception as error:  # of many kinds, from deep within the exporter
            failed = True
            said = str(error).strip() or type(error).__name__
            print(f"{name}: failed: {said[:300]}", file=sys.stderr, flush=True)
            path.unlink(missing_ok=True)
        else:
            print(f"{name}: {path} {path.stat().st_size / 1e6:.1f} MB", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
