"""How XLA compiles programs whose memory is planned: so that it counts all of it.

On a CPU its library runs many ops as one, and what lies between them is in no count:
all scores of attention, twice. That may be faster, so only where memory matters it gets
single products and convolutions:

```
library(softmax(q k) v)      -->  library(q k), softmax, library(· v)
ops in an order for threads  -->  ops in the order that holds the least
```
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import jax
import numpy as np

COUNTED: Final[Mapping[str, str]] = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    ),
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
"""By the names of XLA's options."""

_Spec: Final[Any] = jax.ShapeDtypeStruct  # which JAX has not typed


@cache
def counting(device: jax.Device) -> Mapping[str, str]:
    """The compiler's options for such programs on a device: those that it has."""
    if device.platform != "cpu":
        return {}
    return {name: value for name, value in COUNTED.items() if _has(device, name, value)}


def _has(device: jax.Device, name: str, value: str) -> bool:
    """Whether this version of XLA knows an option, and that value of it."""
    where = jax.sharding.SingleDeviceSharding(device)
    row = _Spec((), np.float32, sharding=where)
    try:
        jax.jit(lambda x: x).lower(row).compile({name: value})
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True
