"""Large regions run tile by tile, so that only a part of their values is ever alive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from graphopt.errors import UsageError
from graphopt.hardware import device
from graphopt.ir import Graph
from graphopt.pipeline import Pass
from graphopt.rewrite import Log
from graphopt.specialize import symbols_of

from ..memory import SPACES
from .choice import best
from .copies import apart, together
from .flash import Flash as Flash
from .heads import spelled
from .known import LARGE, Known
from .needs import Meter
from .price import Prices
from .tiles import tile as tile


@dataclass(frozen=True)
class Tile(Pass):
    """Run what is largest at the peak in tiles, until activations fit into ``budget``.

    ``budget`` is in bytes; 0 is a fifth of the peak. ``steps`` bounds how often regions
    are tiled; ``sizes`` are those of symbolic dims, 1 of the others; ``target`` is what
    runs the graph. What is ``known`` of graphs serves every budget: replace that alone.

    softmax(q @ k) @ v   -->   tiled(q[i:j]) {softmax(q @ k) @ v}
    """

    trades: ClassVar = True
    budget: int = 0
    steps: int = 100
    sizes: tuple[tuple[str, int], ...] = ()
    target: str = ""
    known: dict[object, Known] = field(default_factory=dict, repr=False, compare=False)

    def run(self, graph: Graph, log: Log) -> Graph:
        if self.budget < 0:
            raise UsageError(f"tile(budget={self.budget}): no size of memory")
        known = self._known(graph)
        prices = known.prices
        meter = prices.meter
        before = known.around(graph).needs
        if not before.steps:
            return graph
        budget = self.budget or max(1, before.peak // 5)
        least = max(1, int(LARGE * min(budget, before.peak)))
        given = sum(map(meter.bytes, graph.outputs))
        if given > budget:
            log.notes.append(f"{given} bytes are outputs, which no tiles make fewer")
        parted, copies = apart(spelled(graph, meter, least), meter, least)
        around = known.around(parted)
        for _ in range(self.steps):
            needs = around.needs
            if needs.peak <= budget:
                break
            found = best(around, budget, prices, copies)
            if found is None:
                log.notes.append(
                    f"{needs.peak} bytes are alive at the peak, and no tiling helps"
                )
                break
            log.fired["tile"] += found.regions
            each = f"{found.regions} x " if found.regions > 1 else ""
            around = found.around
            log.notes.append(
                f"{each}{found.text}: {needs.peak} to {around.needs.peak} bytes at the"
                f" peak, {found.flops} more operations"
            )
        if not log.fired["tile"]:
            return graph
        return together(around.needs.graph, copies)

    def _known(self, graph: Graph) -> Known:
        """What is known where symbolic dims have these sizes."""
        sizes = dict.fromkeys(symbols_of(graph), 1) | dict(self.sizes)
        key = self.target, tuple(sizes.items())
        if key not in self.known:
            opened = not self.target.startswith("xla")  # whose programs keep dims open
            target = self.target or "onnx"
            meter = Meter(sizes, SPACES[target], strips=opened)
            self.known[key] = Known(Prices(device(target), meter))
        return self.known[key]
