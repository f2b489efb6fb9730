"""What a graph costs: floating-point operations, bytes moved, memory, roofline.

Read from the index maps alone, so symbolic dims give symbolic costs. Composite ops cost
what their bodies cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from . import dims, index
from .dims import Dim
from .ir import Graph, Op, Value
from .ops import Constant
from .ops.structured import Composite, Structured
from .types import TensorType


@dataclass(frozen=True)
class OpCost:
    """Floating-point operations and bytes moved by one run of an op; None: unknown."""

    flops: Dim
    bytes: Dim


@dataclass(frozen=True)
class Cost:
    """What one run of a graph costs.

    ``flops`` and ``bytes`` (operands read and results written, each op by itself) are
    dims: expressions of the model's symbols. ``peak`` is the largest sum of live
    activations in bytes when ops run in graph order, weights apart; None where a size is
    not known. ``unknown`` counts the kinds of op that say nothing of their cost.
    """

    flops: Dim
    bytes: Dim
    parameters: int
    parameter_bytes: int
    peak: int | None
    unknown: Mapping[str, int] = field(default_factory=dict)


def op_cost(op: Op) -> OpCost:
    """The cost of one op by its index maps, or by its body."""
    if isinstance(op, Constant):
        return OpCost(0, 0)
    if isinstance(op, Structured):
        maps = op.index_maps()
        if maps is None:
            return OpCost(None, _traffic(op))
        shapes = [None if v is None else v.shape for v in op.operands]
        domain = index.domain(maps, shapes, op.extents())
        return OpCost(index.flops(domain), index.bytes_moved(domain, _itemsizes(op)))
    if isinstance(op, Composite) and op.expansion is not None:
        inner = [op_cost(part) for part in _between(op.expansion, op.operands)]
        return OpCost(_sum(c.flops for c in inner), _traffic(op))
    return OpCost(None, _traffic(op))


def cost(graph: Graph, binding: Mapping[str, int] | None = None) -> Cost:
    """What a run of ``graph`` costs; ``binding`` gives symbolic dims their sizes."""
    binding = dict(binding or {})
    flops: list[Dim] = []
    moved: list[Dim] = []
    unknown: Counter[str] = Counter()
    weights: dict[Op, int] = {}
    for _, op in graph.walk():
        if isinstance(op, Constant):
            weights[op] = op.tensor.nbytes
            continue
        each = op_cost(op)
        if each.flops is None:
            unknown[op.kind] += 1
        flops.append(dims.substitute(each.flops, binding) if each.flops else 0)
        moved.append(dims.substitute(each.bytes, binding) if each.bytes else 0)
    return Cost(
        flops=_sum(flops),
        bytes=_sum(moved),
        parameters=sum(op.tensor.size for op in weights if isinstance(op, Constant)),
        parameter_bytes=sum(weights.values()),
        peak=peak_memory(graph, binding),
        unknown=dict(unknown),
    )


def peak_memory(graph: Graph, binding: Mapping[str, int]) -> int | None:
    """Most bytes of values alive at once, ops in graph order, freed at last use.

    Inputs count while they are read, constants never. None where a size is unknown.
    """
    last: dict[Value, int] = {}
    for i, op in enumerate(graph.ops):
        for value in op.operands:
            if value is not None:
                last[value] = i
    for value in graph.outputs:
        last[value] = len(graph.ops)
    sizes: dict[Value, int] = {}
    for value in [*graph.inputs, *(r for op in graph.ops for r in op.results)]:
        size = value_bytes(value, binding)
        if size is None:
            return None
        sizes[value] = 0 if isinstance(value, Constant) else size
    alive = sum(sizes[p] for p in graph.inputs)
    peak = alive
    dying: dict[int, list[Value]] = {}
    for value, i in last.items():
        dying.setdefault(i, []).append(value)
    for i, op in enumerate(graph.ops):
        alive += sum(sizes[r] for r in op.results)
        peak = max(peak, alive)
        alive -= sum(sizes[v] for v in dying.get(i, ()))
        alive -= sum(sizes[r] for r in op.results if r not in last)
    return peak


def value_bytes(value: Value, binding: Mapping[str, int]) -> int | None:
    """Bytes of a tensor, None where its type or a dim is not known."""
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.shape is None or type_.dtype is None:
        return None
    size = dims.substitute(dims.product(type_.shape), binding)
    return -(-size * type_.dtype.bits // 8) if isinstance(size, int) else None


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


def _itemsizes(op: Op) -> list[float]:
    values = [*op.operands, *op.results]
    return [0 if v is None or v.dtype is None else v.dtype.bits / 8 for v in values]


def _traffic(op: Op) -> Dim:
    """Bytes of all operands and results."""
    total: Dim = 0
    for value in [*op.operands, *op.results]:
        if value is None:
            continue
        if value.shape is None or value.dtype is None:
            return None
        bits = dims.mul(dims.product(value.shape), value.dtype.bits)
        total = dims.add(total, dims.ceildiv(bits, 8))
    return total


def _sum(parts: Iterable[Dim]) -> Dim:
    total: Dim = 0
    for part in parts:
        total = dims.add(total, part)
    return total
