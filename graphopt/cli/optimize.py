"""Make a model better, and prove that the result computes the same.

MODEL.onnx becomes MODEL.opt.onnx. The result is read back and compared with the
original before it is put in place; where ONNX Runtime is installed, both are run there.
For XLA it becomes MODEL.opt.stablehlo, a program that JAX alone can load.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .. import driver
from ..errors import CheckFailed, UsageError
from ..exporter import Wanted
from ..exporter.storage import Weights
from ..files import atomic_write, file_named
from ..fitted import Limits
from ..importer import load
from ..interface import SUFFIX
from ..lowering import exporting
from ..lowering.xla.environment import prepare
from ..output import Rejected, beside, check_destination, check_suffix, files_of
from ..report import Report
from ..specialize import parse_dim, parse_shape
from ..tuning import Tune
from .arguments import (
    add_dims,
    add_inputs,
    add_output,
    add_pipeline,
    natural,
    pairs,
    pipeline_of,
    read_arrays,
    say_json,
)
from .feeding import told
from .meshes import add_mesh, annotated, bounds, check_mesh, devices_of
from .progress import Progress, Slow
from .run import fixed_in
from .stages import (
    add_stages,
    check_folder,
    default_folder,
    stage_count,
    stage_lines,
    staged,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    _add_written(parser)
    parser.add_argument(
        "--freeze",
        action="store_true",
        help="initializers that are inputs too become constants; this takes them out"
        " of the interface",
    )
    add_dims(parser)
    _add_precision(parser)
    _add_memory(parser)
    add_pipeline(parser)
    parser.add_argument(
        "--check",
        default="auto",
        choices=("auto", "full", "regions", "off"),
        help="how to compare with the original",
    )
    add_inputs(parser)
    _add_tuning(parser)
    add_mesh(
        parser,
        "write the model with a plan for these devices of --target (xla-cuda:h100), of"
        " which each holds --max-memory; graphopt run --mesh runs it. With stage=4 and"
        " --target ort-cuda:h100 a folder with a model for each device in a row",
        False,
    )
    add_stages(parser)
    parser.add_argument(
        "--annotations",
        action="store_true",
        help="with --mesh: also write the plan as ONNX's multi-device annotations",
    )


def _add_written(parser: argparse.ArgumentParser) -> None:
    """What is written, and where."""
    add_output(
        parser,
        "where to write (default: MODEL.opt.onnx, for XLA MODEL.opt.stablehlo)",
        str,  # of stages it is a folder
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="write nothing, but do all the rest"
    )
    parser.add_argument(
        "--bake-weights",
        action="store_true",
        help="the weights become part of the program for XLA",
    )
    parser.add_argument(
        "--opset",
        type=_opset,
        metavar="keep|N|latest",
        help="version to write (default: the source's, if that can say the result)",
    )
    parser.add_argument(
        "--weights",
        default="auto",
        choices=("auto", "inline", "external", "share"),
        help="where weights go: as they were, into the model, into a file beside it,"
        " or nowhere, the new model referring to the old file",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.html", help="write a page about the result"
    )


def _add_precision(parser: argparse.ArgumentParser) -> None:
    """Narrow types, and the error that they may have."""
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "mixed"),
        help="of a model: narrow its float32 where the error allows, all of it or only"
        " products (mixed), inputs and outputs kept; of a program for XLA: fp32 keeps"
        " a chip from rounding the operands of products to bfloat16 (TPUs)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="the error that a narrow model may have, as a share of the largest number"
        " of an output (default: 16 roundings, 0.0078 for fp16)",
    )
    parser.add_argument(
        "--io-precision",
        action="store_true",
        help="inputs and outputs of a narrow model become narrow, too",
    )


def _add_memory(parser: argparse.ArgumentParser) -> None:
    """What a run may hold."""
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="what a run may hold at its peak: weights, inputs, outputs and activations"
        " (512MiB); ops are put in order, and run in tiles, until it does; exit code 6"
        " where nothing helps",
    )
    parser.add_argument(
        "--max-activations", metavar="SIZE", help="the same for activations alone"
    )
    parser.add_argument(
        "--memory-sizes",
        action="append",
        default=[],
        metavar="NAME=N,…",
        help="sizes of symbolic dims that these limits are planned for (default: usual"
        " ones); the dims stay symbolic",
    )


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tuning")
    group.add_argument(
        "--tune",
        action="store_true",
        help="for ONNX Runtime: measure other pipelines here, and keep what wins; the"
        " original, where that is faster",
    )
    group.add_argument(
        "--tune-sizes",
        action="append",
        default=[],
        metavar="NAME=N,…",
        help="sizes of symbolic dims to measure at; several times for several sizes",
    )
    group.add_argument(
        "--tune-seconds",
        type=natural,
        metavar="S",
        help="try nothing new after so long (default: no limit)",
    )
    group.add_argument(
        "--tune-threads",
        type=natural,
        metavar="N",
        help="of ort-cpu (default: 1; 0: as many as there are)",
    )


def run(options: argparse.Namespace) -> int:
    """Optimize, check, write, report."""
    source: Path = options.model
    count, described = stage_count(options), options.target
    devices = None
    if count is None:
        devices = _devices(options)
    else:
        options.target = described.partition(":")[0]
    _check_target(options)
    target = None
    if not options.dry_run:
        target = _target(options, count)
    _check_places(options, target, count)
    more: list[str] = []
    members: dict[str, Any] = {}
    with Progress(options) as progress:
        result = _improved(
            options,
            progress,
            limited=devices is None and count is None,
            sized=devices is not None,
        )
        if devices is not None:
            progress("looking for the best plan")
            result, planned = _planned(result, options, devices)
            more += planned
            more += told(fixed_in(result.graph, load(source)), "for these sizes alone")
        if count is not None:
            progress("cutting into stages, checking")
            result, cut = staged(result, options, described, count, target)
            more += stage_lines(cut, result.report.output)
            members["pipeline"] = cut
        elif target is None:
            progress("checking")
            result = _rehearsed(result, options)
        else:
            progress(f"checking and writing {target}")
            result = result.save(
                target,
                weights=options.weights,
                bake=options.bake_weights,
                overwrite=options.force,
            )
            if options.annotations:
                more += annotated(target, [target, *beside(target)])
    _say(options, _told(options, result), more, **members)
    return 0


def _target(options: argparse.Namespace, stages: int | None) -> Path:
    """The file, or the folder of stages, to write."""
    source, named = options.model, options.output
    if stages is not None:
        return Path(named) if named else default_folder(source)
    return file_named(named) if named else default_output(source, options.target)


def _improved(
    options: argparse.Namespace, progress: Progress, *, limited: bool, sized: bool
) -> driver.Result:
    """The model, optimized and neither checked nor written yet.

    ``limited``: --max-memory is of this model, as a whole; ``sized``: all dims have
    sizes. Raises UsageError for options that mean nothing, and as `driver.improve`.
    """
    source: Path = options.model
    pipeline = pipeline_of(options)
    dims = pairs(options.dim, parse_dim)
    shapes = pairs(options.input_shape, parse_shape)
    if sized:
        from ..sharded import all_sizes

        dims, shapes = all_sizes(load(source), dims, shapes)
    tune = Tune(
        [_sizes(text) for text in options.tune_sizes],
        options.tune_seconds,
        threads=options.tune_threads,
        progress=progress,
    )
    progress(f"optimizing {source}")
    limits = _limits(options) if limited else None
    searching = "looking for the cheapest plan that keeps to the limit of memory"
    with nullcontext() if limits is None else Slow(options, searching):
        return driver.improve(
            source,
            options.target,
            pipeline,
            level=options.level,
            opset=options.opset,
            dims=dims,
            input_shapes=shapes,
            freeze=options.freeze,
            checking=driver.Checking(
                options.check, read_arrays(options.inputs, source), options.seed
            ),
            precision=options.precision,
            budget=options.budget,
            keep_io=not options.io_precision,
            tune=tune if options.tune else None,
            limits=limits,
            writes=True,
        )


def _told(options: argparse.Namespace, result: driver.Result) -> Report:
    """The report, with what rules missed where that is read; its page is written."""
    report = result.report
    if options.json or options.report is not None:
        report = dataclasses.replace(report, missed=driver.missed(result))
    if options.report is not None:
        from ..page import page

        atomic_write(options.report, page(report.to_json()).encode())
    return report


def _check_places(
    options: argparse.Namespace, target: Path | None, stages: int | None
) -> None:
    """Raises UsageError where what was asked for cannot be written."""
    source, written = options.model, list[Path]()
    inputs = list(files_of(source, options.inputs))
    if target is not None and stages is not None:
        check_folder(target, options.force)
    elif target is not None:
        check_destination(
            target,
            source,
            overwrite=options.force,
            data=not options.bake_weights,
            inputs=inputs,
        )
        check_suffix(target, options.target)
        written = [target] if options.bake_weights else [target, *beside(target)]
    if options.report is not None:
        check_destination(
            options.report,
            source,
            overwrite=options.force,
            data=False,
            inputs=inputs,
            outputs=written,
        )


def _limits(options: argparse.Namespace) -> Limits | None:
    sizes = _sizes(",".join(options.memory_sizes)) if options.memory_sizes else None
    return driver.limits_of(options.max_memory, options.max_activations, sizes)


def _devices(options: argparse.Namespace) -> str | None:
    """The devices to plan for, where a mesh was named; the file is then a model.

    Raises UsageError for what goes with no plan.
    """
    check_mesh(options, memory=False)
    if options.mesh is None:
        if options.annotations:
            raise UsageError("--annotations are of a plan for a mesh: add --mesh")
        return None
    devices = devices_of(options)
    if options.max_activations:
        raise UsageError("of a mesh, --max-memory is what each device holds in all")
    if options.memory_sizes:
        raise UsageError("of a mesh, --dim says the sizes, not --memory-sizes")
    if options.tune or options.bake_weights:
        raise UsageError("--tune and --bake-weights write no plan for a mesh")
    options.target = "onnx"
    return devices


def _planned(
    result: driver.Result, options: argparse.Namespace, devices: str
) -> tuple[driver.Result, list[str]]:
    """The result with a plan for the mesh in its metadata, and the plan in words."""
    from ..passes.sharding.caches import replaced
    from ..sharded import shard

    made = shard(result.graph, options.mesh, devices, level=0, **bounds(options))
    said = [f"planned {made}; graphopt run --mesh runs it", *replaced(made.caches)]
    return dataclasses.replace(result, graph=made.whole, plan=made.kept), said


def _rehearsed(result: driver.Result, options: argparse.Namespace) -> driver.Result:
    """All of saving, in a place that is gone afterwards.

    What is to share a file is written whole: the place is none beside that file.
    """
    weights: Weights = "auto" if options.weights == "share" else options.weights
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, default_output(options.model, options.target).name)
        try:
            saved = result.save(path, weights=weights, bake=options.bake_weights)
        except Rejected as error:
            raise CheckFailed(error.reason, where=error.where) from None
    report = dataclasses.replace(saved.report, output=None)
    return dataclasses.replace(saved, report=report)


def default_output(source: Path, target: str = "onnx") -> Path:
    """``model.onnx`` becomes ``model.opt.onnx``, or ``.stablehlo`` for XLA."""
    stem = source.stem if source.suffix == ".onnx" else source.name
    suffix = SUFFIX if target in driver.PLATFORMS else ".onnx"
    return source.with_name(f"{stem}.opt{suffix}")


def _check_target(options: argparse.Namespace) -> None:
    """Raises UsageError for options of another target, BackendMissing without JAX."""
    driver.require_target(options.target)
    if options.fuse != "auto" and options.target not in driver.RUNTIMES:
        raise UsageError(f"--fuse is for {' and '.join(driver.RUNTIMES)}")
    for name in ("sizes", "seconds", "threads"):
        if not options.tune and getattr(options, f"tune_{name}") not in (None, []):
            raise UsageError(f"--tune-{name} is for --tune")
    if options.target not in driver.PLATFORMS:
        if options.bake_weights:
            raise UsageError("--bake-weights is for XLA targets; see --weights inline")
        return
    if options.precision not in (None, "fp32"):
        raise UsageError(
            f"--precision {options.precision} is for models; a program for XLA has"
            " fp32, or what its chip does"
        )
    if options.budget or options.io_precision:
        raise UsageError("--budget and --io-precision are for narrow models")
    if options.weights != "auto":
        raise UsageError("--weights is for models; for XLA there is --bake-weights")
    if options.opset is not None:
        raise UsageError("--opset is for models; a program for XLA has none")
    prepare("xla-cpu", alone=True)  # where the program is tried out
    exporting()


def _sizes(text: str) -> dict[str, int]:
    """``batch=1,seq=128``. Raises UsageError."""
    found = pairs(text.split(","), parse_dim)
    for name, size in found.items():
        if not isinstance(size, int):
            raise UsageError(f"{size!r} is no size for {name!r}; write NAME=SIZE")
    return found


def _say(
    options: argparse.Namespace, report: Report, more: Sequence[str], **members: Any
) -> None:
    if options.json:
        say_json({**report.to_json(), **members})
    elif not options.quiet:
        print(f"{report.input} --> {report.output or '(not written)'}\n")
        for line in report.lines(passes=options.verbose > 0):
            print(line)
        if more:
            print("", *more, sep="\n")


def _opset(text: str) -> Wanted:
    if text == "keep":
        return "keep"
    if text == "latest":
        return "latest"
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither keep, latest nor number")
    return int(text)
