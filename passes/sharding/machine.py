"""What a mesh is made of: a device, a link for each axis, and the seconds that steps
and ops take on them.

A step costs what the alpha-beta model says of a ring: a delay for each of its rounds,
and the bytes that a device sends over the bandwidth. Thakur, Rabenseifner and Gropp,
"Optimization of collective communication operations in MPICH", IJHPCA 19 (2005).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from graphopt.dims import Shape
from graphopt.errors import UsageError
from graphopt.hardware import Device, device
from graphopt.types import DType

from .layout import Cost, Layout, Step, local_shape, wire_bytes
from .mesh import Mesh

EFFICIENCY: Final = 0.7
"""The share of the peak, of compute and of links, that programs reach."""
FLOOR: Final = 2e-6
"""Seconds that no op stays below."""
TIE: Final = 1e-8
"""Seconds that each step costs besides: nothing is free, or undecided. An all-reduce is
the two collectives that it can be made of, and costs what they do."""
_ALPHA_NEAR: Final = 1.5e-6
_ALPHA_FAR: Final = 8e-6
_BETA_FAR: Final = 50e9
"""A network card of 400 Gbit/s for each device."""


@dataclass(frozen=True)
class Link:
    """How devices along one axis reach each other.

    ``alpha`` is the delay of a message in seconds, ``beta`` the bytes per second that a
    device sends.
    """

    alpha: float
    beta: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """``8us,35GB/s``. Raises UsageError for what is no link."""
        delay, _, speed = text.replace(" ", "").partition(",")
        units = (("us", 1e-6), ("ms", 1e-3), ("ns", 1e-9), ("s", 1.0))
        alpha = _number(delay, units)
        beta = _number(speed, (("TB/s", 1e12), ("GB/s", 1e9), ("MB/s", 1e6)))
        if alpha is None or not beta:
            raise UsageError(f"cannot read the link {text!r}; write 1.5us,300GB/s")
        return cls(alpha, beta)


def _number(text: str, units: tuple[tuple[str, float], ...]) -> float | None:
    for unit, factor in units:
        if text.endswith(unit):
            try:
                number = float(text.removesuffix(unit)) * factor
            except ValueError:
                return None
            return number if math.isfinite(number) and number >= 0 else None
    return None


@dataclass(frozen=True)
class Machine:
    """Devices of one kind on a mesh, and how they are linked along each axis."""

    device: Device
    mesh: Mesh
    links: tuple[Link, ...]
    efficiency: float = EFFICIENCY
    floor: float = FLOOR

    @classmethod
    def of(
        cls, target: str, mesh: Mesh, links: Mapping[str, Link] | None = None
    ) -> Self:
        """The devices of a target (``xla-cuda:h100``), or those of that name.

        The last axes of the mesh lie within a node as far as they fit, those before
        them go over the network; ``links`` says otherwise for axes by name. Raises
        UsageError for an unknown device, and for a link of no axis.
        """
        kind = device(target)
        given = dict(links or {})
        unknown = sorted(given.keys() - set(mesh.names))
        if unknown:
            raise UsageError(f"the mesh {mesh} has no axis {unknown[0]!r} to link")
        found: list[Link] = []
        joined = 1
        for name, size in reversed(mesh.axes):
            joined *= size
            near = joined <= kind.node
            alpha = _ALPHA_NEAR if near else _ALPHA_FAR
            beta = EFFICIENCY * (kind.reach if near else min(_BETA_FAR, kind.reach))
            found.append(given.get(name, Link(alpha, beta)))
        return cls(kind, mesh, tuple(reversed(found)))

    def cost(self, dtype: DType | None) -> Cost:
        """The seconds of steps of values of one element type, for `layout.path`."""
        return lambda step, shape: self.seconds(step, shape, dtype)

    def seconds(self, step: Step, shape: Shape, dtype: DType | None) -> float:
        """Of one step, for a value of these global dims; never 0.

        What is local costs the memory that it writes and reads.
        """
        target = self.local_bytes(shape, step.target, dtype)
        larger = max(target, self.local_bytes(shape, step.source, dtype))
        link, ways = self.links[step.axis], self.mesh.sizes[step.axis]
        sent = wire_bytes(step.kind, ways, larger)
        if step.kind == "None" or ways == 1:
            return TIE
        if step.kind in ("Shard", "Addend"):
            return TIE + 2 * target / self.device.bandwidth
        passes = 2 if step.kind == "AllReduce" else 1
        return passes * (TIE + (ways - 1) * link.alpha) + sent / link.beta

    def local_bytes(self, shape: Shape, layout: Layout, dtype: DType | None) -> int:
        """Bytes of a device's part; all where the mesh does not divide it."""
        local = local_shape(shape, layout, self.mesh)
        elements = math.prod(shape if local is None else local)
        return -(-elements * (32 if dtype is None else dtype.bits) // 8)

    def run_seconds(self, flops: float, moved: float, dtype: DType | None) -> float:
        """Of an op on its local operands, by the roofline."""
        compute = flops / (self.efficiency * self.device.flops_per_second(dtype))
        return max(compute, moved / self.device.bandwidth) + self.floor

    def __str__(self) -> str:
        return f"{self.device.name} on {self.mesh}"
