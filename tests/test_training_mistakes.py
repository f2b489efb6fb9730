"""Training on what cannot be learnt from: it is said, and where, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt import UsageError

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.xla

from training_network import (  # noqa: E402
    NETWORK,
    Array,
    examples,
    fitted,
    network,
    programs as programs,
)

from graphopt import training  # noqa: E402
from graphopt.training import NotFinite  # noqa: E402

CROSS = "categorical_crossentropy"
SCORES = NETWORK.replace("p = Softmax (s)", "p = Identity (s)")


# --- labels ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "dtype"), [(-1, np.int64), (3, np.uint8), (np.nan, np.float32)]
)
def test_a_label_that_no_class_has(label: float, dtype: Any) -> None:
    x, labels = examples()
    labels = labels.astype(dtype)
    labels[20] = label
    what = rf"label {label} in step 2 of epoch 1: there are 3 classes, 0 to 2"
    with pytest.raises(UsageError, match=f"the targets hold the {what}"):
        fitted(data=(x, labels), shuffle=False)


def test_a_label_of_the_validation_that_no_class_has() -> None:
    x, labels = examples()
    labels[20] = 3
    with pytest.raises(UsageError, match="label 3 in batch 1 of the validation"):
        fitted(validation=(x, labels), epochs=1)
    own = fitted(data=(x, labels), loss=lambda p, target: p[:, 0], epochs=1)
    assert len(own.losses) == 4  # what a label means to it is its own affair


LOSS = """
<ir_version: 10, opset_import: ["": 21]>
net (float[n, 6] x, int64[n] t) => (float[n] loss) {
    h = MatMul (x, w1)
    s = Gemm (h, w2, b2)
    loss = SoftmaxCrossEntropyLoss <reduction = "none", ignore_index = -100> (s, t)
}
"""


def test_labels_of_a_loss_in_the_model() -> None:
    x, labels = examples(16)
    labels[:8] = -100
    options: dict[str, Any] = {"loss": lambda loss, target: loss, "epochs": 1}
    fed = {"x": x, "t": labels}
    model = network(text=LOSS)
    assert fitted(model=model, data=(fed, labels), **options).losses[0] > 0
    labels[3] = -1
    with pytest.raises(UsageError, match=r"input 't' .* label -1 .* -100 to be ign"):
        fitted(model=model, data=(fed, labels), **options)


@pytest.mark.parametrize("shift", [0.5, 1e-3])
def test_a_label_between_two_classes(shift: float) -> None:
    x, labels = examples()
    with pytest.raises(UsageError, match=r"label \d\.\d+ in step 1 .* 3 classes"):
        fitted(data=(x, labels + shift))
    assert fitted(data=(x, labels.astype(np.float32)), epochs=1)


def test_rows_of_targets_that_are_no_probabilities() -> None:
    x, labels = examples()
    rows = np.eye(3, dtype=np.float32)[labels]
    with pytest.warns(UserWarning, match="rows .* of them sum to 2, not 1") as warned:
        fitted(data=(x, 2 * rows))
    assert len(warned) == 1
    rows[:5] = 0  # examples that count for nothing
    assert fitted(data=(x, rows), epochs=1)


TABLE = """
<ir_version: 10, opset_import: ["": 21]>
net (int64[n] t, float[n, 6] x) => (float[n, 3] p) {
    i = Cast <to = 6> (t)
    e = Gather (table, i)
    y = Add (x, e)
    h = MatMul (y, w1)
    a = Add (h, b1)
    s = Gemm (a, w2, b2)
    p = Softmax (s)
}
"""


def test_indices_beyond_a_table() -> None:
    model = network(text=TABLE)
    table = np.ones((4, 6), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    x, labels = examples()
    rows = labels.copy()
    rows[20] = -4
    assert fitted(model=model, data=({"x": x, "t": rows}, labels), epochs=1)
    for odd in (4, -5):
        rows[20] = odd
        what = rf"input 't' holds {odd} in step 2 .*Gather 'e'\) has 4 rows, 0"
        with pytest.raises(UsageError, match=what):
            fitted(model=model, data=({"x": x, "t": rows}, labels), shuffle=False)


# --- numbers --------------------------------------------------------------------------


def test_inputs_that_are_not_finite() -> None:
    x, labels = examples()
    x[33, 2] = np.nan
    named = f"'{CROSS}' is nan in step 3 of epoch 1: there is NaN in input 'x'"
    with pytest.raises(NotFinite, match=named):
        fitted(data=(x, labels), shuffle=False)


def test_inputs_that_spoil_only_the_gradient() -> None:
    """The slope of Tanh is zero at infinity, and zero times infinity is NaN."""
    x, labels = examples()
    x[33, 2] = np.inf
    cause = "there is infinity in input 'x' of the step that changed the weights last"
    with pytest.raises(NotFinite, match=f"step 4 of epoch 1: {cause}"):
        fitted(data=(x, labels), shuffle=False)
    with pytest.raises(NotFinite, match=f"weight 'w1' after step 3 .*: {cause}"):
        fitted(data=(x, labels), shuffle=False, drop_last=True)


def test_targets_that_are_not_finite() -> None:
    x, _ = examples()
    target = np.full((50, 3), np.nan, np.float32)
    with pytest.raises(NotFinite, match=r"'mse' is nan in step 1 of .* the targets"):
        fitted(data=(x, target), loss="mse")
    good = np.zeros((50, 3), np.float32)
    with pytest.raises(NotFinite, match=r"batch 0 of the validation .* the targets"):
        fitted(data=(x, good), validation=(x, target), loss="mse", epochs=1)


def test_a_run_that_diverges_leaves_no_checkpoint(tmp_path: Path) -> None:
    """Each step is looked at before the next checkpoint is made, also the last."""
    x, _ = examples(16)
    options: dict[str, Any] = {
        "model": network(text=SCORES),
        "data": (x, np.ones((16, 3), np.float32)),
        "optimizer": optax.sgd(1e12),
        "loss": "mse",
        "checkpoint": tmp_path,
        "checkpoint_every": 1,
    }
    with pytest.raises(NotFinite, match=r"'mse' is .* learning rate"):
        fitted(**options, epochs=20)
    kept = [int(f.name) for f in tmp_path.iterdir() if f.name.isdigit()]
    assert kept
    with pytest.raises(NotFinite):  # the same step follows on what was kept
        fitted(**options, epochs=20)


def test_a_loss_may_be_finite_where_its_gradient_is_not() -> None:
    def upright(p: Any, target: Any) -> Any:
        return jax.numpy.sqrt((p - p).sum(1))

    with pytest.raises(NotFinite, match="weight 'b1' and 3 more after step 1"):
        fitted(data=examples(16), loss=upright, epochs=1)


def test_a_mask_of_infinities_is_a_weight_that_stays() -> None:
    text = NETWORK.replace("p = Softmax (s)", "m = Add (s, mask)\n p = Softmax (m)")
    model = network(text=text)
    mask = np.array([0, -np.inf, 0], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    x, labels = examples(16)
    result = fitted(model=model, data=(x, labels * 0), epochs=1)
    assert result.params["mask"][1] == -np.inf


# --- probabilities and scores ---------------------------------------------------------


def targets(shape: tuple[int, ...]) -> Array:
    return np.zeros(shape, np.float32)


def test_scores_are_no_probabilities() -> None:
    x, labels = examples()
    model = network(text=SCORES)
    for loss, target in ((CROSS, labels), ("binary_crossentropy", targets((50, 3)))):
        what = f"'p' reaches from -.* in step 1 of .* use '{loss}_logits'"
        with pytest.raises(UsageError, match=what):
            fitted(model=model, data=(x, target), loss=loss)
    assert fitted(model=model, data=(x, labels), loss=f"{CROSS}_logits", epochs=1)
    logarithms = network(text=NETWORK.replace("Softmax", "LogSoftmax"))
    with pytest.raises(UsageError, match="'p' is a LogSoftmax, never above 0"):
        fitted(model=logarithms)
    assert fitted(model=logarithms, loss=f"{CROSS}_logits", epochs=1)


@pytest.mark.slow
def test_probabilities_are_hardly_scores() -> None:
    x, labels = examples()
    with pytest.warns(UserWarning, match=f"is a Softmax, .*: is '{CROSS}' meant"):
        fitted(loss=f"{CROSS}_logits", epochs=1)
    spelled = network(
        text=NETWORK.replace(
            "p = Softmax (s)",
            """
        e = Exp (s)
        ones = Constant <value_ints = [1]> ()
        sum = ReduceSum (e, ones)
        p = Div (e, sum)""",
        )
    )
    with pytest.warns(UserWarning, match=f"sum to 1, .*: is '{CROSS}' meant"):
        fitted(model=spelled, loss=f"{CROSS}_logits", epochs=1)
    assert fitted(model=spelled, epochs=1)
    each = network(text=NETWORK.replace("Softmax", "Sigmoid"))
    with pytest.warns(UserWarning, match="is a Sigmoid, .*: is 'binary_crossentropy'"):
        fitted(
            model=each,
            data=(x, targets((50, 3))),
            loss="binary_crossentropy_logits",
            epochs=1,
        )
    with pytest.warns(UserWarning, match=r"rows \(along axis 1\) that miss the sum 1"):
        fitted(model=each, data=(x, labels), epochs=1)


# --- losses ---------------------------------------------------------------------------


def test_a_loss_that_has_no_gradient() -> None:
    for loss, what in (
        (lambda p, t: p.argmax(1) != t, "gave bool, which has no gradient"),
        (lambda p, t: p.argmax(1), "gave int64, which has no gradient"),
        (lambda p, t: 1.0, "gave the number 1.0, not an array of JAX"),
        (None, r"None is no measure: give a name \(categorical_crossentropy, "),
        (3, "3 is no measure"),
    ):
        with pytest.raises(UsageError, match=what):
            fitted(loss=loss)

    def flat(p: Any, target: Any) -> Any:
        return (p.argmax(1) != target).astype(np.float32)

    with pytest.warns(UserWarning, match="gradients are 0 in step 1 .* argmax") as told:
        fitted(loss=flat)
    assert len(told) == 1


# --- the rest -------------------------------------------------------------------------


def test_what_is_no_optimizer() -> None:
    for given, what in (
        ("sgd", r"'sgd' is no optimizer: .* optax\.sgd\(1e-3\)"),
        ("best", r"'best' .* optax\.adam\(1e-3\)"),
        (optax.lion, r"optax\.lion\(1e-3\)"),
        (None, r"None .* optax\.adam\(1e-3\)"),
    ):
        with pytest.raises(UsageError, match=what):
            fitted(optimizer=given)


def test_a_model_without_floats() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]>
    net (float[n, 6] x) => (float[n, 6] p) <int8[6] codes = {1, 2, 3, 4, 5, 6}> {
        c = Cast <to = 1> (codes)
        p = Mul (x, c)
    }"""
    with pytest.raises(UsageError, match=r"the model has none \(.* of i8\)"):
        fitted(model=onnx.parser.parse_model(text))


def test_a_fixed_batch() -> None:
    model = network(text=NETWORK.replace("[n,", "[4,"))
    what = r"batch_size=4, .* \(graphopt optimize MODEL --dim x:0=batch\)"
    with pytest.raises(UsageError, match=what):
        fitted(model=model)
    assert len(fitted(model=model, batch_size=4, epochs=1).losses) == 13


def test_a_result_is_shown_in_few_words() -> None:
    result = fitted(epochs=1, frozen="b1")
    loss = f"{result.history[-1]['loss']:.4g}"
    assert repr(result) == f"<trained net: 1 epochs, loss {loss}, 3 of 4 weights>"
    assert training.Result.__str__(result) == repr(result)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"batch_size": 0}, "batch_size=0: it is a whole number from 1"),
        ({"epochs": -1}, "epochs=-1: it is a whole number from 0"),
        ({"epochs": 1.5}, r"epochs=1\.5"),
        ({"seed": None}, "seed=None"),
        ({"seed": -1}, "seed=-1"),
        ({"checkpoint_every": 3}, "say where, checkpoint="),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"data": np.ones((4, 6))}, r"data is \(inputs, .* shape \[4, 6\] alone"),
        ({"validation": np.ones((4, 6))}, r"validation is \(inputs, targets\)"),
        ({"data": {"x": np.ones((4, 6))}}, "not a dict alone"),
        ({"data": [np.ones((4, 6))]}, r"batch 0 of the data is .* shape \[4, 6\]"),
        ({"data": (np.ones((2, 6)), ["a", "b"])}, "targets are strings, not numbers"),
        ({"data": (np.ones((2, 6)), [[1], [1, 2]])}, "lists of different lengths"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        fitted(**options)


def test_lists_and_single_words_are_taken() -> None:
    x, labels = examples(16)
    plain = fitted(data=(x, labels), metrics=["accuracy"]).history
    assert fitted(data=(x, labels.tolist()), metrics="accuracy").history == plain
    assert fitted(data=[(x.astype("f4"), labels.tolist())], shuffle=False, epochs=1)


def test_a_checkpoint_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    for place in (path, path / "inside"):
        with pytest.raises(UsageError, match=r"is a folder, but .*file is a file"):
            fitted(checkpoint=place)


def test_results_are_taken_for_their_graphs() -> None:
    result = graphopt.optimize(graphopt.load(network()), check="off")
    trained = fitted(model=result, epochs=1)
    again = fitted(model=trained, epochs=1)
    assert again.history[0]["loss"] < trained.history[0]["loss"]
    fn, params = graphopt.to_jax(result)
    assert params.keys() == graphopt.to_jax(result.graph)[1].keys()
    assert fn(params, x=examples(4)[0])["p"].shape == (4, 3)
