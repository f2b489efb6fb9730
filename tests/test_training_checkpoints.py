"""Checkpoints: a run that was killed goes on, and no other run goes on from it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt import UsageError

pytest.importorskip("jax")
optax = pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.xla

from training_network import (  # noqa: E402
    NETWORK,
    examples,
    fitted,
    network,
    programs as programs,
)

from graphopt import training  # noqa: E402


class Killed(Exception):
    pass


def killed_at(step: int) -> Callable[[training.Event], None]:
    seen = []

    def tell(event: training.Event) -> None:
        seen.append(event)
        if len(seen) == step:
            raise Killed

    return tell


@pytest.mark.parametrize("step", [1, 3, 7, 11])
def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path: Path, step: int) -> None:
    options: dict[str, Any] = {"epochs": 3, "validation": examples(20)}
    whole = fitted(**options)
    options |= {"checkpoint": tmp_path, "checkpoint_every": 3}
    with pytest.raises(Killed):
        fitted(**options, progress=killed_at(step))
    resumed = fitted(**options)
    assert resumed.losses == whole.losses
    assert resumed.history == whole.history
    for name, array in whole.params.items():
        np.testing.assert_array_equal(resumed.params[name], array)
    again = fitted(**options, progress=killed_at(1))  # nothing is left to do
    assert again.losses == whole.losses


def test_a_finished_run_may_be_made_longer(tmp_path: Path) -> None:
    fitted(epochs=1, checkpoint=tmp_path)
    assert fitted(epochs=3, checkpoint=tmp_path).losses == fitted(epochs=3).losses


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    fitted(epochs=1, checkpoint=tmp_path)
    for other, what in (
        ({"seed": 1}, "with seed=0, this run has seed=1"),
        ({"shuffle": False}, "with shuffle=True, this run has shuffle=False"),
        ({"batch_size": 8}, "with batch_size=16, this run has batch_size=8"),
        ({"loss": "mse"}, "with loss='categorical_crossentropy', .* loss='mse'"),
        ({"output": "p"}, "with output=None, this run has output='p'"),
        ({"frozen": ["w2"]}, "it trains 'w2', this run does not"),
        ({"optimizer": optax.sgd(0.1, momentum=0.9)}, "another optimizer"),
        ({"optimizer": optax.adamw(1e-2)}, "another optimizer"),
    ):
        with pytest.raises(UsageError, match=what):
            fitted(checkpoint=tmp_path, **other)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    """Also where its weights are the same; names of its other values are none of it."""
    fitted(epochs=1, checkpoint=tmp_path)
    for old, new, what in (
        ("Tanh", "Erf", r"has '%5 = Tanh\(%4\).*' where this one has '%5 = Erf"),
        ("Softmax (s)", "Softmax <axis = 0> (s)", "axis=0"),
    ):
        with pytest.raises(UsageError, match=what):
            fitted(model=network(text=NETWORK.replace(old, new)), checkpoint=tmp_path)
    renamed = network(text=NETWORK.replace("a = Tanh", "c = Tanh").replace("a,", "c,"))
    fitted(model=renamed, epochs=1, checkpoint=tmp_path)
    other = network()
    other.graph.initializer[0].raw_data = bytes(4 * 6 * 8)
    with pytest.raises(UsageError, match="began with other weights"):
        fitted(model=other, checkpoint=tmp_path)


def test_weights_of_one_shape_are_not_taken_for_each_other(tmp_path: Path) -> None:
    model = network()
    square = np.eye(8, dtype=np.float32)
    for name in ("w3", "w4"):
        model.graph.initializer.append(numpy_helper.from_array(square, name))
    node = next(n for n in model.graph.node if n.op_type == "Tanh")
    node.input[0] = "b4"
    for i, (x, y) in enumerate((("b", "b3"), ("b3", "b4"))):
        product = onnx.helper.make_node("MatMul", [x, f"w{i + 3}"], [y])
        model.graph.node.insert(2 + i, product)
    fitted(model=model, epochs=1, frozen=["w3"], checkpoint=tmp_path)
    with pytest.raises(UsageError, match="this run trains 'w3', it does not"):
        fitted(model=model, epochs=1, frozen=["w4"], checkpoint=tmp_path)


KILLED = """
import os, signal, sys
sys.path[:0] = [{here!r}]
import training_network as tests
count = 0
def tell(event):
    global count
    count += 1
    if count == 9:
        os.kill(os.getpid(), signal.SIGKILL)
tests.fitted(epochs=3, checkpoint={folder!r}, checkpoint_every=2, progress=tell)
"""


@pytest.mark.slow
def test_a_killed_process(tmp_path: Path) -> None:
    text = KILLED.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    made = subprocess.run([sys.executable, "-c", text], capture_output=True)
    assert made.returncode == -signal.SIGKILL
    resumed = fitted(epochs=3, checkpoint=tmp_path, checkpoint_every=2)
    assert resumed.losses == fitted(epochs=3).losses
