"""How long JAX traces, lowers and compiles, said on the ladder of `graphopt.debug`.

JAX tells whoever listens; importing this module does.
"""

from __future__ import annotations

from typing import Any, Final

from jax import monitoring

from graphopt.debug import say

_PHASES: Final = {
    "/jax/core/compile/jaxpr_trace_duration": "traced",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowered",
    "/jax/core/compile/backend_compile_duration": "compiled",
}

LEAST: Final = 0.1
"""Seconds of what is worth a line: single ops are compiled too."""


def _heard(event: str, duration_secs: float, **_: Any) -> None:
    if event in _PHASES and duration_secs >= LEAST:
        say(1, f"  {_PHASES[event]} by XLA: {duration_secs:.3f} s")


monitoring.register_event_duration_secs_listener(_heard)
