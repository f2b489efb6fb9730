"""The examples run, and the model that comes with the repository is what they say."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt

EXAMPLES = Path(__file__).parents[1] / "examples"
DIGITS = EXAMPLES / "models" / "digits.onnx"


def test_every_example_is_run_here() -> None:
    run = {"write_a_pass.py", "train_cnn.py", "train_digits.py"}
    run |= {"shard_transformer.py", "shard_recommender.py"}
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


@pytest.mark.parametrize(
    ("name", "module", "line"),
    [
        ("train_cnn.py", "optax", r"'graphopt\[train\]' scikit-learn"),
        ("train_cnn.py", "sklearn", r"'graphopt\[train\]' scikit-learn"),
        ("train_digits.py", "torch", "torch onnxscript scikit-learn"),
    ],
)
def test_what_an_example_lacks_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    module: str,
    line: str,
) -> None:
    for loaded in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "out.onnx")])
    if module == "sklearn":
        pytest.importorskip("optax")
    with pytest.raises(SystemExit, match=rf"^{module}.* is not installed; .* {line}$"):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def trained_cnn(folder: Path, devices: int) -> tuple[list[str], dict[str, Any]]:
    """What the example prints on so many devices, and the weights that it writes."""
    out = folder / f"{devices}.onnx"
    command = [sys.executable, EXAMPLES / "train_cnn.py", out, "--devices"]
    made = subprocess.run(
        [*map(str, command), str(devices)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        check=True,
        capture_output=True,
        text=True,
    )
    weights = onnx.load(out).graph.initializer
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in weights}
    return made.stdout.splitlines(), arrays


@pytest.mark.slow
@pytest.mark.xla
def test_train_cnn_on_one_device_and_on_eight(tmp_path: Path) -> None:
    """The same curve to one unit of the last digit that is printed, the same weights.

    Sums over a batch are taken in another order: losses differ by 1e-6 of themselves.
    """
    for module in ("jax", "optax", "orbax", "sklearn"):
        pytest.importorskip(module)
    (one, first), (eight, second) = (trained_cnn(tmp_path, n) for n in (1, 8))
    epochs = [line.split() for line in one if line.startswith("epoch")]
    assert len(epochs) == 5
    for words, line in zip(epochs, eight, strict=False):
        others = line.split()
        assert words[::2] == others[::2]
        for value, other in zip(words[3::2], others[3::2], strict=True):
            assert float(other) == pytest.approx(float(value), rel=1.1e-3)
    for lines in (one, eight):
        name, _, accuracy = lines[-1].rpartition(" ")
        assert name == "validation accuracy"
        assert float(accuracy) >= 0.95
    assert first.keys() == second.keys()
    for name, weight in first.items():
        np.testing.assert_allclose(second[name], weight, atol=2e-5)


def sharded(name: str, model: str) -> str:
    """What an example prints; it asks for its eight devices itself."""
    pytest.importorskip("jax")
    made = subprocess.run(
        [sys.executable, str(EXAMPLES / name), model],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        check=True,
        capture_output=True,
        text=True,
    )
    return made.stdout


@pytest.mark.slow
@pytest.mark.xla
def test_shard_transformer(tmp_path: Path) -> None:
    out = sharded("shard_transformer.py", str(tmp_path / "decoder.onnx"))
    assert re.search(r"^weight layers\.\*\.mlp\.up\.weight .*S\(", out, re.M)
    assert re.search(r"^ReduceScatter +model ", out, re.M)
    assert "from the reference" in out.splitlines()[-1]
    onnx.checker.check_model(tmp_path / "decoder.onnx")


@pytest.mark.slow
@pytest.mark.xla
def test_shard_recommender(tmp_path: Path) -> None:
    """No device holds a table whole; all together hold each of them once."""
    out = sharded("shard_recommender.py", str(tmp_path / "recommender.onnx"))
    for table in ("user", "item"):
        assert re.search(rf"^weight table\.{table} f32.* \[S\([01]\)\] ", out, re.M)
    sizes = re.findall(r"^cpu:\d holds ([\d.]+) MiB$", out, re.M)
    assert len(sizes) == 8
    tables, limit = (
        float(n)
        for n in re.findall(
            r"^the tables take (\S+) MiB, .* hold (\S+) MiB$", out, re.M
        )[0]
    )
    assert tables / 8 < max(map(float, sizes)) <= limit < tables / 5
    assert "from the reference" in out.splitlines()[-1]
    onnx.checker.check_model(tmp_path / "recommender.onnx")


def test_the_model_reads_digits() -> None:
    onnx.checker.check_model(DIGITS)
    with np.load(DIGITS.with_suffix(".npz")) as arrays:
        images = arrays["images"]
    (logits,) = graphopt.run_model(DIGITS, {"images": images})
    labels = np.loadtxt(DIGITS.with_name("digits.labels.txt"), dtype=int)
    assert (logits.argmax(1) == labels).mean() > 0.95
