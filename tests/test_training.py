"""Training: curves, devices, and the model that is written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt import BackendMissing, UsageError, to_jax

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.xla

from training_network import (  # noqa: E402
    examples,
    fitted,
    network,
    programs as programs,
)

from graphopt import training  # noqa: E402
from graphopt.training.batches import Batches  # noqa: E402
from graphopt.training.losses import LOSSES, METRICS  # noqa: E402

# --- fitting --------------------------------------------------------------------------


def test_a_model_learns_and_is_written_back(tmp_path: Path) -> None:
    result = fitted(epochs=12, metrics=["accuracy"], validation=examples(30))
    first, last = result.history[0], result.history[-1]
    assert list(first) == [
        *("epoch", "loss", "accuracy"),
        *("validation_loss", "validation_accuracy"),
    ]
    assert last["loss"] < first["loss"] / 2
    assert last["validation_accuracy"] > 0.9
    assert len(result.losses) == 12 * 4

    path = tmp_path / "trained.onnx"
    result.save(path)
    onnx.checker.check_model(path)
    before, after = network(), onnx.load(path)
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.opset_import == before.opset_import
    written = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    assert written.keys() == {t.name for t in before.graph.initializer}
    for name, array in result.params.items():
        np.testing.assert_array_equal(written[name], array)
    x, labels = examples(30)
    (p,) = graphopt.run_model(path, {"x": x})
    assert not path.with_name("trained.onnx.data").exists()
    assert (p.argmax(1) == labels).mean() == last["validation_accuracy"]


def outside(path: Path, location: str) -> None:
    """A network with its weights in a file beside it."""
    model = network()
    shapes = ((6, 800), (800,), (800, 3))  # small weights are always inside
    for tensor, shape in zip(model.graph.initializer, shapes, strict=False):
        array = np.zeros(shape, np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path, save_as_external_data=True, location=location)


def test_weights_outside_of_a_model_stay_outside(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    outside(path, "model.data")
    result = fitted(model=path, epochs=1)
    result.save(tmp_path / "trained.onnx")
    assert (tmp_path / "trained.onnx.data").stat().st_size >= 4 * 6 * 800
    assert (tmp_path / "model.data").exists()


def test_the_model_that_was_trained_is_never_overwritten(tmp_path: Path) -> None:
    path, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    outside(path, "other.onnx.data")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    result = fitted(model=path, epochs=1)
    loaded = fitted(model=graphopt.load(path, apart=True), epochs=1)
    for made, place, why in (
        (result, path, "it is the input"),
        (result, other, "other.onnx.data belongs to the input"),
        (result, tmp_path / "other.onnx.data", "belongs to the input"),
        (loaded, other, "other.onnx.data belongs to the input"),
    ):
        with pytest.raises(UsageError, match=why):
            made.save(place, overwrite=True)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    trained = tmp_path / "trained.onnx"
    result.save(trained)
    with pytest.raises(UsageError, match=r"trained\.onnx exists"):
        result.save(trained)
    result.save(trained, overwrite=True)
    onnx.load(trained)


@pytest.mark.slow
def test_a_step_is_that_of_the_optimizer() -> None:
    """One step of plain descent, against the gradient of the model as a function."""
    x, labels = examples(16)
    result = fitted(data=(x, labels), optimizer=optax.sgd(0.1), epochs=1, shuffle=False)
    fn, params = to_jax(network())

    def loss(params: Any) -> Any:
        p = fn(params, x=x)["p"]
        return -jax.numpy.log(p[np.arange(16), labels]).mean()

    assert result.losses == [pytest.approx(float(loss(params)), rel=1e-6)]
    for name, slope in jax.grad(loss)(params).items():
        expected = params[name] - 0.1 * slope
        np.testing.assert_allclose(result.params[name], expected, rtol=1e-5, atol=1e-6)


def test_the_order_hangs_on_the_seed_alone() -> None:
    assert fitted(seed=3).losses == fitted(seed=3).losses
    assert fitted(seed=3).losses != fitted(seed=4).losses


def test_what_fills_a_batch_up_weighs_nothing() -> None:
    """50 examples in batches of 16: the last two are what the optimizer then sees."""
    x, labels = examples()
    whole = fitted(shuffle=False, epochs=1)
    cut = [(x[i : i + 16], labels[i : i + 16]) for i in range(0, 50, 16)]
    assert fitted(data=cut, epochs=1).losses == whole.losses
    alone = fitted(data=[*cut[:3], (x[48:], labels[48:])], epochs=1)
    assert alone.losses == whole.losses
    assert len(fitted(drop_last=True, epochs=1).losses) == 3
    few = fitted(data=(x[48:], labels[48:]), batch_size=2, epochs=1, shuffle=False)
    many = fitted(data=(x[48:], labels[48:]), batch_size=16, epochs=1, shuffle=False)
    assert many.losses == [pytest.approx(few.losses[0], rel=1e-6)]
    for name, array in few.params.items():
        np.testing.assert_allclose(many.params[name], array, rtol=1e-4, atol=1e-6)


def test_batches_may_come_from_anywhere() -> None:
    x, labels = examples(32)
    batches = [({"x": x[i::2]}, labels[i::2]) for i in (0, 1)]
    listed = fitted(data=batches)

    def generated(epoch: int) -> Iterator[Any]:
        yield from batches

    assert fitted(data=generated).losses == listed.losses
    with pytest.raises(UsageError, match="only once"):
        fitted(data=generated(0))


def test_validation_may_come_from_anywhere_too() -> None:
    x, labels = examples(32)
    batches = [(x[i::2], labels[i::2]) for i in (0, 1)]
    whole = fitted(validation=(x, labels))
    asked: list[int] = []

    def generated(epoch: int) -> Iterator[Any]:
        asked.append(epoch)
        yield from batches

    assert fitted(validation=generated).history == [
        {k: pytest.approx(v, rel=1e-6) for k, v in row.items()} for row in whole.history
    ]
    assert asked == [0, 1]
    with pytest.raises(UsageError, match="only once"):
        fitted(validation=iter(batches))
    with pytest.raises(UsageError, match="no validation data"):
        fitted(validation=[])


def equal(p: Any, target: Any) -> Any:
    return p == target[:, None]


def equal_first(p: Any, target: Any) -> Any:
    return equal(p, target)[:, 0]


def test_losses_and_metrics_of_ones_own() -> None:
    def cubed(p: Any, target: Any) -> Any:
        return (abs(p - jax.nn.one_hot(target, 3)) ** 3).mean(1)

    x, labels = examples(32)
    result = fitted(data=(x, labels), loss=cubed, metrics=["accuracy", cubed])
    assert result.history[0]["cubed"] == result.history[0]["loss"]
    total = fitted(data=(x, labels), loss=lambda p, t: cubed(p, t).mean())
    assert total.losses == pytest.approx(result.losses, rel=1e-5)
    with pytest.raises(UsageError, match="for 16 examples"):
        fitted(loss=lambda p, t: p[:3, 0])
    with pytest.raises(
        UsageError, match=r"'<lambda>' gave .*\(16, 3\).* take the mean"
    ):
        fitted(loss=lambda p, t: p)
    with pytest.raises(UsageError, match=r"'equal' gave .*\(16, 3\) for 16"):
        fitted(metrics=[equal])
    fitted(metrics=equal_first, epochs=1)


def test_outputs_by_name() -> None:
    model = network()
    model.graph.output.append(onnx.ValueInfoProto(name="s"))
    with pytest.raises(UsageError, match="'p', 's'"):
        fitted(model=model)
    with pytest.raises(UsageError, match="did you mean 's'"):
        fitted(model=model, output="ss")
    plain = fitted()
    scores = fitted(model=model, output="s", loss="categorical_crossentropy_logits")
    assert scores.losses == pytest.approx(plain.losses, rel=1e-5)

    def both(outputs: Any, target: Any) -> Any:
        return LOSSES["categorical_crossentropy"](outputs["p"], target)

    assert fitted(model=model, loss=both).losses == plain.losses


@pytest.mark.parametrize("name", METRICS)
def test_measures_by_their_definition(name: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.integers(0, 2, (5, 3)).astype(float)
    p = 1 / (1 + np.exp(-x))
    soft = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    classes = rng.integers(0, 3, 5)
    chosen = -np.log(soft[np.arange(5), classes])
    given, expected = {
        "categorical_crossentropy": ((soft, classes), chosen),
        "categorical_crossentropy_logits": ((x, classes), chosen),
        "binary_crossentropy": (
            (p, y),
            -(y * np.log(p) + (1 - y) * np.log(1 - p)),
        ),
        "binary_crossentropy_logits": (
            (x, y),
            -(y * np.log(p) + (1 - y) * np.log(1 - p)),
        ),
        "mse": ((x, y), (x - y) ** 2),
        "mae": ((x, y), abs(x - y)),
        "accuracy": ((soft, classes), soft.argmax(1) == classes),
        "binary_accuracy": ((p, y), (p > 0.5) == (y > 0.5)),
    }[name]
    with jax.enable_x64(True):
        arrays = [jax.numpy.asarray(a) for a in given]
        np.testing.assert_allclose(METRICS[name](*arrays), expected, rtol=1e-9)
        if name.startswith(("categorical", "accuracy")):
            arrays[1] = jax.numpy.eye(3)[classes]
            np.testing.assert_allclose(METRICS[name](*arrays), expected, rtol=1e-9)


def test_certain_and_wrong_is_finite() -> None:
    p, target = jax.numpy.array([[1.0, 0.0]]), jax.numpy.array([1])
    loss = LOSSES["categorical_crossentropy"]
    assert np.isfinite(jax.grad(lambda p: loss(p, target).sum())(p)).all()
    assert 80 < loss(p, target).item() < 90


# --- several devices ------------------------------------------------------------------

CURVE = """
import sys, optax
sys.path[:0] = [{here!r}]
import training_network as tests
result = tests.fitted(mesh=int(sys.argv[1]), batch_size=16, epochs=2)
print([loss.hex() for loss in result.losses])
"""


def curve(devices: int) -> list[float]:
    """Losses of a run on virtual devices, in a process of its own."""
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            CURVE.format(here=str(Path(__file__).parent)),
            str(devices),
        ],
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        check=True,
        capture_output=True,
        text=True,
    )
    return [float.fromhex(word) for word in eval(made.stdout)]


@pytest.mark.slow
def test_more_devices_give_the_same_curve() -> None:
    """But for the order in which the parts of a gradient are summed."""
    np.testing.assert_allclose(curve(8), fitted().losses, rtol=1e-5)


def test_batches_must_split() -> None:
    with pytest.raises(UsageError, match="JAX has"):
        fitted(mesh=1000)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("batch",))
    assert fitted(mesh=mesh).losses == fitted().losses


# --- the rest -------------------------------------------------------------------------


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[training.Event] = []
    result = fitted(progress=events.append)
    assert [e.step for e in events] == [1, 2, 3, 4, 4] * 2
    assert [e.loss for e in events if e.row is None] == result.losses
    assert [e.row for e in events if e.row] == result.history
    fitted()
    assert capsys.readouterr().err == ""
    fitted(progress=True)
    said = capsys.readouterr().err
    assert "epoch 1/2  " in said
    assert said.endswith(f"loss {result.history[-1]['loss']:.4g}\n")


def test_data_that_does_not_fit() -> None:
    x, labels = examples()
    for data, what in (
        ((x, labels[:3]), "counts the examples"),
        ((x[:0], labels[:0]), "at least one"),
        ((x, labels, x), "not 3 of them"),
        (({"y": x}, labels), "'y'"),
        ((x[:, :2], labels), "shape"),
        ([], "without a batch"),
        ([(x[:2], labels[:2]), (x, labels)], "batch 1 has 50 examples, the first 2"),
    ):
        with pytest.raises(UsageError, match=what):
            fitted(data=data)
    with pytest.raises(UsageError, match="did you mean 'mse'"):
        fitted(loss="mce")
    with pytest.raises(UsageError, match="the target has the shape"):
        fitted(loss="mse")


def test_every_epoch_shows_every_example_once() -> None:
    x = np.arange(10)
    batches = Batches((x, x), ["x"], 4, seed=0)
    orders = []
    for epoch in range(2):
        rows = [b.inputs["x"][b.weights > 0] for b in batches.epoch(epoch)]
        orders.append(np.concatenate(rows))
        assert sorted(orders[-1]) == list(x)
        skipped = [b.inputs["x"] for b in batches.epoch(epoch, skip=2)]
        np.testing.assert_array_equal(skipped[0][:2], orders[-1][8:])
    assert (orders[0] != orders[1]).any()


def test_it_is_reached_from_the_package() -> None:
    text = "import graphopt; print(graphopt.training.fit.__module__)"
    command = [sys.executable, "-c", text]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert made.stdout == "graphopt.training.fitting\n"


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("optax", "orbax.checkpoint"):
        with monkeypatch.context() as patch:
            for module in list(sys.modules):
                if module.startswith("graphopt.training."):
                    patch.delitem(sys.modules, module)
            patch.setitem(sys.modules, name, None)
            with pytest.raises(BackendMissing, match=r"'graphopt\[train\]'"):
                training.__getattr__("fit")
