"""The IR as text: `format_graph` prints a graph, `parse` reads an equal one back.

One op a line, operands before users, bodies indented below their op::

    graph "classifier"
      opset "" 17
      input %image : f32[batch, 784]
      %weight = f32[784, 10](sha256="9f…", file="model.bin", offset=0, length=31360)
      %0 = MatMul(%image, %weight) : f32[batch, 10]  # "logits" from "/fc/MatMul"
      output "scores" = %0 : f32[batch, 10]

A value is called ``%name`` where its name is short, plain and unique, else by a number,
its name then following ``#``; the source nodes that an op stands for follow ``from``.
Attributes at their defaults are not printed. Types behind ``:`` may be left out; where
they are written they must be what is inferred. Constants: see `graphopt.literal`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from .errors import GraphoptError, InvalidModel
from .ir import Graph, Header, Op, Parameter, Value
from .literal import (
    Weights,
    expect,
    format_attr,
    format_tensor,
    read_attr,
    read_json,
    read_tensor,
    read_type,
)
from .ops.constant import Constant
from .ops.registry import find
from .types import Type
from .weights import Tensor

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,39}")
_LABEL: Final = re.compile(r"%[A-Za-z0-9_.]+")
_OP: Final = re.compile(
    r"(%[A-Za-z0-9_.]+(?:, %[A-Za-z0-9_.]+)*) = "
    r'(?:(?:([^:"\s]+)::)?(\w+)\(([^()]*)\)|(?=[a-z0-9]+\[))'
)
_ATTR: Final = re.compile(r"(\w+)=")
_NUMBERED: Final = re.compile(r" (instance|token) (\d+)")
_WORD: Final = re.compile(r"\w+")
_INDENT: Final = "  "
_defaults: dict[type[Op], Mapping[str, str]] = {}


def format_graph(graph: Graph) -> str:
    """The graph as text that `parse` reads back, given the weights that it names."""
    return _print(graph, Weights())


def weights_of(graph: Graph) -> dict[str, Tensor]:
    """The tensors that `format_graph` only names, by those names: for `parse`."""
    weights = Weights()
    _print(graph, weights)
    return weights.tensors


def parse(
    text: str,
    weights: Mapping[str, Tensor] | None = None,
    *,
    folder: Path | None = None,
) -> Graph:
    """The graph that the text spells; its ``key`` is that of the one printed.

    Large constants come from ``weights`` (by digest; see `weights_of`), else from their
    data files beneath ``folder``. Raises InvalidModel that names the line.
    """
    return _Reader(text.split("\n"), Weights(weights, folder)).model()


def format_op(op: Op, labels: Mapping[Value, str] | None = None) -> str:
    """One op on one line, for people. ``labels`` names operands, else types do."""
    shown = []
    for operand in op.operands:
        if operand is None:
            shown.append("-")
        elif labels and operand in labels:
            shown.append(labels[operand])
        elif isinstance(operand, Parameter):
            shown.append(f"%{operand.name}")
        elif isinstance(operand, Constant) and operand.tensor.size <= 8:
            shown.append(format_tensor(operand.tensor, Weights()))
        else:
            shown.append(str(operand.type))
    if isinstance(op, Constant):
        return str(op.type) if op.tensor.size > 8 else _call(op, [], Weights())
    return f"{_call(op, shown, Weights())} : {', '.join(map(str, op.types))}"


# --- printing -----------------------------------------------------------------------


def _print(graph: Graph, weights: Weights) -> str:
    lines = [f"graph {json.dumps(graph.name)}"]
    _print_graph(graph, weights, _INDENT, lines)
    return "\n".join(lines) + "\n"


def _print_graph(graph: Graph, weights: Weights, indent: str, lines: list[str]) -> None:
    labels = _labels(graph)
    lines += [indent + line for line in _header(graph)]
    for parameter in graph.inputs:
        label, name = labels[parameter], parameter.name
        called = "" if _named(label) == name else f" {json.dumps(name)}"
        line = f"{indent}input {label}{called} : {parameter.type}"
        if parameter.default is not None:
            line += f" = {format_tensor(parameter.default, weights)}"
        lines.append(line)
    for op in graph.ops:
        results = op.results
        operands = ["-" if v is None else labels.get(v, "%?") for v in op.operands]
        line = f"{indent}{', '.join([labels[v] for v in results])} = "
        line += _call(op, operands, weights)
        if not isinstance(op, Constant):
            line += f" : {', '.join([_type(t) for t in op.types])}"
        lines.append(line + _remark(graph, op, results, labels))
        for body in op.bodies:
            lines.append(f"{indent}{_INDENT}body {json.dumps(body.name)}")
            _print_graph(body, weights, indent + 2 * _INDENT, lines)
    for name, value, type_ in zip(
        graph.output_names, graph.outputs, graph.output_types, strict=True
    ):
        declared = "" if type_ is None else f" : {type_}"
        called = labels.get(value, "%?")
        lines.append(f"{indent}output {json.dumps(name)} = {called}{declared}")


def _header(graph: Graph) -> list[str]:
    header, lines = graph.header, []
    if header != Header():
        lines.append(
            _words("opset", *[x for pair in header.opsets.items() for x in pair])
        )
        plain = Header()
        for word in ("ir_version", "domain", "model_version", "doc"):
            if getattr(header, word) != getattr(plain, word):
                lines.append(_words(word, getattr(header, word)))
        if header.producer != plain.producer:
            lines.append(_words("producer", *header.producer))
        lines += [_words("metadata", *pair) for pair in header.metadata.items()]
    if graph.doc:
        lines.append(_words("about", graph.doc))
    return lines


@lru_cache(maxsize=4096)
def _type(type_: Type) -> str:
    return str(type_)


def _words(*words: str | int) -> str:
    return " ".join([str(words[0]), *map(json.dumps, words[1:])])


def _labels(graph: Graph) -> dict[Value, str]:
    """``%name`` where that is plain and nobody else's, ``%7`` elsewhere."""
    values: dict[Value, str] = {p: p.name for p in graph.inputs}
    for op in graph.ops:
        for value in op.results:
            values[value] = graph.names.get(value, "")
    uses = Counter(values.values())
    labels: dict[Value, str] = {}
    number = 0
    for value, name in values.items():
        if uses[name] == 1 and _PLAIN.fullmatch(name):
            labels[value] = f"%{name}"
        else:
            labels[value] = f"%{number}"
            number += 1
    return labels


def _named(label: str) -> str:
    """The name that a label says; "" for a number."""
    return "" if label[1:].isdigit() else label[1:]


def _call(op: Op, operands: Sequence[str], weights: Weights) -> str:
    if isinstance(op, Constant):
        return format_tensor(op.tensor, weights)
    prefix = f"{op.domain}::" if op.domain else ""
    text = f"{prefix}{op.kind}({', '.join(operands)})"
    usual = _usual(type(op))
    attrs = []
    for name in sorted(op.attrs):
        value = format_attr(op.attrs[name], weights)
        if usual.get(name) != value:
            attrs.append(f"{name}={value}")
    if attrs:
        text += f" {{{', '.join(attrs)}}}"
    if op.instance:
        text += f" instance {op.instance}"
    if op.token:
        text += f" token {op.token}"
    return text


def _usual(cls: Any) -> Mapping[str, str]:
    found = _defaults.get(cls)
    if found is None:
        found = _defaults[cls] = _spelled_defaults(cls)
    return found


def _spelled_defaults(cls: Any) -> Mapping[str, str]:
    """Attributes that an op of this class has where none are given, as text."""
    try:
        return {k: format_attr(v, Weights()) for k, v in cls.complete({}).items()}
    except GraphoptError:  # it needs some: look at the defaults alone
        schema: Any = getattr(cls, "schema", None)
        defaults = schema().defaults if schema is not None else {}
        return {k: format_attr(v, Weights()) for k, v in defaults.items()}


def _remark(
    graph: Graph, op: Op, results: Sequence[Value], labels: Mapping[Value, str]
) -> str:
    names = [graph.names.get(v) for v in results]
    text = ""
    said = [_named(labels[v]) for v in results]
    if any(n and n != label for n, label in zip(names, said, strict=True)):
        text = " " + ", ".join("_" if n is None else json.dumps(n) for n in names)
    if sources := graph.sources.get(op):
        text += f" from {', '.join(map(json.dumps, sources))}"
    return f"  #{text}" if text else ""


# --- parsing ------------------------------------------------------------------------


class _Reader:
    """Lines of text: ``at`` is the next one, ``reading`` the one that messages name."""

    def __init__(self, lines: Sequence[str], weights: Weights) -> None:
        self.lines = lines
        self.weights = weights
        self.at = 0
        self.reading = 0

    def model(self) -> Graph:
        try:
            while self.at < len(self.lines) and not self.lines[self.at].strip():
                self.at += 1
            graph = self.graph("graph ", "")
            self.reading = self.at
            if "".join(self.lines[self.at :]).strip():
                raise ValueError("this line is outside of the graph")
        except (ValueError, KeyError, TypeError, GraphoptError) as error:
            message = error.message if isinstance(error, GraphoptError) else str(error)
            line = "".join(self.lines[self.reading : self.reading + 1]).strip()
            where = f"line {self.reading + 1}: {line[:120]}"
            raise InvalidModel(message, where=where) from error
        return graph

    def graph(self, keyword: str, indent: str) -> Graph:
        line = self.lines[self.at] if self.at < len(self.lines) else ""
        self.reading = self.at
        start = expect(line, 0, indent + keyword)
        name, _ = read_json(line, start)
        self.at += 1
        made = _Parts(name)
        inner = indent + _INDENT
        while self.at < len(self.lines):
            line = self.lines[self.at]
            self.reading = self.at
            if not line.startswith(inner):
                if line.strip():
                    break
                self.at += 1
                continue
            if line.startswith("%", len(inner)):
                self.op(line, inner, made)
            elif line.startswith(" ", len(inner)):
                raise ValueError("this line is indented too far")
            else:
                self.statement(line, len(inner), made)
                self.at += 1
        return made.graph()

    def statement(self, line: str, at: int, made: _Parts) -> None:
        found = _WORD.match(line, at)
        word = found.group() if found else ""
        at += len(word)
        if word == "input":
            self.input(line, at, made)
        elif word == "output":
            name, at = read_json(line, at + 1)
            at = expect(line, at, " = ")
            label, at = _read_label(line, at)
            type_: Type | None = None
            if line.startswith(" : ", at):
                type_, at = read_type(line, at + 3)
            made.outputs.append((name, made.value(label), type_))
            _end(line, at)
        else:
            words = []
            while at < len(line):
                value, at = read_json(line, expect(line, at, " "))
                words.append(value)
            made.say(word, words)

    def input(self, line: str, at: int, made: _Parts) -> None:
        label, at = _read_label(line, expect(line, at, " "))
        name = _named(label)
        if line.startswith(' "', at):
            name, at = read_json(line, at + 1)
        type_, at = read_type(line, expect(line, at, " : "))
        default = None
        if line.startswith(" = ", at):
            default, at = read_tensor(line, at + 3, self.weights)
        _end(line, at)
        made.inputs.append(Parameter(type_, name, default=default))
        made.define(label, made.inputs[-1])

    def op(self, line: str, indent: str, made: _Parts) -> None:
        found = _OP.match(line, len(indent))
        if found is None:
            raise ValueError("this line is no op")
        labels = found[1].split(", ")
        start = self.at
        self.at += 1
        if found[3] is None:
            tensor, at = read_tensor(line, found.end(), self.weights)
            op: Op = Constant(tensor)
        else:
            operands = [made.value(x) for x in found[4].split(", ") if found[4]]
            attrs, at = self.attrs(line, found.end())
            while (number := _NUMBERED.match(line, at)) is not None:
                attrs[number[1]] = int(number[2])
                at = number.end()
            bodies = self.bodies(indent + _INDENT)
            cls: Any = find(found[3], found[2] or "")
            if cls is None:
                raise ValueError(f"no op kind is called {found[3]!r}")
            op = cls(*operands, bodies=bodies, outs=len(labels), **attrs)
            self.reading = start
        if line.startswith(" : ", at):
            at = _check_types(line, at + 3, op)
        results = op.results
        if len(results) != len(labels):
            raise ValueError(f"{op.kind} has {len(results)} results here")
        for label, value in zip(labels, results, strict=True):
            made.define(label, value)
            if name := _named(label):
                made.names[value] = name
        _read_remark(line, at, op, made)

    def attrs(self, line: str, at: int) -> tuple[dict[str, Any], int]:
        attrs: dict[str, Any] = {}
        if not line.startswith(" {", at):
            return attrs, at
        at += 2
        while not line.startswith("}", at):
            if attrs:
                at = expect(line, at, ", ")
            found = _ATTR.match(line, at)
            if found is None:
                raise ValueError(f"expected an attribute before {line[at : at + 40]!r}")
            attrs[found[1]], at = read_attr(line, found.end(), self.weights)
        return attrs, at + 1

    def bodies(self, indent: str) -> list[Graph]:
        bodies = []
        while self.at < len(self.lines) and self.lines[self.at].startswith(
            indent + "body "
        ):
            bodies.append(self.graph("body ", indent))
        return bodies


class _Parts:
    """What has been read of one graph."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: list[Parameter] = []
        self.outputs: list[tuple[str, Value, Type | None]] = []
        self.values: dict[str, Value] = {}
        self.names: dict[Value, str] = {}
        self.sources: dict[Op, tuple[str, ...]] = {}
        self.header: dict[str, Any] = {}
        self.doc = ""

    def define(self, label: str, value: Value) -> None:
        if label in self.values:
            raise ValueError(f"{label} is defined twice")
        self.values[label] = value

    def value(self, label: str) -> Any:
        """The value of that label; None for the absent operand ``-``."""
        if label == "-":
            return None
        if label not in self.values:
            raise ValueError(f"{label} is not defined above")
        return self.values[label]

    def say(self, word: str, words: list[Any]) -> None:
        if word == "opset":
            self.header["opsets"] = dict(zip(words[::2], words[1::2], strict=True))
        elif word == "metadata":
            key, value = words
            self.header.setdefault("metadata", {})[key] = value
        elif word == "producer":
            name, version = words
            self.header["producer"] = (name, version)
        elif word == "about":
            (self.doc,) = words
        elif word in ("ir_version", "domain", "model_version", "doc"):
            (self.header[word],) = words
        else:
            raise ValueError(f"no line of a graph begins with {word!r}")

    def graph(self) -> Graph:
        return Graph(
            self.inputs,
            [value for _, value, _ in self.outputs],
            output_names=[name for name, _, _ in self.outputs],
            output_types=[type_ for _, _, type_ in self.outputs],
            name=self.name,
            doc=self.doc,
            header=Header(**self.header),
            names=self.names,
            sources=self.sources,
        )


def _read_label(line: str, at: int) -> tuple[str, int]:
    found = _LABEL.match(line, at)
    if found is None:
        raise ValueError(f"expected a value before {line[at : at + 40]!r}")
    return found.group(), found.end()


def _check_types(line: str, at: int, op: Op) -> int:
    inferred = ", ".join([_type(t) for t in op.types])
    end = at + len(inferred)
    if line.startswith(inferred, at) and line[end : end + 1] in ("", " "):
        return end
    for type_ in op.types:
        written, at = read_type(line, at)
        if written != type_:
            raise ValueError(f"the text says {written}, {op.kind} infers {type_}")
        at += 2 * line.startswith(", ", at)
    return at


def _read_remark(line: str, at: int, op: Op, made: _Parts) -> None:
    if not line.startswith("  #", at):
        return _end(line, at)
    at += 3
    if not line.startswith(" from ", at):
        at += 1
        for value in op.results:
            if line.startswith("_", at):
                at += 1
            else:
                made.names[value], at = read_json(line, at)
            at += 2 * line.startswith(", ", at)
    if line.startswith(" from ", at):
        at += 5
        sources: list[str] = []
        while line.startswith((" ", ", "), at):
            name, at = read_json(line, line.index('"', at))
            sources.append(name)
        made.sources[op] = tuple(sources)
    _end(line, at)


def _end(line: str, at: int) -> None:
    if line[at:].strip():
        raise ValueError(f"this does not belong here: {line[at:].strip()[:40]!r}")
