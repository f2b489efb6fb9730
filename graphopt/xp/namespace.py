"""The whole namespace: all families of functions together."""

from __future__ import annotations

from .casting import Casting
from .control import Control
from .drawing import Drawing
from .indexing import Indexing
from .products import Products
from .reductions import Reductions
from .spatial import Spatial
from .special import Special


class Namespace(
    Reductions,
    Indexing,
    Products,
    Spatial,
    Casting,
    Special,
    Control,
    Drawing,
):
    """What `compute` is written against; `Host` and `Traced` are its two sides."""
