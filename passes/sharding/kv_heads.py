"""Key and value heads that are fewer than devices, repeated in the weights.

Where fewer heads of keys and values than devices serve the query heads, no device can
have its own, and all would have all. With columns of their weights repeated, each
device has the one that its query heads read::

    attention(q, x W_k, x W_v) = attention(q, x W_k[:, i], x W_v[:, i])

``i`` names the columns of each head as often as there are devices to a head. Shazeer,
arXiv 1911.02150; the repetition as in Pope et al., arXiv 2211.05102, section 3.3.
"""

from __future__ import annotations

from graphopt.ir import Graph, Value
from graphopt.ops import Attention, Expand, Reshape
from graphopt.ops.bodies import vector
from graphopt.substitution import substitute

from .taking import Positions, Taking, blocks


def repeated_heads(graph: Graph, count: int) -> Graph:
    """The graph whose keys and values have ``count`` heads, where that can be.

    All its sizes are known. Keys and values that something else reads (a cache, an
    output) stay as they are, and so do those that do not come from weights alone.
    """
    changed: dict[Value, Value] = {}
    for op in graph.ops:
        found = None
        if isinstance(op, Attention):
            found = _attention(graph, op, count)
        elif isinstance(op, Reshape):
            found = _spelled(graph, op, count)
        if found is not None:
            changed[op] = found
    return substitute(graph, changed) if changed else graph


def key_heads(graph: Graph) -> set[int]:
    """How many heads of keys there are, where several query heads share each."""
    found = set()
    for op in graph.ops:
        if isinstance(op, Attention):
            shared, sizes = op.groups(), op.sizes()
            if shared is not None and shared > 1 and sizes is not None:
                found |= {n for n in (sizes[1][1],) if isinstance(n, int)}
        elif isinstance(op, Reshape):
            spread = _spread(op)
            if spread is not None:
                found.add(spread[1])
    return found


def _attention(graph: Graph, op: Attention, count: int) -> Value | None:
    """attention(q, k, v) with more heads of keys, each for fewer of the queries."""
    sizes, shared = op.sizes(), op.groups()
    if sizes is None or shared is None or op.outs > 1 or op.operand(4) is not None:
        return None
    heads = sizes[1][1]
    if not isinstance(heads, int) or not _fits(heads, shared, count):
        return None
    operands = list(op.operands)
    taken = Taking()
    for at in (1, 2):
        value = operands[at]
        assert value is not None
        assert value.shape is not None
        dim, size = (1, 1) if len(value.shape) == 4 else (2, value.shape[2] // heads)
        wanted = blocks(_copies(heads, count // heads), size)
        operands[at] = taken.of(value, dim, wanted)
        if operands[at] is None:
            return None
    if not taken.is_closed(graph, op):
        return None
    if op.kv_num_heads:
        return op.copy(operands=operands, kv_num_heads=count)
    return op.with_operands(operands)


def _spelled(graph: Graph, op: Reshape, count: int) -> Value | None:
    """reshape(expand(k, [b, g, r, t, d])): with more heads, each fewer times."""
    spread = _spread(op)
    if spread is None:
        return None
    source, heads, shared = spread
    expand = op.operands[0]
    assert expand is not None
    assert expand.op is not None
    if not _fits(heads, shared, count) or expand in graph.outputs:
        return None
    taken = Taking()
    made = taken.of(source, 1, _copies(heads, count // heads))
    others = any(user is not op for user, _ in graph.users.get(expand, ()))
    if made is None or others or not taken.is_closed(graph, expand.op):
        return None
    assert expand.shape is not None
    if count < heads * shared:
        batch, _, _, *rest = expand.shape
        target = vector(batch, count, heads * shared // count, *rest)
        made = Expand(made, target)
    return op.with_operands((made, op.operands[1]))


def _spread(op: Reshape) -> tuple[Value, int, int] | None:
    """What heads are repeated of, how many there are, and how often each is there."""
    expand = op.operands[0]
    if not isinstance(expand, Expand) or op.shape is None or expand.shape is None:
        return None
    source = expand.operands[0]
    if source is None or source.shape is None or len(source.shape) != 5:
        return None
    before, after = source.shape, expand.shape
    (batch, heads, one, *rest), shared = before, after[2]
    whole = (batch, heads * shared, *rest)
    if one != 1 or shared == 1 or op.shape != whole:
        return None
    if after != (batch, heads, shared, *rest) or op.operands[1] is None:
        return None
    return source, heads, shared


def _fits(heads: int, shared: int, count: int) -> bool:
    """True where so many heads are each a part of the old ones' work.

    A single head is what every device reads anyway.
    """
    return count > heads > 1 and not count % heads and not heads * shared % count


def _copies(heads: int, times: int) -> Positions:
    """Each head, so many times in a row."""
    return tuple([head for head in range(heads) for _ in range(times)])
