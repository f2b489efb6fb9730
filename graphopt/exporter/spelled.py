"""How a graph is said at an opset: each op as a node of it, or as simpler ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..errors import UnsupportedModel
from ..functions import domain_of
from ..ir import Graph, Op, Parameter, Value, postorder, rebuild
from ..ops.constant import Constant
from ..ops.contrib import Declared
from ..ops.control import Control
from ..ops.conversion import Identity
from ..ops.normalization import BatchNormalization
from ..ops.opaque import Opaque
from ..ops.registry import UNNAMED, Modelled
from ..ops.schema import LATEST
from ..ops.structured import Composite
from ..ops.tiled import WRITTEN_OUT, Tiled
from ..proto import subgraphs
from ..versions import Node, spell, spelling, turning_points

Build: TypeAlias = Callable[[Op, tuple[Value | None, ...]], Op | Sequence[Value]]

MAX_EXPANSIONS = 16
"""Bodies of composite ops within bodies of composite ops."""

_START = 13  # for a model that imports no default opset and now needs one
_CUT_BY_NUMBER = 15  # where a Slice may be computed, and Shape tells some dims


@dataclass(frozen=True)
class Opset:
    """The opset of the default domain to write, and the op that it is needed for.

    ``version`` is 0 where the model neither has nor needs one.
    """

    version: int
    forced_by: Op | None = None


@dataclass(slots=True)
class Spelled:
    """A graph whose every op has its node. ``bodies`` are those of its control flow.

    ``ranks`` are the places of ops in a planned order; None: that of the source.
    """

    graph: Graph
    nodes: dict[Op, Node] = field(default_factory=dict)
    bodies: dict[Op, list[Spelled]] = field(default_factory=dict)
    ranks: Mapping[Op, int] | None = None


def choose_opset(graph: Graph, wanted: str | int | None = None) -> Opset:
    """The opset to write: the source's, or the lowest above that says every op.

    ``wanted`` may be "keep", "latest" or a number instead. Raises UnsupportedModel
    where ops that are kept verbatim forbid it.
    """
    source = graph.header.opsets.get("", 0)
    used = any(
        op.domain in UNNAMED and not isinstance(op, (Constant, Opaque))
        for _, op in graph.walk()
    )
    if wanted == "latest":
        wanted = LATEST
    pins = list(_pins(graph))
    if isinstance(wanted, int) and wanted != source:
        for op, kind, version in pins:
            if not _same_meaning(kind, version, wanted):
                raise UnsupportedModel(
                    f"{kind} is kept as it is written for opset {version}, "
                    f"so the model cannot move to opset {wanted}",
                    where=_place(graph, op),
                )
        return Opset(wanted)
    if not used or (wanted == "keep" and source):
        return Opset(source)
    if wanted == "keep":
        raise UnsupportedModel("the model imports no opset of the default domain")
    chosen = _lowest(graph, source or _START)
    pinned = any(not _same_meaning(k, v, chosen.version) for _, k, v in pins)
    return Opset(source) if pinned else chosen


def _pins(graph: Graph) -> Iterator[tuple[Op, str, int]]:
    """Kinds of the default domain that are kept verbatim, with their opset."""
    source = graph.header.opsets.get("", 0)
    for _, op in graph.walk():
        if not isinstance(op, Opaque):
            continue
        if op.op_domain == "" and op.op_type != "Constant":
            yield op, op.op_type, op.version
        pending = subgraphs(op.node)
        while pending:
            for node in pending.pop().node:
                pending.extend(subgraphs(node))
                if not domain_of(node.domain):
                    yield op, node.op_type, source


def _same_meaning(kind: str, version: int, other: int) -> bool:
    old = spelling(kind, "", version)
    return old is not None and old is spelling(kind, "", other)


def _lowest(graph: Graph, source: int) -> Opset:
    chosen = Opset(source)
    for inner, op in graph.walk():
        if isinstance(op, Tiled):  # its body counts, which comes by itself
            if op.count > WRITTEN_OUT and chosen.version < _CUT_BY_NUMBER:
                chosen = Opset(_CUT_BY_NUMBER, op)
            continue
        used = used_results(inner, op)
        if node_of(op, used, chosen.version) is None:
            needed = _first_opset(op, used, chosen.version)
            if needed > chosen.version:
                chosen = Opset(needed, op)
    return chosen


def _first_opset(op: Op, used: tuple[bool, ...], above: int) -> int:
    """The lowest opset that says an op; its body's where none does."""
    for version in turning_points(op.kind):
        if version > above and node_of(op, used, version) is not None:
            return version
    needed = above
    made = expansion(op)
    if made is not None:
        outside = {v.op for v in op.operands if v is not None}
        for inner in postorder(made):
            if inner not in outside:
                every = (True,) * len(inner.types)
                if node_of(inner, every, needed) is None:
                    needed = _first_opset(inner, every, needed)
    return needed


def used_results(graph: Graph, op: Op) -> tuple[bool, ...]:
    """For each result, whether anybody reads it, or ONNX wants it all the same."""
    if op.outs == 1:
        return (True,)
    if isinstance(op, BatchNormalization):  # in training it has all or none
        return (True,) * op.outs
    if isinstance(op, Declared) and not op.optional_results:
        return (True,) * op.outs
    uses = graph.uses
    return tuple([value in uses for value in op.results])


def node_of(op: Op, used: tuple[bool, ...], version: int) -> Node | None:
    """An op as a node at an opset of the default domain; None where it has none."""
    attrs = dict(op.attrs)
    operands = list(op.operands)
    if isinstance(op, Opaque):
        return Node(op.kind, operands, attrs, used)
    if isinstance(op, Constant):
        return Node(op.kind, operands, attrs, used)
    if isinstance(op, Control):
        del operands[len(operands) - len(op.captured) :]
        for name in op.own_attrs:
            del attrs[name]
    if op.domain not in ("", "graphopt"):
        return Node(op.kind, operands, attrs, used)
    node = Node(op.kind, operands, attrs, used)
    newest = spelling(op.kind, "", LATEST)
    if newest is not None and newest is spelling(op.kind, "", version):
        return node
    made = spell(node, version)
    if made is None:
        return None
    node = made
    schema = spelling(node.kind, "", version)
    if schema is None:
        return None
    while node.operands and node.operands[-1] is None:
        node.operands.pop()
    while len(node.operands) < schema.min_operands:  # a Loop without a condition
        node.operands.append(None)
    defaults = type(op).schema().defaults if isinstance(op, Modelled) else {}
    for name in list(node.attrs):
        if name not in schema.attributes:
            if name not in defaults or defaults[name] != node.attrs[name]:
                return None
            del node.attrs[name]
    results = list(op.types[: len(node.used)])
    while len(results) > schema.min_results and not node.used[len(results) - 1]:
        results.pop()
    if schema.accepts(node.operands, results):
        return node
    # A type that no opset allows was never the opset's fault.
    allowed = newest is not None and newest.accepts(op.operands, results)
    return None if allowed else node


def can_say(op: Op, version: int) -> bool:
    """True where an opset of the default domain has the op as it is."""
    return node_of(op, (True,) * op.outs, version) is not None


def expansion(op: Op) -> tuple[Value, ...] | None:
    """The results of an op by simpler ops, where its kind has a body."""
    return op.expansion if isinstance(op, Composite) else None


def spelled(
    graph: Graph,
    version: int,
    *,
    body: bool = False,
    ranks: Mapping[Op, int] | None = None,
) -> Spelled:
    """The graph at an opset; composite ops that it cannot say become their bodies.

    ``ranks`` are the places of its ops in a planned order; what comes in the place of
    an op has its rank. Raises UnsupportedModel, with the op that the opset cannot say.
    """
    ranks = None if ranks is None else dict(ranks)
    for _ in range(MAX_EXPANSIONS):
        graph = _with_own_outputs(graph, body)
        nodes: dict[Op, Node] = {}
        missing: set[Op] = set()
        for op in graph.ops:
            node = node_of(op, used_results(graph, op), version)
            if node is None:
                missing.add(op)
            else:
                nodes[op] = node
        if not missing:
            bodies = {
                op: [spelled(inner, version, body=True) for inner in op.bodies]
                for op in graph.ops
                if op.bodies
            }
            return Spelled(graph, nodes, bodies, ranks)
        graph = rebuild(graph, _expander(graph, missing, version, ranks))
    raise UnsupportedModel(f"bodies of composite ops nested over {MAX_EXPANSIONS} deep")


def _expander(
    graph: Graph, missing: set[Op], version: int, ranks: dict[Op, int] | None
) -> Build:
    def build(op: Op, operands: tuple[Value | None, ...]) -> Op | Sequence[Value]:
        made = simpler(op, operands)
        if ranks is not None and op in ranks:
            for value in made.results if isinstance(made, Op) else made:
                if value.op is not None:
                    ranks.setdefault(value.op, ranks[op])
        return made

    def simpler(op: Op, operands: tuple[Value | None, ...]) -> Op | Sequence[Value]:
        if op not in missing:
            return op if operands == op.operands else op.with_operands(operands)
        made = expansion(op.with_operands(operands))
        if made is None:
            raise UnsupportedModel(
                f"opset {version} cannot say {op.kind}", where=_place(graph, op)
            )
        return made[: op.outs]

    return build


def _place(graph: Graph, op: Op) -> str:
    for inner, other in graph.walk():
        if other is op and op in inner.sources:
            return ", ".join(inner.sources[op])
    return op.kind


def _with_own_outputs(graph: Graph, body: bool) -> Graph:
    """Let each output be a result of its own: not an input, constant, or given twice.

    An input may be an output under its own name, and a constant of the main graph may
    be one: there, initializers have no other name to keep.
    """
    names: dict[Value, str] = {p: p.name for p in graph.inputs}
    given = {} if body else names.copy()
    outputs: list[Value] = []
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        own = given.setdefault(value, name) == name
        if isinstance(value, (Parameter, Constant)):
            own = own and not body and names.get(value, name) == name
        outputs.append(value if own else Identity(value, instance=len(outputs) + 1))
    return graph.replace(outputs=outputs)
