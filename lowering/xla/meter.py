"""The memory that a program of XLA takes: what its compiler says, and what is seen.

The compiler counts the buffers that it plans. Kernels of the CPU's that take memory for
themselves are not among them, so that a process is watched, too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from graphopt.importer import load
from graphopt.plan import Plan

from .. import Array, find
from ..meters import Footprint, answer, ask, growth_of
from .program import Program
from .report import Examined, Memory

MODULE: Final = "graphopt.lowering.xla.meter"


def realised_peak(
    model: str | os.PathLike[str] | bytes,
    inputs: Mapping[str, Array],
    *,
    target: str = "xla-cpu",
    limit_s: float = 600.0,
) -> Footprint:
    """What a model takes with these inputs where it runs here, in a child.

    Its ``peak`` is what is seen of the process, if that is more than what the compiler
    counts. Raises MeterFailed, BackendMissing without JAX.
    """
    given = model if isinstance(model, bytes) else os.fspath(model)
    counted, weights, grown = ask(MODULE, (target, given, dict(inputs)), limit_s)
    return Footprint(target, max(counted, grown or 0), counted, weights, grown)


def of_report(examined: Examined) -> Footprint:
    """What the compiler says of a program that is not run here."""
    counted = _counted(examined.memory)
    target = str(examined.used["target"])
    return Footprint(target, counted, counted, 0, None)


def _counted(memory: Memory) -> int:
    """Temporaries and outputs; what these share with inputs is not counted again."""
    return memory.temp + memory.output - memory.alias


def _found(asked: tuple[str, str | bytes, dict[str, Any]]) -> list[int | None]:
    target, model, inputs = asked
    program = find(target).compile(load(model), Plan())
    assert isinstance(program, Program)
    memory = program.memory(inputs)  # compiles: what that takes is not the program's
    given = sum(getattr(array, "nbytes", 0) for array in inputs.values())
    grown = growth_of(lambda: program(inputs))
    return [_counted(memory), max(memory.argument - given, 0), grown]


if __name__ == "__main__":
    answer(_found)
