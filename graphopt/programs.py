"""Export an optimized graph and put the program in place, checked on the way.

What `output` does for models: the program is staged with its weights, read back, run
next to the reference, and only then renamed; one that fails is kept as
``NAME.rejected.stablehlo``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import CheckFailed, GraphoptError, UsageError
from .inputs import bindings, random_inputs
from .ir import Value
from .lowering import find, to_program
from .ops.control import If
from .output import (
    check_destination,
    check_suffix,
    data_files,
    place,
    same_file,
    weights_path,
)
from .plan import LIBRARY
from .provenance import place as op_place
from .report import Trial

if TYPE_CHECKING:
    from .check import CheckResult
    from .driver import Checking, Result
    from .interface import Interface
    from .lowering import Program

MEMORY: Final = 1 << 20
"""Bytes that a condition may take to compute."""

_SIZES: Final = 6
"""Sizes of open dims that are tried, until the model runs on two."""


def put_program_in_place(
    result: Result, path: Path, *, bake: bool, overwrite: bool
) -> Result:
    """Write a result as a program to ``path``; see `Result.save`."""
    check_suffix(path, result.report.target)
    check_destination(path, result.origin, overwrite=overwrite, data=not bake)
    beside = weights_path(path)
    for file in data_files(result.original):
        if same_file(beside, file) or same_file(path, file):
            raise UsageError(f"cannot write {path}: {file} belongs to the input")
    program = to_program(
        result.graph,
        result.report.target,
        fixed=result.checking.inputs,
        beside=None if bake else beside.name,
        precision=result.precision,
        planned=str(result.plan.whole.get(LIBRARY, "")),
    )

    def write(to: Path, failed: str = "") -> None:
        _renamed(program, to).save(to)

    def prove(staged: Path) -> tuple[CheckResult, Trial]:
        return _proved(result, staged, program.interface)

    done = place(result, path, write, prove)
    report = dataclasses.replace(
        done.report,
        notes=(*_without_doubt(result, program.interface), *program.notes()),
        program=program.interface.to_json(),
    )
    return dataclasses.replace(done, report=report)


def _without_doubt(result: Result, interface: Interface) -> Iterator[str]:
    """The notes of a result, where branches that cannot run are not taken either."""
    from .reference import Evaluator

    graph = result.original
    fixed = interface.fixed_arrays()
    known: dict[Value, Any] = {
        p: fixed[p.name] for p in graph.inputs if p.name in fixed
    }
    idle: list[str] = []
    for op in graph.ops:
        cond = op.operands[0] if isinstance(op, If) else None
        if cond is None:
            continue
        try:
            (taken,) = Evaluator(limit_bytes=MEMORY).run([cond], known)
        except (GraphoptError, KeyError):  # it hangs on what is not fixed
            continue
        other = op.body_names[1 if taken.item() else 0].replace("_", " ")
        idle.append(f"the {other} of the {op_place(graph, op)}")
    for note in result.report.notes:
        doubt, _, rest = note.partition("cannot run: ")
        # Passes may have merged other nodes into the If, whose names come after.
        found = [b for b in idle if rest.startswith((f"{b}: ", f"{b}, "))]
        told = not doubt and found
        yield f"{found[0]} is not taken, and forbids these dims" if told else note


def _completed(result: Result, interface: Interface) -> Checking:
    """How to check: values that decide shapes, given alone, get arrays beside them."""
    checking, graph = result.checking, result.original
    given = checking.inputs
    if given is None or not given.keys() <= interface.fixed.keys():
        return checking
    from .check.running import running_sizes

    sizes, _ = running_sizes(graph, given)
    inputs = {**random_inputs(graph, checking.seed, sizes), **given}
    return dataclasses.replace(checking, inputs=inputs)


def _renamed(program: Program, path: Path) -> Program:
    """The program with its weights beside another name."""
    if program.interface.weights is None:
        return program
    moved = dataclasses.replace(program.interface, weights=weights_path(path).name)
    return dataclasses.replace(program, interface=moved)


def _proved(
    result: Result, staged: Path, interface: Interface
) -> tuple[CheckResult, Trial]:
    """Check the graph, then the program that is about to be put in place.

    One that is not for CPUs, or that holds what was given, is not run. Raises
    CheckFailed.
    """
    from .artifact import XLA, Feed, try_program  # which runs graphs

    checking = _completed(result, interface)
    check = checking.compare(result.original, result.graph)
    if not check.passed:
        raise result.blamed(check)
    if "cpu" not in interface.platforms:
        made = ", ".join(interface.platforms)
        return check, Trial(XLA, None, note=f"the program is for {made} only")
    program = find("xla-cpu").open(staged)
    given, seed = checking.inputs, checking.seed
    held = set(interface.overridable).intersection(interface.baked, given or ())
    if held:
        note = f"the initializer {min(held)!r} was given, and is part of the program"
        return check, Trial(XLA, None, note=note)
    sizes = check.sizes or tuple(islice(bindings(result.original), _SIZES))
    feeds = [Feed(given, each, seed) for each in (sizes if given is None else ({},))]
    trial = try_program(result.original, program, feeds)
    if trial.passed is False:
        raise CheckFailed(f"in {trial.runtime}, {trial.note}")
    return check, trial
