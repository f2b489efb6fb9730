"""The page of HTML: whole, alone, and safe with any names."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser

import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt import load
from graphopt.bench import Ratio
from graphopt.page import page
from graphopt.report import Change, Missed, Report, Trial, shown_kinds, table
from graphopt.tuning import Measured, Tried, Tuning

EVIL = "<script>alert('x')</script>\"&"


class Reader(HTMLParser):
    """Tags in order; complains where they do not nest."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def report() -> Report:
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["x"], [EVIL], name=EVIL),
            helper.make_node("Relu", [EVIL], ["y"]),
        ],
        EVIL,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = load(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    report = graphopt.optimize(model).report
    return dataclasses.replace(
        report,
        input=EVIL,
        output=EVIL,
        notes=(EVIL,),
        missed=(Missed(EVIL, EVIL, (EVIL,) * 5),),
        trial=Trial("ONNX Runtime", False, 0.1, EVIL),
        tuning=tuning(),
    )


def tuning() -> Tuning:
    ratio = Measured(Ratio(0.9, 0.8, 0.95))
    tried = (Tried({EVIL: EVIL}, EVIL, ratio, True), Tried({}, "b", note=EVIL))
    return Tuning(
        target="ort-cpu",
        threads=1,
        clock="CPU",
        rounds=30,
        sizes=({EVIL: 3},),
        defaulted=(EVIL,),
        tried=tried,
        settings={EVIL: EVIL},
        against=ratio,
        original=False,
        stopped="the time is over",
        seconds=1.0,
    )


def read(report: Report) -> Reader:
    reader = Reader()
    members = json.loads(json.dumps(report.to_json()))  # what was printed is enough
    reader.feed(page(members))
    assert not reader.open
    return reader


def test_names_cannot_break_out(report: Report) -> None:
    reader = read(report)
    assert "script" not in reader.seen
    assert any(EVIL in word for word in reader.words)


def test_it_stands_alone(report: Report) -> None:
    reader = read(report)
    names = {name for name, _ in reader.attributes}
    assert not names & {"src", "href", "onclick", "onload"}
    text = page(report.to_json()).lower()
    assert "@import" not in text
    assert "url(" not in text
    assert "http" not in text


def test_without_a_check(report: Report) -> None:
    words = " ".join(read(report).words)
    assert "the result takes 0.900 [0.800, 0.950] of the original's time" in words
    bare = dataclasses.replace(report, check=None, trial=None, output=None, missed=())
    bare = dataclasses.replace(bare, tuning=None)
    words = " ".join(read(bare).words)
    assert "Tuning" not in words
    assert "not checked" in words
    assert "not written" in words
    assert "Not done" not in words


# --- the tables on the terminal -----------------------------------------------------


def test_change() -> None:
    assert str(Change(12345, 6)) == "12,345 --> 6"
    assert Change(100, 45).percent == "-55 %"
    assert Change(100, 140).percent == "+40 %"
    assert Change(3, 3).percent == Change(0, 3).percent == ""
    assert Change(100_000, 100_001).percent == ""


def test_shown_kinds_sum_the_rest() -> None:
    kinds = {f"K{i}": Change(i, 0) for i in range(20)}
    shown = shown_kinds(kinds, 5)
    assert [kind for kind, _ in shown] == [
        "K19", "K18", "K17", "K16", "K15", "15 other kinds",
    ]  # fmt: skip
    assert sum(change.before for _, change in shown) == sum(range(20))


def test_shown_kinds_have_all_that_are_new() -> None:
    kinds = {f"K{i}": Change(i + 2, 0) for i in range(20)}
    kinds |= {"Attention": Change(0, 1), "Unchanged": Change(5, 5)}
    shown = dict(shown_kinds(kinds, 3))
    assert list(shown) == ["K19", "K18", "Attention", "19 other kinds"]
    many = shown_kinds(kinds | {f"N{i}": Change(0, 1) for i in range(4)}, 3)
    assert len(many) == 6  # five new ones, and the rest


def test_table() -> None:
    lines = list(table([("a", "1"), ("bcd", "100")]))
    assert lines == ["a      1", "bcd  100"]
