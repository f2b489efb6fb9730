"""Devices by name: how fast each computes, reads its memory, and reaches its peers.

The numbers, in ``data/devices.csv``, are makers' peaks without sparsity. Interconnects
are those of one device to all its peers in a node, both directions together. Where the
sizes of what is near the units come from is in the column ``near_source``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from .errors import UsageError, nearest
from .types import DType

_DEFAULTS: Final = {
    "reference": "cpu",
    "onnx": "cpu",
    "ort-cpu": "cpu",
    "xla-cpu": "cpu",
    "ort-cuda": "h100",
    "xla-cuda": "h100",
    "xla-tpu": "v5e",
}
"""What a target runs on where nobody says."""
_RATES: Final = {
    DType.F16: ("f16", "bf16"),
    DType.BF16: ("bf16", "f32"),
    DType.F8E4M3FN: ("f8", "bf16", "f16"),
    DType.F8E5M2: ("f8", "bf16", "f16"),
    DType.I8: ("i8", "bf16", "f16"),
    DType.U8: ("i8", "bf16", "f16"),
    DType.F32: ("tf32", "f32", "bf16"),
}
"""Whose rate products of a type have, the first that a device has. Of float32 that is
what XLA makes by default: TF32, and bfloat16 on TPUs."""


@dataclass(frozen=True)
class Device:
    """One accelerator, or the part of a host that stands for one.

    ``kind`` is "cpu", "gpu" or "tpu". ``peaks`` are operations per second by a CSV
    column's name ("bf16", "i8" …), sizes bytes, speeds bytes per second. ``torus``: how
    many dims the torus of links has; 0 for a switch. ``node`` is how many devices such
    links join. ``near`` is what lies near the units: L2 of a core, shared memory of a
    block, VMEM; ``kernel`` the part of it that one kernel may take unasked. ``cache``
    is what lies between that and memory, 0 where none is known; it is read at
    ``cache_bandwidth``, that of memory where it is none. ``matrix`` is the side of what
    they multiply, ``start`` the seconds that one more op, or turn of a loop, takes by
    itself.
    """

    name: str
    description: str
    kind: str
    peaks: Mapping[str, float]
    memory: int
    bandwidth: float
    interconnect: float
    torus: int
    node: int
    near: int
    kernel: int
    cache: int
    cache_bandwidth: float
    matrix: int
    start: float

    @property
    def is_tpu(self) -> bool:
        """True for what has lanes and a VMEM, however it is joined."""
        return self.kind == "tpu"

    def flops_per_second(self, dtype: DType | None) -> float:
        """The peak for products of a type, float32's for what has none of its own."""
        for rate in _RATES.get(dtype or DType.F32, _RATES[DType.F32]):
            if rate in self.peaks:
                return self.peaks[rate]
        return max(self.peaks.values())

    @property
    def reach(self) -> float:
        """Bytes per second that a device sends along one axis of a mesh in a node.

        A switch gives all of it to whichever axis talks; on a torus an axis of the mesh
        has the two links of a ring.
        """
        return self.interconnect / 2 / max(1, self.torus)


@cache
def devices() -> Mapping[str, Device]:
    """All that are known, by name."""
    text = (files(__package__) / "data" / "devices.csv").read_text("utf-8")
    return {row["name"]: _device(row) for row in csv.DictReader(text.splitlines())}


def _device(row: Mapping[str, str]) -> Device:
    rates = {
        column.partition("_")[0]: float(row[column]) * 1e12
        for column in row
        if column.endswith(("_tflops", "_tops")) and row[column]
    }
    return Device(
        name=row["name"],
        description=row["device"],
        kind=row["kind"],
        peaks=rates,
        memory=int(float(row["memory_gib"]) * 2**30),
        bandwidth=float(row["memory_gbs"]) * 1e9,
        interconnect=float(row["interconnect_gbs"]) * 1e9,
        torus=int(row["links"].removeprefix("torus"))
        if row["links"] != "switch"
        else 0,
        node=int(row["node"]),
        near=int(row["near_kib"]) << 10,
        kernel=int(row["kernel_kib"]) << 10,
        cache=int(row["cache_mib"] or 0) << 20,
        cache_bandwidth=float(row["cache_gbs"] or row["memory_gbs"]) * 1e9,
        matrix=int(row["matrix"]),
        start=float(row["start_us"]) * 1e-6,
    )


def device(target: str) -> Device:
    """The device of ``kind:device`` (``xla-tpu:v5e:2x4``), or of that name alone.

    Raises UsageError for one that is not known.
    """
    kind, _, rest = target.partition(":")
    name = rest.partition(":")[0] if kind in _DEFAULTS else kind
    name = (name or _DEFAULTS[kind]).lower()
    found = devices().get(name)
    if found is None:
        raise UsageError(f"unknown device {name!r}{nearest(name, devices())}")
    return found
