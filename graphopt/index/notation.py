"""The einsum-like notation of index maps.

Tensors are separated by ``,``, operands and results by ``->``, dims by spaces::

    ... m k, ... k n -> ... m n

========== ==========================================================================
``m``       a plain axis
``m?``      a plain axis for which this operand may have extent 1 (broadcasting)
``...``     leading axes, broadcast between operands as NumPy does
``1``       a dim of extent 1
``(h d)``   a compound axis, row-major
``2*y+r-1`` a window or segment: affine in the axes
``c-5:3``   the same for a dim of extent 3, positions outside of it being left out
``@1``      positions that operand 1 tells
``_v``      any position of axis v; ``_`` of an axis of its own
``-``       alone, as a tensor: not indexed
========== ==========================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, TypeAlias

from .maps import (
    UNIT,
    Affine,
    Combiner,
    Compound,
    Lookup,
    Map,
    Maps,
    Whole,
    axis,
    build,
)

_Facts: TypeAlias = tuple[tuple[str, object], ...]

_NAME: Final = r"[A-Za-z][A-Za-z0-9_]*"
_TOKEN: Final = re.compile(r"\(([^()]*)\)|(\S+)")
_PLAIN: Final = re.compile(rf"({_NAME})(\??)")
_AFFINE: Final = re.compile(r"(?P<sum>[^:]+)(?::(?P<extent>\d+))?")
_ADDEND: Final = re.compile(
    rf"(?P<sign>[+-]?)(?:(?:(?P<step>\d+)\*)?(?P<name>{_NAME})|(?P<offset>\d+))"
)


def parse(
    text: str,
    ranks: Iterable[int | None] | None = None,
    *,
    combiner: Combiner | None = Combiner.SUM,
    combiners: Mapping[str, Combiner | None] | None = None,
    broadcast: Iterable[str] = (),
    carried: Iterable[str] = (),
    positional: Iterable[str] = (),
    linear: Iterable[Iterable[int]] = (),
    cost: float = 1.0,
) -> Maps:
    """Maps from their notation; facts as for `build`.

    ``ranks`` are those of the operands, None for an absent one; needed for ``...``.
    There may be fewer than the text has tensors: the rest are absent too. Raises
    ValueError where ranks and text do not agree, or the text says nothing.
    """
    return _parse(
        text,
        None if ranks is None else tuple(ranks),
        combiner,
        tuple((combiners or {}).items()),
        frozenset(broadcast),
        frozenset(carried),
        frozenset(positional),
        tuple(map(frozenset, linear)),
        cost,
    )


@lru_cache(4096)
def _parse(
    text: str,
    ranks: tuple[int | None, ...] | None,
    combiner: Combiner | None,
    combiners: tuple[tuple[str, Combiner | None], ...],
    broadcast: frozenset[str],
    carried: frozenset[str],
    positional: frozenset[str],
    linear: tuple[frozenset[int], ...],
    cost: float,
) -> Maps:
    left, arrow, right = text.partition("->")
    if not arrow or "->" in right:
        raise ValueError(f"index maps {text!r} need one '->'")
    reader = _Reader(text, set(broadcast))
    tensors = [t.strip() for t in left.split(",")]
    if tensors == [""] and not ranks:
        tensors = []  # no operand; with one rank given it is one of rank 0
    if ranks is None:
        ranks = tuple(len(_TOKEN.findall(t)) if t != "-" else 0 for t in tensors)
        if "..." in text:
            raise ValueError(f"index maps {text!r} need the ranks of their operands")
    if len(ranks) > len(tensors):
        raise ValueError(
            f"index maps {text!r} are for {len(tensors)} operands, not {len(ranks)}"
        )
    operands = [
        reader.operand(i, *pair)
        for i, pair in enumerate(zip(tensors, ranks))  # noqa: B905
    ]
    results = [reader.tensor(t.strip()) for t in right.split(",")]
    return build(
        operands,
        results,
        combiner=combiner,
        combiners=dict(combiners),
        broadcast=reader.broadcast,
        carried=carried,
        positional=positional,
        linear=linear,
        cost=cost,
    )


class _Reader:
    """Reads the tensors of one text, operands first: results repeat their ``...``."""

    def __init__(self, text: str, broadcast: set[str]) -> None:
        self.text = text
        self.broadcast = broadcast
        self.leading = 0  # the longest `...` so far
        self.anonymous = 0

    def error(self, message: str) -> ValueError:
        return ValueError(f"index maps {self.text!r}: {message}")

    def operand(self, index: int, tensor: str, rank: int | None) -> Map | None:
        if rank is None or tensor == "-":
            return None
        tokens = _TOKEN.findall(tensor)
        named = sum(word != "..." for _, word in tokens)
        open_ended = named < len(tokens)
        if rank < named or (rank > named and not open_ended):
            least = "at least " if open_ended else ""
            raise self.error(f"operand {index} is of rank {rank}, not {least}{named}")
        terms = self.terms(tokens, rank - named)
        if open_ended:
            if self.leading:
                self.broadcast.update(leading_axes(min(self.leading, rank - named)))
            self.leading = max(self.leading, rank - named)
        return terms

    def tensor(self, tensor: str) -> Map:
        return self.terms(_TOKEN.findall(tensor), self.leading)

    def terms(self, tokens: list[tuple[str, str]], leading: int) -> Map:
        terms: list[Affine | Compound | Lookup | Whole] = []
        for inner, word in tokens:
            if word == "...":
                terms += [axis(name) for name in leading_axes(leading)]
            elif word:
                terms.append(self.term(word))
            else:
                terms.append(self.compound(inner))
        return tuple(terms)

    def compound(self, inner: str) -> Compound:
        names = tuple(inner.split())
        for name in names:
            if not re.fullmatch(_NAME, name):
                raise self.error(f"({inner}) names no axis {name!r}")
        return Compound(names)

    def term(self, word: str) -> Affine | Lookup | Whole:
        if word == "1":
            return UNIT
        if word[0] == "@" and word[1:].isdigit():
            return Lookup(int(word[1:]))
        if word[0] == "_":
            self.anonymous += word == "_"
            return Whole(word[1:] or f"_{self.anonymous}")
        plain = _PLAIN.fullmatch(word)
        if plain:
            if plain[2]:
                self.broadcast.add(plain[1])
            return axis(plain[1])
        return self.affine(word)

    def affine(self, word: str) -> Affine:
        whole = _AFFINE.fullmatch(word)
        coefficients: dict[str, int] = {}
        offset = position = 0
        while whole and position < len(whole["sum"]):
            found = _ADDEND.match(whole["sum"], position)
            if found is None or (position and not found["sign"]):
                raise self.error(f"cannot read {word!r}")
            position = found.end()
            sign = -1 if found["sign"] == "-" else 1
            if found["name"]:
                step = sign * int(found["step"] or 1)
                coefficients[found["name"]] = coefficients.get(found["name"], 0) + step
            else:
                offset += sign * int(found["offset"])
        if whole is None:
            raise self.error(f"cannot read {word!r}")
        extent = None if whole["extent"] is None else int(whole["extent"])
        return Affine(tuple(coefficients.items()), offset, extent)


def leading_axes(count: int) -> tuple[str, ...]:
    """The axes that ``...`` stands for: numbered from the right, as they align."""
    return tuple(f"...{i}" for i in reversed(range(count)))
