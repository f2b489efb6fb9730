"""Cases of strings, and of boxes: what runs on the host alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from single import Case, sweep

from graphopt.types import DType


def texts(*values: Any) -> Any:
    """An operand of strings; a list makes a dim."""
    array = np.array(values, object)

    def given(*_: object) -> Any:
        return array

    given.__name__ = str(array.tolist()).replace(" ", "_")
    return given


def numbers(values: Any, dtype: Any) -> Any:
    array = np.asarray(values, dtype)

    def given(*_: object) -> Any:
        return array

    shown = array.tolist() if array.size < 9 else "x".join(map(str, array.shape))
    given.__name__ = f"{np.dtype(dtype)} {shown}".replace(" ", "")
    return given


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        options.setdefault("dtypes", [DType.STRING])
        options.setdefault("traced", False)
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    names = texts("ab", "", "cäd")
    add("StringConcat", [(names, texts("x")), (texts(["a", "b"]), texts(["c"], ["d"]))])
    patterns = [{"pattern": r"[a-c]+"}, {"pattern": ""}, {"pattern": r"(?i)CÄ.|\d{2}"}]
    add("RegexFullMatch", [(texts("abc", "cäd", "", "42", "abcd"),)], patterns)
    splits = [
        {},
        {"delimiter": "-"},
        {"delimiter": "-", "maxsplit": 1},
        {"maxsplit": 1},
    ]
    parts = texts(["a-b-c", " x  y "], ["", "--"])
    add("StringSplit", [(parts,), (texts("a b", "c"),)], splits, outs=2)
    cleaned = [
        {},
        {"case_change_action": "UPPER"},
        {"case_change_action": "LOWER", "stopwords": ("monday",)},
        {"stopwords": ("Monday",), "is_case_sensitive": 1},
        {"stopwords": ("monday", "tuesday"), "case_change_action": "UPPER"},
    ]
    days = [(texts("Monday", "tuesday", "Äther"),), (texts(["Monday", "tuesday"]),)]
    add("StringNormalizer", days, cleaned)
    pool = {
        "min_gram_length": 1,
        "max_gram_length": 2,
        "ngram_counts": (0, 4),
        "ngram_indexes": (0, 1, 2, 3, 4, 5, 6),
        "pool_int64s": (2, 3, 5, 4, 5, 6, 7, 8, 6, 7),
    }
    weights = (0.5, 1.0, 2.0, 1.5, 0.25, 3.0, 1.0)
    ways = [
        {**pool, "mode": "TF", "max_skip_count": 0},
        {**pool, "mode": "TF", "max_skip_count": 5},
        {**pool, "mode": "IDF", "max_skip_count": 1, "weights": weights},
        {**pool, "mode": "TFIDF", "max_skip_count": 2, "weights": weights},
    ]
    rows = [[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]]
    add(
        "TfIdfVectorizer",
        [(numbers(rows, np.int64),), (numbers(rows[1], np.int64),)],
        ways,
    )
    words = {**ways[0], "pool_int64s": None, "pool_strings": tuple("abcdefghij")}
    del words["pool_int64s"]
    add("TfIdfVectorizer", [(texts("a", "c", "g", "h"),)], [words])

    boxes = [
        [0, 0, 1, 1],
        [0, 0.1, 1, 1.1],
        [0, -0.1, 1, 0.9],
        [0, 10, 1, 11],
        [1, 11.1, 0, 10.1],
        [0, 100, 1, 101],
    ]
    scores = [[0.9, 0.75, 0.6, 0.95, 0.5, 0.3], [0.5, 0.5, 0.1, 0.2, 0.2, 0.6]]
    found = [
        numbers([boxes, boxes], np.float32),
        numbers([scores, scores[::-1]], np.float32),
    ]
    most = numbers([3], np.int64)
    thresholds = [numbers([0.5], np.float32), numbers([0.4], np.float32)]
    limits = [[most, *thresholds], [most, thresholds[0]], [most], []]
    formats = [{}, {"center_point_box": 1}]
    operands = [[*found, *some] for some in limits]
    add("NonMaxSuppression", operands, formats, dtypes=[DType.F32])
    return made
