"""Arrays on a mesh of JAX's devices, each part made from where the whole lies.

Large weights are maps of files: of these no process reads more than the parts of its
own devices, and none makes a copy of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import NamedSharding, PartitionSpec

from graphopt.encoding import unpack
from graphopt.errors import UsageError
from graphopt.index import Split
from graphopt.ir import Graph, Value
from graphopt.ops.constant import Constant
from graphopt.ops.mesh import Shard
from graphopt.passes.sharding import Layout, Mesh
from graphopt.passes.sharding.program import stored as stored_part
from graphopt.types import DType, TensorType
from graphopt.weights import Tensor

from .function import is_data

Array = Any
Index = tuple[slice, ...]

_Spec: Final[Any] = PartitionSpec

REPLICATED: Final[PartitionSpec] = _Spec()
"""What every device has all of."""

_ALIGNMENT: Final = 64
"""Bytes; where an array lies otherwise, each CPU device makes a copy of it."""

_ROWS_BYTES: Final = 1 << 22
"""What is unpacked at a time of weights whose elements do not lie as in memory."""


# --- devices ------------------------------------------------------------------------


def device_mesh(mesh: Mesh, devices: Sequence[Any]) -> jax.sharding.Mesh:
    """The first devices in rows and columns; TPUs by the links between them.

    Raises UsageError where there are too few.
    """
    if len(devices) < mesh.devices:
        platform = devices[0].platform if devices else "no"
        hint = (
            "; a CPU shows several if XLA_FLAGS has"
            f" --xla_force_host_platform_device_count={mesh.devices}"
            if platform == "cpu"
            else ""
        )
        raise UsageError(
            f"the mesh {mesh} has {mesh.devices} devices, but JAX shows"
            f" {len(devices)} {platform} devices{hint}"
        )
    taken = list(devices[: mesh.devices])
    if taken[0].platform == "tpu" and mesh.devices == len(devices):
        rows = mesh_utils.create_device_mesh(mesh.sizes, taken)
    else:
        rows = np.array(taken, object).reshape(mesh.sizes)
    return jax.sharding.Mesh(rows, mesh.names)


def spec_of(layout: Layout, mesh: Mesh) -> PartitionSpec:
    """A layout without partial states, in JAX's words."""
    splits = [
        (name, state.dim)
        for name, state in zip(mesh.names, layout, strict=True)
        if isinstance(state, Split)
    ]
    return _spec(splits)


def _spec(splits: Sequence[tuple[str, int]]) -> PartitionSpec:
    """Of ``(mesh axis, dim)``; of several axes of one dim the first is outermost."""
    rank = max((dim for _, dim in splits), default=-1) + 1
    axes = [tuple(name for name, dim in splits if dim == d) for d in range(rank)]
    made: PartitionSpec = _Spec(*[names or None for names in axes])
    return made


def whole_shape(
    shape: Sequence[int], spec: PartitionSpec, mesh: Mesh
) -> tuple[int, ...]:
    """The dims of an array of which devices hold parts of these."""
    ways = dict(mesh.axes)
    whole = list(shape)
    for dim, names in enumerate(spec):
        for name in (names,) if isinstance(names, str) else names or ():
            whole[dim] *= ways[name]
    return tuple(whole)


# --- weights ------------------------------------------------------------------------


@dataclass(frozen=True)
class Weight:
    """A tensor of the model, and how devices hold it. ``value`` is what each has."""

    value: Value
    tensor: Tensor
    spec: PartitionSpec


def weights_of(
    graph: Graph, known: Collection[Value] = frozenset()
) -> dict[str, Weight]:
    """The stored parts and whole weights that a local graph reads, by name.

    A weight that is split in two ways counts as two. Constants that a program holds
    itself, being small or ``known``, are none.
    """
    found: dict[Value, tuple[str, Weight]] = {}
    for home, value in _read(graph):
        part = stored_part(value) if value not in found and value not in known else None
        if part is None or not (part[1] or is_data(part[0].tensor)):
            continue
        constant, splits = part
        name = home.names.get(constant) or graph.names.get(constant) or "weight"
        spec = _spec([(axis, dim) for axis, _, dim in splits])
        found[value] = name, Weight(value, constant.tensor, spec)
    named: dict[str, Weight] = {}
    for stem, weight in found.values():
        name = stem
        while name in named:
            name = f"{stem}_{len(named)}"
        named[name] = weight
    return named


def _read(graph: Graph) -> Iterator[tuple[Graph, Value]]:
    """What ops and outputs read of weights: not the steps on the way to a part."""
    seen: set[int] = set()
    homes = [graph, *(b for _, op in graph.walk() for b in op.bodies)]
    for home in homes:
        if id(home) in seen:
            continue
        seen.add(id(home))
        for op in home.ops:
            if isinstance(op, Shard) and stored_part(op) is not None:
                continue
            for operand in op.operands:
                if isinstance(operand, Constant | Shard):
                    yield home, operand
        for value in home.outputs:
            if isinstance(value, Constant | Shard):
                yield home, value


# --- arrays -------------------------------------------------------------------------


def placed(
    shape: Sequence[int], sharding: NamedSharding, part: Callable[[Index], Array]
) -> jax.Array:
    """The array whose part at an index is ``part(index)``, asked once for each."""
    made: dict[tuple[tuple[int, int, int], ...], Array] = {}

    def once(index: Index | None) -> Array:
        assert index is not None
        bounds = zip(index, shape, strict=True)
        key = tuple([where.indices(size) for where, size in bounds])
        if key not in made:
            made[key] = part(index)
        return made[key]

    with jax.enable_x64(True):
        return jax.make_array_from_callback(tuple(shape), sharding, once)


def stored(weight: Weight, sharding: NamedSharding) -> jax.Array:
    """A weight on its devices; what several of a process hold alike is there once."""
    on_cpu = sharding.mesh.devices.flat[0].platform == "cpu"

    def part(index: Index) -> Array:
        array = part_of(weight.tensor, index)
        return _aligned(array) if on_cpu else array

    return placed(weight.tensor.shape, sharding, part)


def _aligned(array: Array) -> Array:
    """The array itself, or a copy, as CPU devices read it where it lies."""
    if array.flags.c_contiguous and array.ctypes.data % _ALIGNMENT == 0:
        return array
    room = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    first = -room.ctypes.data % _ALIGNMENT
    made = room[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


def part_of(tensor: Tensor, index: Index) -> Array:
    """The part of a weight at an index: a view where elements lie as in memory.

    Others (of few bits, or at odd places of a file) are unpacked some rows at a time.
    """
    place, dtype = tensor.location, tensor.dtype
    if place is None or not tensor.shape or not tensor.size:
        return tensor.array()[index]
    odd = dtype.bits < 8 or dtype is DType.BOOL or place.offset % dtype.numpy.alignment
    if not odd:
        return tensor.array()[index]
    count, *others = tensor.shape
    bits = tensor.size // count * dtype.bits
    step = max(_ROWS_BYTES * 8 // bits // 24 * 24, 24)  # rows that end with a byte
    rows, rest = range(count)[index[0]], index[1:]
    view, parts = place.view(), []
    first = rows.start // 24 * 24
    for start in range(first, rows.stop, step):
        stop = min(start + step, count)
        packed = view[start * bits // 8 : -(-stop * bits // 8)]
        array = unpack(packed, dtype, (stop - start, *others))
        inside = slice(max(rows.start - start, 0), min(rows.stop, stop) - start)
        parts.append(array[inside][(slice(None), *rest)])
    return np.concatenate(parts)


def to_host(array: jax.Array) -> Array:
    """All of an array, in every process."""
    if array.is_fully_addressable:
        return np.asarray(array)
    if array.is_fully_replicated:
        return np.asarray(array.addressable_data(0))
    return np.asarray(process_allgather(array, tiled=True))


def type_of(value: Value) -> tuple[DType, tuple[int, ...]] | None:
    """Element type and dims of a tensor that has known ones."""
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.dtype is None or type_.shape is None:
        return None
    shape = [dim for dim in type_.shape if isinstance(dim, int)]
    return (type_.dtype, tuple(shape)) if len(shape) == len(type_.shape) else None


def bytes_held(weights: Mapping[str, Weight]) -> int:
    """Bytes of all weights on one device."""
    total = 0
    for weight in weights.values():
        part = type_of(weight.value)
        assert part is not None
        dtype, shape = part
        total += int(np.prod(shape, dtype=np.int64)) * dtype.numpy.itemsize
    return total
