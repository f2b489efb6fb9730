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

from .taking import Positions, blocks, take


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


def _attention(graph: Graph, op: Attention, count: int) -> Value | None:
    """attention(q, k, v) with more heads of keys, each for fewer of the queries."""
    sizes, shared = op.sizes(), op.groups()
    if sizes is None or shared is None or op.outs > 1 or op.operand(4) is not None:
        return None
    heads = sizes[1][1]
    if not isinstance(heads, int) or not _fits(heads, shared, count):
        return None
    wanted = []
    for value in op.operands[1:3]:
        assert value is not None
        assert value.shape is not None
        dim, size = (1, 1) if len(value.shape) == 4 else (2, value.shape[2] // heads)
        wanted.append((value, dim, blocks(_copies(heads, count // heads), size)))
    made = take(graph, op, wanted)
    if made is None:
        return None
    operands = (op.operands[0], *made, *op.operands[3:])
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
    others = any(user is not op for user, _ in graph.users.get(expand, ()))
    wanted = (source, 1, _copies(heads, count // heads))
    found = None if others else take(graph, expand.op, [wanted])
    if found is None:
        return None
    (made,) = found
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
