"""The first value of a model at which another model computes something else.

Both models are run up to some values that both name, a handful of bytes at a time: what
does not fit into memory at once is run again from the inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .check import MEMORY, SLACK
from .cost import value_bytes
from .errors import GraphoptError, UsageError
from .inputs import bindings
from .ir import Graph, Value
from .pairs import same_values, with_constants_of
from .provenance import place
from .sides import Setting, Sides, Target, inputs_of
from .tolerance import OutputCheck
from .trial import Bounds, compare_targets

BUDGET: Final = 256 << 20
"""Bytes of values that are compared at a time; a run holds what it needs besides."""

UNSIZED: Final = 1 << 20  # what a value of unknown size is taken for
ATTEMPTS: Final = 24  # sizes of symbolic dims that are tried until the model runs


@dataclass(frozen=True)
class Divergence:
    """What was found: the value, its op in words, and how far the models are apart.

    ``compared`` counts the values that were held against each other before.
    """

    name: str
    op: str
    check: OutputCheck
    compared: int


def first_divergence(
    before: Graph,
    after: Graph,
    *,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    budget: int = BUDGET,
) -> Divergence | None:
    """The first value, in the order of ``before``, that differs; None where none does.

    Values are paired by name, so rename nothing in between. Raises UsageError where the
    model runs on no inputs that can be made for it.
    """
    after = with_constants_of(before, after)
    given = None if inputs is None else inputs_of(before, inputs)
    sides = Sides(before, after, given)
    targets = list(_targets(before, after))
    bounds = Bounds(SLACK, False, MEMORY, seed)
    setting = _setting(sides, bounds, seed)
    fed = sides.feed(setting)
    done = 0
    for some in _chunks(targets, fed.symbols, budget):
        for target, found in zip(some, compare_targets(some, fed, bounds), strict=True):
            if not found.passed:
                op = target.before.op
                told = "" if op is None else place(before, op)
                return Divergence(target.name, told, found, done)
            done += 1
    return None


def _targets(before: Graph, after: Graph) -> Iterator[Target]:
    """Values that both graphs have, in the order of ``before``; then the outputs."""
    pairs = same_values(before, after)
    seen = set()
    for op in before.ops:
        for value in op.results:
            partner = pairs.get(value)
            if partner is not None and partner is not value:
                name = before.names.get(value)
                if name is not None:
                    seen.add(value)
                    yield Target(name, value, partner, is_output=False)
    for name, ours, theirs in zip(
        before.output_names, before.outputs, after.outputs, strict=True
    ):
        if ours not in seen:
            yield Target(name, ours, theirs)


def _setting(sides: Sides, bounds: Bounds, seed: int) -> Setting:
    """Sizes on which the original runs."""
    if sides.inputs is not None:
        return Setting({}, seed)
    reason = ""
    for attempt, sizes in enumerate(bindings(sides.before)):
        if attempt >= ATTEMPTS:
            break
        setting = Setting(sizes, seed)
        try:
            fed = sides.feed(setting)
            bounds.evaluator(fed.symbols).run(sides.before.outputs, fed.before)
        except GraphoptError as error:
            reason = reason or str(error)
        else:
            return setting
    raise UsageError(f"found no inputs on which the first model runs: {reason}")


def _chunks(
    targets: list[Target], symbols: Mapping[str, int], budget: int
) -> Iterator[list[Target]]:
    """Targets in order, as many at a time as the budget allows."""
    some: list[Target] = []
    total = 0
    for target in targets:
        size = _bytes(target.before, symbols)
        if some and total + size > budget:
            yield some
            some, total = [], 0
        some.append(target)
        total += size
    if some:
        yield some


def _bytes(value: Value, symbols: Mapping[str, int]) -> int:
    """Bytes of a value in all four runs: native twice, float64, and the other model."""
    size = value_bytes(value, symbols)
    return 5 * (UNSIZED if size is None else size)
