"""How a graph is lowered to ONNX Runtime: kernels chosen, the rest by simpler ops."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

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
from .gate import Fusion
from .kernels import Kernels
from .norms import FuseNorms
from .products import FuseProducts
from .rotary import LowerRotary
from .spelling import SpellForOrt
from .tiling import TileCausal

TIDY: Final[tuple[type[Pass], ...]] = (
    *(Algebra, Casts, Shapes, Fold, Movement, MergeConstants),
)
"""What cleans up behind a lowering, and raises nothing again."""

FUSIONS: Final[tuple[type[Fusion], ...]] = (FuseNorms, FuseActivations, FuseProducts)
"""What makes the runtime's own ops of several."""


def lowered(pipeline: Pipeline, target: str, *, most: bool = False) -> Pipeline:
    """A pipeline, and after it what lowers its result to "ort-cpu" or "ort-cuda".

    It may use all opsets that the runtime takes. ``most`` fuses all that can be, also
    where the fused kernel is slower.
    """
    kernels = Kernels.of(target)
    provider = kernels.provider
    attention = (FuseAttention(provider=provider),) if most else ()
    fusing: tuple[Pass, ...] = (
        *attention,
        *(cls(provider=provider, most=most) for cls in FUSIONS),
    )
    merging = (MergeSiblings(),) if most or provider == "cuda" else ()
    tidy = tuple([cls() for cls in TIDY])
    tiling = (TileCausal(),) if provider == "cpu" and not most else ()
    first = (
        *tiling,
        LowerAttention(),
        LowerRotary(),
        *fusing,
        WriteOut(provider=provider),
        *tidy,
    )
    last = () if most or provider != "cpu" else (SpellForOrt(),)
    # Sums are spelled last: Algebra would have them be additions again.
    then = Pipeline(first, then=Pipeline((*merging, *tidy), then=Pipeline(last)))
    return replace(pipeline, then=then, opset=kernels.opset)
