"""The tail of a graph: ops whose shapes only data decides, and all that reads them.

XLA compiles for known shapes (`steering`). The ops before such ones are a program; the
tail, with what it reads of them, runs behind it on the host::

    graph(x)  -->  tail(head(x))

Where it is not certain that XLA would refuse an op, it stays in the head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops.constant import Constant
from graphopt.ops.control import Control, If, Loop
from graphopt.ops.random import draws, is_random
from graphopt.types import DType, TensorType

from .steering import (
    STRUCTURAL,
    aligned,
    fed,
    present,
    steering,
    steering_inputs,
    steers,
)


@dataclass(frozen=True)
class Split:
    """A graph in two.

    ``head`` has the inputs of the graph, and those of its outputs that the tail does
    not make; then what the tail reads of it. ``tail`` has these, and inputs of the
    graph, as its inputs. Values go from one to the other by name; so do outputs.
    """

    head: Graph
    tail: Graph
    outputs: tuple[str, ...]

    @property
    def kinds(self) -> dict[str, int]:
        """How many ops of each kind run on the host, the most frequent first."""
        ops = (op.kind for op in self.tail.ops if not isinstance(op, Constant))
        return dict(Counter(ops).most_common())

    def joined(self, head: Graph) -> Graph:
        """The whole graph again, from a head with the outputs of this one."""
        values = dict(zip(head.output_names, head.outputs, strict=True))
        inputs = dict(zip(self.head.inputs, head.inputs, strict=True))
        tail = self.tail.substitute(
            {p: inputs.get(p) or values[p.name] for p in self.tail.inputs}
        )
        types = dict(zip(head.output_names, head.output_types, strict=True))
        types |= dict(zip(tail.output_names, tail.output_types, strict=True))
        values |= dict(zip(tail.output_names, tail.outputs, strict=True))
        return head.replace(
            outputs=[values[name] for name in self.outputs],
            output_names=self.outputs,
            output_types=[types[name] for name in self.outputs],
            names={**tail.names, **head.names},
            sources={**tail.sources, **head.sources},
        )


def split(graph: Graph) -> Split | None:
    """The graph in two; None where XLA takes all of it, or next to nothing of it.

    Also where the tail would draw random numbers: a run has a key for the head alone.
    """
    late = _tail(graph)
    behind = {v for op in late for v in op.results}
    named = list(zip(graph.output_names, graph.outputs, strict=True))
    early = {name: v for name, v in named if v not in behind}
    ends = {name: v for name, v in named if v in behind}
    read = {v for op in late for v in op.operands if v is not None} - behind
    crossing = _names(graph, [v for v in _made(graph) if v in read], early)
    if not late or all(v.op is None for v in (*crossing, *early.values())):
        return None
    if any(map(_draws, late)):
        return None
    head = _ending(graph, early | {name: v for v, name in crossing.items()})
    given = {v: Parameter(v.type, name) for v, name in crossing.items()}
    inputs = [*(p for p in graph.inputs if p in read), *given.values()]
    tail = _ending(graph, ends).substitute(dict(given)).replace(inputs=inputs)
    return Split(head, tail, graph.output_names)


def _draws(op: Op) -> bool:
    """True for an op that draws numbers from no seed of its own, or a body of it."""
    return draws(op) or any(draws(o) for body in op.bodies for _, o in body.walk())


def _made(graph: Graph) -> Iterator[Value]:
    """What a program computes."""
    return (v for op in graph.ops if not isinstance(op, Constant) for v in op.results)


def _names(
    graph: Graph, values: Iterable[Value], early: Mapping[str, Value]
) -> dict[Value, str]:
    """By what names values are outputs of the head: their own, where they have one."""
    outputs = {v: name for name, v in early.items()}
    taken = {*graph.output_names, *graph.input_names}
    found: dict[Value, str] = {}
    for value in values:
        stem = graph.names.get(value, "value")
        found[value] = outputs.get(value) or _fresh(stem, taken)
        taken.add(found[value])
    return found


def _ending(graph: Graph, outputs: Mapping[str, Value]) -> Graph:
    """The graph with other outputs."""
    declared = dict(zip(graph.output_names, graph.output_types, strict=True))
    return graph.replace(
        outputs=list(outputs.values()),
        output_names=list(outputs),
        output_types=[declared.get(name) for name in outputs],
    )


def _fresh(stem: str, taken: Collection[str]) -> str:
    name, number = stem, 1
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    return name


def _tail(graph: Graph) -> list[Op]:
    """The ops that do not run in XLA, in order: all that need one another's results."""
    known: set[Value] = set(steering_inputs(graph, steering(graph)))
    late = set(_late(graph, known))
    count = -1
    while late and count != len(late):
        count = len(late)
        for op in graph.ops:
            if any(v is not None and v.op in late for v in op.operands):
                late.add(op)
        read = {v for op in late for v in op.operands if v is not None}
        late |= {v.op for v in read if v.op is not None and not _crosses(v)}
    return [op for op in graph.ops if op in late]


def _crosses(value: Value) -> bool:
    """True for what a program can give to the host, and what the host has anyway."""
    if isinstance(value.op, Constant):
        return True
    type_ = value.type
    return isinstance(type_, TensorType) and type_.dtype not in (None, DType.STRING)


def _late(graph: Graph, known: set[Value]) -> Iterator[Op]:
    """The ops that wait for data to know a shape.

    ``known`` are parameters that are known when the program is made; it gains values
    that follow from these, from constants and from shapes.
    """
    for op in graph.ops:
        bodies = _bodies(op, known)
        inside = any(_waits(body, inner) for body, inner in bodies)
        if inside or _ends_by_data(op, bodies) or not known.issuperset(_needed(op)):
            yield op
        if isinstance(op, STRUCTURAL):
            known.update(op.results)
        elif isinstance(op, Control):
            for body, inner in bodies:
                pairs = zip(aligned(op, body), body.outputs, strict=False)
                known.update(r for r, v in pairs if r is not None and v in inner)
        elif not is_random(op) and known.issuperset(present(op.operands)):
            known.update(op.results)


def _waits(body: Graph, known: set[Value]) -> bool:
    return bool(list(_late(body, known)))


def _bodies(op: Op, known: Collection[Value]) -> list[tuple[Graph, set[Value]]]:
    """Each body with those of its parameters that are known at first.

    What comes around may change that: XLA says so itself.
    """
    if not isinstance(op, Control):
        return []
    found = []
    for body in op.bodies:
        first: dict[Value, Value] = {}
        for parameter, operand in fed(op, body):
            first.setdefault(parameter, operand)
        inner: set[Value] = {
            p for p in body.inputs if p not in first or first[p] in known
        }
        found.append((body, inner))
    return found


def _needed(op: Op) -> Iterator[Value]:
    """The operands that XLA must know, whatever they are."""
    if not isinstance(op, If) or _differ(op):
        yield from steers(op)


def _differ(op: If) -> bool:
    """True where the branches are known to give other shapes."""
    one, other = (
        [v.type.shape if isinstance(v.type, TensorType) else None for v in b.outputs]
        for b in op.bodies
    )
    return any(
        a is not None
        and b is not None
        and all(isinstance(dim, int) for dim in (*a, *b))
        and a != b
        for a, b in zip(one, other, strict=True)
    )


def _ends_by_data(op: Op, bodies: Sequence[tuple[Graph, set[Value]]]) -> bool:
    """True for a loop that stacks a row a turn, and goes on as data says."""
    return (
        isinstance(op, Loop)
        and op.outs > op.carried
        and any(body.outputs[0] not in known for body, known in bodies)
    )
