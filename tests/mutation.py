"""Mutants of rules: what one slip of the hand makes of a module's source.

A mutant is one change of one expression or guard. Its key is the function it is in and
the code before and after, so that edits elsewhere in the file leave it what it is.
"""

from __future__ import annotations

import ast
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

PASSES = Path(__file__).parents[1] / "passes"

_COMMUTATIVE = {"Add", "Mul", "Max", "Min", "And", "Or", "Xor", "Sum"}
_BOUNDS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
_OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
}
_SMALL = (ast.Constant, ast.keyword, ast.Tuple, ast.List, ast.UnaryOp)
"""Nodes that say nothing without what is around them."""

_ONE_WAY = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.MatMult)


@dataclass(frozen=True)
class Mutant:
    """A module of ``passes/`` with one change."""

    module: str
    kind: str
    key: str
    tree: ast.Module = field(repr=False)
    site: _Site = field(repr=False)
    node: ast.AST = field(repr=False)

    def source(self) -> str:
        """The changed module: one mutant of a tree at a time."""
        self.site.slot.put(self.node)
        text = ast.unparse(self.tree)
        self.site.slot.put(self.site.node)
        return text


@dataclass(frozen=True)
class _Slot:
    """Where a node hangs in its tree, so that another can take its place."""

    holder: ast.AST
    field: str
    index: int | None

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.holder, self.field, node)
        else:
            getattr(self.holder, self.field)[self.index] = node


@dataclass(frozen=True)
class _Site:
    """A node, the function it is in, and the smallest code that shows what it is."""

    slot: _Slot
    node: ast.AST
    function: str
    shown: ast.AST


def mutants_of(module: str, text: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its text."""
    tree = ast.parse(text)
    ops = _imported_ops(tree)
    found: list[Mutant] = []
    seen: Counter[str] = Counter()
    for site in list(_sites(tree, tree)):
        whole = site.shown is site.node
        before = ast.unparse(site.shown)
        for kind, node in _variants(site, ops):
            site.slot.put(node)
            after = ast.unparse(node if whole else site.shown)
            site.slot.put(site.node)
            key = f"{module}.{site.function}: {before} => {after}"
            key = " ".join(key.split())
            seen[key] += 1
            if seen[key] > 1:
                key += f" (number {seen[key]})"
            found.append(Mutant(module, kind, key, tree, site, node))
    return found


def chosen(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """``count`` of them, spread evenly over modules and kinds.

    Drawn by a hash of each key: an edit changes which of its own mutants are taken,
    and hardly any others.
    """
    buckets: dict[tuple[str, str], list[Mutant]] = defaultdict(list)
    for mutant in sorted(mutants, key=lambda m: _draw(seed, m.key)):
        buckets[mutant.module, mutant.kind].append(mutant)
    order = sorted(buckets, key=lambda bucket: _draw(seed, str(bucket)))
    rounds = zip_longest(*(buckets[bucket] for bucket in order))
    return [m for m in chain.from_iterable(rounds) if m is not None][:count]


def _draw(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed} {text}".encode()).digest()


def _imported_ops(tree: ast.Module) -> set[str]:
    """The kinds of op that a module builds."""
    return {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "graphopt.ops"
        for alias in node.names
    }


def _sites(node: ast.AST, shown: ast.AST, function: str = "") -> Iterator[_Site]:
    """Every node that may change; see `_means_nothing`."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        items = value if isinstance(value, list) else [value]
        for i, child in enumerate(items):
            if not isinstance(child, ast.AST) or _means_nothing(child):
                continue
            slot = _Slot(node, name, i if isinstance(value, list) else None)
            outer = function
            if isinstance(child, ast.FunctionDef):
                outer = function or child.name
            here = shown if isinstance(child, _SMALL) else child
            yield _Site(slot, child, outer, here)
            yield from _sites(child, here, outer)


def _means_nothing(node: ast.AST) -> bool:
    """Imports, assertions, docstrings, messages, ``strict=True``, and ``64 << 20``.

    The last is how limits are written: how large each is, is nobody's theorem.
    """
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift):
        return True
    if isinstance(node, ast.keyword):
        return node.arg == "strict"
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "miss"
    return isinstance(
        node, ast.Import | ast.ImportFrom | ast.Assert | ast.Raise | ast.JoinedStr
    )


def _variants(site: _Site, ops: set[str]) -> Iterator[tuple[str, ast.AST]]:
    """What may stand where a node stands, each with the kind of slip that it is."""
    node = site.node
    if isinstance(node, ast.If) and _refuses(node) and not _is_presence(node.test):
        yield "dropped guard", ast.Pass()
    elif isinstance(node, ast.BoolOp):
        for i, value in enumerate(node.values):
            if _is_presence(value):
                continue
            rest = [v for j, v in enumerate(node.values) if j != i]
            yield "weakened", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        kind = type(node.ops[0])
        for name, table in (("boundary", _BOUNDS), ("negated", _OPPOSITES)):
            if kind in table:
                other = table[kind]()
                yield name, ast.Compare(node.left, [other], node.comparators)
    elif isinstance(node, ast.IfExp):
        yield "negated", ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.Not):
            yield "negated", node.operand
        elif isinstance(node.op, ast.USub):
            yield "arithmetic", node.operand
    elif isinstance(node, ast.Call):
        yield from _calls(node, ops)
    elif isinstance(node, ast.BinOp):
        yield from _sums(node)
    elif isinstance(node, ast.Attribute) and node.attr == "epsilon":
        yield "epsilon", ast.BinOp(ast.Constant(2), ast.Mult(), node)
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        if isinstance(node.slice.value, int):
            at = ast.Constant(node.slice.value + 1 if node.slice.value < 1 else 0)
            yield "axis", ast.Subscript(node.value, at, node.ctx)
    elif isinstance(node, ast.Constant) and not isinstance(
        site.slot.holder, ast.Subscript
    ):
        yield from _numbers(node.value)


def _is_presence(test: ast.expr) -> bool:
    """``x is None`` of a name: dropped, it is for the type checker or a plain crash."""
    if isinstance(test, ast.BoolOp):
        return all(map(_is_presence, test.values))
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.left, ast.Name)
        and isinstance(test.ops[0], ast.Is | ast.IsNot)
        and isinstance(test.comparators[0], ast.Constant)
    )


def _refuses(node: ast.If) -> bool:
    """``if ...: return None`` (or False, or a miss), or ``continue``."""
    if len(node.body) != 1 or node.orelse:
        return False
    (only,) = node.body
    if isinstance(only, ast.Continue):
        return True
    if not isinstance(only, ast.Return):
        return False
    value = only.value
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id == "miss"
    return isinstance(value, ast.Constant) and value.value in (None, False)


def _calls(node: ast.Call, ops: set[str]) -> Iterator[tuple[str, ast.AST]]:
    """Ops that are built: swapped operands, lost attributes, another axis."""
    called = node.func.id if isinstance(node.func, ast.Name) else ""
    copied = isinstance(node.func, ast.Attribute) and node.func.attr == "copy"
    if called not in ops and not copied:
        return
    args = node.args
    if called in ops and len(args) > 1 and called not in _COMMUTATIVE:
        swapped = [args[1], args[0], *args[2:]]
        yield "swapped", ast.Call(node.func, swapped, node.keywords)
    for i, keyword in enumerate(node.keywords):
        others = node.keywords[:i] + node.keywords[i + 1 :]
        if keyword.arg is not None:
            yield "lost attribute", ast.Call(node.func, args, others)
        if keyword.arg == "axis":
            moved = ast.keyword("axis", _plus_one(keyword.value))
            yield "axis", ast.Call(node.func, args, [*others, moved])


def _plus_one(value: ast.expr) -> ast.expr:
    return ast.BinOp(value, ast.Add(), ast.Constant(1))


def _sums(node: ast.BinOp) -> Iterator[tuple[str, ast.AST]]:
    other = _ARITHMETIC.get(type(node.op))
    if other is not None:
        yield "arithmetic", ast.BinOp(node.left, other(), node.right)
    if isinstance(node.op, _ONE_WAY):
        yield "swapped", ast.BinOp(node.right, node.op, node.left)


def _numbers(value: Any) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(value, bool):
        yield "negated", ast.Constant(not value)
    elif isinstance(value, int):
        yield "number", ast.Constant(value + 1)
    elif isinstance(value, float) and math.isfinite(value):
        yield "number", ast.Constant(value * 10 if value else 1.0)
