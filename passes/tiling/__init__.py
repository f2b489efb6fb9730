"""Large regions run tile by tile, so that only a part of their values is ever alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.errors import UsageError
from graphopt.hardware import device
from graphopt.ir import Graph
from graphopt.pipeline import Pass
from graphopt.rewrite import Log
from graphopt.specialize import symbols_of

from ..memory import SPACES
from .choice import LARGE, best
from .copies import apart, together
from .flash import Flash as Flash
from .heads import spelled
from .needs import Meter
from .price import Prices
from .tiles import tile as tile


@dataclass(frozen=True)
class Tile(Pass):
    """Run what is largest at the peak in tiles, until activations fit into ``budget``.

    ``budget`` is in bytes; 0 is a fifth of the peak. ``steps`` bounds how often regions
    are tiled; ``sizes`` are those of symbolic dims, 1 of the others; ``target`` is what
    runs the graph.

    softmax(q @ k) @ v   -->   tiled(q[i:j]) {softmax(q @ k) @ v}
    """

    trades: ClassVar = True
    budget: int = 0
    steps: int = 100
    sizes: tuple[tuple[str, int], ...] = ()
    target: str = ""

    def run(self, graph: Graph, log: Log) -> Graph:
        if self.budget < 0:
            raise UsageError(f"tile(budget={self.budget}): no size of memory")
        known = dict.fromkeys(symbols_of(graph), 1) | dict(self.sizes)
        opened = not self.target.startswith("xla")  # whose programs keep dims open
        meter = Meter(known, SPACES[self.target or "onnx"], strips=opened)
        prices = Prices(device(self.target or "onnx"), meter)
        before = meter.needs(graph)
        if not before.steps:
            return graph
        budget = self.budget or max(1, before.peak // 5)
        least = max(1, int(LARGE * min(budget, before.peak)))
        given = sum(map(meter.bytes, graph.outputs))
        if given > budget:
            log.notes.append(f"{given} bytes are outputs, which no tiles make fewer")
        parted, copies = apart(spelled(graph, meter, least), meter, least)
        needs = meter.needs(parted)
        for _ in range(self.steps):
            if needs.peak <= budget:
                break
            found = best(needs, budget, prices, copies)
            if found is None:
                log.notes.append(
                    f"{needs.peak} bytes are alive at the peak, and no tiling helps"
                )
                break
            log.fired["tile"] += found.regions
            each = f"{found.regions} x " if found.regions > 1 else ""
            log.notes.append(
                f"{each}{found.text}: {needs.peak} to {found.needs.peak} bytes at the"
                f" peak, {found.flops} more operations"
            )
            needs = found.needs
        return together(needs.graph, copies) if log.fired["tile"] else graph
