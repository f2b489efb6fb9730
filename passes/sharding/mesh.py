"""A mesh: devices in rows and columns, each axis of it a way to share work out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from graphopt.errors import UsageError


@dataclass(frozen=True)
class Mesh:
    """Devices by their position along named axes, the last axis fastest.

    ``axes`` are ``(name, number of devices)``, the slowest links first.
    """

    axes: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """``data=2,model=4``; also ``2x4`` or ``8``, whose axes are x, y, z.

        Raises UsageError for what is no mesh.
        """
        plain = re.fullmatch(r"\d+(x\d+)*", text.strip())
        if plain:
            sizes = [int(size) for size in text.strip().split("x")]
            pairs = [("xyzabcdefgh"[i % 11], size) for i, size in enumerate(sizes)]
        else:
            pairs = []
            for part in text.split(","):
                found = re.fullmatch(r"\s*([A-Za-z]\w*)\s*=\s*(\d+)\s*", part)
                if not found:
                    raise UsageError(
                        f"cannot read the mesh {text!r}; write data=2,model=4 or 2x4"
                    )
                pairs.append((found[1], int(found[2])))
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise UsageError(f"the mesh {text!r} has an axis twice")
        if any(size < 1 for _, size in pairs):
            raise UsageError(f"the mesh {text!r} has an axis without devices")
        return cls(tuple(pairs))

    @classmethod
    def of(cls, mesh: str | Mesh | int | Sequence[int] | Mapping[str, int]) -> Mesh:
        """``"2x4"``, ``8``, ``(2, 4)`` or ``{"data": 2, "model": 4}``.

        Raises UsageError for what is no mesh.
        """
        if isinstance(mesh, Mesh):
            return mesh
        if isinstance(mesh, str):
            return cls.parse(mesh)
        if isinstance(mesh, Mapping):
            return cls.parse(",".join(f"{name}={size}" for name, size in mesh.items()))
        sizes = [mesh] if isinstance(mesh, int) else mesh
        if not isinstance(sizes, Sequence) or not all(type(n) is int for n in sizes):
            raise UsageError(
                f"{mesh!r} is no mesh; give 'data=2,model=4', (2, 4) or"
                " {'data': 2, 'model': 4}"
            )
        return cls.parse("x".join(map(str, sizes)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.axes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.axes)

    @cached_property
    def devices(self) -> int:
        """How many there are."""
        return math.prod(self.sizes)

    def positions(self, device: int) -> tuple[int, ...]:
        """Where a device is, along each axis."""
        found: list[int] = []
        for size in reversed(self.sizes):
            device, at = divmod(device, size)
            found.append(at)
        return tuple(reversed(found))

    def __str__(self) -> str:
        return ",".join(f"{name}={size}" for name, size in self.axes)
