"""``--mesh`` and what goes with it: arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .arguments import pairs

if TYPE_CHECKING:
    from ..passes.sharding.machine import Link

FROM_FILE = ""
"""``--mesh`` alone: the mesh and the plan that the file brings along."""


def add_mesh(parser: argparse.ArgumentParser, what: str, from_file: bool) -> None:
    """``--mesh`` and ``--link``."""
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


def links_of(options: argparse.Namespace) -> Mapping[str, Link]:
    """The links that were named. Raises UsageError."""
    from ..passes.sharding.machine import Link

    def read(text: str) -> tuple[str, Link]:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"cannot read {text!r}; write AXIS=1.5us,300GB/s")
        return name.strip(), Link.parse(value)

    if options.link and options.mesh is None:
        raise UsageError("--link is of a mesh: add --mesh")
    return pairs(options.link, read)


def add_bound(parser: argparse.ArgumentParser) -> None:
    """``--max-memory`` of each device, where a command has none of its own."""
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="with --mesh: what each device may hold (512MiB; default: all it has)",
    )


def refuse_bounds(options: argparse.Namespace) -> None:
    """Raises UsageError for what is said of a mesh where none is named."""
    links_of(options)
    if options.max_memory is None:
        return
    if options.mesh is None:
        raise UsageError("--max-memory is of a mesh: add --mesh")
    if options.mesh == FROM_FILE:
        raise UsageError(
            "--mesh alone takes the plan of the file as it is; to plan for"
            " --max-memory, name the mesh, as --mesh data=2,model=4"
        )


def devices_of(options: argparse.Namespace, default: str | None = None) -> str:
    """The target whose devices are to be planned for; only those of XLA have meshes.

    Raises UsageError.
    """
    devices = options.target or default
    if devices is None or not devices.startswith("xla-"):
        raise UsageError(
            "programs for a mesh run in XLA: name its devices, as --target"
            " xla-cuda:h100, xla-tpu:v5e or xla-cpu"
        )
    return str(devices)


def bounds(options: argparse.Namespace) -> dict[str, Any]:
    """What a plan for the mesh must keep to. Raises UsageError."""
    from ..limits import parse_size

    size = options.max_memory
    return {
        "links": links_of(options),
        "max_memory": None if size is None else parse_size(size),
    }
