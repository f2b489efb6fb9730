"""How a graph is lowered to ONNX Runtime: kernels chosen, the rest by simpler ops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeAlias

from graphopt.passes.algebra import Algebra
from graphopt.passes.casts import Casts
from graphopt.passes.fold import Fold
from graphopt.passes.merge_constants import MergeConstants
from graphopt.passes.movement import Movement
from graphopt.passes.shapes import Shapes
from graphopt.passes.siblings import MergeSiblings
from graphopt.pipeline import Pass, Pipeline

from .activations import FuseActivations
from .attention import FuseAttention, LowerAttention
from .bodies import WriteOut
from .capped_attention import OpenCapped
from .gate import Fusion
from .group_norms import OpenGroupNorms
from .grouped import FuseGrouped
from .kernels import Kernels
from .layout import SinkTransposes
from .long_attention import LongAttention
from .norms import FuseNorms
from .products import FuseProducts
from .recurrences import FuseRecurrences
from .rotary import LowerRotary
from .spelling import SpellForOrt
from .tiling import TileCausal
from .upsampling import GrowByConvolving

TIDY: Final[tuple[type[Pass], ...]] = (
    *(Algebra, Casts, Shapes, Fold, Movement, MergeConstants),
)
"""What cleans up behind a lowering, and raises nothing again."""

FUSIONS: Final[tuple[type[Fusion], ...]] = (
    *(FuseRecurrences, FuseNorms, FuseActivations, FuseProducts),
)
"""What makes the runtime's own ops of several."""


Values: TypeAlias = tuple[str, ...]

SWITCHES: Final[Values] = ("off", "on")

EXTENTS: Final[Values] = ("none", "paying", "all")
"""What a pass of `FUSIONS` fuses: nothing, what is then not slower, or all it can."""


def settings(provider: str, *, most: bool = False) -> dict[str, str]:
    """What a lowering decides by default, by the name of the pass that it is about."""
    cpu = provider == "cpu"
    switches = {
        TileCausal.name: cpu and not most,
        GrowByConvolving.name: cpu,
        LongAttention.name: cpu and not most,
        OpenCapped.name: cpu and not most,
        OpenGroupNorms.name: cpu and not most,
        FuseAttention.name: most,
        FuseGrouped.name: most,
        MergeSiblings.name: most or not cpu,
        SpellForOrt.name: cpu and not most,
    }
    extents = {cls.name: EXTENTS[1 + most] for cls in FUSIONS}
    return {name: SWITCHES[on] for name, on in switches.items()} | extents


def choices(provider: str) -> dict[str, Values]:
    """All values of the `settings` of a provider that can be had."""
    found = dict.fromkeys(settings(provider), SWITCHES)
    found |= dict.fromkeys([cls.name for cls in FUSIONS], EXTENTS)
    if provider != "cpu":  # these are about kernels of the CPU
        for cls in (
            *(TileCausal, LongAttention, OpenCapped),
            *(OpenGroupNorms, GrowByConvolving, SpellForOrt),
        ):
            del found[cls.name]
    return found


def settings_of(pipeline: Pipeline) -> dict[str, str]:
    """The `settings` that a pipeline was lowered with; empty for one that was not."""
    found = {p.name: p for p in (pipeline.then.every if pipeline.then else ())}
    if LowerAttention.name not in found:
        return {}
    names = settings("cpu")
    chosen = {name: SWITCHES[name in found] for name in names}
    for cls in FUSIONS:
        fusion = found.get(cls.name)
        extent = 1 + fusion.most if isinstance(fusion, Fusion) else 0
        chosen[cls.name] = EXTENTS[extent]
    return chosen


def lowered(
    pipeline: Pipeline,
    target: str,
    *,
    most: bool = False,
    changed: Mapping[str, str] = MappingProxyType({}),
) -> Pipeline:
    """A pipeline, and after it what lowers its result to "ort-cpu" or "ort-cuda".

    It may use all opsets that the runtime takes. ``most`` fuses all that can be, also
    where the fused kernel is slower; ``changed`` are other `settings`.
    """
    kernels = Kernels.of(target)
    provider = kernels.provider
    chosen = settings(provider, most=most) | dict(changed)

    def where_on(*passes: Pass) -> tuple[Pass, ...]:
        return tuple(p for p in passes if chosen[p.name] == "on")

    fusing = tuple(
        cls(provider=provider, most=chosen[cls.name] == "all")
        for cls in FUSIONS
        if chosen[cls.name] != "none"
    )
    tidy = tuple([cls() for cls in TIDY])
    causal = where_on(TileCausal())
    lowering = (
        LowerAttention(),
        LowerRotary(),
        SinkTransposes(),
        *where_on(FuseGrouped(provider=provider), FuseAttention(provider=provider)),
        *where_on(LongAttention(), OpenCapped(), OpenGroupNorms()),
        *fusing,
        WriteOut(provider=provider),
        *tidy,
    )
    last = where_on(SpellForOrt())
    # Sums are spelled last: Algebra would have them be additions again.
    merging = where_on(MergeSiblings(), FuseGrouped(provider=provider))
    after = Pipeline((*merging, *tidy), then=Pipeline(last))
    then = Pipeline(lowering, then=after)
    growing = where_on(GrowByConvolving(provider=provider))
    if growing:  # once, as weights grow
        then = Pipeline(growing, rounds=1, then=then)
    if pipeline.trading:  # which find causal attention in parts already
        then = Pipeline(pipeline.trading, rounds=1, then=then)
    return replace(pipeline, then=Pipeline(causal, then=then), opset=kernels.opset)
