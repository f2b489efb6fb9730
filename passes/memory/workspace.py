"""What an op needs for itself while it runs, beside operands and results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from graphopt import dims
from graphopt.ir import Op, Value
from graphopt.ops import (
    Attention,
    Conv,
    ConvTranspose,
    Einsum,
    Gemm,
    Loop,
    MatMul,
    Scan,
    Strips,
    Tiled,
)
from graphopt.ops.structured import Composite
from graphopt.ops.tiled import WRITTEN_OUT
from graphopt.types import DType

from .kernel import Blocks, blocks
from .sizes import Sizes

CONTRACTIONS = (MatMul, Gemm, Einsum)

BIASED = frozenset({"com.microsoft.BiasGelu", "com.microsoft.FastGelu"})
"""Kinds whose kernels add a bias into room of their own. Measured with version 1.32."""


MULTI_HEAD = "com.microsoft.MultiHeadAttention"

TURNED = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
"""Kinds whose kernels work over the last dim: where another is asked for, operand and
result are there once more with that one last. Read in ``softmax.cc``, and measured."""


def workspace(op: Op, sizes: Sizes, bodies: Sequence[int]) -> int:
    """Bytes: the largest of its bodies' arenas, what it carries, and its scratch.

    A loop has what it carries twice, as the body's results lie beside those of the turn
    before. Elementwise parts of a composite op are fused in any kernel; a product that
    something else reads is there as a whole: the scores of attention.
    """
    if op.bodies:
        beside = [*_turn(op), *_parts(op, sizes), *_turned(op, sizes)]
        return max(bodies) + _total(beside, sizes)
    if isinstance(op, Attention) and sizes.space.kernels and _has_kernel(op, sizes):
        return 0
    if isinstance(op, Attention) and (scores := _scores(op, sizes)) is not None:
        return scores + _mask(op, sizes)
    if sizes.space.pads and isinstance(op, Conv):
        return _padded(op, sizes)
    if sizes.space.scratch and isinstance(op, ConvTranspose):
        return _columns(op, sizes)
    if sizes.space.scratch and op.label in BIASED and op.operand(1) is not None:
        return _total([v for v in op.operands[:1] if v is not None], sizes)
    if sizes.space.scratch and op.kind in TURNED and not _along_rows(op):
        return 2 * _total([v for v in op.operands[:1] if v is not None], sizes)
    found = max((sizes.of(value) or 0 for value in _products(op)), default=0)
    return found + max((_attended(each, sizes) for each in _attentions(op)), default=0)


def _attentions(op: Op) -> list[Attention]:
    """Those inside of a composite op whose kernel makes all scores at once.

    That of MultiHeadAttention does not, unless it has masks or a past
    (``multihead_attention.cc``).
    """
    if op.label == MULTI_HEAD and not any(op.operands[4:]):
        return []
    return [each for each in _inside(op) if isinstance(each, Attention)]


def _attended(op: Attention, sizes: Sizes) -> int:
    """Bytes of its scores, and of what is added to those of each head."""
    found, scores = op.sizes(), _scores(op, sizes)
    if found is None or scores is None:
        return 0
    if op.operand(3) is None and not op.is_causal:
        return scores
    (batch, _, queries, _), keys, q = found[0], found[3], op.operands[0]
    shape = sizes.shape((batch, queries, keys))
    assert shape is not None
    assert q is not None
    assert q.dtype is not None
    return scores + sizes.space.size(shape, q.dtype.bits)


def _along_rows(op: Op) -> bool:
    """Whether an op normalizes over its last dim."""
    return op.rank is None or op.axis in (-1, op.rank - 1)


def _scores(op: Attention, sizes: Sizes) -> int | None:
    """Bytes of the product that attention reads again, without building its body."""
    found, q = op.sizes(), op.operands[0]
    if found is None or q is None or q.dtype is None or found[3] is None:
        return None
    shape = sizes.shape((*found[0][:3], found[3]))
    return None if shape is None else sizes.space.size(shape, q.dtype.bits)


def _mask(op: Attention, sizes: Sizes) -> int:
    """Bytes of a mask of truth values as numbers, which kernels add to the scores."""
    mask, q = op.operand(3), op.operands[0]
    if not sizes.space.scratch or mask is None or mask.dtype is not DType.BOOL:
        return 0
    shape = None if mask.shape is None else sizes.shape(mask.shape)
    if shape is None or q is None or q.dtype is None:
        return 0
    return sizes.space.size(shape, q.dtype.bits)


def _padded(op: Conv, sizes: Sizes) -> int:
    """Bytes of the padded operand of a convolution of single channels.

    It lies beside the operand when it is made and beside the result when it is read,
    never beside both.
    """
    x, windows = op.operands[0], op.known_windows()
    if x is None or x.shape is None or x.dtype is None or windows is None:
        return 0
    if op.group == 1 or not dims.equal(op.group, x.shape[1]):
        return 0
    spatial = [
        dims.add(dims.add(extent, before), after)
        for extent, (before, after) in zip(x.shape[2:], windows.pads, strict=True)
    ]
    shape = sizes.shape((*x.shape[:2], *spatial))
    beside = [sizes.of(x), sizes.of(op.results[0])]
    if shape is None or None in beside or not any(map(any, windows.pads)):
        return 0
    return max(0, sizes.space.size(shape, x.dtype.bits) - min(b or 0 for b in beside))


def _columns(op: ConvTranspose, sizes: Sizes) -> int:
    """Bytes of what all windows of one group add to the result, before they are added.

    As `conv_transpose.cc` of ONNX Runtime has them; measured with version 1.32.
    """
    x, w = op.operands[:2]
    if x is None or w is None or x.shape is None or w.shape is None or not x.dtype:
        return 0
    shape = sizes.shape((*w.shape[1:], *x.shape[2:]))
    return 0 if shape is None else sizes.space.size(shape, x.dtype.bits)


def _has_kernel(op: Attention, sizes: Sizes) -> bool:
    shapes = [v.shape if v is not None else None for v in op.operands]
    bound = [None if shape is None else sizes.shape(shape) for shape in shapes]
    return isinstance(blocks(op, bound), Blocks)


def _total(values: Iterable[Value], sizes: Sizes) -> int:
    return sum(sizes.of(value) or 0 for value in values)


def _turn(op: Op) -> Sequence[Value]:
    """What one turn has beside the values of its body: states, parts of operands."""
    if isinstance(op, Loop):
        return op.bodies[0].outputs[1 : 1 + op.carried]
    if isinstance(op, Scan):
        return op.bodies[0].outputs[: op.states]
    if isinstance(op, Tiled):
        return [*op.bodies[0].outputs[: int(op.states)], *op.tiles]
    if isinstance(op, Strips):
        return op.tiles
    return ()


def _parts(op: Op, sizes: Sizes) -> Sequence[Value]:
    """Results of which all parts are there beside the whole."""
    if isinstance(op, Strips) and sizes.space.joins:
        return op.results
    if not isinstance(op, Tiled) or not sizes.space.joins or op.count > WRITTEN_OUT:
        return ()
    return op.results[int(op.states) :]


def _turned(op: Op, sizes: Sizes) -> Iterator[Value]:
    """What ONNX Runtime's Scan has with the dim of its turns first, in a copy.

    That is operands and results whose dim is another one, whole.
    """
    if not sizes.space.scratch:
        return
    if isinstance(op, Scan):
        read = op.operands[op.states :][: int(op.num_scan_inputs)]
        cut, made = op.scan_input_axes, op.scan_output_axes
        rows = [*zip_longest(read, cut or (), fillvalue=0)]
    elif isinstance(op, Tiled) and op.count > WRITTEN_OUT:
        made = op.result_axes
        rows = [
            (x, each.axis)
            for x, each in zip(op.operands[op.parts], op.cuts, strict=True)
            if x is not None
            and x.shape is not None
            and each.fills(x.shape[each.axis], int(op.count))
        ]
    else:
        return
    rows += zip(op.results[int(op.states) :], made or (), strict=False)
    yield from (v for v, axis in rows if axis and isinstance(v, Value))


def _products(op: Op) -> Iterator[Value]:
    """Products inside of a composite op that another product reads."""
    made = op.expansion if isinstance(op, Composite) else None
    if made is None:
        return
    known = {value for value in op.operands if value is not None}
    pending, seen = [(value, False) for value in made], set[tuple[Value, bool]]()
    while pending:
        value, read = pending.pop()
        inner = value.op
        if inner is None or value in known or (value, read) in seen:
            continue
        seen.add((value, read))
        product = isinstance(inner, CONTRACTIONS)
        if product and read and (inner, False) not in seen:
            yield inner
        reads = read or product or isinstance(inner, Attention)
        pending.extend((v, reads) for v in inner.operands if v is not None)


def _inside(op: Op) -> Iterator[Op]:
    """The ops that a composite op is made of, but for composite ops in these."""
    made = op.expansion if isinstance(op, Composite) else None
    pending, seen = list(made or ()), {v.op for v in op.operands if v is not None}
    while pending:
        inner = pending.pop().op
        if inner is None or inner in seen:
            continue
        seen.add(inner)
        yield inner
        pending.extend(v for v in inner.operands if v is not None)
