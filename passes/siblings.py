"""Products and convolutions of one operand with several weights, as one, split."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from graphopt.dims import product
from graphopt.ir import Graph, Op, Value
from graphopt.ops import Add, Concat, Conv, MatMul, Split
from graphopt.ops.bodies import vector
from graphopt.pipeline import Pass
from graphopt.rewrite import Log, substitute


@dataclass(frozen=True)
class Branch:
    """``x @ weight + bias``; the value is the last of these ops."""

    value: Value
    weight: Value
    bias: Value | None


def branches(graph: Graph) -> Iterator[tuple[Value, list[Branch]]]:
    """Values that several constant matrices are multiplied with, and the products."""
    found: dict[tuple[Value, int], list[MatMul]] = {}
    readers: dict[Value, list[Op]] = {}
    for op in graph.ops:
        for operand in op.operands:
            if operand is not None:
                readers.setdefault(operand, []).append(op)
        if isinstance(op, MatMul):
            x, weight = op.operands
            tensor = None if weight is None else weight.constant
            if x is not None and tensor is not None and len(tensor.shape) == 2:
                found.setdefault((x, tensor.shape[0]), []).append(op)
    for (x, _), products in found.items():
        if len(products) < 2 or x.rank is None or x.constant is not None:
            continue
        yield x, [_branch(product, readers, graph) for product in products]


def _branch(product: MatMul, readers: dict[Value, list[Op]], graph: Graph) -> Branch:
    weight = product.operands[1]
    assert weight is not None
    users = readers.get(product, [])
    if len(users) == 1 and isinstance(users[0], Add) and product not in graph.outputs:
        a, b = users[0].operands
        bias = b if a is product else a
        tensor = None if bias is None else bias.constant
        if tensor is not None and (*tensor.shape,) == _columns(weight):
            return Branch(users[0], weight, bias)
    return Branch(product, weight, None)


def convolutions(graph: Graph, pixels: int) -> Iterator[list[Conv]]:
    """Convolutions of one value with windows that move alike, and constant weights.

    Of at most ``pixels`` each: splitting a large image costs more than it saves.
    """
    found: dict[Hashable, list[Conv]] = {}
    for op in graph.ops:
        if not isinstance(op, Conv) or op.group != 1 or op.operands[0] is None:
            continue
        weights = op.operands[1:]
        if any(v is None or v.constant is None for v in weights):
            continue
        size = None if op.shape is None else product(op.shape[2:])
        if not isinstance(size, int) or size > pixels:
            continue
        window = weights[0].shape[2:]  # type: ignore[union-attr,index]
        alike = (window, *sorted((k, v) for k, v in op.attrs.items()), len(weights))
        found.setdefault((op.operands[0], alike), []).append(op)
    for group in found.values():
        if len(group) > 1 and group[0].operands[0].constant is None:  # type: ignore[union-attr]
            yield group


def _convolved(group: Sequence[Conv]) -> dict[Value, Value]:
    """One convolution with all channels of the group, split again."""
    weights = [
        Concat(*[op.operands[i] for op in group], axis=0)
        for i in range(1, len(group[0].operands))
    ]
    made = group[0].with_operands([group[0].operands[0], *weights])
    widths = [op.operands[1].constant.shape[0] for op in group]  # type: ignore[union-attr]
    parts = Split(made, vector(*widths), axis=1, outs=len(group)).results
    return dict(zip(group, parts, strict=True))


@dataclass(frozen=True)
class MergeSiblings(Pass):
    """Multiply once by all weights that one operand is multiplied or convolved with.

    x @ v + b, x @ w + c   -->   split(x @ [v w] + [b c])
    conv(x, v), conv(x, w) -->   split(conv(x, [v w]))
    """

    level = 2
    pixels: int = 1024

    def run(self, graph: Graph, log: Log) -> Graph:
        mapping: dict[Value, Value] = {}
        for x, group in branches(graph):
            biased = [b for b in group if b.bias is not None]
            chosen = biased if len(biased) > 1 else [b for b in group if b.bias is None]
            if len(chosen) < 2:
                continue
            mapping.update(_merged(x, chosen))
            log.fired["merge_siblings"] += 1
        for convs in convolutions(graph, self.pixels):
            mapping.update(_convolved(convs))
            log.fired["merge_convolutions"] += 1
        return substitute(graph, mapping) if mapping else graph


def _merged(x: Value, group: Sequence[Branch]) -> dict[Value, Value]:
    made: Value = MatMul(x, Concat(*[b.weight for b in group], axis=1))
    if group[0].bias is not None:
        made = Add(made, Concat(*[b.bias for b in group], axis=0))
    widths = [width for b in group for width in _columns(b.weight)]
    parts = Split(made, vector(*widths), axis=-1, outs=len(group)).results
    return dict(zip([b.value for b in group], parts, strict=True))


def _columns(weight: Value) -> tuple[int, ...]:
    tensor = weight.constant
    assert tensor is not None
    return tuple(tensor.shape[1:])
