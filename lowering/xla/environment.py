"""What JAX and libtpu read from the environment, set before they are loaded.

What the user has set stays. Imports nothing of JAX.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from graphopt.errors import UsageError

from .platforms import is_described

_NO_TPU: Final = {
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",  # any: topologies say what they are
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # compilers do not compete for a chip
}
"""For libtpu as a compiler only; without them it warns that it finds no TPU."""

COORDINATOR: Final = "GRAPHOPT_COORDINATOR"
PROCESSES: Final = "GRAPHOPT_PROCESSES"
RANK: Final = "GRAPHOPT_RANK"

AUTO: Final = "auto"
"""The coordinator that JAX finds by itself: on TPU pods, under Slurm, Open MPI."""

_SHOWN: Final = "--xla_force_host_platform_device_count"


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


@dataclass(frozen=True)
class Processes:
    """Many processes of one program: where they meet, how many, and which this is.

    Count and rank are None where JAX finds them.
    """

    coordinator: str
    count: int | None
    rank: int | None


def processes() -> Processes | None:
    """What the environment says of other processes; None where this is the only one.

    Raises UsageError for what is not complete, or no number.
    """
    coordinator = os.environ.get(COORDINATOR)
    count, rank = _number(PROCESSES), _number(RANK)
    if coordinator is None:
        if count not in (None, 1):
            raise UsageError(
                f"{PROCESSES}={count}, but {COORDINATOR} is not set: give it the"
                f" address of the first process, host:port, or {AUTO}"
            )
        return None
    if coordinator != AUTO and (count is None or rank is None):
        missing = PROCESSES if count is None else RANK
        raise UsageError(f"{COORDINATOR} is set, but {missing} is not")
    if count is not None and rank is not None and not rank < count:
        raise UsageError(f"{RANK}={rank} is none of {count} processes")
    return Processes(coordinator, count, rank)


def show_devices(count: int) -> None:
    """Have JAX show so many CPU devices, those of all processes together.

    Comes before JAX looks for devices. Raises UsageError where the processes do not
    divide them.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _SHOWN in flags:
        return
    asked = processes()
    ways = (asked and asked.count) or 1
    if count % ways:
        raise UsageError(f"{count} devices are not divided by {ways} processes")
    os.environ["XLA_FLAGS"] = f"{flags} {_SHOWN}={count // ways}".strip()


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{name}={text!r} is no number")
    return int(text)
