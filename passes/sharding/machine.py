"""What a mesh is made of: a device, a link for each axis, and the seconds that steps
and ops take on them.

A step costs what the alpha-beta model says of a ring: a delay for each of its rounds,
and the bytes that a device sends over the bandwidth. Thakur, Rabenseifner and Gropp,
"Optimization of collective communication operations in MPICH", IJHPCA 19 (2005).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from graphopt.errors import UsageError
from graphopt.hardware import Device, device
from graphopt.types import TensorType

from .layout import Step, larger, wire_bytes
from .mesh import Mesh
from .work import NOTHING, Deed, Exchange, InTurns

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


@dataclass(frozen=True, eq=False)
class Machine:
    """Devices of one kind on a mesh, and how they are linked along each axis.

    Compares by identity.
    """

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

    def seconds(self, step: Step, type_: TensorType) -> float:
        """Of one step, for a value whose whole has this type; never 0.

        What is local costs the memory that it writes and reads. It is the cost that
        `layout.path` and `partition` take.
        """
        return self.sending(step.kind, step.axis, larger(step, type_, self.mesh))

    def sending(self, kind: str, axis: int, size: int) -> float:
        """Of a step by its kind; ``size`` bytes is the larger of its two sides."""
        link, ways = self.links[axis], self.mesh.sizes[axis]
        if kind == "None" or ways == 1:
            return TIE
        if kind == "Shard":  # writes and reads a part
            return TIE + 2 * size / ways / self.device.bandwidth
        if kind == "Addend":
            return TIE + 2 * size / self.device.bandwidth
        passes = 2 if kind == "AllReduce" else 1
        rounds = 1 if kind in ("Shift", "Permute") else ways - 1
        sent = wire_bytes(kind, ways, size) / link.beta
        return passes * (TIE + rounds * link.alpha) + sent

    def taking(self, deeds: Iterable[Deed]) -> float:
        """Of all that a device does for an op, one after the other; never 0."""
        return sum(map(self.doing, deeds)) or TIE

    def doing(self, deed: Deed) -> float:
        """Of an op on what the device has: by the roofline, or as `sending`."""
        if isinstance(deed, Exchange):
            axis = self.mesh.names.index(deed.axis)
            return self.sending(deed.kind, axis, deed.bytes)
        if isinstance(deed, InTurns):
            return deed.turns * max(map(self.taking, deed.bodies))
        if deed == NOTHING:
            return TIE
        rate = self.efficiency * self.device.flops_per_second(deed.dtype)
        return max(deed.flops / rate, deed.bytes / self.device.bandwidth) + self.floor

    def __str__(self) -> str:
        return f"{self.device.name} on {self.mesh}"
