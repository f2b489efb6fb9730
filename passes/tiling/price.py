"""What it costs to run a region in tiles: operations, traffic, starts; on a device.

A tile whose values lie near the units (L2, shared memory, VMEM) moves only what it
reads from outside and gives; else all that it makes goes away and back: to a cache that
holds it (L3), which costs little, or to memory. Products fill whole tiles of the matrix
unit. All is told in operations, as many as the device could do meanwhile. Zhu and
others, "Roller", OSDI 2022, has such tiles and traffic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from graphopt import dims
from graphopt.cost import op_flops
from graphopt.hardware import Device
from graphopt.ir import Op, Value
from graphopt.ops import (
    Attention,
    Constant,
    Conv,
    Einsum,
    Gemm,
    MatMul,
    Strips,
    Tiled,
)
from graphopt.types import DType

from ..memory.space import LANES
from .needs import Meter

PRODUCTS: Final = (MatMul, Gemm, Einsum, Attention, Conv)


ALIGNED: Final = 8
"""Of CPUs and GPUs: floats of a vector, rows of a tensor core's matrix."""


@dataclass(frozen=True)
class Prices:
    """Prices on a device, of what a meter reads."""

    device: Device
    meter: Meter

    @property
    def start(self) -> int:
        """Operations that could be done while one more op is started."""
        return int(self.device.start * self.rate)

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.device.flops_per_second(DType.F32)

    def aligned(self, value: Value, dim: int) -> int:
        """Tiles of a dim of a value are a multiple of that many positions."""
        if not self.device.is_tpu:
            return ALIGNED
        from_end = (value.rank or 0) - dim
        if from_end == 1:
            return max(LANES[1], self.device.matrix)
        return LANES[0] if from_end == 2 else 1

    def of(self, ops: Iterable[Op]) -> int:
        """The price of ops that run in a row: work, traffic and starts.

        What they make and read themselves moves where the largest of it is not near.
        """
        run = [op for op in ops if not isinstance(op, Constant)]
        return self._busy(run) + self.starts(run) * self.start

    def starts(self, ops: Iterable[Op]) -> int:
        """How many ops are started; tiles look their parts up."""
        run = [op for op in ops if not isinstance(op, Constant)]
        looped = [op for op in run if isinstance(op, Tiled | Strips)]
        return len(run) + sum(
            self.meter.turns(op) * (self.starts(op.bodies[0].ops) + len(op.tiles))
            for op in looped
        )

    def _busy(self, ops: Iterable[Op]) -> int:
        """Work and traffic."""
        run = [op for op in ops if not isinstance(op, Constant)]
        price, kept = 0, 0
        for op in run:
            if isinstance(op, Tiled | Strips):
                price += self.meter.turns(op) * self._busy(op.bodies[0].ops)
            else:
                price += self._work(op)
                kept += self.meter.inside(op)
        inner, outer = _sides(run)
        kept += sum(map(self.meter.bytes, inner))
        sizes = map(self._weight, outer)
        seconds = sum(self._seconds(size, size) for size in sizes)
        if (largest := self._largest(run)) > self.device.near:
            seconds += self._seconds(2 * kept, largest)
        return price + int(seconds * self.rate)

    def _seconds(self, size: int, largest: int) -> float:
        """How long bytes move where the largest value lies in a cache, or not."""
        device = self.device
        cached = largest <= device.cache
        return size / (device.cache_bandwidth if cached else device.bandwidth)

    def near(self, ops: Iterable[Op]) -> bool:
        """True where what tiles make and read themselves stays near."""
        parts = [op.bodies[0].ops for op in ops if isinstance(op, Tiled | Strips)]
        return all(self._near(part) and self.near(part) for part in parts)

    def _near(self, run: Iterable[Op]) -> bool:
        """The same of ops that run in a row, each of whose values is used at once."""
        return self._largest(run) <= self.device.near

    def _largest(self, run: Iterable[Op]) -> int:
        """Bytes of the largest value that ops in a row make and use at once."""
        single = [op for op in run if not isinstance(op, Constant | Tiled | Strips)]
        kept = [self.meter.inside(op) // self._turns(op) for op in single]
        kept += map(self.meter.bytes, _sides(run)[0])
        return max(kept, default=0)

    def _turns(self, op: Op) -> int:
        """In how many turns an op uses what it needs while it runs.

        ONNX Runtime's attention takes one head after the other.
        """
        if not isinstance(op, Attention) or not self.meter.space.scratch:
            return 1
        found = op.sizes()
        heads = None if found is None else self.meter.sizes.shape(found[0][:2])
        return max(1, math.prod(heads)) if heads else 1

    def _weight(self, value: Value) -> int:
        """Bytes of a value, those of constants too."""
        return self.meter.sizes.of(value) or 0

    def _work(self, op: Op) -> int:
        """Operations, with those on what only fills a tile of the matrix unit."""
        each = dims.substitute(op_flops(op), self.meter.binding)
        if not isinstance(each, int) or not isinstance(op, PRODUCTS):
            return each if isinstance(each, int) else 0
        shape = self.meter.sizes.shape(op.shape) if op.shape else None
        if not shape:
            return each
        share = 1.0
        units = LANES if self.device.is_tpu else (1, min(16, self.device.matrix))
        for extent, unit in zip(shape[-2:], units[-len(shape) :], strict=False):
            share *= -(-extent // unit) * unit / max(1, extent)
        return int(each * share)


def _sides(run: Iterable[Op]) -> tuple[set[Value], set[Value]]:
    """What ops make and read themselves, and what they read or give alone."""
    made = {r for op in run for r in op.results}
    read = {v for op in run for v in op.operands if v is not None}
    return made & read, made ^ read
