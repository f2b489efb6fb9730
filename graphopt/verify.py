"""What a legal Graph is: a list of small rules, each a sentence about one graph.

`verify` runs them over a graph and its bodies, after every pass in tests and under
``--debug``. A rule yields `Fault`s; add yours with ``verify.rules.append(rule)``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from onnx import AttributeProto

from .errors import GraphoptError, InvalidModel
from .ir import Graph, Op, Parameter, Value
from .ops.control import Control
from .ops.registry import Modelled
from .ops.schema import LATEST
from .text import format_op
from .types import (
    TensorType,
    clash,
)
from .versions.spelling import spelling
from .weights import Tensor


@dataclass(frozen=True)
class Fault:
    """What breaks a rule; ``op`` is None where the graph itself does."""

    message: str
    op: Op | None = None


class IllegalGraph(InvalidModel):
    """A graph that breaks a rule. ``rule`` is its name, ``op`` the culprit, if any."""

    def __init__(self, rule: str, fault: Fault, graph: Graph) -> None:
        where = graph.name or "graph"
        if fault.op is not None:
            where = format_op(fault.op)
            if sources := graph.sources.get(fault.op):
                where += f", from node {', '.join(sources)}"
        super().__init__(f"{rule}: {fault.message}", where=where)
        self.rule = rule
        self.op = fault.op


Rule: TypeAlias = Callable[[Graph], Iterator[Fault]]


def verify(graph: Graph, only: Sequence[Rule] | None = None) -> None:
    """Check every rule, or some, in the graph and its bodies. Raises IllegalGraph."""
    for rule, fault, place in faults(graph, only):
        raise IllegalGraph(rule, fault, place)


def faults(
    graph: Graph, only: Sequence[Rule] | None = None
) -> Iterator[tuple[str, Fault, Graph]]:
    """Each fault, with the name of the rule that it breaks and the graph or body."""
    pending = [graph]
    seen: set[Graph] = set()
    while pending:
        place = pending.pop()
        if place in seen:
            continue
        seen.add(place)
        for rule in rules if only is None else only:
            if rule is names and place is not graph:
                continue
            for fault in rule(place):
                yield rule.__name__, fault, place
        for op in place.ops:
            pending.extend(op.bodies)


# --- the rules ----------------------------------------------------------------------


def interface(graph: Graph) -> Iterator[Fault]:
    """|output_names| = |output_types| = |outputs|; no parameter twice in inputs"""
    counts = (len(graph.outputs), len(graph.output_names), len(graph.output_types))
    if len(set(counts)) != 1:
        yield Fault(f"outputs, their names and types are {counts} in number")
    if len(set(graph.inputs)) != len(graph.inputs):
        yield Fault("a parameter is listed twice among the inputs")


def names(graph: Graph) -> Iterator[Fault]:
    """no two inputs, and no two outputs, share a name; bodies have no callers"""
    for what, called in (("input", graph.input_names), ("output", graph.output_names)):
        for name, count in Counter(called).items():
            if count > 1:
                yield Fault(f"{count} {what}s are called {name!r}")


def parameters(graph: Graph) -> Iterator[Fault]:
    """each Parameter that an op or an output reads is in inputs(graph)"""
    own = set(graph.inputs)
    for op in graph.ops:
        for operand in op.operands:
            if isinstance(operand, Parameter) and operand not in own:
                yield Fault(f"reads {operand.name!r}, an input of another graph", op)
    for name, value in zip(graph.output_names, graph.outputs, strict=False):
        if isinstance(value, Parameter) and value not in own:
            yield Fault(f"output {name!r} is {value.name!r}, an input of another graph")


def order(graph: Graph) -> Iterator[Fault]:
    """op(a, b, …): a and b come before op, and are results that their ops have"""
    seen: set[Value] = set()
    for op in graph.ops:
        for operand in op.operands:
            if operand is None or operand.op is None:
                continue
            if operand.op not in seen:
                yield Fault("is its own operand, directly or through others", op)
            elif operand not in operand.op.results:
                yield Fault(f"reads a result that {operand.op.kind} does not have", op)
        seen.add(op)


def arity(graph: Graph) -> Iterator[Fault]:
    """min <= |operands| <= max, and likewise for results, by the op's schema"""
    for op in graph.ops:
        if not isinstance(op, Modelled):
            continue
        schema = op.schema()
        low, high = schema.min_operands, schema.max_operands
        if not op.bodies and not low <= len(op.operands) <= high:
            yield Fault(f"{len(op.operands)} operands, not {_between(low, high)}", op)
        if op.outs > schema.max_results:
            yield Fault(f"{op.outs} results, at most {schema.max_results}", op)


def required(graph: Graph) -> Iterator[Fault]:
    """an operand that the schema does not call optional is present"""
    for op in graph.ops:
        known = spelling(op.kind, op.domain, _version(op))
        if known is None or not known.operands:
            continue
        for i, operand in enumerate(op.operands[: len(known.operands)]):
            formal = known.operands[i]
            if operand is None and not (formal.optional or formal.variadic):
                yield Fault(f"operand {i} is required", op)


def attributes(graph: Graph) -> Iterator[Fault]:
    """attributes are the schema's, of its kinds, and the required ones are there"""
    for op in graph.ops:
        if not isinstance(op, Modelled):
            continue
        schema = op.schema()
        for name in op.attrs.keys() - schema.attributes:
            yield Fault(f"{name!r} is no attribute of {op.kind}", op)
        known = spelling(op.kind, op.domain, _version(op))
        kinds = {} if known is None else known.attributes
        for name in sorted(schema.required - op.attrs.keys()):
            if kinds.get(name) not in _BODIES:
                yield Fault(f"attribute {name!r} is missing", op)
        for name, value in op.attrs.items():
            holds = _ATTRIBUTES.get(kinds.get(name, 0))
            if holds is not None and not holds(value):
                yield Fault(f"attribute {name!r} cannot be {value!r:.60}", op)


def element_types(graph: Graph) -> Iterator[Fault]:
    """dtype(operand) is one that the schema allows; one type variable, one dtype"""
    for op in graph.ops:
        known = spelling(op.kind, op.domain, _version(op))
        if known is None or op.bodies:
            continue
        if not known.min_operands <= len(op.operands) <= known.max_operands:
            continue  # `arity` says so
        present = [v for v in op.operands if v is not None]
        if len(present) == len(op.operands) and not _accepted(op):
            types = ", ".join(str(v.type) for v in present)
            results = ", ".join(map(str, op.types))
            yield Fault(f"ONNX does not allow ({types}) -> ({results})", op)


def bodies(graph: Graph) -> Iterator[Fault]:
    """operands(op) fit parameters(body), and outputs(body) fit results(op)"""
    for op in graph.ops:
        if not isinstance(op, Control):
            continue
        given, taken = op.signature()
        for body in op.bodies:
            if len(given) != len(body.inputs) or len(taken) != len(body.outputs):
                yield Fault(
                    f"its body takes {len(body.inputs)} values and gives"
                    f" {len(body.outputs)}, not {len(given)} and {len(taken)}",
                    op,
                )
                continue
            for type_, parameter in zip(given, body.inputs, strict=True):
                if clash(type_, parameter.type):
                    yield Fault(
                        f"{type_} goes into {parameter.name!r}: {parameter.type}", op
                    )
            for value, type_ in zip(body.outputs, taken, strict=True):
                if clash(value.type, type_):
                    yield Fault(f"its body gives {value.type} for {type_}", op)


def types(graph: Graph) -> Iterator[Fault]:
    """types(op) = infer(op)"""
    for op in graph.ops:
        try:
            inferred = tuple(op.infer())
        except GraphoptError as error:
            yield Fault(error.message, op)
            continue
        if inferred != op.types:
            shown = ", ".join(map(str, inferred))
            yield Fault(f"its types should be {shown}", op)


def declarations(graph: Graph) -> Iterator[Fault]:
    """type(output) can be what the interface declares

    No dims at all are taken for unknown ones, as some exporters mean them.
    """
    for name, value, declared in zip(
        graph.output_names, graph.outputs, graph.output_types, strict=False
    ):
        if isinstance(declared, TensorType) and declared.shape == ():
            declared = TensorType(declared.dtype)
        if declared is not None and clash(value.type, declared):
            yield Fault(
                f"output {name!r} is declared {declared}, but is {value.type}", value.op
            )


def tokens(graph: Graph) -> Iterator[Fault]:
    """random and opaque ops of a graph have different tokens"""
    taken: dict[int, Op] = {}
    for op in graph.ops:
        if op.deterministic:
            continue
        if op.token in taken:
            yield Fault(f"shares its token {op.token} with {taken[op.token].kind}", op)
        taken[op.token] = op


rules: list[Rule] = [
    interface,
    names,
    parameters,
    order,
    arity,
    required,
    attributes,
    element_types,
    bodies,
    types,
    declarations,
    tokens,
]
"""What `verify` checks, in order. Append your own."""


# --- what the rules ask -------------------------------------------------------------


def _accepted(op: Op) -> bool:
    """True where some opset allows the types; few have allowed less than before."""
    for version in range(_version(op), 0, -1):
        known = spelling(op.kind, op.domain, version)
        if known is None:
            return False
        if known.accepts(op.operands, op.types):
            return True
        if op.domain:
            return False
    return False


def _version(op: Op) -> int:
    return LATEST if op.domain == "" else 1000


def _between(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _every(*kinds: type) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, tuple) and all(isinstance(x, kinds) for x in v)


def _one(*kinds: type) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, kinds)


_BODIES = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_ATTRIBUTES: dict[int, Callable[[Any], bool]] = {
    AttributeProto.INT: _one(int),
    AttributeProto.INTS: _every(int),
    AttributeProto.FLOAT: _one(float),
    AttributeProto.FLOATS: _every(float),
    AttributeProto.STRING: _one(str, bytes),
    AttributeProto.STRINGS: _every(str, bytes),
    AttributeProto.TENSOR: _one(Tensor),
    AttributeProto.TENSORS: _every(Tensor),
}
