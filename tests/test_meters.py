"""A child that is asked one question after the other, and may die of any of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from graphopt.errors import BackendMissing
from graphopt.lowering.meters import Child, MeterFailed, ask

ANSWERS = """
import os, time
print("what is printed before is none, either", flush=True)
from graphopt.errors import BackendMissing, GraphoptError
from graphopt.lowering.meters import answer

def found(asked):
    what, value = asked
    if what == "exit":
        os._exit(value)
    if what == "wait":
        time.sleep(value)
    if what == "raise":
        raise GraphoptError(value)
    if what == "lack":
        raise BackendMissing(value)
    if what == "break":
        raise ValueError(value)
    print("what is printed is no answer")
    return [os.getpid(), value, os.environ.get("METER_TEST")]

answer(found)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "answers_for_a_test.py").write_text(ANSWERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "answers_for_a_test"


def test_one_process_answers_all(module: str) -> None:
    large = "x" * (1 << 20)  # more than a pipe holds
    with Child(module, {"METER_TEST": "set"}) as child:
        answers = [child.ask(("say", value), 60) for value in (1, large, None)]
    assert [value for _, value, _ in answers] == [1, large, None]
    assert {said for *_, said in answers} == {"set"}
    assert len({process for process, *_ in answers}) == 1
    assert answers[0][0] != os.getpid()


def test_errors_are_answers(module: str) -> None:
    with Child(module) as child:
        process, *_ = child.ask(("say", 0), 60)
        with pytest.raises(MeterFailed, match="too odd"):
            child.ask(("raise", "too odd"), 60)
        with pytest.raises(BackendMissing, match="install it"):
            child.ask(("lack", "install it"), 60)
        assert child.ask(("say", 0), 60)[0] == process


@pytest.mark.parametrize(
    ("asked", "limit_s", "said"),
    [
        (("exit", 7), 60.0, "exit code 7"),
        (("break", "no"), 60.0, "exit code 1"),
        (("wait", 600), 2.0, "after 2 s"),
    ],
)
def test_only_the_question_is_lost(
    module: str, asked: object, limit_s: float, said: str
) -> None:
    with Child(module) as child:
        first, *_ = child.ask(("say", 0), 60)
        with pytest.raises(MeterFailed, match=said):
            child.ask(asked, limit_s)
        second, value, _ = child.ask(("say", 5), 60)
        assert value == 5
        assert second != first


@pytest.mark.skipif(sys.platform == "win32", reason="processes are asked by signal 0")
def test_nothing_is_left_running(module: str) -> None:
    with Child(module) as child:
        process, *_ = child.ask(("say", 0), 60)
        os.kill(process, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    alone, *_ = ask(module, ("say", 0), 60)
    with pytest.raises(ProcessLookupError):
        os.kill(alone, 0)
