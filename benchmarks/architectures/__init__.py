"""Architectures for benchmarks, built small and with random weights.

`BUILDS` makes those that torch exports; `spellings` has graphs written node by node.
"""

from . import cached, images, recurrent, text
from .build import Build, randomize_constants
from .detector import SYMBOL, TRANSLATIONS

__all__ = ["BUILDS", "SYMBOL", "TRANSLATIONS", "Build", "randomize_constants"]

BUILDS = {**text.BUILDS, **cached.BUILDS, **recurrent.BUILDS, **images.BUILDS}
