"""How XLA compiles programs whose memory is planned, and how it counts them.

They run in the order that holds the least. On a CPU its library runs many ops as one,
and what lies between them is in no count, but foreseen (`loops`): all scores of
attention, or twice, or some rows. So a limit is sought with single products and
convolutions for the library. The program also runs so, which may take a third more
time, unless joined ops keep to the limit:

```
ops in an order for threads  -->  ops in the order that holds the least
library(softmax(q k) v)      -->  library(q k), softmax, library(· v)    where single
```
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import jax
import numpy as np

JOINED: Final[Mapping[str, str]] = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_disable_hlo_passes": "cse_barrier_expander",
}
"""By the names of XLA's options. What is `kept` stays so only without that pass."""

SINGLE: Final[Mapping[str, str]] = {
    **JOINED,
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    ),
}

_Spec: Final[Any] = jax.ShapeDtypeStruct  # which JAX has not typed


def compiling(device: jax.Device, planned: str) -> dict[str, str]:
    """The compiler's options, as far as it has them on this device.

    ``planned`` says for what programs: "joined" or "single" ops of the library where
    memory is planned, else "".
    """
    if device.platform != "cpu" or not planned:
        return {}
    options = JOINED if planned == "joined" else SINGLE
    return {name: value for name, value in options.items() if _has(device, name, value)}


def keeps(platform: str, planned: str) -> bool:
    """Whether a program has sums that are `kept`: made for a CPU, where it is planned.

    In a file they stay when it runs on another device, where they only cost time.
    """
    return platform == "cpu" and bool(planned)


@cache
def _has(device: jax.Device, name: str, value: str) -> bool:
    """Whether this version of XLA knows an option, and that value of it."""
    where = jax.sharding.SingleDeviceSharding(device)
    row = _Spec((), np.float32, sharding=where)
    try:
        jax.jit(lambda x: x).lower(row).compile({name: value})
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True
