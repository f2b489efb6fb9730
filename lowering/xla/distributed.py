"""Many processes that run one program: they meet before JAX looks for devices."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Any, Final

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from graphopt.errors import BackendMissing, UsageError

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
    _keep_results_apart()
    config: Any = jax.config
    config.update("jax_cpu_collectives_implementation", "gloo")
    address = None if asked.coordinator == AUTO else asked.coordinator
    try:
        jax.distributed.initialize(
            address,
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


def agree(program: str) -> None:
    """Raises UsageError where processes do not have the same program to run.

    They would wait for each other for ever.
    """
    if jax.process_count() == 1:
        return
    mine = np.frombuffer(hashlib.sha256(program.encode()).digest(), np.uint8)
    every = process_allgather(mine)
    strangers = np.flatnonzero((every != every[0]).any(axis=1))
    if strangers.size:
        raise UsageError(
            f"process {strangers[0]} has another program than the first: give all of"
            " them the same model, the same sizes and one plan, which the file has that"
            " graphopt optimize --mesh writes"
        )


def _keep_results_apart() -> None:
    """From now on stdout is for results: gloo says there whom it is connected to."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout.flush()
        results = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        sys.stdout = results
