"""The memory that a program of XLA takes: what is foreseen of it, and what is seen.

The compiler counts the buffers that it plans. What kernels of a CPU take for themselves
is not among them; it is foreseen (`kernels`), and a process is watched, too.

A process grows by more than a program takes, for reasons that are none of the
program's. So the child that is watched

- runs a tiny program first, with a product, a convolution, a reduction and a loop:
  threads, pages of code and the arenas of threads come once for all programs;
- has read the weights, and has inputs where XLA takes them without a copy;
- gives back what is freed, and has a heap without holes (`heap`). Else a run is served
  from what the compiler has left free, or keeps what the run before has freed, and what
  is seen is chance. A process with glibc's own settings may hold more between runs, or
  grow by less, by what its heap has free.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from graphopt.importer import load
from graphopt.interface import is_program
from graphopt.plan import LIBRARY, Plan

from .. import Array, find
from ..meters import Footprint, answer, ask
from ..resident import settled_growth_of
from .exported import ExportedProgram
from .heap import SETTINGS, fill, trim
from .program import Program
from .report import Examined, Memory

MODULE: Final = "graphopt.lowering.xla.meter"

ALIGNMENT: Final = 64
"""Bytes at which arrays begin that XLA takes as they are."""

REST: Final = 0.05
"""Seconds in which threads of a run are done with what it held."""


def realised_peak(
    model: str | os.PathLike[str] | bytes,
    inputs: Mapping[str, Array],
    *,
    target: str = "xla-cpu",
    planned: str = "",
    limit_s: float = 600.0,
) -> Footprint:
    """What a model takes with these inputs where it runs here, in a child.

    ``planned`` says how it is compiled: as where memory is planned, with "single" or
    "joined" ops for the library, or as JAX does by itself; a program that was exported
    says so itself. ``peak`` is what is seen of the process, if that is more than what
    the compiler counts. Raises MeterFailed, BackendMissing without JAX.
    """
    given = model if isinstance(model, bytes) else os.fspath(model)
    asked = (target, given, dict(inputs), planned)
    counted, weights, grown, foreseen = ask(MODULE, asked, limit_s, SETTINGS)
    return Footprint(
        target, max(counted, grown or 0), counted, weights, grown, foreseen
    )


def of_report(examined: Examined) -> Footprint:
    """What the compiler says of a program that is not run here."""
    counted = _counted(examined.memory)
    target = str(examined.used["target"])
    return Footprint(target, counted, counted, 0, None, examined.memory.foreseen)


def _counted(memory: Memory) -> int:
    """Temporaries and outputs; what these share with inputs is not counted again."""
    return memory.temp + memory.output - memory.alias


# --- in the child -------------------------------------------------------------------


def _found(
    asked: tuple[str, str | bytes, dict[str, Any], str],
) -> list[int | None]:
    target, model, inputs, planned = asked
    program = _opened(target, model, planned)
    inputs = {name: aligned(value) for name, value in inputs.items()}
    memory = program.memory(inputs)  # compiles: what that takes is not the program's
    given = sum(getattr(array, "nbytes", 0) for array in inputs.values())
    for weight in program.held(inputs):
        np.asarray(weight).sum()  # reads it
    _warm(program.device)
    trim()
    fill()

    def run() -> None:
        program(inputs)
        time.sleep(REST)
        trim()

    grown = settled_growth_of(run)
    weights = max(memory.argument - given, 0)
    return [_counted(memory), weights, grown, memory.foreseen]


def _opened(target: str, model: str | bytes, planned: str) -> Program | ExportedProgram:
    found = find(target)
    if isinstance(model, str) and is_program(model):
        program = found.open(model)
    else:
        graph = load(model)
        program = found.compile(graph, Plan(whole={LIBRARY: planned}))
    assert isinstance(program, Program | ExportedProgram)
    return program


def aligned(value: Array) -> Array:
    """An array where XLA takes it as it is."""
    if not isinstance(value, np.ndarray) or value.dtype == object:
        return value
    room = np.empty(value.nbytes + ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    made = room[begin : begin + value.nbytes].view(value.dtype).reshape(value.shape)
    made[...] = value
    return made


def _warm(device: jax.Device) -> None:
    """Run each kind of kernel, so that what comes once for all programs is there."""

    def all_kinds(x: Any, image: Any, filters: Any) -> Any:
        product = jnp.tanh(x @ x)
        loop = jax.lax.fori_loop(0, 2, lambda _, y: y * 2 + 1, product)
        made = jax.lax.conv_general_dilated(
            *(image, filters, (1, 1), "SAME"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.softmax(loop), loop.sum(0), made

    shapes = ((256, 256), (1, 64, 64, 16), (3, 3, 16, 16))
    given = [jax.device_put(np.ones(shape, np.float32), device) for shape in shapes]
    run = jax.jit(all_kinds)
    for _ in range(3):
        jax.tree.map(np.asarray, run(*given))


if __name__ == "__main__":
    answer(_found)
