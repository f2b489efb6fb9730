"""Memory that a run may take, and a graph that keeps to it; else what would do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from .cost import graph_flops
from .debug import timed
from .errors import GraphoptError
from .fitted import Counter, Fitted, Limits
from .fitting import fitting
from .ir import Graph
from .lowering import memory_of
from .lowering.meters import Child
from .lowering.ort.advice import has_convolutions
from .lowering.ort.tiling import TileCausal
from .lowering.xla.platforms import PLATFORMS
from .ops.schema import LATEST
from .passes.tiling import Flash, Tile
from .pipeline import Pipeline
from .plan import LIBRARY, Plan, opening
from .refusal import refusal
from .savings import Savings

if TYPE_CHECKING:
    from .lowering.xla.report import Memory


@dataclass
class Once:
    """What a target says of each program, which is asked once; so are failures."""

    _said: dict[object, Any] = field(default_factory=dict, init=False)

    def said(self, key: object, ask: Callable[[], Any]) -> Any:
        """What was said, or was raised."""
        if key not in self._said:
            try:
                self._said[key] = ask()
            except GraphoptError as error:
                self._said[key] = error
        found = self._said[key]
        if isinstance(found, GraphoptError):
            raise found.with_traceback(None)  # which would grow, and hold graphs
        return found


@dataclass
class Compiling(Once):
    """A `Counter` that asks XLA's compiler, and says what is in its number."""

    target: str
    precision: str | None

    def __call__(self, graph: Graph, sizes: Mapping[str, int], plan: Plan) -> int:
        memory = self.memory(graph, sizes, plan)
        return memory.temp + memory.scratch

    def memory(self, graph: Graph, sizes: Mapping[str, int], plan: Plan) -> Memory:
        """What the compiler says. Raises what it raises."""
        library = str(plan.whole.get(LIBRARY, "single"))

        def ask() -> Memory:
            with timed(f"compiling for {self.target}"):
                return memory_of(graph, self.target, sizes, self.precision, library)

        key = graph, plan.order, library, tuple(sizes.items())
        found: Memory = self.said(key, ask)
        return found


@dataclass
class Running(Once):
    """A `Counter` that runs a graph once in ONNX Runtime on the CPU, in a child."""

    child: Child

    def __call__(self, graph: Graph, sizes: Mapping[str, int], plan: Plan) -> int:
        from .lowering.ort.executed import arena_of  # only for that runtime

        way = opening(plan.whole)

        def ask() -> Sequence[int]:
            with timed("running once in ort-cpu"):
                return arena_of(
                    *(graph, sizes, plan.order),
                    layouts=way["layouts"],
                    child=self.child,
                )

        key = graph, plan.order, way["layouts"], tuple(sizes.items())
        both: Sequence[int] = self.said(key, ask)  # without reuse, and with it
        return both[way["reuse"]]


@contextmanager
def counting(target: str, precision: str | None = None) -> Iterator[Counter | None]:
    """What asks a target, while it is needed; None where nothing counts there."""
    if target == "ort-cpu":
        from .lowering.ort.executed import MODULE  # only for that runtime

        with Child(MODULE) as child:
            yield Running(child)
    else:
        yield Compiling(target, precision) if target in PLATFORMS else None


def fitted_to(
    limits: Limits,
    graph: Graph,
    original: Graph,
    target: str,
    remade: Callable[[Tile], Graph],
    counter: Counter | None = None,
    *,
    rounding: bool = True,
) -> Fitted:
    """The graph with a plan that keeps to the limits, the cheapest that is found.

    Symbolic dims have sizes that are usual and that the ``original`` takes, but those
    of the limits; ``remade`` makes the graph again with a pass that tiles. Where a
    compiler has the last word, ``counter`` asks it. Without ``rounding`` sums stay as
    they are. Raises DoesNotFit, which says what the smallest plan takes.
    """
    sizes = fitting(original, limits.sizes)[0]
    savings = Savings(graph, sizes, target, remade, counter, rounding)
    return _fitted(limits, savings).with_library(counter)


SLOWER: Final = 1.3
"""How much longer a model with convolutions runs without the runtime's layouts, at the
least: 1.3 to 1.6 of a U-Net's and a DenseNet's time, 1.5 of a ConvNeXt's, 2.4 of
MobileNetV2's."""


def _fitted(limits: Limits, savings: Savings) -> Fitted:
    found = _fast(savings.towards(limits))
    if found is not None:
        return savings.packed(found)
    best = savings.least(limits)
    if not best.fits:
        counter = savings.counter
        known = None
        if best.counted is not None and isinstance(counter, Compiling):
            known = counter.memory(best.graph, best.sizes, best.decided)
        raise refusal(best, known)
    found = _fast(savings.coarser(limits, best))
    assert found is not None  # the smallest is the last of them
    return savings.packed(found)


def _fast(tried: Iterable[Fitted]) -> Fitted | None:
    """What fits first; where that is without layouts, what has them if it is faster."""
    slow: Fitted | None = None
    for each in filter(lambda each: each.fits, tried):
        if not _is_slow(each):
            return each if slow is None or _faster(each, slow) else slow
        slow = slow or each
    return slow


def _is_slow(each: Fitted) -> bool:
    """Without layouts that its convolutions might have."""
    return not (each.layouts or each.uncounted) and has_convolutions(each.graph)


def _faster(one: Fitted, slow: Fitted) -> bool:
    """True where layouts save more than is computed for them."""
    work, most = (graph_flops(each.graph, each.sizes) for each in (one, slow))
    return (
        not isinstance(work, int) or not isinstance(most, int) or work < SLOWER * most
    )


def with_tiles(pipeline: Pipeline, tile: Tile, target: str) -> Pipeline:
    """The pipeline with tiles between what improves a graph and what lowers it.

    Causal attention is in parts by then: those save work, too. Where a loop over blocks
    costs nothing, attention keeps no scores at all.
    """
    then = pipeline.then
    if then is not None and {p.name for p in then.passes} == {TileCausal.name}:
        parted = replace(then, passes=(TileCausal(sizes=tile.sizes),))
        return replace(pipeline, then=with_tiles(parted, tile, target))
    tile = replace(tile, target=target)
    if target not in PLATFORMS:
        return replace(pipeline, then=Pipeline((tile,), rounds=1, then=then))
    made = Pipeline((Flash(target=target), tile), rounds=1, then=then)
    return replace(pipeline, then=made, opset=LATEST)
