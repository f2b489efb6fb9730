"""Many processes that run one program: they meet before JAX looks for devices."""

from __future__ import annotations

from typing import Final

import jax

from graphopt.errors import BackendMissing

from .environment import AUTO, processes

_SECONDS: Final = 120
"""How long processes wait for the others to start."""


def join() -> None:
    """Meet the other processes that the environment tells of, if it does.

    Afterwards `jax.devices` are those of all of them. A CPU exchanges arrays by gloo.
    Raises UsageError where the environment is not complete, BackendMissing where the
    others do not come.
    """
    asked = processes()
    if asked is None or jax.distributed.is_initialized():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    named = (
        {} if asked.coordinator == AUTO else {"coordinator_address": asked.coordinator}
    )
    try:
        jax.distributed.initialize(
            **named,
            num_processes=asked.count,
            process_id=asked.rank,
            initialization_timeout=_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise BackendMissing(
            f"the processes did not meet at {asked.coordinator}: {said}"
        ) from error


def is_first() -> bool:
    """True in the one process that writes files and says results."""
    return bool(jax.process_index() == 0)
