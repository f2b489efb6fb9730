"""What a graph costs: floating-point operations, bytes moved, memory, roofline.

Read from the index maps alone, so symbolic dims give symbolic costs. Composite ops cost
what their bodies cost, ops with regions what a run of these costs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import Final

from . import dims, index
from .dims import Dim
from .ir import Graph, Op, Value
from .ops import Constant, If, Loop, Scan
from .ops.strips import Strips
from .ops.structured import Composite, Structured
from .ops.tiled import Tiled
from .types import TensorType, Type

KNOWN: Final = 1 << 14
"""Operations of so many ops are kept: tilings of a graph ask for the same ones."""


@dataclass(frozen=True)
class OpCost:
    """Floating-point operations and bytes moved by one run of an op; None: unknown."""

    flops: Dim
    bytes: Dim


@dataclass(frozen=True)
class Cost:
    """What one run of a graph costs.

    ``flops`` and ``bytes`` (operands read and results written, each op by itself) are
    dims: expressions of the model's symbols, None for one that is too long. ``peak`` is
    the largest sum of live activations in bytes when ops run in graph order, weights
    apart, also a dim; None where a size is not known. ``unknown`` counts the kinds of
    op whose cost is not known and not in the sums.
    """

    flops: Dim
    bytes: Dim
    parameters: int
    parameter_bytes: int
    peak: Dim
    unknown: Mapping[str, int] = field(default_factory=dict)


def cost(graph: Graph, binding: Mapping[str, int] | None = None) -> Cost:
    """What a run of ``graph`` costs; ``binding`` gives symbolic dims their sizes."""
    binding = dict(binding or {})
    each, unknown = _cost_of(graph, binding)
    weights = graph.tensors()
    return Cost(
        flops=each.flops,
        bytes=each.bytes,
        parameters=sum(tensor.size for tensor in weights),
        parameter_bytes=sum(tensor.nbytes for tensor in weights),
        peak=peak_memory(graph, binding),
        unknown=dict(unknown),
    )


def op_cost(op: Op) -> OpCost:
    """The cost of one op by its index maps, by its body, or by its regions.

    Ops in regions whose cost is not known are left out.
    """
    if isinstance(op, Constant):
        return OpCost(0, 0)
    if op.bodies:
        return _cost_of_regions(op, {})[0]
    domain = _domain_of(op)
    if domain is None:
        return OpCost(op_flops(op), _traffic(op))
    return OpCost(index.flops(domain), index.bytes_moved(domain, _itemsizes(op)))


@lru_cache(maxsize=KNOWN)
def op_flops(op: Op) -> Dim:
    """The floating-point operations of `op_cost` alone, which are found much sooner."""
    if isinstance(op, Constant):
        return 0
    if op.bodies:
        return _cost_of_regions(op, {})[0].flops
    domain = _domain_of(op)
    if domain is not None:
        return index.flops(domain)
    if isinstance(op, Composite) and not isinstance(op, Structured):
        return _flops_of_body(op)
    return None


def _flops_of_body(op: Composite) -> Dim:
    if op.expansion is None:
        return None
    return _sum(map(op_flops, _between(op.expansion, op.operands)))


def _domain_of(op: Op) -> index.Domain | None:
    """What an op is indexed over; None where it has no index maps."""
    maps = op.index_maps() if isinstance(op, Structured) else None
    if not isinstance(op, Structured) or maps is None:
        return None
    shapes = [None if v is None else v.shape for v in op.operands]
    return index.domain(maps, shapes, op.extents())


def roofline(
    cost: OpCost | Cost, flops_per_second: float, bytes_per_second: float
) -> float | None:
    """The seconds that a run takes at least: to compute, or to move what it reads.

    None where the cost is not a number. Williams, Waterman and Patterson, "Roofline: an
    insightful visual performance model for multicore architectures", CACM 52 (2009).
    """
    if not isinstance(cost.flops, int) or not isinstance(cost.bytes, int):
        return None
    return max(cost.flops / flops_per_second, cost.bytes / bytes_per_second)


# --- operations and bytes -----------------------------------------------------------


def _cost_of(graph: Graph, binding: Mapping[str, int]) -> tuple[OpCost, Counter[str]]:
    """The sums over the ops of a graph, and how many ops of each kind they lack."""
    flops: list[Dim] = []
    moved: list[Dim] = []
    unknown: Counter[str] = Counter()
    for op in graph.ops:
        if op.bodies:
            each, inside = _cost_of_regions(op, binding)
            unknown.update(inside)
        else:
            each = op_cost(op)
        if each.flops is None or each.bytes is None:
            unknown[op.label] += 1
        # Numbers where there are: a long sum of expressions would be unknown.
        flops.append(dims.substitute(each.flops or 0, binding))
        moved.append(dims.substitute(each.bytes or 0, binding))
    return OpCost(_sum(flops), _sum(moved)), unknown


def _cost_of_regions(op: Op, binding: Mapping[str, int]) -> tuple[OpCost, Counter[str]]:
    """All runs of the bodies of an op; of the branches of an If, the dearer one.

    Nothing where it is not known how often they run.
    """
    if isinstance(op, Composite) and not isinstance(op, Tiled | Strips):
        return OpCost(_flops_of_body(op), _traffic(op)), Counter()
    bodies = [_cost_of(body, binding) for body in op.bodies]
    if isinstance(op, If):
        flops = reduce(dims.maximum, [each.flops for each, _ in bodies])
        moved = reduce(dims.maximum, [each.bytes for each, _ in bodies])
        return OpCost(flops, moved), sum((found for _, found in bodies), Counter())
    ((each, unknown),) = bodies
    count = trips(op)
    if count is None:
        return OpCost(None, None), Counter()
    return OpCost(dims.mul(count, each.flops), dims.mul(count, each.bytes)), unknown


def trips(op: Op) -> Dim:
    """How often an op runs its body; None where that is not known."""
    if isinstance(op, Loop):
        return op.trips()
    if isinstance(op, Tiled):
        return int(op.count)
    if isinstance(op, Strips):
        return op.count
    return op.length() if isinstance(op, Scan) else None


def _between(results: Iterable[Value], operands: Iterable[Value | None]) -> list[Op]:
    """The ops of a body: those between its results and its operands."""
    stop = {v.op for v in operands if v is not None}
    found: dict[Op, None] = {}
    stack = [v.op for v in results]
    while stack:
        op = stack.pop()
        if op is None or op in stop or op in found:
            continue
        found[op] = None
        stack.extend([v.op for v in op.operands if v is not None])
    return list(found)


def graph_flops(graph: Graph, binding: Mapping[str, int]) -> Dim:
    """The operations of `cost` alone."""
    known = tuple(binding.items())
    return _sum(_flops_at(op, known) for op in graph.ops)


@lru_cache(maxsize=KNOWN)
def _flops_at(op: Op, known: tuple[tuple[str, int], ...]) -> Dim:
    """Those of an op at these sizes of symbolic dims, 0 where they are not known."""
    binding = dict(known)
    flops = _cost_of_regions(op, binding)[0].flops if op.bodies else op_flops(op)
    return dims.substitute(flops or 0, binding)


def _itemsizes(op: Op) -> list[float]:
    values = [*op.operands, *op.results]
    return [0 if v is None or v.dtype is None else v.dtype.bits / 8 for v in values]


def _traffic(op: Op) -> Dim:
    """Bytes of all operands and results."""
    return _sum(_bytes_of(v) for v in (*op.operands, *op.results) if v is not None)


def _sum(parts: Iterable[Dim]) -> Dim:
    total: Dim = 0
    for part in parts:
        total = dims.add(total, part)
    return total


# --- memory -------------------------------------------------------------------------


def peak_memory(graph: Graph, binding: Mapping[str, int]) -> Dim:
    """Most bytes of values alive at once, ops in graph order, freed at last use.

    Every result has memory of its own. Inputs count until their last use, constants
    never; while an op runs its bodies, the most that one of them needs is added: of
    tiles, that is one. An expression where ``binding`` leaves symbols; None where a
    size is unknown.
    """
    return _peak(graph, binding, graph.inputs)


def _peak(graph: Graph, binding: Mapping[str, int], given: Sequence[Value]) -> Dim:
    """``given`` are the inputs that take memory which counts here."""
    last: dict[Value, int] = {}
    for i, op in enumerate(graph.ops):
        for value in op.operands:
            if value is not None:
                last[value] = i
    for value in graph.outputs:
        last[value] = len(graph.ops)
    sizes: dict[Value, Dim] = dict.fromkeys(graph.inputs, 0)
    made = [r for op in graph.ops if not isinstance(op, Constant) for r in op.results]
    for value in [*given, *made]:
        size = dims.substitute(_bytes_of(value), binding)
        if size is None:
            return None
        sizes[value] = size
    freed: defaultdict[int, Dim] = defaultdict(int)
    for value, i in last.items():
        freed[i] = dims.add(freed[i], sizes.get(value, 0))
    alive = _sum(sizes[p] for p in graph.inputs if p in last)
    peaks = [alive]
    for i, op in enumerate(graph.ops):
        if isinstance(op, Constant):
            continue
        parts = op.tiles if isinstance(op, Tiled | Strips) else ()
        inside = [_peak(body, binding, parts) for body in op.bodies]
        alive = dims.add(alive, _sum(sizes[r] for r in op.results))
        for need in [0, *inside]:
            if need is None:
                return None
            _raise(peaks, dims.add(alive, need))
        unread = _sum(sizes[r] for r in op.results if r not in last)
        alive = dims.sub(alive, dims.add(freed[i], unread))
    return reduce(dims.maximum, peaks) if len(peaks) <= _PEAKS else None


_PEAKS = 8  # more expressions, of which any may be the largest, say nothing to anybody


def _raise(peaks: list[Dim], other: Dim) -> None:
    """Add what may be larger than all there are; leave out what cannot be largest."""
    if any(dims.at_least(dims.sub(peak, other), 0) for peak in peaks):
        return
    peaks[:] = [p for p in peaks if not dims.at_least(dims.sub(other, p), 0)]
    peaks.append(other)


def value_bytes(value: Value, binding: Mapping[str, int]) -> int | None:
    """Bytes of a tensor, None where its type or a dim is not known."""
    return type_bytes(value.type, binding)


def type_bytes(type_: Type, binding: Mapping[str, int]) -> int | None:
    """The same of any value of a type."""
    size = dims.substitute(_of_type(type_), binding)
    return size if isinstance(size, int) else None


def _bytes_of(value: Value) -> Dim:
    return _of_type(value.type)


def _of_type(type_: Type) -> Dim:
    if not isinstance(type_, TensorType) or type_.shape is None or type_.dtype is None:
        return None
    return dims.ceildiv(dims.mul(dims.product(type_.shape), type_.dtype.bits), 8)
