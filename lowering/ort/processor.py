"""The processor, as far as ONNX Runtime chooses kernels and layouts by it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Final

_TELLING: Final = (
    *("avx", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni"),
    *("amx_tile", "asimd", "asimddp", "bf16", "i8mm", "sve"),
)
"""Extensions that kernels ask for, by their names in ``/proc/cpuinfo``."""


@cache
def processor() -> str:
    """The architecture, and which extensions that matter it has."""
    return " ".join([platform.machine(), *_extensions()])


def _extensions() -> list[str]:
    try:
        said = Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux
        return [platform.processor() or "unknown"]
    found: set[str] = set()
    for line in said.splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):
            found.update(words.split())
    return [name for name in _TELLING if name in found]
