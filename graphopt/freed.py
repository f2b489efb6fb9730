"""Run a graph whose axes were freed at three sizes, and name the op that forbids one.

Types may agree with any size while a constant deep in the model still holds the old
one. At the old size the graph must compute what it did, bit by bit. At larger ones it
must run; where it is fed parts of the old size side by side, it is also seen whether
each part computes as before, as along a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from . import dims
from .check.tolerance import Runs, compare
from .errors import GraphoptError, UsageError
from .inputs import bindings, random_inputs
from .ir import Graph
from .provenance import place
from .reference import evaluate
from .specialize import Specialized

MEMORY: Final = 4 << 30
SMALL: Final = 16
"""Up to this extent, sizes are multiples of the old one."""

CLOSE: Final = 1e-4
"""Parts computed alone and together differ at most by so much of the largest number."""

Array = Any
Arrays = Mapping[str, Array]


def try_sizes(given: Graph, special: Specialized, seed: int = 0) -> str:
    """A sentence on what three sizes showed.

    Raises UsageError, which names the op, where one of them does not work.
    """
    graph = special.graph
    others = next(iter(bindings(given)))
    for number in range(3):
        sizes = {name: size_of(old, number) for name, old in special.freed.items()}
        inputs = random_inputs(graph, seed, {**others, **sizes})
        found = _run(graph, inputs, sizes)
        if number == 0:
            _same(graph, evaluate(given, inputs, limit_bytes=MEMORY, seed=seed), found)
    told = ", ".join(
        f"{name} = " + ", ".join(str(size_of(old, i)) for i in range(3))
        for name, old in special.freed.items()
    )
    alone = _parts_agree(given, special, others, seed)
    said = {
        True: "each part computes as it did alone",
        False: "the parts influence each other, so that larger sizes are not proved",
        None: "the old size computes what it did",
    }
    return f"runs with {told}; {said[alone]}"


def size_of(old: int, number: int) -> int:
    """The first, second or third size to try; the first is the old one."""
    if old <= SMALL:
        return old * (number + 1)
    return (old, old // 2, old + old // 4)[number]


def _run(graph: Graph, inputs: Arrays, sizes: Mapping[str, int]) -> list[Array]:
    try:
        return evaluate(graph, inputs, limit_bytes=MEMORY, seed=0)
    except GraphoptError as error:
        told = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise UsageError(
            f"with {told} the model does not run: {error.message}",
            where=_first_failing(graph, inputs),
        ) from None


def _first_failing(graph: Graph, inputs: Arrays) -> str | None:
    """The first op that cannot be computed, in words; a binary search."""
    ops = graph.ops
    low, high = 0, len(ops)
    while low < high:
        middle = (low + high) // 2
        wanted = [value for op in ops[: middle + 1] for value in op.results]
        try:
            evaluate(graph, inputs, wanted=wanted, limit_bytes=MEMORY, seed=0)
            low = middle + 1
        except GraphoptError:
            high = middle
    return place(graph, ops[low]) if low < len(ops) else None


def _same(graph: Graph, before: list[Array], after: list[Array]) -> None:
    for name, old, new in zip(graph.output_names, before, after, strict=True):
        found = compare(name, Runs(old, old, new, exact=True), 1.0)
        if not found.passed:
            raise UsageError(
                f"with the freed dims, the output {name!r} is another: {found.note}"
            )


def _parts_agree(
    given: Graph, special: Specialized, others: Mapping[str, int], seed: int
) -> bool | None:
    """True where parts of the old size, side by side, compute what they do alone.

    None where that cannot be asked: several symbols, large extents, outputs without
    one axis of the symbol.
    """
    if len(special.freed) != 1:
        return None
    ((name, old),) = special.freed.items()
    axes = list(_output_axes(special.graph, name))
    if not 0 < old <= SMALL or None in axes:
        return None
    parts = 3
    inputs = random_inputs(special.graph, seed + 1, {**others, name: parts * old})
    together = evaluate(special.graph, inputs, limit_bytes=MEMORY, seed=0)
    for part in range(parts):
        fed = {
            p.name: _part(
                inputs[p.name], _freed_axes(special.graph, i, name), part, old
            )
            for i, p in enumerate(given.inputs)
            if p.name in inputs
        }
        alone = evaluate(given, fed, limit_bytes=MEMORY, seed=0)
        for axis, whole, expected in zip(axes, together, alone, strict=True):
            assert axis is not None
            if not _close(_part(whole, [axis], part, old), expected):
                return False
    return True


def _output_axes(graph: Graph, name: str) -> Iterator[int | None]:
    for value in graph.outputs:
        found = [
            i for i, dim in enumerate(value.shape or ()) if dim == dims.symbol(name)
        ]
        yield found[0] if len(found) == 1 else None


def _freed_axes(graph: Graph, index: int, name: str) -> list[int]:
    shape = graph.inputs[index].shape or ()
    return [i for i, dim in enumerate(shape) if dim == dims.symbol(name)]


def _part(array: Array, axes: list[int], part: int, size: int) -> Array:
    for axis in axes:
        array = array.take(range(part * size, (part + 1) * size), axis=axis)
    return array


def _close(a: Array, b: Array) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind not in "fVc":
        return bool(np.array_equal(a, b))
    x, y = a.astype(np.complex128), b.astype(np.complex128)
    return bool(np.allclose(x, y, rtol=0, atol=CLOSE * np.abs(y).max(initial=0.0)))
