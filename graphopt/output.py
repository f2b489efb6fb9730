"""Put an optimized model in place: staged, read back, checked, tried, then renamed.

Nothing stands under the final name before all of that is done, and the original is
never written to. A candidate that fails the check is kept as ``NAME.rejected.onnx``,
in the place of an earlier one.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from .errors import CheckFailed, GraphoptError, UsageError
from .exporter import Wanted, save
from .exporter.storage import Weights, data_path
from .files import refuse_special, require_folder
from .importer import load
from .interface import SUFFIX, is_program, read_interface
from .ir import Graph, Op
from .lowering.ort.recipe import recipe_path
from .lowering.xla.platforms import PLATFORMS
from .plan import annotated, opening
from .report import Change, Trial, check_to_json

if TYPE_CHECKING:
    from .check import CheckResult
    from .driver import Result

REJECTED: Final = ".rejected"
"""What the name of a candidate that failed ends in, before its suffix."""

REJECTED_KEY: Final = "graphopt.rejected"
"""The entry of its ``metadata_props`` that says why it failed."""


class Rejected(CheckFailed):
    """The candidate computes something else; it is kept for whoever wants to know why.

    ``details`` are members of the JSON object for the error.
    """

    def __init__(
        self, error: CheckFailed, kept: Path, check: CheckResult | None
    ) -> None:
        super().__init__(
            f"{error.message}; the candidate is kept as {kept}", where=error.where
        )
        self.reason = error.message
        self.details: dict[str, Any] = {
            "rejected": str(kept),
            "check": check_to_json(check),
        }


def check_suffix(path: Path, target: str) -> None:
    """Raises UsageError for a name that no file for this target may have."""
    if target in PLATFORMS and path.suffix != SUFFIX:
        raise UsageError(f"{path}: programs for XLA are called NAME{SUFFIX}")
    if target not in PLATFORMS and is_program(path):
        raise UsageError(f"{path}: {SUFFIX} is for programs; name an XLA target")


def check_destination(
    path: Path,
    source: Path | None,
    *,
    overwrite: bool,
    data: bool = True,
    inputs: Iterable[Path] = (),
    outputs: Iterable[Path] = (),
) -> None:
    """Find out before any work whether ``path`` can be written.

    Raises UsageError where it exists (and ``overwrite`` is false), is the source under
    any name, one of all ``inputs`` or other ``outputs``, is a link or no file, or lies
    in a folder that is not there. ``data`` looks at the file for external data as well.
    ``inputs`` exist, and are asked for only where something would be replaced.
    """
    refuse_special(path)
    require_folder(path)
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: its folder is read-only")
    if source is not None and same_file(path, source):
        raise UsageError(f"cannot write {path}: it is the input")
    files = [path, *beside(path)] if data else [path]
    _refuse_other(path, files, outputs, "is written, too")
    there = [file for file in files if file.exists()]
    if there:
        _refuse_other(path, there, inputs, "belongs to the input")
    if there and not overwrite:
        raise UsageError(f"{there[0]} exists; -f (overwrite=True) replaces it")


def _refuse_other(
    path: Path, files: Sequence[Path], others: Iterable[Path], why: str
) -> None:
    for other in others:
        if any(same_file(file, other) for file in files):
            raise UsageError(f"cannot write {path}: {other} {why}")


def weights_path(path: Path) -> Path:
    """The file that holds the weights of a model or program, where they are apart."""
    return path.with_suffix(".safetensors") if is_program(path) else data_path(path)


def beside(path: Path) -> list[Path]:
    """What may be written with a model or program: its weights, its session recipe."""
    return [weights_path(path), *([] if is_program(path) else [recipe_path(path)])]


def put_in_place(
    result: Result, path: Path, *, weights: Weights, overwrite: bool
) -> Result:
    """Write a result to ``path``; see `Result.save`."""
    check_suffix(path, result.report.target)
    inputs = data_files(result.original)
    check_destination(path, result.origin, overwrite=overwrite, inputs=inputs)
    graph = annotated(result.graph, result.plan, result.original)
    shares = weights == "share"
    if shares and not inputs:
        raise UsageError(
            "the weights lie in the model itself: there is no file to share; write"
            " them with weights 'auto' or 'external'"
        )
    folder = path.parent

    def write(to: Path, failed: str = "") -> None:
        metadata = dict(graph.header.metadata)
        metadata.pop(REJECTED_KEY, None)  # of a candidate that this was made of
        if failed:
            metadata[REJECTED_KEY] = failed
        marked = graph.with_header(metadata=metadata)
        write_model(
            marked,
            to,
            result.report.target,
            result.opset,
            weights,
            folder=folder,
            order=result.plan.order,
            whole=result.plan.whole,
        )
        if shares and weights_path(to).exists():
            raise UsageError(
                "not all weights are in files that can be shared; write them with"
                " weights 'external'"
            )

    def prove(staged: Path) -> tuple[CheckResult, Trial | None]:
        return _proved(result, staged, folder if shares else staged.parent)

    return place(result, path, write, prove, shared=_shared_bytes(graph, shares))


def write_model(
    graph: Graph,
    to: Path,
    target: str,
    opset: Wanted = None,
    weights: Weights = "auto",
    *,
    folder: Path | None = None,
    order: Sequence[Op] = (),
    whole: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write what `optimize` made: the model, its weights, its session recipe.

    ``order`` is the one that was planned, empty for that of the source; ``whole`` what
    was decided about the graph as a whole.
    """
    save(graph, to, opset=opset, weights=weights, folder=folder, order=order or None)
    if target.startswith("ort-"):
        from .lowering.ort.advice import recipe  # only for that runtime

        recipe(graph, target, ordered=bool(order), **opening(whole)).save(to)


def place(
    result: Result,
    path: Path,
    write: Callable[[Path, str], None],
    prove: Callable[[Path], tuple[CheckResult, Trial | None]],
    *,
    shared: int = 0,
) -> Result:
    """Stage a result, prove what was staged, and rename it; the final report with it.

    ``write`` puts it, and its weights, where it is told, with why it failed if it did;
    ``shared`` are bytes that it refers to. Raises Rejected where ``prove`` raises
    CheckFailed: what was rejected is written once more, to be kept.
    """
    before = input_bytes(result)
    with stage(path) as staged:
        write(staged, "")
        check, trial = result.report.check, None
        if result.checking.wanted:
            try:
                check, trial = prove(staged)
            except CheckFailed as error:
                kept = rejected_name(path, result)
                again = staged.with_name(kept.name)
                write(again, error.message)
                for file in beside(kept):
                    file.unlink(missing_ok=True)
                replace(_files(again), kept)
                raise Rejected(error, kept, getattr(error, "check", None)) from None
        whole = [staged, weights_path(staged)]
        size = sum(file.stat().st_size for file in whole if file.exists())
        replace(_files(staged), path)
    report = dataclasses.replace(
        result.report,
        check=check,
        trial=trial,
        output=str(path),
        bytes=Change(before, size + shared),
    )
    return dataclasses.replace(result, report=report)


def _files(path: Path) -> list[Path]:
    """The files of a model or program that are there, itself the last one."""
    return [file for file in (*beside(path), path) if file.exists()]


def rejected_name(path: Path, result: Result) -> Path:
    """Where a rejected candidate goes: NAME.rejected.onnx, or with a number.

    An earlier candidate is replaced, unless it is the input; nothing else is.
    """
    suffix = SUFFIX if is_program(path) else ".onnx"
    stem = path.name.removesuffix(suffix)
    inputs = [*filter(None, [result.origin]), *data_files(result.original)]
    for number in count(1):
        again = f".{number}" if number > 1 else ""
        kept = path.with_name(f"{stem}{again}{REJECTED}{suffix}")
        files = [kept, *beside(kept)]
        if not any(map(os.path.lexists, files)):
            return kept
        read = any(same_file(file, other) for file in files for other in inputs)
        if not read and _is_rejected(kept):
            return kept
    raise AssertionError


def _is_rejected(path: Path) -> bool:
    """True for a file that graphopt wrote as a rejected candidate."""
    if path.is_symlink():
        return False
    try:
        if is_program(path):
            return bool(read_interface(path).graphopt)
        return REJECTED_KEY in load(path).header.metadata
    except (GraphoptError, OSError):
        return False


def replace(written: Sequence[Path], path: Path) -> None:
    """Put files in place, the model last: it never stands beside data that it misreads.

    Where the data of an older model is replaced, that model goes first.
    """
    finals = [path.with_name(file.name) for file in written]
    for final in finals:
        refuse_special(final)
    if len(finals) > 1 and finals[0].exists():
        path.unlink(missing_ok=True)
    for file, final in zip(written, finals, strict=True):
        os.replace(file, final)


def _proved(
    result: Result, staged: Path, folder: Path
) -> tuple[CheckResult, Trial | None]:
    """Check the bytes that are about to be put in place. Raises CheckFailed."""
    candidate = load(staged.read_bytes(), folder=folder)
    check = result.checking.compare(result.original, candidate)
    if not check.passed:
        raise result.blamed(check)
    trial = _tried(result, check, staged, folder)
    if trial is not None and trial.passed is False:
        raise CheckFailed(f"in {trial.runtime}, {trial.note}")
    return check, trial


def _tried(
    result: Result, check: CheckResult, staged: Path, folder: Path
) -> Trial | None:
    """Run both files in the runtime; an original without a file is written first."""
    from .artifact import Artifact, Feed, try_out

    source = result.origin
    if source is None or result.special.resized:
        source = staged.with_name("original.onnx")
        save(result.original, source)
    sizes = dict(next(iter(check.sizes), {})) | dict(result.special.freed)
    feed = Feed(result.checking.inputs, sizes, result.checking.seed)
    candidate = Artifact(str(staged), str(folder))
    if not result.checking.keep_io:
        from .passes.precision.narrowing import with_interface_of

        wrapped = staged.with_name("wrapped.onnx")
        graph = load(staged.read_bytes(), folder=folder)
        save(with_interface_of(result.original, graph), wrapped)
        candidate = Artifact(str(wrapped))
    budget = result.checking.budget
    return try_out(result.original, Artifact(str(source)), candidate, feed, budget)


@contextmanager
def stage(path: Path) -> Iterator[Path]:
    """A name to write to first, in a folder of its own beside the final place."""
    try:
        folder = tempfile.TemporaryDirectory(
            prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent
        )
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
    with folder as name:
        yield Path(name, path.name)


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, be it there or to be written."""
    try:
        return a.samefile(b)
    except OSError:
        return os.path.realpath(a) == os.path.realpath(b)


def data_files(graph: Graph) -> set[Path]:
    """The files that weights of the graph lie in."""
    return {t.location.file.path for t in graph.tensors() if t.location is not None}


def files_of(model: Path, *more: Path | None) -> Iterator[Path]:
    """The files of a model or program, and what else is read; it is read to find them.

    Raises InvalidModel, UnsupportedModel, and OSError where it cannot be read.
    """
    yield model
    yield from (file for file in more if file is not None)
    if not is_program(model):
        yield from data_files(load(model))
    elif (weights := read_interface(model).weights) is not None:
        yield model.with_name(weights)


def input_bytes(result: Result) -> int:
    """Bytes of the model as it came, with the data files that it refers to."""
    if result.origin is None:
        return result.report.bytes.before
    return result.origin.stat().st_size + sum(
        file.stat().st_size for file in data_files(result.original)
    )


def _shared_bytes(graph: Graph, shares: bool) -> int:
    """Bytes of the files that the new model refers to and that are not its own."""
    return sum(f.stat().st_size for f in data_files(graph)) if shares else 0
