"""The search for the fastest pipeline: what is tried, what is kept, what is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import graphopt
from graphopt import UsageError, driver
from graphopt.bench import Ratio, measure
from graphopt.exporter import save
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter
from graphopt.lowering.ort.pipeline import choices, settings
from graphopt.ops import Add, Identity, Sin
from graphopt.pipeline import Pipeline
from graphopt.rivals import space_of
from graphopt.tuning import Measured, Settings, Space, Tune, Tuning, search
from graphopt.types import DType, tensor

FASTER, EQUAL, SLOWER = (Ratio(x, x - 0.01, x + 0.01) for x in (0.9, 1.0, 1.1))


# --- the search, on times that are made up ---------------------------------------


class Made:
    """Rivals whose time is a product of factors; ``luck`` are first impressions."""

    def __init__(
        self, factors: Mapping[str, float], luck: Mapping[str, float] | None = None
    ) -> None:
        self.factors = factors
        self.luck = luck or {}
        self.races: list[tuple[str, int]] = []

    def seconds(self, chosen: Settings, seed: int) -> float:
        product = 1.0
        for name, value in chosen.items():
            word = f"{name} {value}"
            product *= self.factors.get(word, 1.0)
            product *= self.luck.get(word, 1.0) if seed == 0 else 1.0
        return product

    def refused(self, best: Settings, candidate: Settings) -> str:
        return "for it is bad" if "bad" in candidate.values() else ""

    def race(self, before: Settings | None, after: Settings, seed: int) -> Measured:
        base = self.seconds(before or {}, seed)
        ratio = self.seconds(after, seed) / base
        self.races.append((", ".join(f"{n} {v}" for n, v in after.items()), seed))
        return Measured(Ratio(ratio, ratio - 0.01, ratio + 0.01))


def space(**values: tuple[str, ...]) -> Space:
    """Settings whose first value is the default."""
    start = {name: options[0] for name, options in values.items()}
    return Space(start, values, lambda _: Pipeline(()))


def test_what_is_faster_is_kept_and_built_upon() -> None:
    rivals = Made({"a y": 0.8, "b z": 0.9, "b y": 1.2})
    best, tried, stopped = search(
        space(a=("x", "y"), b=("x", "y", "z")), rivals, steps=99
    )
    assert best == {"a": "y", "b": "z"}
    assert not stopped
    assert [(t.what, t.kept) for t in tried[:3]] == [
        ("a y", True),
        ("b y", False),
        ("b z", True),
    ]
    # The second round tries what was not tried beside b = z; the third nothing new.
    assert [t.what for t in tried[3:]] == ["a x"]


def test_luck_is_no_reason() -> None:
    rivals = Made({}, luck={"a y": 0.5})
    best, tried, _ = search(space(a=("x", "y")), rivals, steps=99)
    assert best == {"a": "x"}
    assert rivals.races == [("a y", 0), ("a y", 1)]
    assert [t.kept for t in tried] == [False]


def test_what_cannot_be_measured_is_said_and_costs_no_step() -> None:
    rivals = Made({"a y": 0.5})
    best, tried, stopped = search(space(a=("x", "bad", "y")), rivals, steps=1)
    assert best == {"a": "y"}
    assert tried[0].note == "for it is bad"
    assert tried[0].measured is None
    assert tried[1].kept
    assert not stopped


def test_steps_are_bounded() -> None:
    rivals = Made({"b y": 0.5})
    best, tried, stopped = search(space(a=("x", "y"), b=("x", "y")), rivals, steps=1)
    assert best == {"a": "x", "b": "x"}
    assert [t.what for t in tried] == ["a y"]
    assert stopped == "1 candidates were measured"


def test_time_only_stops_early() -> None:
    clock = iter(range(100))
    rivals = Made({"a y": 0.5, "b y": 0.5})
    best, _, stopped = search(
        space(a=("x", "y"), b=("x", "y")),
        rivals,
        steps=99,
        spent=lambda: next(clock) >= 1,
    )
    assert best == {"a": "y", "b": "x"}
    assert stopped == "the time is over"


def test_jumps_change_several_at_once() -> None:
    rivals = Made({"a y": 0.5, "b y": 0.5})
    one = space(a=("x", "y"), b=("x", "y"))
    jumping = replace(one, jumps={"both": {"a": "y", "b": "y"}})
    best, tried, _ = search(jumping, rivals, steps=99)
    assert best == {"a": "y", "b": "y"}
    assert tried[0].what == "both"
    assert tried[0].changed == {"a": "y", "b": "y"}


@pytest.mark.parametrize(
    ("whole", "each", "faster", "slower"),
    [
        (FASTER, (), True, False),
        (EQUAL, (), False, False),
        (SLOWER, (), False, True),
        (FASTER, (FASTER, EQUAL), True, False),
        (FASTER, (FASTER, SLOWER), False, True),
        (EQUAL, (FASTER, SLOWER), False, True),
    ],
)
def test_no_size_may_be_slower(
    whole: Ratio, each: tuple[Ratio, ...], faster: bool, slower: bool
) -> None:
    found = Measured(whole, each)
    assert (found.faster, found.slower) == (faster, slower)


# --- what can be decided ---------------------------------------------------------


@pytest.mark.parametrize("fuse", ["auto", "max"])
@pytest.mark.parametrize("target", driver.RUNTIMES)
def test_the_start_is_the_default_pipeline(fuse: Any, target: str) -> None:
    pipeline = driver.choose(target=target, fuse=fuse)
    found = space_of(pipeline, target)
    assert found.build(found.start) == pipeline
    other = "auto" if fuse == "max" else "max"
    jump = {**found.start, **found.jumps[f"fuse={other}"]}
    assert found.build(jump) == driver.choose(target=target, fuse=other)


@pytest.mark.parametrize("target", driver.RUNTIMES)
def test_each_setting_is_about_the_pass_of_its_name(target: str) -> None:
    provider = target.removeprefix("ort-")
    pipeline = driver.choose(target=target)
    found = space_of(pipeline, target)
    for name, values in choices(provider).items():
        for value in values:
            made = found.build({**found.start, name: value})
            assert (made == pipeline) is (settings(provider)[name] == value)
            there = name in {p.name for p in made.every[len(made.passes) :]}
            assert there is (value not in ("off", "none"))


def test_a_pass_that_did_nothing_is_not_left_out(digits: Path) -> None:
    pipeline = driver.choose(target="ort-cpu")
    start = graphopt.load(digits)
    records = pipeline.run(start)[1]
    found = space_of(pipeline, "ort-cpu", records)
    assert found.start["fold"] == "on"
    assert "raise-rotary" not in found.start
    without = found.build({**found.start, "fold": "off"})
    assert [p for p in pipeline.passes if p not in without.passes] == [
        p for p in pipeline.passes if p.name == "fold"
    ]
    assert without.then == pipeline.then  # what tidies up behind the lowering stays


def test_passes_of_ones_own_are_tuned_alone(digits: Path) -> None:
    pipeline = driver.choose(target="ort-cpu", passes=["fold", "movement"])
    records = pipeline.run(graphopt.load(digits))[1]
    found = space_of(pipeline, "ort-cpu", records)
    assert set(found.start) <= {"fold", "movement"}
    assert not found.jumps
    assert found.build(found.start) == pipeline


# --- models ----------------------------------------------------------------------


class Races:
    """In the place of `bench.race`: each ratio in turn, the last for ever."""

    def __init__(self, *ratios: Ratio) -> None:
        self.ratios = list(ratios)
        self.feeds: Sequence[Mapping[str, Any]] = ()

    def __call__(
        self, before: Any, after: Any, feeds: Any, **_: Any
    ) -> tuple[Ratio, tuple[Ratio, ...]]:
        self.feeds = feeds
        ratio = self.ratios.pop(0) if len(self.ratios) > 1 else self.ratios[0]
        return ratio, (ratio,) * len(feeds)


def tuned(
    monkeypatch: pytest.MonkeyPatch, source: Any, races: Races, how: Tune | bool = True
) -> tuple[driver.Result, Tuning]:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("graphopt.rivals.race", races)
    result = driver.optimize(source, "ort-cpu", tune=how)
    assert result.report.tuning is not None
    return result, result.report.tuning


@pytest.mark.runtime
def test_a_result_that_is_slower_is_given_up(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, tuning = tuned(monkeypatch, digits, Races(SLOWER))
    assert tuning.original
    assert result.graph is result.original
    assert "kept the original: the result takes 1.100" in str(result.report)
    assert tuning.to_json()["kept"] == "original"


@pytest.mark.runtime
def test_what_wins_is_written(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = driver.optimize(digits, "ort-cpu")
    result, tuning = tuned(monkeypatch, digits, Races(FASTER), Tune(steps=2))
    assert [t.kept for t in tuning.tried if t.measured] == [True, True]
    assert tuning.settings
    assert not tuning.original
    assert result.graph is not result.original
    assert str(result.graph) != str(default.graph)
    assert result.report.check is not None
    assert result.report.check.passed
    assert tuning.stopped == "2 candidates were measured"


@pytest.mark.runtime
def test_sizes(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    races = Races(EQUAL)
    (symbol,) = graphopt.load(digits).inputs[0].shape[:1]  # type: ignore[index]
    name = str(symbol)
    how = Tune([{name: 3}, {name: 5}], steps=1)
    _, tuning = tuned(monkeypatch, digits, races, how)
    assert [feed["images"].shape[0] for feed in races.feeds] == [3, 5]
    assert [dict(s) for s in tuning.sizes] == [{name: 3}, {name: 5}]
    assert not tuning.defaulted
    assert f"at {name}=3; {name}=5" in next(tuning.lines())
    _, tuning = tuned(monkeypatch, digits, races, Tune(steps=1))
    assert [dict(s) for s in tuning.sizes] == [{name: 1}]
    assert tuning.defaulted == (name,)
    with pytest.raises(UsageError, match="no dim of an input is called 'rows'"):
        tuned(monkeypatch, digits, races, Tune([{"rows": 2}]))


@pytest.mark.runtime
def test_nothing_to_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    x = Parameter(tensor(DType.F32, 4), "x")
    graph = Graph([x], [Sin(x)]).with_header(opsets={"": 17})
    result, tuning = tuned(monkeypatch, graph, Races(FASTER))
    assert tuning.against is None
    assert all(t.measured is None for t in tuning.tried)
    assert result.graph is result.original
    assert tuning.verdict == "the best is the original itself"


@pytest.mark.runtime
def test_what_cannot_be_written_is_not_measured(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "reason_to_keep", lambda *_: "it has more ops")
    result, tuning = tuned(monkeypatch, digits, Races(FASTER))
    assert all(t.measured is None for t in tuning.tried)
    assert result.graph is result.original
    assert "kept the original: it has more ops" in str(result.report)


def test_only_what_runs_models_is_tuned_for(digits: Path) -> None:
    for target in ("onnx", "xla-cpu"):
        with pytest.raises(UsageError, match=r"tuning .* ort-cpu and ort-cuda"):
            driver.optimize(digits, target, tune=True)


@pytest.mark.runtime
def test_the_command(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    pytest.importorskip("onnxruntime")
    x = Parameter(tensor(DType.F32, "n", 4), "x")
    graph = Graph([x], [Add(Identity(Sin(x)), Sin(x))])
    model = tmp_path / "m.onnx"
    save(graph.with_header(opsets={"": 17}), model)
    line = ("optimize", model, "--target", "ort-cpu", "-f")
    tuning = ("--tune", "--tune-sizes", "n=8", "--tune-sizes", "n=16")
    code, out, err = command(*line, *tuning, "--json")
    assert code == 0, err
    found = json.loads(out)["tuning"]
    assert found["sizes"] == [{"n": 8}, {"n": 16}]
    assert found["default_sizes"] == []
    assert (found["threads"], found["clock"]) == (1, "cpu")
    assert found["stopped"] is None
    ratios = found["to_original"]
    assert ratios is None or len(ratios["each"]) == 2
    code, out, _ = command(*line, *tuning, "--tune-seconds", "0")
    assert code == 0
    assert "tuned on ort-cpu, 1 thread, 30 rounds at n=8; n=16" in out
    assert "stopped early: the time is over" in out
    for wrong, said in (
        (("--tune-sizes", "n=8"), "is for --tune"),
        (("--tune-seconds", "8"), "is for --tune"),
        (("--tune-threads", "0"), "is for --tune"),
        (("--tune", "--tune-sizes", "n=batch"), "is no size"),
        (("--tune", "--tune-sizes", "n=0"), "n=0 leaves nothing to compute"),
        (("--tune", "--tune-sizes", "m=3"), "no dim of an input is called 'm'"),
    ):
        code, _, err = command(*line, *wrong)
        assert code == 2
        assert said in err


# --- what was decided without measuring ------------------------------------------


@pytest.mark.slow
@pytest.mark.runtime
@pytest.mark.parametrize("length", [16, 128])
def test_the_default_is_not_slower_than_the_original(
    length: int, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from test_contrib_models import layer

    source, made = tmp_path / "layer.onnx", tmp_path / "made.onnx"
    onnx.save(layer(), source)
    graphopt.optimize(source, "ort-cpu", check="off").save(made)
    graph = graphopt.load(source)
    feeds = random_inputs(graph, 0, {str(d): length for d in _symbols(graph)})
    _, timing = measure([source, made], feeds, rounds=40)
    assert timing.low < 1.1
    assert not timing.differs


def _symbols(graph: Graph) -> set[str]:
    from graphopt.specialize import symbols_of

    return symbols_of(graph)
