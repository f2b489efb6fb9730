"""What JAX and libtpu read from the environment, set before they are loaded.

What the user has set stays. Imports nothing of JAX.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from .platforms import is_described

_NO_TPU: Final = {
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",  # any: topologies say what they are
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # compilers do not compete for a chip
}
"""For libtpu as a compiler only; without them it warns that it finds no TPU."""


def prepare(target: str = "", *, alone: bool = False) -> None:
    """Set what a target of XLA needs; libtpu on a machine without a TPU is told so.

    ``alone``: the process runs this target only, and JAX may be kept from other chips.
    """
    topology = is_described(target)
    if alone and (topology or target == "xla-cpu"):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if (alone and topology) or not _has_tpu():
        for name, value in _NO_TPU.items():
            os.environ.setdefault(name, value)


def _has_tpu() -> bool:
    """True where the kernel shows a TPU, by either of its drivers."""
    dev = Path("/dev")
    return any(dev.glob("accel[0-9]*")) or any(dev.glob("vfio/[0-9]*"))
