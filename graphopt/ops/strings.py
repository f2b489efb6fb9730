"""Ops on strings. They run on the host, where strings are Python's."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Shape
from .registry import op
from .steering import shape_of
from .structured import Array, Computed, Elementwise

if TYPE_CHECKING:
    from ..xp import Namespace


def each(function: Callable[[str], Any], x: Array, dtype: Any) -> Array:
    """``function`` of every string, as an array of ``dtype``."""
    result = np.empty(x.shape, dtype)
    result.reshape(-1)[:] = [function(text) for text in x.reshape(-1)]
    return result


@op("StringConcat")
class StringConcat(Elementwise):
    """a followed by b."""

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return np.asarray(np.add(a, b), object)


@op("RegexFullMatch")
class RegexFullMatch(Elementwise):
    """True where the whole string matches ``pattern``.

    The pattern is RE2's; what that can say means the same to Python.
    """

    def compute(self, xp: Namespace, x: Array) -> Array:
        pattern = re.compile(self.pattern or "")
        return each(lambda text: pattern.fullmatch(text) is not None, x, np.bool_)


@op("StringSplit")
class StringSplit(Computed):
    """The parts of each string along a new last axis, and how many it has.

    Short rows are filled with empty strings. Without a delimiter, or with an empty one,
    parts lie between white space.
    """

    def compute(self, xp: Namespace, x: Array) -> tuple[Array, Array]:
        most = -1 if self.maxsplit is None else self.maxsplit
        parts = [
            text.split(self.delimiter, most)
            if self.delimiter
            else text.strip().split(None, most)
            for text in x.reshape(-1)
        ]
        width = max(map(len, parts), default=0)
        table = np.full((len(parts), width), "", object)
        for row, found in zip(table, parts, strict=True):
            row[: len(found)] = found
        counts = np.array([len(found) for found in parts], np.int64)
        return table.reshape(*x.shape, width), counts.reshape(x.shape)

    def result_shapes(self) -> Sequence[Shape | None]:
        source = shape_of(self)
        return [None if source is None else (*source, None), source]


@op("StringNormalizer")
class StringNormalizer(Computed):
    """The strings that are no ``stopwords``, in upper or lower case if that is asked.

    Of ``[n]`` or ``[1, n]``; where none is left, one empty string.
    """

    def compute(self, xp: Namespace, x: Array) -> Array:
        def plain(text: str) -> str:
            return text if self.is_case_sensitive else text.lower()

        stopped = {plain(word) for word in self.stopwords or ()}
        change = {"LOWER": str.lower, "UPPER": str.upper}.get(
            self.case_change_action, str
        )
        kept = [change(text) for text in x.reshape(-1) if plain(text) not in stopped]
        return np.array(kept or [""], object).reshape(*x.shape[:-1], -1)

    def result_shapes(self) -> Sequence[Shape | None]:
        source = shape_of(self)
        return [None if source is None else (*source[:-1], None)]


@op("TfIdfVectorizer")
class TfIdfVectorizer(Computed):
    """How often each n-gram of a pool occurs in each row, weighted as ``mode`` says.

    The elements of an n-gram may lie apart, all equally, by up to ``max_skip_count``.
    """

    def compute(self, xp: Namespace, x: Array) -> Array:
        rows = x.reshape(1, -1) if x.ndim < 2 else x
        places = self.pool()
        width = max(self.ngram_indexes) + 1
        counts = np.zeros((len(rows), width), np.float32)
        for row, count in zip(rows.tolist(), counts, strict=True):
            for gram in self._grams(row):
                if gram in places:
                    count[self.ngram_indexes[places[gram]]] += 1
        return self.weighted(xp, xp.asarray(counts)).reshape(*x.shape[:-1], width)

    def weighted(self, xp: Namespace, counts: Array) -> Array:
        """What ``mode`` makes of the number of times that each n-gram occurs."""
        if self.mode == "IDF":
            counts = xp.minimum(counts, 1)
        if self.mode != "TF" and self.weights is not None:
            weights = np.ones(counts.shape[-1], counts.dtype)
            weights[list(self.ngram_indexes)] = self.weights
            counts = xp.multiply(counts, xp.asarray(weights))
        return counts

    def pool(self) -> dict[tuple[Hashable, ...], int]:
        """The number of each n-gram of the pool."""
        words = self.pool_strings or self.pool_int64s or ()
        starts = [*self.ngram_counts, len(words)]
        grams = [
            words[at : at + size]
            for size, start in enumerate(self.ngram_counts, 1)
            for at in range(start, starts[size], size)
        ]
        return {tuple(gram): number for number, gram in enumerate(grams)}

    def distances(self, size: int) -> range:
        """How far apart the elements of an n-gram of some size may lie; none, where
        such n-grams are not counted.
        """
        if not self.min_gram_length <= size <= self.max_gram_length:
            return range(0)
        return range(1, 2 if size == 1 else self.max_skip_count + 2)

    def _grams(self, row: Sequence[Any]) -> list[tuple[Any, ...]]:
        found = []
        for size in range(self.min_gram_length, self.max_gram_length + 1):
            for apart in self.distances(size):
                for at in range(len(row) - (size - 1) * apart):
                    found.append(tuple(row[at : at + (size - 1) * apart + 1 : apart]))
        return found

    def result_shapes(self) -> Sequence[Shape | None]:
        source = shape_of(self)
        width = max(self.ngram_indexes) + 1
        return [None if source is None else (*source[:-1], width)]
