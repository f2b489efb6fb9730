"""The examples run, and the model that comes with the repository is what they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt

EXAMPLES = Path(__file__).parents[1] / "examples"
DIGITS = EXAMPLES / "models" / "digits.onnx"


def test_every_example_is_run_here() -> None:
    run = {"write_a_pass.py", "train_digits.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == run


def test_write_a_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["write_a_pass.py", str(DIGITS)])
    runpy.run_path(str(EXAMPLES / "write_a_pass.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "Div" in out
    assert "check passed" in out


@pytest.mark.slow
def test_train_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torch", "sklearn"):
        pytest.importorskip(module)
    monkeypatch.setattr(sys, "argv", ["train_digits.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "train_digits.py"), run_name="__main__")
    onnx.checker.check_model(tmp_path / "digits.onnx")


def test_the_model_reads_digits() -> None:
    onnx.checker.check_model(DIGITS)
    with np.load(DIGITS.with_suffix(".npz")) as arrays:
        images = arrays["images"]
    (logits,) = graphopt.run_model(DIGITS, {"images": images})
    labels = np.loadtxt(DIGITS.with_name("digits.labels.txt"), dtype=int)
    assert (logits.argmax(1) == labels).mean() > 0.95
