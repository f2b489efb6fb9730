"""Rules, and the driver that applies them until none fires.

A rule is an equation: a function from an op to what equals it.

>>> @rule
... def double_negation(op: Neg) -> Value | None:
...     "neg(neg(x)) = x"
...     inner = op.operands[0]
...     return inner.operands[0] if isinstance(inner, Neg) else None

Its first parameter's annotation says which kinds of op it looks at. A second one is the
`Scene`: use counts, the opset, and whatever else the rule must know of the graph.
It returns a Value, one Value for each result, a mapping of several old values to new
ones (also of ops other than its own), None, or a `Miss` that says why it did not fire.
"""

from __future__ import annotations

import inspect
import operator
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, overload

from .debug import verifies
from .errors import TypeMismatch, UsageError
from .exporter.spelled import can_say
from .ir import Graph, Op, Value, forward
from .provenance import place
from .substitution import RewriteLimit as RewriteLimit, substitute as substitute
from .types import clash
from .versions import spelling


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a rule did not fire, and on which value that hung."""

    reason: str
    value: Value | None = None

    def __bool__(self) -> bool:
        return False


def miss(reason: str, value: Value | None = None) -> Miss:
    """``return miss("the weight is no constant", op.operands[1])``."""
    return Miss(reason, value)


Outcome: TypeAlias = Value | Sequence[Value] | Mapping[Value, Value] | Miss | None


@dataclass(frozen=True)
class Rule:
    """A named equation. ``exact`` ones keep every bit on one executor."""

    name: str
    kinds: tuple[type[Op], ...]
    apply: Callable[[Any, Scene], Outcome]
    exact: bool
    equation: str

    def __repr__(self) -> str:
        return f"<rule {self.name}: {self.equation}>"


@overload
def rule(function: Callable[..., Outcome], /) -> Rule: ...
@overload
def rule(*, exact: bool) -> Callable[[Callable[..., Outcome]], Rule]: ...
def rule(
    function: Callable[..., Outcome] | None = None, /, *, exact: bool = True
) -> Rule | Callable[[Callable[..., Outcome]], Rule]:
    """Make a function a `Rule`; ``@rule(exact=False)`` where rounding may change.

    Raises UsageError where its first parameter does not say which ops it looks at.
    """
    if function is None:
        return lambda f: _rule(f, exact)
    return _rule(function, exact)


def _rule(function: Callable[..., Outcome], exact: bool) -> Rule:
    name = getattr(function, "__name__", "rule")
    parameters = list(inspect.signature(function).parameters)
    annotation = typing.get_type_hints(function).get("".join(parameters[:1]))
    kinds = typing.get_args(annotation) or (annotation,)
    if not all(isinstance(kind, type) and issubclass(kind, Op) for kind in kinds):
        raise UsageError(
            f"the first parameter of the rule {name} needs an annotation that says"
            " which ops it looks at, such as op: Add"
        )
    takes_scene = len(parameters) > 1
    equation = (function.__doc__ or "").strip().split("\n\n")[0]
    return Rule(
        name=name,
        kinds=kinds,
        apply=function if takes_scene else lambda op, _: function(op),
        exact=exact,
        equation=" ".join(equation.split()),
    )


@dataclass
class Log:
    """What a rewrite did: rules fired, and on request each firing and each miss.

    After ``limit`` firings no rule fires any more, so that a wrong one can be found.
    ``never`` says of bodies that cannot run which ones they are, and why.
    ``notes`` are for the report.
    """

    fired: Counter[str] = field(default_factory=Counter)
    never: dict[str, None] = field(default_factory=dict)
    limit: int | None = None
    notes: list[str] = field(default_factory=list)
    on_fire: Callable[[Rule, Op, Sequence[Value]], None] | None = None
    on_miss: Callable[[Rule, Op, Miss], None] | None = None


class Scene:
    """What a rule may know of the graph around its op."""

    def __init__(self, graph: Graph, outer: Scene | None = None) -> None:
        self.graph = graph
        self.outer = outer
        self._counts: dict[Value, int] = dict(graph.uses)
        self._top_token: int | None = None

    @property
    def opset(self) -> int:
        """The version of the default domain that the model is written in."""
        scene = self
        while scene.outer is not None:
            scene = scene.outer
        return scene.graph.header.opsets.get("", 1)

    def has(self, kind: type[Op]) -> bool:
        """True where that opset has ops of a kind of the default domain."""
        return spelling(kind.kind, "", self.opset) is not None

    def says(self, op: Op) -> bool:
        """True where that opset has the op as it is, attributes and types included."""
        return can_say(op, self.opset)

    def uses(self, value: Value) -> int:
        """How often ``value`` is read in the graph that is being rewritten."""
        return self._counts.get(value, 0)

    def single(self, value: Value) -> bool:
        """True where nothing but the op at hand reads ``value``."""
        return self._counts.get(value, 0) <= 1

    def new_tokens(self) -> int:
        """A number above every token of the whole graph, for an inlined body."""
        scene = self
        while scene.outer is not None:
            scene = scene.outer
        if scene._top_token is None:
            scene._top_token = max(
                (op.token for _, op in scene.graph.walk()), default=0
            )
        top = scene._top_token
        scene._top_token = 2 * top + 1
        return top

    # The driver keeps the counts while it rewrites.

    def moved(self, old: Value, new: Value) -> None:
        self._counts[new] = self._counts.get(new, 0) + self._counts.get(old, 0)

    def born(self, op: Op) -> None:
        for operand in op.operands:
            if operand is not None:
                self._counts[operand] = self._counts.get(operand, 0) + 1

    def died(self, op: Op) -> None:
        counts = self._counts
        dying = [op]
        while dying:
            for operand in dying.pop().operands:
                if operand is None:
                    continue
                left = counts.get(operand, 0) - 1
                counts[operand] = left
                producer = operand.op
                if left == 0 and producer is not None and producer.outs == 1:
                    dying.append(producer)


def rewrite(
    graph: Graph,
    rules: Iterable[Rule],
    *,
    log: Log | None = None,
    sweeps: int = 12,
) -> Graph:
    """Apply ``rules`` bottom-up, bodies included, until none fires.

    Raises RewriteLimit after 50 firings per op: rules that never end are a bug.
    """
    log = log or Log()
    rules = tuple(rules)
    kinds = tuple({kind for r in rules for kind in r.kinds})
    if not any(issubclass(kind, kinds) for kind in graph.kinds):
        return graph
    table = _table(rules)
    fuel = [1000 + 50 * sum(1 for _ in graph.walk())]
    for _ in range(sweeps):
        before = graph
        graph = _Sweep(graph, table, log, fuel, None).run()
        if graph is before:
            break
    return graph


_Table: TypeAlias = Callable[[type[Op]], tuple[Rule, ...]]


def _table(rules: tuple[Rule, ...]) -> _Table:
    found: dict[type[Op], tuple[Rule, ...]] = {}

    def of(kind: type[Op]) -> tuple[Rule, ...]:
        if kind not in found:
            found[kind] = tuple(r for r in rules if issubclass(kind, r.kinds))
        return found[kind]

    return of


class _IllTyped(TypeMismatch):
    """An op on operands that it cannot have: what holds it is never run."""


class _Sweep:
    """One pass over a graph: each op is rebuilt on new operands, then tried.

    ``new`` maps every settled value to what stands for it; values that rules make are
    settled before what they replace, with an explicit stack.
    """

    def __init__(
        self,
        graph: Graph,
        table: _Table,
        log: Log,
        fuel: list[int],
        outer: Scene | None,
    ) -> None:
        self.graph = graph
        self.table = table
        self.log = log
        self.fuel = fuel
        self.scene = Scene(graph, outer)
        self.new: dict[Value, Value] = {}
        self.pending: dict[Value, Value] = {}
        self.names = dict(graph.names)
        self.sources = dict(graph.sources)
        self.counted: set[Op] = set(graph.ops)

    def run(self) -> Graph:
        """The graph after one sweep; the same object where nothing changed."""
        graph, new, rules = self.graph, self.new, self.table
        for op in graph.ops:
            if not op.bodies and not rules(type(op)):
                for operand in op.operands:
                    if operand is not None and new.get(operand, operand) is not operand:
                        break
                else:  # nothing to try, and nothing below it changed
                    for result in op.results:
                        new[result] = result
                    continue
            self.settle(op)
        outputs = tuple([self.settled(v) for v in graph.outputs])
        if outputs == graph.outputs and not self.pending:
            return graph
        made = graph.replace(outputs=outputs, names=self.names, sources=self.sources)
        if self.pending:
            others = {self.settled(k): self.settled(v) for k, v in self.pending.items()}
            made = _acyclic(made, others)
        return graph if made.outputs == graph.outputs else made

    def settled(self, value: Value) -> Value:
        return self.new.get(value, value)

    def settle(self, root: Op) -> None:
        """Bring ``root``, and all that rules make of it, to normal form."""
        new = self.new
        stack: list[Op] = [root]
        replaced: dict[Op, Sequence[Value]] = {}
        while stack:
            op = stack[-1]
            if op in replaced:  # first, as a rule may leave the last result alone
                stack.pop()
                self.assign(op, replaced.pop(op))
                continue
            if op.results[-1] in new:
                stack.pop()
                continue
            waiting = self.unsettled(op.operands)
            if waiting:
                stack.extend(waiting)
                continue
            rebuilt = self.rebuilt(op)
            if rebuilt is not op:
                self.counted.add(rebuilt)
                if op in self.sources:
                    self.sources.setdefault(rebuilt, self.sources[op])
                replaced[op] = rebuilt.results
                stack.append(rebuilt)
                continue
            values = self.fire(op)
            if values is None:
                stack.pop()
                self.assign(op, op.results)
                continue
            self.enter(op, values)
            replaced[op] = values
            for was, value in zip(op.results, values, strict=True):
                if was is value:  # a result that the rule left alone
                    new[was] = was
            stack.extend(self.unsettled(values))

    def unsettled(self, values: Iterable[Value | None]) -> list[Op]:
        new = self.new
        return [
            v.op for v in values if v is not None and v.op is not None and v not in new
        ]

    def assign(self, op: Op, values: Sequence[Value]) -> None:
        if values is op.results or values == op.results:
            for was in values:
                self.new[was] = was
            return
        final = [self.settled(v) for v in values]
        for was, value in zip(op.results, final, strict=True):
            self.new[was] = value
            if was is not value:
                self.scene.moved(was, value)
        forward(op, final, self.names, self.sources)

    def rebuilt(self, op: Op) -> Op:
        new = self.new
        operands = tuple([None if v is None else new.get(v, v) for v in op.operands])
        bodies = op.bodies and self.bodies(op)
        if operands == op.operands and all(map(operator.is_, bodies, op.bodies)):
            return op
        try:
            return op.copy(operands=operands, bodies=bodies)
        except TypeMismatch as error:
            raise _IllTyped(error.message) from error

    def bodies(self, op: Op) -> tuple[Graph, ...]:
        """The bodies after one sweep; as it was where one turns out to be never run.

        So is a branch for other sizes, once those of the model are known. Raises
        _IllTyped where no branch is left.
        """
        log, made = self.log, list[Graph]()
        reasons: dict[str, None] = {}
        for index, body in enumerate(op.bodies):
            before = log.fired.copy(), log.never.copy()
            try:
                made.append(_Sweep(body, self.table, log, self.fuel, self.scene).run())
            except _IllTyped as error:
                if len(reasons) == len(op.bodies) - 1 > 0:
                    raise
                log.fired, log.never = before
                names = getattr(op, "written", ())  # in ONNX, of a Control
                what = names[index].replace("_", " ") if names else "body"
                where = place(self.graph.replace(sources=self.sources), op)
                reasons[f"the {what} of the {where}: {error.message}"] = None
                made.append(body)
        log.never.update(reasons)
        return tuple(made)

    def fire(self, op: Op) -> Sequence[Value] | None:
        """What the first rule that fires on ``op`` makes of its results."""
        limit = self.log.limit
        if limit is not None and self.log.fired.total() >= limit:
            return None
        for rule_ in self.table(type(op)):
            try:
                outcome = rule_.apply(op, self.scene)
                _require_types(op, outcome)
            except TypeMismatch as error:  # a wrong rule must not cost the model
                if verifies():
                    error.add_note(self.where(rule_, op))
                    raise
                outcome = miss(f"what it makes does not fit: {error.message}")
            except Exception as error:
                error.add_note(self.where(rule_, op))
                raise
            if outcome is None:
                continue
            if isinstance(outcome, Miss):
                if self.log.on_miss is not None:
                    self.log.on_miss(rule_, op, outcome)
                continue
            values = self.taken(op, outcome)
            if values is None:
                continue
            self.log.fired[rule_.name] += 1
            if self.log.on_fire is not None:
                self.log.on_fire(rule_, op, values)
            self.fuel[0] -= 1
            if self.fuel[0] < 0:
                raise RewriteLimit(f"rule {rule_.name!r} does not come to an end")
            return values
        return None

    def where(self, rule_: Rule, op: Op) -> str:
        """The note for an error of a rule."""
        known = self.graph.replace(names=self.names, sources=self.sources)
        return f"[rule {rule_.name}, on {place(known, op)}]"

    def taken(self, op: Op, outcome: Any) -> Sequence[Value] | None:
        """The values for the results of ``op``; for other ops they wait for the end."""
        results = op.results
        if isinstance(outcome, Value):
            return (outcome, *results[1:]) if outcome is not results[0] else None
        if isinstance(outcome, Mapping):
            others = {k: v for k, v in outcome.items() if k not in results}
            if any(k in self.pending for k in others):
                return None  # another rule was faster; the next sweep looks again
            self.pending.update(others)
            outcome = [outcome.get(v, v) for v in results]
        return None if all(map(operator.is_, outcome, results)) else outcome

    def enter(self, op: Op, values: Sequence[Value]) -> None:
        """Count the ops that a rule made; they stand for the nodes ``op`` stood for."""
        origin = self.sources.get(op, ())
        fresh = [v.op for v in values if v.op is not None]
        while fresh:
            made = fresh.pop()
            if made in self.counted:
                continue
            self.counted.add(made)
            self.scene.born(made)
            if origin:
                self.sources.setdefault(made, origin)
            fresh.extend([v.op for v in made.operands if v is not None and v.op])
        self.scene.died(op)


def _require_types(op: Op, outcome: Outcome) -> None:
    """Raises TypeMismatch where a new value cannot be of the type of its old one.

    UsageError for what is no outcome of a rule.
    """
    if outcome is None or isinstance(outcome, Miss):
        return
    for old, new in _pairs(op, outcome):
        if clash(old.type, new.type):
            raise TypeMismatch(f"{new.type} is not {old.type}")


def _pairs(op: Op, outcome: object) -> Iterable[tuple[Value, Value]]:
    """Old values and what stands for them. Raises UsageError for anything else."""
    if isinstance(outcome, Value):
        return ((op.results[0], outcome),)
    if isinstance(outcome, Mapping):
        if all(isinstance(v, Value) for pair in outcome.items() for v in pair):
            return outcome.items()
    elif (
        isinstance(outcome, Sequence)
        and len(outcome) == len(op.results)
        and all(isinstance(v, Value) for v in outcome)
    ):
        return zip(op.results, outcome, strict=True)
    raise UsageError(
        f"a rule gave {outcome!r:.200}; it returns a Value, a sequence with one for"
        f" each result (here {len(op.results)}), a mapping of old values to new ones, a"
        " miss, or None"
    )


def _acyclic(graph: Graph, mapping: Mapping[Value, Value]) -> Graph:
    """With every part of the mapping that, after those before, does not feed itself."""
    kept: dict[Value, Value] = {}
    for part in (mapping, *({old: new} for old, new in mapping.items())):
        try:
            made = substitute(graph, {**kept, **part})
        except RewriteLimit:  # a wrong rule must not cost the model
            if verifies():
                raise
            continue
        if part is mapping:
            return made
        kept |= part
    return substitute(graph, kept)
