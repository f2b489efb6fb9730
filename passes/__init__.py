"""The passes, each in a module of its own, by the names that people call them."""

from __future__ import annotations

from graphopt.pipeline import Pass

from .affine import FoldAffine
from .algebra import Algebra
from .casts import Casts
from .einsum import Einsums
from .factor import Factor
from .fold import Fold
from .gains import Gains
from .gemm import Gemms
from .integers import Integers
from .merge_constants import MergeConstants
from .movement import Movement
from .padding import Padding
from .positions import PositionMath
from .raise_activations import RaiseActivations
from .raise_attention import RaiseAttention
from .raise_gelu import RaiseGelu
from .raise_group_norms import RaiseGroupNorms
from .raise_norms import RaiseNorms
from .raise_rectifiers import RaiseRectifiers
from .raise_recurrences import RaiseRecurrences
from .raise_rotary import RaiseRotary
from .raise_shuffles import RaiseShuffles
from .raise_softmax import RaiseSoftmax
from .reductions import Reductions
from .regions import Regions
from .resizes import Resizes
from .sequences import Sequences
from .shapes import Shapes
from .sink import Sink
from .tiling import Flash, Tile

ALL: tuple[type[Pass], ...] = (
    Regions,
    Sequences,
    Algebra,
    Casts,
    Integers,
    Shapes,
    Fold,
    Einsums,
    Movement,
    Resizes,
    Padding,
    RaiseGelu,
    RaiseRectifiers,
    RaiseActivations,
    FoldAffine,
    Gemms,
    RaiseGroupNorms,
    RaiseNorms,
    RaiseSoftmax,
    RaiseRotary,
    RaiseAttention,
    RaiseRecurrences,
    RaiseShuffles,
    PositionMath,
    Factor,
    Reductions,
    Gains,
    Sink,
    MergeConstants,
)
"""Every pass that comes with graphopt, in the order of the default pipeline."""

ASKED: tuple[type[Pass], ...] = (Flash, Tile)
"""Passes that trade one thing for another: they run when they are asked for."""

BY_NAME: dict[str, type[Pass]] = {cls.name: cls for cls in (*ALL, *ASKED)}

__all__ = ["ALL", "ASKED", "BY_NAME", *(cls.__name__ for cls in (*ALL, *ASKED))]
