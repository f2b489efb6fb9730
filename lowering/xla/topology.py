"""TPU topologies by name: chips in a grid, described by libtpu without having them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Final

import jax
from jax.experimental import topologies

from graphopt.errors import BackendMissing, UsageError, nearest

from .environment import prepare
from .platforms import CORES


@dataclass(frozen=True)
class Chip:
    """A generation: the axes of its grid, and the chips of its largest pod.

    ``config`` makes one device of the two cores of a chip, where libtpu would not.
    """

    axes: int
    pod: int
    config: str | None = None


CHIPS: Final = {
    "v4": Chip(3, 4096, "megacore"),
    "v5e": Chip(2, 256),
    "v5p": Chip(3, 8960),
    "v6e": Chip(2, 256),
    "tpu7x": Chip(3, 9216),
}

_GRIDS: Final = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
}
"""Grids that are usual, to name where another is none."""


@dataclass(frozen=True)
class Topology:
    """A grid of chips, ``v5e:2x2``."""

    chip: str
    grid: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.chip}:{'x'.join(map(str, self.grid))}"

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.grid)


def parse(text: str) -> Topology:
    """``v5e:2x4``, or ``v5e`` for one chip. Raises UsageError."""
    name, colon, grid = text.partition(":")
    if name not in CHIPS:
        raise UsageError(f"no TPU is called {name!r}{nearest(name, CHIPS)}")
    chip = CHIPS[name]
    if not colon:
        return Topology(name, (1,) * chip.axes)
    sides = grid.split("x")
    if not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise UsageError(
            f"{grid!r} is no grid of chips; write {name}:{_GRIDS[chip.axes][1]}"
        )
    found = Topology(name, tuple(map(int, sides)))
    if len(found.grid) != chip.axes or found.chips > chip.pod:
        raise _unknown(found)
    return found


def holding(text: str, count: int) -> str:
    """``v5e:2x4``, the least usual grid of so many devices, where ``text`` has none.

    Raises UsageError for a chip that there is none of, or not so many times.
    """
    topology = parse(text)
    if ":" in text or count == 1:
        return text
    name, cores = topology.chip, CORES.get(topology.chip, 1)
    for grid in _GRIDS[CHIPS[name].axes]:
        if parse(f"{name}:{grid}").chips * cores >= count:
            return f"{name}:{grid}"
    raise UsageError(f"{count:,} devices: name a grid, as {name}:16x32")


def libtpu_version() -> str | None:
    """Of the package; None where the library comes from elsewhere."""
    try:
        return version("libtpu")
    except PackageNotFoundError:
        return None


@cache
def devices(topology: Topology) -> list[Any]:
    """The devices of JAX that stand for it. Raises BackendMissing, UsageError."""
    if not os.environ.get("TPU_LIBRARY_PATH") and find_spec("libtpu") is None:
        raise BackendMissing(
            "the compiler for TPUs is not installed; pip install 'graphopt[tpu]'"
        )
    prepare(f"xla-tpu:{topology}")
    config = CHIPS[topology.chip].config
    options = {} if config is None else {"chip_config_name": config}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=str(topology), **options
        )
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise
        raise _unknown(topology) from error
    return list(found.devices)


def _unknown(topology: Topology) -> UsageError:
    """The error for a grid that no such chips come in, with those of about its size."""
    chip = CHIPS[topology.chip]

    def distance(grid: str) -> float:
        chips = math.prod(map(int, grid.split("x")))
        return abs(math.log(chips / topology.chips))

    near = sorted(_GRIDS[chip.axes], key=distance)[:3]
    return UsageError(
        f"{topology.chip} has no topology {str(topology).partition(':')[2]}; near it"
        f" are {', '.join(f'{topology.chip}:{grid}' for grid in near)}"
    )
