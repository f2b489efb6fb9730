"""Timing models against each other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt import Graph, UsageError
from graphopt.bench import clock_of, difference, measure, threads_of
from graphopt.dims import symbol
from graphopt.exporter import save
from graphopt.ir import Parameter, Value
from graphopt.ops import Sin
from graphopt.types import DType, tensor


def chain(path: Path, length: int) -> Path:
    x = Parameter(tensor(DType.F32, 20_000), "x")
    value: Value = x
    for _ in range(length):
        value = Sin(value)
    save(Graph([x], [value]).with_header(opsets={"": 17}), path)
    return path


@pytest.mark.parametrize(
    "target",
    ["reference", pytest.param("ort-cpu", marks=pytest.mark.runtime)],
)
def test_ratios(target: str, tmp_path: Path) -> None:
    if target == "ort-cpu":
        pytest.importorskip("onnxruntime")
    models = [chain(tmp_path / f"{n}.onnx", n) for n in (4, 40)]
    fed = {"x": np.linspace(0, 1, 20_000, dtype=np.float32)}
    first, second = measure([*models], fed, target=target, rounds=5)
    assert (first.ratio, first.low, first.high) == (1, 1, 1)
    assert second.low <= second.ratio <= second.high
    assert 3 < second.ratio < 30
    assert second.seconds > first.seconds > 0


class Sleeper:
    """What waits for a device."""

    def __call__(self, inputs: Any) -> dict[str, Any]:
        time.sleep(0.02)
        return {}


@pytest.mark.parametrize("target", ["xla-cuda", "xla-tpu"])
def test_the_time_of_a_device_is_that_on_the_clock(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.bench.open_model", lambda *_: Sleeper())
    (timing,) = measure(["m.onnx"], {}, target=target, rounds=2)
    assert timing.seconds >= 0.02
    assert clock_of(target) == "wall"


def test_the_time_of_a_cpu_is_what_it_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.bench.open_model", lambda *_: Sleeper())
    monkeypatch.setattr("graphopt.bench.LEAST_SECONDS", 0)
    (timing,) = measure(["m.onnx"], {}, target="reference", rounds=2)
    assert timing.seconds < 0.01


def test_threads() -> None:
    assert [threads_of("ort-cpu", n) for n in (None, 0, 3)] == [1, 0, 3]
    for target in ("reference", "xla-cpu", "xla-cuda"):
        assert threads_of(target, None) == threads_of(target, 0) == 0
        with pytest.raises(UsageError, match="takes all threads"):
            threads_of(target, 7)


def test_what_the_head_says(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    model = chain(tmp_path / "m.onnx", 1)
    line = ("bench", model, "--target", "reference", "--rounds", "1")
    code, out, _ = command(*line)
    assert code == 0
    assert out.startswith("reference, all threads, 1 rounds")
    assert "CPU ms" in out
    members = json.loads(command(*line, "--json")[1])
    assert (members["threads"], members["clock"]) == (0, "cpu")
    code, _, err = command(*line, "--threads", "7")
    assert code == 2
    assert "all threads" in err


def test_sizes_are_those_that_callers_have(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    tokens = Parameter(tensor(DType.F32, symbol("batch"), symbol("seq"), 4), "tokens")
    model = tmp_path / "m.onnx"
    save(Graph([tokens], [Sin(tokens)]).with_header(opsets={"": 17}), model)
    line = ("bench", model, "--target", "reference", "--rounds", "1")
    head, sizes, *_ = command(*line)[1].splitlines()
    assert head.endswith("tokens [1, 128, 4]")
    assert sizes == "sizes that nobody gave: --dim batch=1 --dim seq=128"
    head, sizes, *_ = command(*line, "--dim", "batch=3")[1].splitlines()
    assert head.endswith("tokens [3, 128, 4]")
    assert sizes == "sizes that nobody gave: --dim seq=128"
    members = json.loads(command(*line, "--dim", "seq=5", "--json")[1])
    assert members["sizes"] == {"batch": 1, "seq": 5}
    assert members["default_sizes"] == ["batch"]
    np.savez(tmp_path / "in.npz", tokens=np.ones((2, 3, 4), np.float32))
    members = json.loads(command(*line, "--inputs", tmp_path / "in.npz", "--json")[1])
    assert (members["sizes"], members["default_sizes"]) == ({}, [])
    assert members["inputs"] == {"tokens": [2, 3, 4]}


def test_a_control_and_what_differs(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    one, two = (chain(tmp_path / f"{n}.onnx", n) for n in (1, 2))
    line = ("bench", one, one, two, "--target", "reference", "--rounds", "2")
    code, out, _ = command(*line)
    assert code == 0
    rows = out.splitlines()[3:]
    assert rows[0].startswith(str(one))
    assert rows[1].startswith(str(one))
    assert rows[2].startswith(f"!{two}")
    assert rows[3].startswith("control ")
    assert rows[4] == "!1 of them compute something else than the first"
    members = json.loads(command(*line, "--json")[1])
    assert [m["differs"] for m in members["models"]] == [False, False, True]
    assert members["models"][2]["difference"] > 1
    assert members["control"]["model"] == str(one)
    assert not members["control"]["differs"]


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (np.float32([1, 2]), np.float32([1, 2.0001]), True),
        (np.float32([1, 2]), np.float32([1, 2.001]), False),
        (np.float16([1, 2]), np.float16([1, 2.01]), True),
        (np.float64([1, 2]), np.float64([1, 2.0001]), False),
        (np.float32([np.inf, np.nan]), np.float32([np.inf, np.nan]), True),
        (np.float32([np.inf, 1]), np.float32([1, 1]), False),
        (np.float32([1, 1]), np.float32([1, np.nan]), False),
        (np.float32([0, 0]), np.float32([0, 0]), True),
        (np.float32([1]), np.float64([1]), False),
        (np.float32([1]), np.float32([1, 1]), False),
        (np.int64([7]), np.int64([7]), True),
        (np.int64([7]), np.int64([8]), False),
        (np.array(["a"], object), np.array(["b"], object), False),
        ([np.int64([7])], [np.int64([7])], True),
        ([np.int64([7])], [], False),
        (None, None, True),
        (None, np.int64([7]), False),
    ],
)
def test_difference(ours: Any, theirs: Any, same: bool) -> None:
    assert (difference(ours, theirs) <= 1) is same
