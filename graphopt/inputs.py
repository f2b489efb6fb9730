"""Random inputs that make sense for a model, and sizes for its symbolic dims."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from . import dims
from .dims import Dim, Expr
from .errors import UsageError
from .ir import Graph
from .ops.constant import Constant
from .roles import Role, roles
from .types import (
    DType,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
)
from .unnamed import by_place, shown

Array = Any
Sizes = dict[str, int]

STYLES: Final = ("normal", "positive", "unit", "large")
"""How floats are drawn: N(0, 1), |N(0, 1)| + 0.01, [0, 1), [1, 3)."""

WIDE_STYLES: Final = ("wide", *STYLES)
"""First N(0, 1) with every fifth number ten times as large: bounds show."""

_WORDS: Final = (
    "graph",
    "value",
    "operand",
    "",
    "tile",
    "mesh",
    "é",
    "a b",
    "0",
    "-1.5",
)
LARGEST: Final = 4 << 30
"""Bytes of the largest array that is drawn."""

TRIED: Final = 64
"""So many sizes are tried where a model does not take the usual ones."""


def random_inputs(
    graph: Graph,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    *,
    style: str = "normal",
    only: Collection[str] | None = None,
) -> dict[str, Array]:
    """Inputs by name, those with a default left out, or ``only`` some of them.

    The same seed gives the same arrays. ``sizes`` are those of symbolic dims (see
    `bindings`); others are 2. ``style`` is one of `WIDE_STYLES`. Raises UsageError for
    a type of which there are no random values, and for what would be too large.
    """
    sizes = dict(sizes or {})
    wanted = [p for p in graph.inputs if p.default is None]
    if only is not None:
        wanted = [p for p in wanted if p.name in only]
    found = roles(graph, wanted, sizes)
    return {
        p.name: random_value(p.type, found[p], p.name, seed, sizes, style)
        for p in wanted
    }


def overridden(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Other numbers, near those of the default, for each float that has one."""
    found = {}
    for p in graph.inputs:
        if p.default is not None and p.default.dtype.is_float:
            rng = np.random.default_rng([seed, zlib.crc32(p.name.encode())])
            array = p.default.array()
            factors = rng.uniform(0.75, 1.25, array.shape)
            found[p.name] = (array.astype(np.float64) * factors).astype(array.dtype)
    return found


def random_value(
    type_: Type,
    role: Role,
    name: str,
    seed: int,
    sizes: Mapping[str, int],
    style: str = "normal",
) -> Array:
    """One value of a type, for its role. ``name`` tells values of one seed apart."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if isinstance(type_, SequenceType):
        return [
            random_value(type_.element, role, f"{name}[{i}]", seed, sizes, style)
            for i in range(2)
        ]
    if isinstance(type_, OptionalType):
        return random_value(type_.element, role, name, seed, sizes, style)
    if not isinstance(type_, TensorType) or type_.dtype is None:
        raise UsageError(f"no random values of type {type_}; pass inputs", where=name)
    shape = shape_of(type_, name, sizes)
    need = math.prod(shape) * max(type_.dtype.numpy.itemsize, 8)  # as it is drawn
    if need > LARGEST:
        raise UsageError(
            f"random values for {type_} {list(shape)} would take {need >> 20:,} MiB;"
            " pass inputs, or smaller dims",
            where=name,
        )
    array = np.asarray(_draw(type_.dtype, shape, role, name, rng, style))
    return array if array.dtype == object else array.astype(type_.dtype.numpy)


def shape_of(type_: TensorType, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a tensor under given sizes; unknown dims are ``?name:axis``."""
    if type_.shape is None:
        rank = sizes.get(by_place(name, "rank"), 2)
        return tuple(sizes.get(by_place(name, i), 2) for i in range(rank))
    shape = []
    for i, dim in enumerate(type_.shape):
        if dim is None:
            shape.append(sizes.get(by_place(name, i), 2))
            continue
        values = {s: sizes.get(s, 2) for s in dims.symbols(dim)}
        shape.append(max(dims.evaluate(dim, values), 0))
    return tuple(shape)


def _draw(
    dtype: DType,
    shape: tuple[int, ...],
    role: Role,
    name: str,
    rng: np.random.Generator,
    style: str,
) -> Array:
    lower = name.lower()
    if dtype is DType.STRING:
        return np.array(rng.choice(_WORDS, shape), dtype=object).reshape(shape)
    if role.steers and dtype is not DType.BOOL:
        array = np.ones(shape, np.int64)
        if role.low == -1 and array.size:
            array.flat[0] = -1  # a shape to which anything can be reshaped
        return array
    flags = role.mask or "mask" in lower or "is_" in lower
    if dtype is DType.BOOL:
        return rng.random(shape) < (0.9 if flags else 0.5)
    if dtype.is_complex:
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)
    if role.low is not None and role.high is not None:
        if dtype.is_float and (role.high - role.low) % 1:
            return rng.uniform(role.low, role.high, shape)
        whole = rng.integers(
            int(role.low), max(int(role.high), int(role.low) + 1), shape
        )
        return whole if dtype.is_integer else whole + 0.0
    if flags:
        return (rng.random(shape) < 0.9).astype(np.int64)
    if dtype.is_float:
        return _floats(dtype, shape, rng, style)
    if role.choices and not shape:
        return np.array(role.choices[int(rng.integers(len(role.choices)))])
    if any(word in lower for word in ("length", "lens", "_len", "num_")):
        return np.full(shape, 1) + rng.integers(0, 2, shape)
    return _integers(dtype, shape, rng)


def _floats(
    dtype: DType, shape: tuple[int, ...], rng: np.random.Generator, style: str
) -> Array:
    if style == "unit":
        return rng.random(shape)
    if style == "large":
        return 1 + 2 * rng.random(shape)
    normal = rng.normal(size=shape)
    if style == "wide":
        return np.where(rng.random(shape) < 0.2, 10, 1) * normal
    return np.abs(normal) + 0.01 if style == "positive" else normal


def _integers(dtype: DType, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if dtype is DType.U8:
        return rng.integers(0, 256, shape)  # a picture
    if dtype in (DType.I32, DType.I64):
        return rng.integers(0, 21, shape)  # something is counted
    low = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
    high = 1 << (dtype.bits - 1 if dtype.is_signed else dtype.bits)
    return rng.integers(max(low, -20), min(high, 21), shape)


# --- sizes --------------------------------------------------------------------------


def bindings(
    graph: Graph, fixed: Mapping[str, int] = MappingProxyType({})
) -> Iterator[Sizes]:
    """Sizes for all symbols of the inputs, in the order in which to try them.

    Those in ``fixed`` have one size.

    A model may have been exported for one size and hide it: whoever tries goes on until
    it runs. The first ones tell batch from length and odd from even; later ones are
    uniform, or numbers that the model's own constants mention.
    """
    names = _symbols(graph)
    if not names:
        yield {}
        return
    batch = [n for n in names if names[n] == "batch"]
    images = [n for n in names if names[n] == "image"]
    ranks = [n for n in names if n.endswith(":rank")]
    others = [n for n in names if n not in {*batch, *images, *ranks}]
    seen: set[tuple[int, ...]] = set()
    for plan in _plans(others, list(_mentioned(graph))):
        first, image, rest, rank = plan
        sizes = dict.fromkeys(batch, first) | dict.fromkeys(images, image)
        sizes |= dict(zip(others, rest, strict=True)) | dict.fromkeys(ranks, rank)
        sizes |= fixed
        sizes |= {**_derived(sizes), **fixed}
        key = tuple(sizes[name] for name in names)
        if key not in seen:
            seen.add(key)
            yield {name: sizes[name] for name in names}


def usual(graph: Graph, fixed: Mapping[str, int] = MappingProxyType({})) -> Sizes:
    """Sizes as callers often have them: one sample, images of 224, lengths of 128.

    Those in ``fixed`` are as given; not every model runs on the others, see
    `graphopt.fitting.fitting`.
    """
    kinds = {"batch": 1, "image": 224, "": 128}
    names = _symbols(graph)
    sizes = {n: 2 if n.endswith(":rank") else kinds[k] for n, k in names.items()}
    sizes |= fixed
    sizes |= {**_derived(sizes), **fixed}
    return {name: sizes[name] for name in names}


def likely(
    graph: Graph, fixed: Mapping[str, int] = MappingProxyType({})
) -> Iterator[Sizes]:
    """Usual sizes, the largest first: of a half, a quarter, …, 1; twice; then any.

    At each step one of them is so small, then all are: models hold tables of positions,
    and exporters bake 1 in.
    """
    sizes = usual(graph, fixed)
    yield sizes
    given = {*fixed, *_derived(sizes)}
    free = {n: size for n, size in sizes.items() if n not in given and size != 1}
    for step in range(1, max(free.values(), default=1).bit_length()):
        less = {name: max(1, size >> step) for name, size in free.items()}
        if len(free) > 1:
            for name, size in less.items():
                yield usual(graph, {**fixed, name: size})
        yield usual(graph, {**fixed, **less})
    yield usual(graph, {**fixed, **{name: 2 * size for name, size in free.items()}})
    yield from bindings(graph, fixed)


def neighbours(
    graph: Graph, sizes: Sizes, fixed: Mapping[str, int] = MappingProxyType({})
) -> Iterator[Sizes]:
    """Sizes near those on which a model runs: another batch, then other lengths."""
    names = {n: kind for n, kind in _symbols(graph).items() if n not in fixed}
    for kinds in (("batch",), ("image", "")):
        changed = {n: sizes[n] + 1 for n in names if names[n] in kinds}
        if changed:
            yield {**sizes, **changed, **_derived({**sizes, **changed}), **fixed}


def alone(
    graph: Graph, sizes: Sizes, fixed: Mapping[str, int] = MappingProxyType({})
) -> Iterator[Sizes]:
    """Sizes of which one is another than those on which a model runs."""
    for name in _symbols(graph):
        changed = {**sizes, name: sizes[name] + 1, **fixed}
        if changed != sizes:
            yield {**changed, **_derived(changed), **fixed}


def _plans(
    others: list[str], mentioned: list[int]
) -> Iterator[tuple[int, int, list[int], int]]:
    """Batch, sides of pictures, other extents, and the rank where that is unknown."""
    count = len(others)
    yield 2, 32, [3 + i for i in range(count)], 2
    yield 3, 64, [5 + 2 * i for i in range(count)], 3
    yield 2, 32, [4] * count, 4
    yield 3, 64, [6] * count, 1
    yield 1, 32, [3 + i for i in range(count)], 2
    yield 1, 64, [5 + 2 * i for i in range(count)], 4
    yield 2, 224, [2] * count, 3
    yield 3, 256, [3] * count, 2
    yield 1, 224, [1] * count, 0
    for size in (8, 16, 64):
        yield 1, size, [size] * count, 4
        yield 2, size, [size] * count, 2
    for size in (*mentioned, 128, 512, 1024):
        yield 1, size, [size] * count, 2
    for size in mentioned:
        yield size, size, [size] * count, 2


def _symbols(graph: Graph) -> dict[str, str]:
    """Every symbol that inputs are sized by: "batch", "image" or ""."""
    found: dict[str, str] = {}
    for parameter in graph.inputs:
        if parameter.default is not None:
            continue
        type_: Any = parameter.type
        while isinstance(type_, (SequenceType, OptionalType)):
            type_ = type_.element
        if not isinstance(type_, TensorType):
            continue
        if type_.shape is None:
            found[by_place(parameter.name, "rank")] = ""
            found |= {by_place(parameter.name, i): "" for i in range(4)}
            continue
        for i, dim in enumerate(type_.shape):
            for name in _names_of(dim, by_place(parameter.name, i)):
                kind = _kind(name, type_, i)
                if not found.get(name):
                    found[name] = kind
    return found


def _names_of(dim: Dim, unknown: str) -> Iterable[str]:
    if dim is None:
        return (unknown,)
    return sorted(dims.symbols(dim)) if isinstance(dim, Expr) else ()


def _is_state(type_: TensorType, axis: int) -> bool:
    """True for the second axis of [2, ?, 128], what a recurrent op carries along."""
    shape = type_.shape or ()
    ends = shape[:1] + shape[2:]
    return axis == 1 and len(shape) == 3 and all(isinstance(d, int) for d in ends)


def _kind(name: str, type_: TensorType, axis: int) -> str:
    rank = len(type_.shape or ())
    picture = rank == 4
    if "batch" in name.lower():
        return "batch"
    if shown(name) != name and _is_state(type_, axis):
        return "batch"
    if picture and axis >= 2 and (type_.shape or ())[1] in (1, 3):
        return "image"
    if picture and axis in (1, 2) and (type_.shape or ())[3] in (1, 3):
        return "image"
    return "batch" if axis == 0 and rank > 1 else ""


def _derived(sizes: Mapping[str, int]) -> Sizes:
    """Symbols whose names are sums of others: ``past_length + length``.

    So is ``total_length``, where the two are there.
    """
    found: Sizes = {}
    for name in sizes:
        stem = name.removeprefix("total_")
        if stem != name and {stem, f"past_{stem}"} <= sizes.keys():
            found[name] = sizes[f"past_{stem}"] + sizes[stem]
            continue
        try:
            dim = dims.parse_dim(name)
        except ValueError:
            continue
        inner = dims.symbols(dim)
        if isinstance(dim, Expr) and name not in inner and inner <= sizes.keys():
            found[name] = max(dims.evaluate(dim, sizes), 0)
    return found


def _mentioned(graph: Graph) -> list[int]:
    """Extents that small integer constants hold, the most likely first."""
    found: dict[int, int] = {}
    for op in graph.ops:
        if isinstance(op, Constant) and op.tensor.dtype is DType.I64:
            for number in op.ints or ():
                if 1 < number <= 1024:
                    found[number] = found.get(number, 0) + 1
    return sorted(found, key=lambda n: (-found[n], n))[:6]
