"""Passes, and the pipeline that runs, times, verifies and prints them.

A pass is a function from Graph to Graph: a frozen dataclass whose fields are its
options, in Python and on the command line (``tile(budget=64)``). The pipeline, never
the pass, does everything around it.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .debug import dump_folder, level, say
from .errors import UsageError, nearest
from .ir import Graph, Op, Value
from .rewrite import Log, Miss, Rule, rewrite
from .text import format_op


@dataclass(frozen=True)
class Pass:
    """A function from Graph to Graph.

    ``name`` is how people call it; ``level`` is the lowest ``-O`` that runs it. One
    that ``trades`` (time for memory) runs once, when the others are done; its result is
    not held to have no more ops. Nor is that of one that ``unrolls``: that writes work
    out in parts, to do less of it.
    """

    name: ClassVar[str] = ""
    level: ClassVar[int] = 1
    trades: ClassVar[bool] = False
    unrolls: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    def __call__(self, graph: Graph) -> Graph:
        return self.run(graph, Log())

    def run(self, graph: Graph, log: Log) -> Graph:
        """The pass itself; ``log`` takes note of rules that fire."""
        raise NotImplementedError

    @property
    def growth(self) -> float:
        """The share of all weights that it may add."""
        return 0.0

    def limited_to_exact(self) -> Pass | None:
        """This pass without anything that changes rounding; None if nothing is left."""
        return self

    def __str__(self) -> str:
        options = ", ".join(
            f"{name}={getattr(self, name)!r}"
            for name, default in self.options().items()
            if getattr(self, name) != default
        )
        return f"{self.name}({options})" if options else self.name

    @classmethod
    def options(cls) -> dict[str, Any]:
        """What may be said of it, and what it is by default; not what it remembers."""
        fields = dataclasses.fields(cls)
        return {f.name: f.default for f in fields if f.repr}


@dataclass(frozen=True)
class RulePass(Pass):
    """A pass that is a list of rules; ``exact`` leaves out what changes rounding."""

    exact: bool = False

    def rules(self) -> Sequence[Rule]:
        """The equations of this pass, in the order in which they are tried."""
        raise NotImplementedError

    def run(self, graph: Graph, log: Log) -> Graph:
        rules = [r for r in self.rules() if r.exact or not self.exact]
        return rewrite(graph, rules, log=log)

    def limited_to_exact(self) -> Pass | None:
        if not any(r.exact for r in self.rules()):
            return None
        return dataclasses.replace(self, exact=True)


def listed(given: object) -> list[Any]:
    """One pass, or several."""
    if isinstance(given, str | type) or not isinstance(given, Iterable):
        return [given]
    return list(given)


def as_pass(given: object) -> Pass:
    """A pass, or one of that class. Raises UsageError for what is neither."""
    if isinstance(given, type) and issubclass(given, Pass):
        try:
            return given()
        except TypeError as error:
            raise UsageError(
                f"{given.__name__} has options without a default: give an instance"
                f" ({error})"
            ) from None
    if isinstance(given, Pass):
        return given
    if isinstance(given, Rule):
        raise UsageError(
            f"{given.name} is a rule, no pass: write a RulePass whose rules() gives it"
        )
    if isinstance(given, str):
        raise UsageError(
            f"no pass: {given!r}; names are for optimize(passes=[…], add=[…])"
        )
    raise UsageError(f"no pass: {given!r}; give a Pass, such as a RulePass")


@dataclass(frozen=True)
class PassRecord:
    """What one pass did to the graph, over all the times it ran.

    ``ops_after - ops_before`` is the net effect of all its runs; ``ops_before`` is the
    count when it ran first. Over a pipeline the effects add up to the whole. ``never``
    says of bodies that cannot run which ones they are, and why.
    """

    name: str
    ops_before: int
    ops_after: int
    seconds: float
    fired: Mapping[str, int] = field(default_factory=dict)
    never: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Observer = Callable[[Pass, Graph, Graph], None]
"""Called after each pass that changed something: pass, graph before, graph after."""


@dataclass(frozen=True)
class Pipeline:
    """Passes in order, repeated until a whole round changes nothing; ``then`` the next.

    ``rounds`` bounds the repetition; a round in which nothing fires ends it. While all
    this runs, rules may use what ``opset`` offers, if that is above the graph's own.
    Raises UsageError for what is no pass.
    """

    passes: tuple[Pass, ...]
    rounds: int = 6
    then: Pipeline | None = None
    opset: int = 0

    def __post_init__(self) -> None:
        passes = tuple([as_pass(given) for given in listed(self.passes)])
        object.__setattr__(self, "passes", passes)

    def __call__(self, graph: Graph) -> Graph:
        return self.run(graph)[0]

    @classmethod
    def of(cls, passes: Sequence[Pass]) -> Pipeline:
        """The passes, and after them, once, those that trade."""
        given = cls(tuple(listed(passes))).passes
        last = tuple([p for p in given if p.trades])
        then = cls(last, rounds=1) if last else None
        return cls(tuple([p for p in given if not p.trades]), then=then)

    @property
    def trading(self) -> tuple[Pass, ...]:
        """The passes that trade."""
        return tuple([p for p in self.every if p.trades])

    @property
    def every(self) -> tuple[Pass, ...]:
        """The passes, and those of the pipelines that come after."""
        return self.passes + (self.then.every if self.then is not None else ())

    @property
    def growth(self) -> float:
        """The share of all weights that the passes may add."""
        return sum(p.growth for p in self.every)

    def unrolled(self, records: Sequence[PassRecord]) -> int:
        """How many ops a run added by writing work out in parts, as ``records`` say."""
        parts = {str(p) for p in self.every if p.unrolls}
        found = [record for record in records if record.name in parts]
        return sum(max(0, record.ops_after - record.ops_before) for record in found)

    def followed(self, last: Pass) -> Pipeline:
        """This pipeline, and at its very end one more pass."""
        if self.then is None:
            return dataclasses.replace(self, then=Pipeline((last,), rounds=1))
        return dataclasses.replace(self, then=self.then.followed(last))

    def split(self) -> tuple[Pipeline, Pipeline]:
        """The passes, and what comes then: two that do in a row what this one does."""
        after = dataclasses.replace(self, passes=(), rounds=0)
        return dataclasses.replace(self, then=None), after

    def opened(self, graph: Graph) -> Graph:
        """The graph as the passes are given it: at the higher one of the opsets."""
        own = graph.header.opsets.get("", 0)
        if self.opset <= own:
            return graph
        return graph.with_header(opsets={**graph.header.opsets, "": self.opset})

    def run(
        self,
        graph: Graph,
        *,
        observe: Observer | None = None,
        verify: Callable[[Graph], None] | None = None,
        deadline: float | None = None,
        least: int = 0,
    ) -> tuple[Graph, list[PassRecord]]:
        """The improved graph and a record of each pass, in pipeline order.

        ``verify`` is called on each new graph. ``deadline`` (`time.monotonic`) only
        stops early, between passes, and after ``least`` rounds. What comes ``then``
        lowers the graph: it has one round in any case.
        """
        records: dict[int, PassRecord] = {}
        seen: dict[int, Graph] = {}
        opened = start_of_all = self.opened(graph)
        count = count_ops(opened)
        for turn in range(self.rounds):
            start = opened
            for i, pass_ in enumerate(self.passes):
                if seen.get(i) is opened:
                    continue
                if turn >= least and _is_past(deadline):
                    break
                before, log, began = opened, _log(), time.process_time()
                opened = _run(pass_, before, log)
                seconds = time.process_time() - began
                seen[i] = opened
                after = count if opened is before else count_ops(opened)
                records[i] = _added(records.get(i), pass_, count, after, seconds, log)
                count = after
                if opened is before:
                    continue
                if verify is not None:
                    verify(opened)
                if observe is not None:
                    observe(pass_, before, opened)
                _show(pass_, before, opened, records[i])
            if opened is start:
                break
        found = [records[k] for k in sorted(records)]
        if self.then is not None:
            opened, more = self.then.run(
                opened, observe=observe, verify=verify, deadline=deadline, least=1
            )
            found += more
        if opened is start_of_all:
            return graph, found
        if start_of_all is not graph:
            opened = opened.with_header(opsets=graph.header.opsets)
        return opened, found


def _run(pass_: Pass, graph: Graph, log: Log) -> Graph:
    try:
        return pass_.run(graph, log)
    except Exception as error:
        error.add_note(f"[pass {pass_}]")
        raise


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def count_ops(graph: Graph) -> int:
    """Ops that do work: those of bodies count, constants do not."""
    return sum(op.kind != "Constant" for _, op in graph.walk())


def _added(
    old: PassRecord | None,
    pass_: Pass,
    before: int,
    after: int,
    seconds: float,
    log: Log,
) -> PassRecord:
    if old is None:
        fired, never, notes = dict(log.fired), tuple(log.never), tuple(log.notes)
        return PassRecord(str(pass_), before, after, seconds, fired, never, notes)
    return PassRecord(
        old.name,
        old.ops_before,
        old.ops_after + after - before,
        old.seconds + seconds,
        dict(Counter(old.fired) + log.fired),
        (*old.never, *log.never),
        old.notes + tuple(log.notes),
    )


def _log() -> Log:
    log = Log()
    if level() >= 3:
        log.on_fire = _print_fire
    if level() >= 4:
        log.on_miss = _print_miss
    return log


def _print_fire(rule_: Rule, op: Op, values: Sequence[Value]) -> None:
    made = ", ".join(_line(value) for value in values)
    say(3, f"  {rule_.name}: {format_op(op)} --> {made}")


def _line(value: Value) -> str:
    return repr(value) if value.op is None else format_op(value.op)


def _print_miss(rule_: Rule, op: Op, miss: Miss) -> None:
    say(4, f"  {rule_.name} missed on {format_op(op)}: {miss.reason}")


def _show(pass_: Pass, before: Graph, after: Graph, record: PassRecord) -> None:
    say(1, f"{pass_}: {record.ops_after} ops, {record.seconds:.3f} s")
    if level() >= 2:
        say(2, str(after))
    folder = dump_folder()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("*.after.txt")))
        stem = f"{number:03d}-{pass_.name}"
        (folder / f"{stem}.before.txt").write_text(str(before))
        (folder / f"{stem}.after.txt").write_text(str(after))


def parse_pass(spec: str, known: Mapping[str, type[Pass]]) -> Pass:
    """A pass from ``name`` or ``name(option=value, ...)``.

    Raises UsageError for an unknown pass or option, with the nearest names.
    """
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", spec, re.DOTALL)
    if match is None:
        raise UsageError(f"cannot read the pass {spec!r}; write name(option=value)")
    name, inner = match[1].replace("_", "-"), match[2] or ""
    if name not in known:
        raise UsageError(f"unknown pass {name!r}{nearest(name, known)}")
    cls = known[name]
    fields = cls.options()
    try:
        call = ast.parse(f"f({inner})", mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError("brackets do not match")
        if call.args:
            raise ValueError("options are named")
        options = {str(k.arg): _value(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"cannot read the options of {spec!r}: {error}") from None
    for option, value in options.items():
        if option not in fields:
            raise UsageError(
                f"pass {name!r} has no option {option!r}{nearest(option, fields)}"
            )
        default = fields[option]
        if default is not dataclasses.MISSING and type(value) is not type(default):
            raise UsageError(
                f"the option {option!r} of the pass {name!r} is like {default!r},"
                f" not {value!r}"
            )
    return cls(**options)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    return ast.literal_eval(node)
