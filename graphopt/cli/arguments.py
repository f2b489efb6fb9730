"""Arguments that several commands share, and how they are read."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ..errors import InvalidModel, UsageError, nearest
from ..files import file_named

if TYPE_CHECKING:
    from ..ir import Graph
    from ..lowering import Target
    from ..pipeline import Pipeline


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of leaving the program."""

    def __init__(self, *, prog: str, description: str | None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """The words of `nearest` for what is none of an option's choices."""
        if action.choices is not None and value not in action.choices:
            known = nearest(str(value), map(str, action.choices))
            raise argparse.ArgumentError(action, f"{value!r} is no choice{known}")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def add_common(parser: argparse.ArgumentParser) -> None:
    """What every command has."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object")
    group.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="passes and times; -vv graphs, -vvv rewrites, -vvvv misses",
    )


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """What decides which passes run."""
    from ..driver import PLATFORMS, RUNTIMES

    group = parser.add_argument_group("passes")
    group.add_argument(
        "--target",
        default="onnx",
        metavar="T",
        help="what to write for: a model for any runtime (onnx, the default), one for"
        f" ONNX Runtime ({', '.join(RUNTIMES)}), with its own ops and"
        " MODEL.session.json, or for XLA a program, with its weights in"
        f" MODEL.opt.safetensors ({', '.join(PLATFORMS)})",
    )
    group.add_argument(
        "--fuse",
        default="auto",
        choices=("auto", "max"),
        help="for ONNX Runtime: fuse what is then not slower (auto), or all it can",
    )
    group.add_argument(
        "-O",
        dest="level",
        type=int,
        choices=(0, 1, 2),
        default=2,
        help="0 nothing, 1 exact rules, 2 (default) rules that change rounding too",
    )
    group.add_argument("--passes", metavar="A,B", help="run only these passes")
    group.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="SPEC",
        help="add a pass, or give it options: --add 'fold(limit=1024)'",
    )
    group.add_argument(
        "--skip", action="append", default=[], metavar="NAME", help="leave a pass out"
    )


def add_dims(parser: argparse.ArgumentParser) -> None:
    """What changes the dims of a model."""
    group = parser.add_argument_group("dims")
    group.add_argument(
        "--dim",
        action="append",
        default=[],
        metavar="NAME=N",
        help="fix a symbolic dim (batch=8), free an axis (x:0=batch), or give a dim"
        " another name (N=batch)",
    )
    group.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="X=1,3,…",
        help="give an input all its dims",
    )


def add_target(
    parser: argparse.ArgumentParser, default: str | None, told: str = ""
) -> None:
    """``--target``: what runs the models, and how precisely.

    ``told`` describes a default that depends on the models.
    """
    from ..lowering import targets

    parser.add_argument(
        "--target",
        default=default,
        metavar="T",
        help=f"what runs it: {', '.join(targets)}"
        f" (default: {told or default or 'nothing'})",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="for ort-cuda: what the CPU runs in place of the GPU is an error (exit"
        " code 5), no warning",
    )
    add_precision(parser)


def heed_strict(options: argparse.Namespace) -> None:
    """Under ``--strict`` the warning of a fallback to the CPU is an error.

    Raises UsageError for another target, none among them.
    """
    if not options.strict:
        return
    from ..lowering.ort.session import CpuFallback

    if not (options.target or "").startswith("ort-cuda"):
        raise UsageError("--strict is for --target ort-cuda")
    warnings.simplefilter("error", CpuFallback)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """``--precision``, of targets that let one choose."""
    parser.add_argument(
        "--precision",
        choices=("fp32",),
        help="XLA's products of float32 in float32, also where the chip would round"
        " operands to bfloat16 (TPUs)",
    )


def target_of(options: argparse.Namespace, *, runs: bool = True) -> Target:
    """The target that was asked for; one that ``runs``, unless it is to compile only.

    Raises UsageError, BackendMissing.
    """
    from ..lowering import find
    from ..lowering.xla.environment import prepare
    from ..lowering.xla.platforms import refuse_described

    if runs:
        refuse_described(options.target)
    prepare(options.target, alone=True)
    return find(options.target, options.precision)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """What a model is fed with."""
    parser.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE.npz",
        help="arrays by input name, instead of random ones; or a folder of ONNX test"
        " data (input_0.pb, …)",
    )
    parser.add_argument(
        "--seed", type=natural, default=0, metavar="N", help="seed of random inputs"
    )


def add_sizes(parser: argparse.ArgumentParser, what: str) -> None:
    """Sizes for symbolic dims of a model that stays as it is."""
    parser.add_argument(
        "--dim", action="append", default=[], metavar="NAME=N", help=what
    )


def natural(text: str) -> int:
    """A number that is not negative. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def sizes_of(
    options: argparse.Namespace, graph: Graph, inputs: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """What ``--dim`` says of the symbolic dims of a graph's inputs.

    Raises UsageError for a dim that no input has, for what is no size or leaves nothing
    to compute, and where the ``inputs`` that the user gave have another one.
    """
    from ..dim_names import inside
    from ..specialize import parse_dim, refuse_empty

    asked = pairs(options.dim, parse_dim)
    for name, value in asked.items():
        if not isinstance(value, int):
            raise UsageError(f"{value!r} is no size for {name!r}; write NAME=SIZE")
    found = inside(asked, graph)
    refuse_empty(graph, found)
    if found and inputs is not None:
        _agree(found, graph, inputs)
    return found


def _agree(sizes: Mapping[str, int], graph: Graph, inputs: Mapping[str, Any]) -> None:
    """Raises UsageError where arrays have other sizes than ``--dim`` says."""
    from ..unnamed import shown

    have = sizes_in(graph, inputs)
    for name, size in sizes.items():
        if have.get(name, size) != size:
            raise UsageError(
                f"--dim {shown(name)}={size} contradicts --inputs, where it"
                f" is {have[name]}"
            )


def sizes_in(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of dims that arrays have; dims without a name go by their place."""
    from ..feeds import bind
    from ..unnamed import by_place

    fed, sizes = bind(graph, inputs)
    for parameter, array in fed.items():
        for axis, dim in enumerate(parameter.shape or ()):
            if dim is None:
                sizes[by_place(parameter.name, axis)] = array.shape[axis]
    return sizes


def pipeline_of(options: argparse.Namespace) -> Pipeline:
    """The pipeline that the arguments of `add_pipeline` ask for."""
    from ..driver import choose, require_target

    require_target(options.target)
    return choose(
        level=options.level,
        passes=None if options.passes is None else split(options.passes),
        add=options.add,
        skip=[name for names in options.skip for name in split(names)],
        target=options.target,
        fuse=options.fuse,
    )


def add_output(
    parser: argparse.ArgumentParser,
    what: str,
    type_: Callable[[str], str | Path] = file_named,
) -> None:
    """Where to write, and whether that may be replaced."""
    parser.add_argument("-o", "--output", type=type_, metavar="FILE", help=what)
    parser.add_argument(
        "-f", "--force", action="store_true", help="replace files that exist"
    )


def split(spec: str) -> list[str]:
    """``a,b(x=1,y=2)`` at its outer commas."""
    parts, depth = [""], 0
    for letter in spec:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def pairs(
    texts: Iterable[str], read: Callable[[str], tuple[str, Any]]
) -> dict[str, Any]:
    """Options of the form NAME=VALUE; one name twice is an error."""
    found: dict[str, Any] = {}
    for text in texts:
        name, value = read(text)
        if name in found:
            raise UsageError(f"{name!r} is given twice")
        found[name] = value
    return found


def read_arrays(path: Path | None, model: Path) -> dict[str, Any] | None:
    """The arrays of an .npz file, or of a folder of test data for a model, by name.

    Raises UsageError for anything else.
    """
    if path is None:
        return None
    if path.is_dir():
        return _read_protos(path, model)
    import zipfile

    import numpy as np

    if not zipfile.is_zipfile(path):
        path.open("rb").close()  # which says why it cannot be read
        raise UsageError(f"{path} is no .npz file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


def _read_protos(folder: Path, model: Path) -> dict[str, Any]:
    """The tensors of ``input_0.pb`` and so on, which go by place."""
    from onnx import TensorProto

    from ..importer import load
    from ..interface import is_program, read_interface
    from ..types import TensorType
    from ..weights import Tensor

    if is_program(model):
        interface = read_interface(model)
        if gone := [*interface.fixed, *interface.overridable]:
            raise UsageError(
                f"{folder} has inputs by their places in the model, but its input"
                f" {gone[0]!r} is none of the program: give them by name, as an .npz"
                " file"
            )
        graph = interface.graph()
    else:
        graph = load(model)
    found = {}
    for i, parameter in enumerate(graph.inputs):
        file = folder / f"input_{i}.pb"
        if not os.path.lexists(file):
            continue
        if not isinstance(parameter.type, TensorType):
            raise UsageError(f"{file}: only tensors are read, not {parameter.type}")
        proto = TensorProto()
        try:
            proto.ParseFromString(_guarded(file))
        except UsageError:
            raise
        except Exception:  # protobuf's DecodeError; where it lives is private
            raise UsageError(f"{file} is no tensor") from None
        tensor = Tensor.from_proto(proto, where=str(file))
        found[parameter.name] = tensor.array()
    if not found:
        raise UsageError(f"{folder} holds no input_0.pb")
    return found


def _guarded(file: Path) -> bytes:
    """A file of a folder that may come from anybody: no link, and no larger than 2 GB.

    Raises UsageError.
    """
    from ..external import open_external

    try:
        found = open_external(file.parent, file.name)
        if found.size > LARGEST_PROTO:
            raise UsageError(f"{file} has {found.size:,} bytes, which no protobuf has")
        with found.open() as opened:
            return opened.read()
    except InvalidModel as error:
        raise UsageError(f"cannot read {file}: {error.message}") from None


LARGEST_PROTO: Final = (1 << 31) - 1
"""Bytes that a protobuf may have."""


def say(options: argparse.Namespace, lines: Iterable[str], **json_: Any) -> None:
    """Print a result: the lines, or with ``--json`` one object of the members."""
    if options.json:
        say_json(json_)
    elif not options.quiet:
        for line in lines:
            print(line)


def say_json(members: Mapping[str, Any]) -> None:
    """Print one JSON object with the version of its schema."""
    import json

    from ..report import SCHEMA

    print(json.dumps({"schema": SCHEMA, **members}))
