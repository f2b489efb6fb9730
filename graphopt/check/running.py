"""Sizes of symbolic dims on which a model runs: most models hide which those are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, Final

import numpy as np

from ..errors import GraphoptError
from ..feeds import bind
from ..inputs import TRIED, Sizes, bindings, neighbours, random_inputs
from ..ir import Graph
from ..reference import Evaluator, clock
from ..unnamed import by_place

MEMORY: Final = 1 << 30
SECONDS: Final = 5.0

_ATTEMPTS: Final = 24


def sizes_that_run(
    graph: Graph,
    fixed: Mapping[str, int],
    seconds: float = SECONDS,
    *,
    tried: Callable[[Graph, Mapping[str, int]], Iterable[Sizes]] = bindings,
) -> Sizes:
    """Sizes on which the reference runs the graph, with those that are ``fixed``.

    None where there are no symbolic dims, or none was found in so many seconds.
    """
    deadline = clock() + seconds
    for sizes in islice(tried(graph, fixed), TRIED):
        if sizes and _runs(graph, sizes, {}, deadline):
            return sizes
    return {}


def running_sizes(
    graph: Graph,
    given: Mapping[str, Any] | None = None,
    seconds: float = SECONDS,
) -> tuple[Sizes, set[str]]:
    """Sizes on which the reference runs the graph, and the dims that are bound to them.

    Another size of such a dim was tried, and did not run. ``given`` are arrays for some
    inputs. No sizes where none was found in so many seconds.
    """
    deadline, given = clock() + seconds, given or {}
    for sizes in chain(_stated(graph, given), islice(bindings(graph), _ATTEMPTS)):
        if _runs(graph, sizes, given, deadline):
            break
    else:
        return {}, set()
    bound: set[str] = set()
    for near in neighbours(graph, sizes):
        changed = {name for name in near if near[name] != sizes.get(name)}
        far = {**near, **{name: 2 * sizes[name] for name in changed & sizes.keys()}}
        if not all(_runs(graph, each, given, deadline) for each in (near, far)):
            bound |= changed
    return sizes, bound


def tied_dims(
    graph: Graph,
    sizes: Mapping[str, int],
    given: Mapping[str, Any] | None = None,
    seconds: float = SECONDS,
) -> list[str]:
    """Dims that must have one size: the model runs at another only of them together.

    ``sizes`` are those that `running_sizes` found.
    """
    deadline, given = clock() + seconds, given or {}
    for near in neighbours(graph, dict(sizes)) if sizes else ():
        changed = [n for n in near if near[n] != sizes.get(n)]
        if len(changed) < 2 or not _runs(graph, near, given, deadline):
            continue
        alone = [
            n for n in changed if _runs(graph, {**sizes, n: near[n]}, given, deadline)
        ]
        tied = [n for n in changed if n not in alone]
        if len(tied) > 1:
            return tied
    return []


def _stated(graph: Graph, given: Mapping[str, Any]) -> Iterator[Sizes]:
    """The sizes of the arrays, where they are for all inputs."""
    try:
        fed, symbols = bind(graph, given)
    except GraphoptError:
        return
    for parameter, array in fed.items():
        for axis, dim in enumerate(parameter.shape or ()):
            if dim is None:
                symbols[by_place(parameter.name, axis)] = array.shape[axis]
    yield symbols


def _runs(
    graph: Graph, sizes: Sizes, given: Mapping[str, Any], deadline: float
) -> bool:
    """True where arrays of these sizes do; of those given, only what fits is taken."""
    try:
        inputs = random_inputs(graph, 0, sizes)
        same = {
            name: given[name]
            for name, array in inputs.items()
            if name in given and np.shape(given[name]) == np.shape(array)
        }
        fed, symbols = bind(graph, {**inputs, **same})
        runner = Evaluator(
            limit_bytes=MEMORY, seed=0, symbols=symbols, deadline=deadline
        )
        runner.run(graph.outputs, {p: runner.adopt(array) for p, array in fed.items()})
    except GraphoptError:
        return False
    return True
