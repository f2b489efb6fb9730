"""``optimize --mesh stage=4`` for ONNX Runtime: a model for each device, in a row."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .. import driver
from ..artifact import Feed, try_program
from ..byte_sizes import parse_size
from ..cost import cost
from ..errors import CheckFailed, InvalidModel, UsageError, nearest
from ..files import refuse_special, require_folder
from ..fitting import fitting
from ..ir import Graph
from ..lowering.ort.stages import MANIFEST, Manifest, Pipelined, on_devices, read, write
from ..ops import Opaque
from ..ops.random import is_random
from ..output import beside
from ..passes.sharding import Mesh
from ..passes.sharding.cuts import Cut, step_seconds
from ..passes.sharding.micro_batches import batch_axes, check_micro_batches
from ..passes.sharding.stages import Rates, Stages, planned, split
from ..report import Trial, sized, table
from ..specialize import symbols_of
from .meshes import FROM_FILE, STAGE, check_mesh, links_of

STREAM: Final = 64
"""Runs that follow each other, where no batch is cut: one alone would be fastest on one
device."""


def add_stages(parser: argparse.ArgumentParser) -> None:
    """``--micro-batches``."""
    parser.add_argument(
        "--micro-batches",
        metavar="BATCH=N",
        help="with --mesh stage=S for ONNX Runtime: the dim that is the batch, and into"
        " how many parts it is cut, which stages work on at the same time",
    )


def stage_count(options: argparse.Namespace) -> int | None:
    """How many devices are to run stages in ONNX Runtime; None where none are.

    Raises UsageError for a mesh that is not of stages alone, and for what goes with it
    as little.
    """
    kind = options.target.partition(":")[0]
    if options.mesh in (None, FROM_FILE) or kind not in driver.RUNTIMES:
        if options.micro_batches is not None:
            raise UsageError(
                "--micro-batches is of stages in ONNX Runtime: add --mesh stage=4"
                " --target ort-cpu"
            )
        return None
    check_mesh(options, memory=False)
    mesh = Mesh.parse(options.mesh)
    if mesh.names != (STAGE,):
        raise UsageError(
            f"ONNX Runtime runs stages in a row and has no collectives: write --mesh"
            f" {STAGE}={mesh.devices}, or share work out over all axes by --target"
            " xla-cuda or another of XLA"
        )
    if options.tie or options.no_tie or options.search_seconds is not None:
        raise UsageError("--tie, --no-tie and --search-seconds are not of stages")
    if options.max_activations or options.tune or options.io_precision:
        raise UsageError(
            "--max-activations, --tune and --io-precision do not go with stages"
        )
    if options.memory_sizes:
        raise UsageError("of stages, --dim says the sizes, not --memory-sizes")
    if options.annotations:
        raise UsageError("--annotations are of one model, not of stages")
    if options.weights != "auto":
        raise UsageError("weights lie in each stage: leave out --weights")
    return mesh.devices


def default_folder(source: Path) -> Path:
    """``model.onnx`` becomes the folder ``model.stages``."""
    return source.with_name(f"{source.stem}.stages")


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises UsageError where stages cannot be written to a folder."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"cannot write stages to {folder}: it is no folder")
    if folder.suffix == ".onnx":
        raise UsageError(f"stages are files of a folder: name one, as {folder.stem}")
    require_folder(folder)
    if folder.is_dir() and (files := sorted(folder.iterdir())) and not overwrite:
        raise UsageError(f"{files[0]} exists; -f replaces stages")


def staged(
    result: driver.Result,
    options: argparse.Namespace,
    devices: str,
    count: int,
    folder: Path | None,
) -> tuple[driver.Result, dict[str, Any]]:
    """Cut a result into stages and write them; it with its report, and what was cut.

    What is written is read back, put together again and compared with the original, and
    on a CPU run in ONNX Runtime; without a ``folder`` somewhere that is gone then.
    Raises UsageError, NoCut, CheckFailed.
    """
    batch, parts = _micro_batches(options, result.graph)
    link = links_of(options)
    if unknown := link.keys() - {STAGE}:
        raise UsageError(f"the mesh has no axis {min(unknown)!r} to link")
    rates = Rates.of(devices, count, link.get(STAGE))
    if options.max_memory:
        rates = dataclasses.replace(rates, memory=parse_size(options.max_memory))
    sizes = fitting(result.original)[0]
    follow = STREAM if batch is None else parts
    cut = planned(result.graph, count, rates, micro_batches=follow, sizes=sizes)
    stages = split(result.graph, cut.cuts)
    if batch is not None and result.checking.wanted:
        others = {name: size for name, size in sizes.items() if name != batch}
        try:
            check_micro_batches(result.original, batch, sizes=others)
        except CheckFailed as error:
            raise CheckFailed(
                f"{batch!r} is no batch: what lies apart along it is mixed, and parts"
                f" of it give something else ({error.message})",
                where=error.where,
            ) from None
    provider = options.target.removeprefix("ort-")
    with tempfile.TemporaryDirectory(
        prefix=".stages.", dir=None if folder is None else folder.parent
    ) as name:
        made = Path(name, "stages")
        made.mkdir()
        write(
            stages,
            made,
            axes={} if batch is None else batch_axes(result.graph, batch),
            micro_batches=parts,
            recipes=on_devices(stages, provider),
            opset=result.opset,
        )
        result = _proved(result, made, provider)
        if folder is not None:
            _put(made, folder)
    report = dataclasses.replace(
        result.report, output=None if folder is None else str(folder)
    )
    found = {"devices": count, **_facts(stages, cut, parts, batch)}
    return dataclasses.replace(result, report=report), found


def _micro_batches(options: argparse.Namespace, graph: Graph) -> tuple[str | None, int]:
    """The dim of the batch and its parts. Raises UsageError."""
    if options.micro_batches is None:
        return None, 1
    name, _, parts = options.micro_batches.partition("=")
    if not (name and parts.isdecimal() and int(parts)):
        raise UsageError(f"cannot read {options.micro_batches!r}; write BATCH=N")
    if any(text.partition("=")[0] == name for text in options.dim):
        raise UsageError(
            f"--dim gives {name!r} a size, and micro-batches are parts of any batch:"
            " leave that out"
        )
    if name not in symbols_of(graph):
        raise UsageError(
            f"--micro-batches: no symbolic dim of an input is called {name!r}"
            f"{nearest(name, symbols_of(graph))}"
        )
    return name, int(parts)


def _proved(result: driver.Result, folder: Path, provider: str) -> driver.Result:
    """Compare what was written with the original. Raises CheckFailed."""
    if not result.checking.wanted:
        return result
    graph = result.graph
    if any(is_random(op) or isinstance(op, Opaque) for _, op in graph.walk()):
        result = result.checked()  # stages of such ops cannot be put together again
        note = "random or opaque ops: the graph was compared before it was cut"
        trial = Trial("stages", None, note=note)
        return _reported(result, trial=trial)
    whole = read(folder).joined(graph)
    found = result.checking.compare(result.original, whole)
    if not found.passed:
        raise result.blamed(found)
    result = _reported(result, check=found)
    if provider != "cpu" or importlib.util.find_spec("onnxruntime") is None:
        return result
    checking = result.checking
    feed = Feed(checking.inputs, next(iter(found.sizes), None), checking.seed)
    trial = try_program(result.original, Pipelined.open(folder), [feed])
    trial = dataclasses.replace(trial, runtime="onnxruntime, in stages")
    if trial.passed is False:
        raise CheckFailed(f"in {trial.runtime}, {trial.note}")
    return _reported(result, trial=trial)


def _reported(result: driver.Result, **changes: Any) -> driver.Result:
    report = dataclasses.replace(result.report, **changes)
    return dataclasses.replace(result, report=report)


def _put(made: Path, folder: Path) -> None:
    """Put written stages in place, those of an earlier cut away; the manifest last.

    All else in the folder stays. What fails on the way puts the earlier stages back; a
    process that is killed leaves them beside ``made``, and no manifest of a mixture.
    Raises UsageError for a link or a folder where a file is to go.
    """
    if not folder.exists():
        os.replace(made, folder)
        return
    new = sorted(made.iterdir(), key=lambda path: path.name == MANIFEST)
    taken = dict.fromkeys([MANIFEST, *(file.name for file in new), *_earlier(folder)])
    for name in taken:
        refuse_special(folder / name)
    aside = made.with_name("earlier")
    aside.mkdir()
    done: list[Path] = []
    try:
        for name in taken:
            if (folder / name).exists():
                shutil.move(folder / name, aside / name)
        for file in new:
            done.append(folder / file.name)
            shutil.move(file, done[-1])
    except BaseException:
        for file in reversed(done):
            file.unlink(missing_ok=True)
        for name in reversed(taken):
            if (aside / name).exists():
                shutil.move(aside / name, folder / name)
        raise


def _earlier(folder: Path) -> list[str]:
    """The files that a folder's manifest says are stages; none where it says nothing.

    Its names are of files right in the folder.
    """
    try:
        models = Manifest.read(folder).models
    except InvalidModel:
        return []
    paths = [Path(name) for name in models if not (folder / name).is_dir()]
    return [file.name for path in paths for file in (path, *beside(path))]


def _facts(stages: Stages, cut: Cut, parts: int, batch: str | None) -> dict[str, Any]:
    """What was cut, as plain data."""
    rows = [
        {
            "file": f"stage_{i}.onnx",
            "ops": len([op for op in graph.ops if op.constant is None]),
            "weight_bytes": cost(graph, {}).parameter_bytes,
            "seconds": seconds,
        }
        for i, (graph, seconds) in enumerate(
            zip(stages.graphs, cut.stages, strict=True)
        )
    ]
    return {
        "stages": rows,
        "seconds": step_seconds(cut.stages, parts),
        "micro_batches": parts,
        "batch": batch,
    }


def stage_lines(found: Mapping[str, Any], folder: str | None) -> Iterator[str]:
    """The facts for people."""
    rows: Sequence[Mapping[str, Any]] = found["stages"]
    yield from table(
        [("stage", "ops", "weights", "ms")]
        + [
            (
                row["file"],
                f"{row['ops']:,}",
                sized(row["weight_bytes"]),
                f"{row['seconds'] * 1e3:,.3f}",
            )
            for row in rows
        ]
    )
    parts = found["micro_batches"]
    of = f" of {parts} micro-batches" if parts > 1 else ""
    slowest = max(row["seconds"] for row in rows)
    yield (
        f"a run{of} takes {found['seconds'] * 1e3:,.3f} ms by the model, and the next"
        f" ends {slowest * parts * 1e3:,.3f} ms later"
    )
    if len(rows) < found["devices"]:
        yield f"more stages than {len(rows)} would not make it faster"
    if folder is not None:
        yield f"graphopt run {folder} runs it"
