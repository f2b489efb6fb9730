"""Which results may lie where an operand lies: views, and ops that work in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphopt.ir import Op, Value
from graphopt.ops import Constant, Identity
from graphopt.ops.reshaping import Reshaping
from graphopt.ops.structured import Composite, Structured

from .sizes import Sizes


def viewed(op: Op, sizes: Sizes) -> Value | None:
    """The operand whose bytes the result has, in the same order; None where not.

    It is the first one. Dims may fill up tiles otherwise: then the result is a copy.
    """
    if op not in sizes.views:
        sizes.views[op] = _viewed(op, sizes)
    return sizes.views[op]


def overwritten(op: Op, sizes: Sizes) -> tuple[int, ...]:
    """Operands over which the only result may be written here."""
    if op not in sizes.places:
        sizes.places[op] = _overwritten(op, sizes)
    return sizes.places[op]


def _viewed(op: Op, sizes: Sizes) -> Value | None:
    if not sizes.space.views or not isinstance(op, Reshaping | Identity):
        return None
    (source, *_), (result,) = op.operands, op.results
    if source is None or sizes.of(source) != sizes.of(result):
        return None
    tiled = (
        sizes.space.padded and (source.shape or ())[-2:] != (result.shape or ())[-2:]
    )
    return None if tiled else source


def _overwritten(op: Op, sizes: Sizes) -> tuple[int, ...]:
    allowed = sizes.space.in_place
    if isinstance(allowed, bool):
        return pointwise(op) if allowed else ()
    if op.outs != 1:
        return ()
    given = [(i, op.operand(i)) for i in allowed.get(op.kind, ())]
    (result,) = op.results
    return tuple([i for i, v in given if v is not None and _fits(v, result)])


def pointwise(op: Op) -> tuple[int, ...]:
    """Operands of which each result element reads the element in its own place.

    A kernel may write its only result over one of them: by then nobody needs what was
    there. It follows from the index maps: operand and result are indexed alike. Of a
    composite op it follows from the ops of its body.
    """
    if op.outs != 1 or op.bodies:
        return ()
    return tuple([i for i, v in enumerate(op.operands) if v and _is_pointwise(op, v)])


def _is_pointwise(op: Op, operand: Value) -> bool:
    result = op.results[0]
    if not _fits(operand, result) or isinstance(operand, Constant):
        return False
    if isinstance(op, Composite) and not isinstance(op, Structured):
        return _body_is_pointwise(op, operand)
    places = [i for i, v in enumerate(op.operands) if v is operand]
    return all(_indexed_alike(op, i) for i in places)


def _indexed_alike(op: Op, place: int) -> bool:
    maps = op.index_maps() if isinstance(op, Structured) else None
    if maps is None or place >= len(maps.operands) or len(maps.results) != 1:
        return False
    alike = maps.operands[place] == maps.results[0]
    return alike and not (maps.whole or maps.carried or maps.reduced)


def _body_is_pointwise(op: Composite, operand: Value) -> bool:
    """Every op on the way from the operand to the result is."""
    made = op.expansion
    if made is None:
        return False
    return all(
        _indexed_alike(inner, i) and _fits(operand, inner.results[0])
        for inner, i in _readers(made, operand, op.operands)
    )


def _readers(
    made: Sequence[Value], operand: Value, known: Sequence[Value | None]
) -> Iterator[tuple[Op, int]]:
    """Ops of a body that read what depends on the operand, and where."""
    order: list[Op] = []
    seen = {v for v in known if v is not None}
    stack: list[tuple[Value, bool]] = [(v, False) for v in made]
    while stack:
        value, ready = stack.pop()
        inner = value.op
        if inner is None:
            continue
        if ready:
            order.append(inner)
        elif value not in seen and inner not in seen:
            seen.add(inner)
            stack.append((inner, True))
            stack.extend((v, False) for v in inner.operands if v is not None)
    reached = {operand}
    for inner in order:
        places = [i for i, v in enumerate(inner.operands) if v in reached]
        if places:
            reached.update(inner.results)
            yield from ((inner, i) for i in places)


def _fits(operand: Value, result: Value) -> bool:
    """True where both are of the same dims, and take the same bytes an element."""
    if operand.dtype is None or result.dtype is None or operand.shape is None:
        return False
    return operand.shape == result.shape and operand.dtype.bits == result.dtype.bits
