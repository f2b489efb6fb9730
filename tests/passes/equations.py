"""What a rule must do: fire and mean the same, or miss and say why.

Ops are interned, so that what a rule makes can be compared with what was expected by
identity. Both sides are then run: bit by bit with special numbers for rules that are
labelled exact, in float64 within 1e-10 for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt import dims
from graphopt.dims import Dim, symbol
from graphopt.exporter import choose_opset, to_proto
from graphopt.importer import load
from graphopt.ir import Graph, Header, Op, Parameter, Value, postorder
from graphopt.ops import Constant
from graphopt.reference import evaluate
from graphopt.rewrite import Log, Rule, rewrite
from graphopt.types import DType, TensorType, Type, clash, tensor
from graphopt.verify import verify

N, M = symbol("n"), symbol("m")
SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-40, -1.0, 2.5, 6e4]


def param(name: str, *shape: Dim, dtype: DType = DType.F32) -> Parameter:
    return Parameter(tensor(dtype, *shape), name)


def typed(name: str, type_: Type) -> Parameter:
    return Parameter(type_, name)


def const(values: Any, dtype: DType = DType.F32) -> Constant:
    return Constant(np.asarray(values).astype(dtype.numpy))


def ints(*values: int) -> Constant:
    return Constant(np.array(values, np.int64))


def random(*shape: int, dtype: DType = DType.F32, seed: int = 0) -> Constant:
    """A weight of normal numbers, 1 of them for every shape and seed."""
    return const(np.random.default_rng(seed).normal(size=shape), dtype)


def graph_of(
    *outputs: Value,
    opset: int = 20,
    inputs: Sequence[Parameter] | None = None,
) -> Graph:
    """A graph with these outputs; its parameters are those that the outputs need."""
    if inputs is None:
        found = {v: None for v in outputs if isinstance(v, Parameter)}
        for op in postorder(outputs):
            found |= {v: None for v in op.operands if isinstance(v, Parameter)}
        inputs = list(found)
    return Graph(
        inputs,
        outputs,
        output_types=[v.type for v in outputs],
        header=Header(opsets={"": opset}, ir_version=8),
    )


def values(of: Value | Sequence[Value]) -> tuple[Value, ...]:
    return (of,) if isinstance(of, Value) else tuple(of)


def fires(
    rule: Rule,
    before: Value | Sequence[Value],
    after: Value | Sequence[Value],
    *,
    opset: int = 20,
    sizes: Sequence[Mapping[str, int]] = ({"n": 3, "m": 2}, {"n": 1, "m": 4}),
) -> None:
    """The rule alone turns ``before`` into just ``after``, and both mean the same."""
    graph = graph_of(*values(before), opset=opset)
    log = Log()
    done = rewrite(graph, [rule], log=log)
    assert log.fired[rule.name], f"{rule.name} did not fire on\n{graph}"
    wanted = values(after)
    same = all(a is b for a, b in zip(done.outputs, wanted, strict=True))
    assert same, f"got\n{done}\nnot\n{done.replace(outputs=wanted)}"
    assert_sound(graph, done, exact=rule.exact, sizes=sizes)


def rewritten(
    rule: Rule | Sequence[Rule],
    before: Value | Sequence[Value],
    *,
    opset: int = 20,
    sizes: Sequence[Mapping[str, int]] = ({"n": 3, "m": 2}, {"n": 1, "m": 4}),
) -> Graph:
    """What rules make of ``before``: for results that are tedious to write down."""
    rules = [rule] if isinstance(rule, Rule) else list(rule)
    graph = graph_of(*values(before), opset=opset)
    log = Log()
    done = rewrite(graph, rules, log=log)
    assert log.fired.total(), f"nothing fired on\n{graph}"
    assert_sound(graph, done, exact=all(r.exact for r in rules), sizes=sizes)
    return done


def misses(
    rule: Rule, before: Value | Sequence[Value], reason: str = "", *, opset: int = 20
) -> None:
    """The rule leaves ``before`` alone; where it says why, that holds ``reason``."""
    graph = graph_of(*values(before), opset=opset)
    said: list[str] = []
    log = Log(on_miss=lambda r, op, m: said.append(m.reason))
    done = rewrite(graph, [rule], log=log)
    assert done is graph, f"{rule.name} made of\n{graph}\nthis:\n{done}"
    if reason:
        assert any(reason in each for each in said), f"{said} without {reason!r}"
    else:
        assert not said, said


def kinds(graph: Graph) -> list[str]:
    """The ops that do work, operands first."""
    return [op.kind for op in graph.ops if not isinstance(op, Constant)]


def assert_sound(
    before: Graph,
    after: Graph,
    *,
    exact: bool,
    sizes: Sequence[Mapping[str, int]] = ({"n": 3, "m": 2},),
) -> None:
    """Legal, writable at the opset of the source, and the same numbers."""
    verify(after)
    for old, new in zip(before.outputs, after.outputs, strict=True):
        assert not clash(old.type, new.type), f"{old.type} became {new.type}"
        assert not vaguer(new.type, old.type), f"{old.type} became {new.type}"
    assert choose_opset(after).version <= choose_opset(before).version
    back = load(to_proto(after))
    for binding in sizes if symbolic(before) else sizes[:1]:
        feeds = [feed(p, binding, special=exact) for p in before.inputs]
        for graph in (after, back):
            compare(before, graph, feeds, exact=exact)


def compare(before: Graph, after: Graph, feeds: list[Any], *, exact: bool) -> None:
    """Same bits; or, of float64 runs, the same to ten digits."""
    precision = "native" if exact else "float64"
    old = evaluate(before, feeds, precision=precision, seed=0)
    new = evaluate(after, feeds, precision=precision, seed=0)
    for a, b in zip(old, new, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if exact:
            assert same_bits(a, b), f"{a}\nbecame\n{b}"
        else:
            np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-10)


def same_bits(a: Any, b: Any) -> bool:
    """Equal bits, of NaN only that it is one."""
    if a.dtype == object or a.dtype.kind in "biu":
        return bool(np.array_equal(a, b))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    same = (wide_a == wide_b) & (np.signbit(wide_a) == np.signbit(wide_b))
    return bool(np.all(same | (np.isnan(wide_a) & np.isnan(wide_b))))


def vaguer(new: Type, old: Type) -> bool:
    """The rank or the element type was known, and is no more."""
    if not isinstance(old, TensorType) or not isinstance(new, TensorType):
        return type(old) is not type(new)
    lost_rank = old.shape is not None and new.shape is None
    return lost_rank or (old.dtype is not None and new.dtype is None)


def symbolic(graph: Graph) -> bool:
    return any(dims.symbols(d) for p in graph.inputs for d in p.shape or ())


def feed(parameter: Parameter, sizes: Mapping[str, int], *, special: bool) -> Any:
    """Random numbers for a parameter; ``special`` ones of all kinds among them."""
    type_ = parameter.type
    assert isinstance(type_, TensorType)
    assert type_.dtype is not None
    shape = tuple(dims.evaluate(d, sizes) for d in type_.shape or ())
    rng = np.random.default_rng(len(parameter.name) + sum(map(ord, parameter.name)))
    dtype = type_.dtype
    if dtype is DType.STRING:
        return np.array(rng.choice(["a", "", "é", "b c"], shape), object).reshape(shape)
    if dtype is DType.BOOL:
        return rng.random(shape) < 0.5
    if dtype.is_integer:
        limits = 1 << (dtype.bits - 1)
        low = -limits if dtype.is_signed else 0
        made = rng.integers(low, limits - 1, shape, endpoint=True)
        return np.asarray(made).astype(dtype.numpy)
    numbers = np.asarray(rng.normal(size=shape))
    if special:
        flat = numbers.reshape(-1)
        count = min(len(SPECIAL), flat.size)
        flat[rng.permutation(flat.size)[:count]] = rng.permutation(SPECIAL)[:count]
    with np.errstate(all="ignore"):
        return numbers.astype(dtype.numpy)


def op_of(value: Value) -> Op:
    assert value.op is not None
    return value.op
