"""``--mesh`` and what goes with it: arguments that several commands share."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import GraphoptError, UsageError
from ..passes.sharding import Mesh
from .arguments import natural, pairs

if TYPE_CHECKING:
    from ..passes.sharding.machine import Link

STAGE: Final = "stage"
"""The one axis of a mesh whose devices stand in a row."""

FROM_FILE = ""
"""``--mesh`` alone: the mesh and the plan that the file brings along."""


def add_mesh(parser: argparse.ArgumentParser, what: str, from_file: bool) -> None:
    """``--mesh``, ``--link``, ``--tie``, ``--no-tie`` and ``--search-seconds``."""
    said = "; alone: by the plan that the file brings along" if from_file else ""
    options: dict[str, Any] = {"nargs": "?", "const": FROM_FILE} if from_file else {}
    group = parser.add_argument_group("mesh")
    group.add_argument(
        "--mesh",
        metavar="AXES",
        help=f"{what}, as data=2,model=4 or 2x4{said}",
        **options,
    )
    group.add_argument(
        "--link",
        action="append",
        default=[],
        metavar="AXIS=1.5us,300GB/s",
        help="the delay and the bandwidth of the links along an axis of the mesh",
    )
    group.add_argument(
        "--tie",
        action="append",
        default=[],
        metavar="IN=OUT",
        help="with --mesh: the next step has this input from that output, and both lie"
        " alike; caches that the graph shows are tied without",
    )
    group.add_argument(
        "--no-tie",
        action="store_true",
        help="with --mesh: caches may go out in other layouts than they come in",
    )
    group.add_argument(
        "--search-seconds",
        type=natural,
        metavar="S",
        help="with --mesh: plan for so much CPU time at most (default: 60)",
    )


def links_of(options: argparse.Namespace) -> Mapping[str, Link]:
    """The links that were named. Raises UsageError."""
    from ..passes.sharding.machine import Link

    def read(text: str) -> tuple[str, Link]:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"cannot read {text!r}; write AXIS=1.5us,300GB/s")
        return name.strip(), Link.parse(value)

    return pairs(options.link, read)


def add_bound(parser: argparse.ArgumentParser) -> None:
    """``--max-memory`` of each device, where a command has none of its own."""
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="with --mesh: what each device may hold (512MiB; default: all it has)",
    )


def check_mesh(options: argparse.Namespace, memory: bool = True) -> None:
    """Raises UsageError for what is said of a mesh where none is named, or planned.

    ``memory``: --max-memory is of a mesh too.
    """
    words = {
        "--link": options.link,
        "--tie": options.tie,
        "--no-tie": options.no_tie,
        "--search-seconds": options.search_seconds is not None,
        "--max-memory": memory and options.max_memory is not None,
    }
    said = next((word for word, given in words.items() if given), None)
    if said is not None and options.mesh is None:
        fit = "; graphopt optimize --max-memory makes one device enough"
        more = fit if said == "--max-memory" else ""
        raise UsageError(f"{said} is of a mesh: add --mesh{more}")
    if options.tie and options.no_tie:
        raise UsageError("--no-tie ties nothing: leave out --tie")
    searched = next((w for w, given in words.items() if given and w != "--link"), None)
    if searched is not None and options.mesh == FROM_FILE:
        raise UsageError(
            "--mesh alone takes the plan of the file as it is; to plan with"
            f" {searched}, name the mesh, as --mesh data=2,model=4"
        )
    if options.mesh == FROM_FILE and options.dim:
        raise UsageError(
            "the plan of the file is for the sizes that it was made with: leave out"
            " --dim, or name the mesh, as --mesh data=2,model=4, to plan anew"
        )


def refuse_stages(options: argparse.Namespace) -> None:
    """Raises UsageError for a mesh with stages, which XLA has none of."""
    mesh = Mesh.of(options.mesh) if options.mesh else None
    if mesh is None or STAGE not in mesh.names:
        return
    row = f"{STAGE}={dict(mesh.axes)[STAGE]}"
    raise UsageError(
        f"{row} is of stages in a row, which are ONNX Runtime's: graphopt optimize"
        f" --mesh {row} --target ort-cpu, or ort-cuda:h100, writes a folder of them,"
        " which graphopt run takes, and with --dry-run only shows where it cuts; an"
        " axis of a mesh that XLA runs has another name"
    )


def devices_of(options: argparse.Namespace, default: str | None = None) -> str:
    """The target whose devices are to be planned for; only those of XLA have meshes.

    Raises UsageError.
    """
    refuse_stages(options)
    devices = options.target or default
    if devices is None or not devices.startswith("xla-"):
        raise UsageError(
            "programs for a mesh run in XLA: name its devices, as --target"
            " xla-cuda:h100, xla-tpu:v5e or xla-cpu"
        )
    return str(devices)


def bounds(options: argparse.Namespace) -> dict[str, Any]:
    """What a plan for the mesh must keep to, and how long to look for it.

    Raises UsageError.
    """
    from ..byte_sizes import parse_size
    from ..passes.sharding.solve import SECONDS

    size, seconds = options.max_memory, options.search_seconds
    return {
        "links": links_of(options),
        "max_memory": None if size is None else parse_size(size),
        "ties": None if options.no_tie else pairs(options.tie, _tie),
        "seconds": SECONDS if seconds is None else float(seconds),
    }


def _tie(text: str) -> tuple[str, str]:
    """``past_key=present_key``. Raises UsageError."""
    past, equals, present = text.partition("=")
    if not (past and equals and present):
        raise UsageError(f"cannot read {text!r}; write INPUT=OUTPUT")
    return past.strip(), present.strip()


def annotated(path: Path, files: Iterable[Path]) -> Iterator[str]:
    """Add to a model with a plan, as it was written, ONNX's multi-device annotations.

    Yields what they cannot say. Raises UnsupportedModel where runtimes do not read
    them, and then takes away the ``files`` of the model.
    """
    import onnx

    from ..files import atomic_write
    from ..passes.sharding.annotations import check_annotations
    from ..passes.sharding.devices import annotate

    model = onnx.load(path, load_external_data=False)
    try:
        made = annotate(model, folder=path.parent)
        check_annotations(made.model, path.parent)
    except GraphoptError:
        for file in files:
            file.unlink(missing_ok=True)
        raise
    atomic_write(path, made.model.SerializeToString(deterministic=True))
    nodes = sum(bool(node.device_configurations) for node in made.model.graph.node)
    yield f"annotated {nodes} nodes; left out, as annotations cannot say it:"
    for said, count in Counter(made.left_out).items():
        yield f"  {said}{f' ({count} times)' if count > 1 else ''}"
