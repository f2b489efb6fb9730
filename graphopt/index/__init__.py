"""Index maps: the one fact from which shape, cost, tiling and sharding are derived."""

from .domain import (
    Domain,
    bytes_moved,
    domain,
    extents,
    flops,
    result_shapes,
)
from .maps import (
    UNIT,
    Affine,
    Combiner,
    Compound,
    Lookup,
    Map,
    Maps,
    Term,
    Whole,
    axis,
    build,
)
from .notation import parse
from .tiling import Kind, TileSlice, Tiling, Window, tile_slice, tiling

__all__ = [
    "UNIT",
    "Affine",
    "Combiner",
    "Compound",
    "Domain",
    "Kind",
    "Lookup",
    "Map",
    "Maps",
    "Term",
    "TileSlice",
    "Tiling",
    "Whole",
    "Window",
    "axis",
    "build",
    "bytes_moved",
    "domain",
    "extents",
    "flops",
    "parse",
    "result_shapes",
    "tile_slice",
    "tiling",
]
