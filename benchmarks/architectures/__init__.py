"""Architectures for benchmarks, built small and with random weights.

`BUILDS` makes those that torch exports; `spellings` has graphs written node by node.
"""

from . import cached, images, recurrent, text, tiny
from .build import Build, randomize_constants
from .detector import SYMBOL, TRANSLATIONS

__all__ = [
    "BUILDS",
    "CAPTURED_ONLY",
    "SYMBOL",
    "TRANSLATIONS",
    "Build",
    "randomize_constants",
]

CAPTURED_ONLY = {
    "gated_delta": "tracing meets a triangular solve, which ONNX has not",
    "mamba2": "tracing writes a Transpose with negative axes",
}
"""What the exporter that traces cannot write, and why."""

BUILDS = {
    **text.BUILDS,
    **cached.BUILDS,
    **recurrent.BUILDS,
    **images.BUILDS,
    **tiny.BUILDS,
}
