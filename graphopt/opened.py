"""How ONNX Runtime opens a planned graph so that its arena keeps to a limit.

A limit is held against the arena, which loses what lies between its pieces. What loses
less is tried where the plan fits and the arena does not, the cheapest first: buffers
that are reused, an order of the same peak in which pieces fall better, and convolutions
in the order of the plan, without the runtime's blocked layouts, which are faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from .errors import GraphoptError
from .fitted import AGAIN, HOPELESS, SECONDS, Counter, Fitted, Saving
from .lowering.ort.advice import has_convolutions, runs_otherwise
from .lowering.ort.tightened import tightened
from .passes.memory import plan_memory

REUSED: Final = "its arena: buffers reused by shape"
TIGHTENED: Final = "its arena: an order in which less is lost"
PLAIN: Final = "its arena: slower convolutions, without layouts"


def opened(fitted: Fitted, counter: Counter | None) -> Fitted:
    """The first way that keeps to the limits, else that which takes least.

    A plan that does not fit stays as it is; where a compiler counts, it is asked. On a
    CPU a run is asked where there are convolutions: kernels of these take memory of
    their own, and layouts take copies; and where elements of 16 bits are cast.
    """
    if fitted.growth is None or (counter is None and fitted.target == "ort-cpu"):
        return fitted.compiled(counter)
    if fitted.plan.peak > fitted.limits.left(fitted.plan):
        return fitted
    order = tuple([step for step in fitted.opening if step.what == TIGHTENED])  # stays
    fitted = replace(fitted, layouts=True, reuse=False, executed=None, opening=order)
    if counter is None or not runs_otherwise(fitted.graph):
        return _first(_in_order(fitted))
    try:
        return _first(_laid_out(fitted, counter))
    except GraphoptError as error:
        return replace(fitted, layouts=False, uncounted=error.message)


def opened_so(
    fitted: Fitted, counter: Counter, *, layouts: bool, reuse: bool
) -> Fitted:
    """Opened in one way, with what a run takes where one is asked, or why none is."""
    fitted = replace(fitted, layouts=layouts, reuse=reuse, executed=None)
    if not runs_otherwise(fitted.graph):
        return fitted
    try:
        return _asked(fitted, counter)
    except GraphoptError as error:
        return replace(fitted, uncounted=error.message)


def _asked(fitted: Fitted, counter: Counter) -> Fitted:
    """With what the counter says of it. Raises what the counter raises."""
    found = counter(fitted.graph, fitted.sizes, fitted.decided)
    return replace(fitted, executed=found)


def _first(ways: Iterator[Fitted]) -> Fitted:
    tried = []
    for way in ways:
        if way.fits:
            return way
        tried.append(way)
    return min(tried, key=lambda each: each.activations)


def _laid_out(fitted: Fitted, counter: Counter) -> Iterator[Fitted]:
    """With the runtime's layouts, then without. Raises what the counter raises."""
    layouts = _asked(fitted, counter)
    yield layouts
    yield _after(layouts, REUSED, _asked(replace(layouts, reuse=True), counter))
    plain = layouts
    if has_convolutions(fitted.graph):
        without = _asked(replace(layouts, layouts=False), counter)
        plain = _after(layouts, PLAIN, without)
        yield plain
    foreseen = replace(plain, executed=None)
    own = max(0, plain.activations - foreseen.activations)  # what kernels take
    before, *ways = _in_order(foreseen, own)
    for way in ways:
        if way.activations < before.activations:
            yield _after(plain, way.opening[-1].what, _asked(way, counter))


def _in_order(fitted: Fitted, own: int = 0) -> Iterator[Fitted]:
    """In the order of the plan, then in others; ``own`` bytes are left for kernels."""
    yield fitted
    yield _after(fitted, REUSED, replace(fitted, reuse=True))
    plan = fitted.plan
    if fitted.activations > HOPELESS * fitted.limits.left(plan):
        return
    goal = fitted.limits.left(plan) + plan.beside - own
    if fitted.growth is None or fitted.arena is None:
        return
    found = tightened(
        fitted.graph, plan.order, fitted.facts, goal, growth=fitted.growth
    )
    if found is None or found.arena - plan.beside >= fitted.arena:
        return
    again = plan_memory(
        fitted.graph,
        plan.binding,
        space=plan.space,
        order=found.order,
        seconds=SECONDS,
        effort=AGAIN,
    )
    yield _after(fitted, TIGHTENED, replace(fitted, plan=again, rough=False))


def _after(before: Fitted, what: str, after: Fitted) -> Fitted:
    """``after`` with what it saves of the arena."""
    saving = Saving(what, before.activations, after.activations, 0)
    return replace(after, opening=(*before.opening, saving))
