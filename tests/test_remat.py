"""Training within a budget of memory: the same gradients, in programs that fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.xla

from graphopt import UsageError, training  # noqa: E402
from graphopt.lowering import graph_of  # noqa: E402
from graphopt.lowering.xla.function import Function  # noqa: E402
from graphopt.reference import OutOfBudget  # noqa: E402
from graphopt.training.batches import Batch  # noqa: E402
from graphopt.training.losses import LOSSES  # noqa: E402
from graphopt.training.retention import Retention  # noqa: E402
from graphopt.training.segments import Segmented, segments_of  # noqa: E402
from graphopt.training.settings import size_of  # noqa: E402
from graphopt.training.steps import Steps, mesh_of  # noqa: E402

Array = np.ndarray[Any, Any]


def model(text: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    for name, shape in shapes.items():
        array = rng.normal(0, 0.4, shape).astype(np.float32)
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    return made


def layers(count: int, width: int = 16) -> onnx.ModelProto:
    """Residual blocks of a norm, two products and an activation."""
    lines, shapes = ["h0 = Identity (x)"], {}
    for i in range(count):
        lines += [
            f"n{i} = LayerNormalization (h{i}, s{i})",
            f"a{i} = MatMul (n{i}, w{i})",
            f"g{i} = Gelu (a{i})",
            f"m{i} = MatMul (g{i}, v{i})",
            f"h{i + 1} = Add (h{i}, m{i})",
        ]
        shapes |= {
            f"s{i}": (width,),
            f"w{i}": (width, 4 * width),
            f"v{i}": (4 * width, width),
        }
    lines.append(f"y = Identity (h{count})")
    body = "\n".join(lines)
    head = f"net (float[n, {width}] x) => (float[n, {width}] y)"
    return model(f"{head} {{ {body} }}", **shapes)


LAYERS = layers(3)
SKIPS = model(
    """net (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w0)
        r = Relu (a)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        b = Conv <pads = [1, 1, 1, 1]> (p, w1)
        t = Tanh (b)
        u = ConvTranspose <strides = [2, 2]> (t, w2)
        c = Concat <axis = 1> (u, r)
        y = Conv <pads = [1, 1, 1, 1]> (c, w3)
    }""",
    w0=(4, 3, 3, 3),
    w1=(4, 4, 3, 3),
    w2=(4, 4, 2, 2),
    w3=(3, 8, 3, 3),
)
ATTENTION = model(
    """net (float[n, 6, 8] x) => (float[n, 6, 8] y) {
        shape = Shape (x)
        q = MatMul (x, wq)
        k = MatMul (x, wk)
        kt = Transpose <perm = [0, 2, 1]> (k)
        s = MatMul (q, kt)
        p = Softmax <axis = -1> (s)
        v = MatMul (x, wv)
        o = MatMul (p, v)
        flat = Reshape <allowzero = 0> (o, shape)
        y = Add (flat, x)
    }""",
    wq=(8, 8),
    wk=(8, 8),
    wv=(8, 8),
)
BRANCHES = model(
    """net (float[n, 6] x) => (float[n, 6] y) {
        mean = ReduceMean <keepdims = 0> (x)
        zero = Constant <value_float = 0.0> ()
        above = Greater (mean, zero)
        a = MatMul (x, w)
        b = If (above) <
            then_branch = one () => (float[n, 6] t) { t = Tanh (a) },
            else_branch = two () => (float[n, 6] e) { e = Sigmoid (a) }
        >
        first, second = Split <num_outputs = 2, axis = 1> (b)
        both = Concat <axis = 1> (second, first)
        y = Mul (both, b)
    }""",
    w=(6, 6),
)
DROPOUT = model(
    """net (float[n, 6] x) => (float[n, 6] y) {
        ratio = Constant <value_float = 0.5> ()
        yes = Constant <value = bool {1}> ()
        a = MatMul (x, w)
        d = Dropout (a, ratio, yes)
        t = Tanh (d)
        y = MatMul (t, w)
    }""",
    w=(6, 6),
)
MODELS = {
    "layers": (LAYERS, (8, 16)),
    "skips": (SKIPS, (4, 3, 8, 8)),
    "attention": (ATTENTION, (4, 6, 8)),
    "branches": (BRANCHES, (4, 6)),
    "dropout": (DROPOUT, (4, 6)),
}
SLOW = ("layers", "skips", "dropout")


def a_step(proto: onnx.ModelProto, shape: tuple[int, ...]) -> tuple[Steps, list[Any]]:
    """The programs of a run, and arguments for one step; call them with 64 bits."""
    graph = graph_of(proto)
    steps = Steps(
        graph,
        optax.sgd(0.1),
        {"loss": LOSSES["mse"]},
        lambda prediction: {},
        None,
        mesh_of(None),
        "fp32",
    )
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    trained = jax.device_put(Function(graph).params, steps.everywhere)
    batch = steps.place(Batch({"x": x}, np.cos(x), np.ones(len(x), np.float32)))
    state = steps.optimizer.init(trained)
    return steps, [trained, state, {}, batch, jax.random.key(3)]


def segmented(steps: Steps, arguments: list[Any], plan: Retention | None) -> Steps:
    """The same steps with only some results kept; by default none that can be made."""
    forward = steps.forward(*arguments)
    plan = plan or Retention(frozenset(), forward.training.starts(frozenset()))
    function = Segmented(steps.graph, precision=steps.precision)
    function.known = forward.known
    function.segments = segments_of(steps.graph, forward, plan)
    return Steps(
        steps.graph,
        steps.optimizer,
        steps.measures,
        steps.spread,
        steps.output,
        steps.mesh,
        steps.precision,
        function,
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in MODELS
    ],
)
def test_steps_that_make_things_again_give_the_same_weights(name: str) -> None:
    with jax.enable_x64(True):
        steps, arguments = a_step(*MODELS[name])
        training_ = steps.forward(*arguments).training
        some = frozenset(range(0, len(training_.steps), 2))
        plans = [None, Retention(some, training_.starts(some))]
        wanted = _moved(steps, arguments)
        for plan in plans:
            found = _moved(segmented(steps, arguments, plan), arguments)
            for key, array in wanted.items():
                np.testing.assert_allclose(found[key], array, rtol=2e-5, atol=1e-6)


def _moved(steps: Steps, arguments: list[Any]) -> dict[str, Array]:
    trained, state, *others = arguments
    copies = jax.tree.map(lambda a: a.copy(), (trained, state))  # they are donated
    moved, _, _ = steps.train(*copies, *others)
    return {name: np.asarray(array) for name, array in moved.items()}


def test_what_is_kept_is_what_jax_saves() -> None:
    with jax.enable_x64(True):
        steps, arguments = a_step(*MODELS["layers"])
        forward = steps.forward(*arguments)
        kept = frozenset(
            i for i, step in enumerate(forward.steps) if step.flops > 100_000 // 8
        )
        plan = Retention(kept, forward.training.starts(kept))
        names = [
            name
            for segment in segments_of(steps.graph, forward, plan)
            for name in segment.names.values()
        ]
        assert [name.split()[0] for name in names].count("MatMul") == 6
        text = str(jax.make_jaxpr(segmented(steps, arguments, plan).train)(*arguments))
        assert text.count("prevent_cse=True") >= 1
        for name in names:
            assert f"name={name}" in text


@pytest.mark.slow
def test_fitting_within_a_budget_gives_the_same_curve() -> None:
    width, count = 16, 4096
    x = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    options: dict[str, Any] = {
        "optimizer": optax.adam(1e-3),
        "loss": "mse",
        "batch_size": 2048,
        "epochs": 2,
    }
    proto = layers(3, width)
    plain = training.fit(proto, (x, np.cos(x)), **options, max_activations="1GiB")
    assert plain.activations is not None
    assert plain.activations.segments == 0
    most = plain.activations.bytes
    less = training.fit(
        proto, (x, np.cos(x)), **options, max_activations=int(0.6 * most)
    )
    said = less.activations
    assert said is not None
    assert said.bytes <= 0.6 * most == pytest.approx(0.6 * said.plain_bytes)
    assert said.segments > 1
    assert said.plain_flops < said.flops < 1.3 * said.plain_flops
    assert "more FLOPs" in str(said)
    np.testing.assert_allclose(less.losses, plain.losses, rtol=1e-5)


@pytest.mark.slow
def test_a_budget_that_nothing_fits_says_which_would_do() -> None:
    x = np.arange(1024, dtype=np.float32).reshape(64, 16) / 1024
    options: dict[str, Any] = {"optimizer": optax.sgd(0.1), "loss": "mse"}
    with pytest.raises(OutOfBudget, match=r"only 0\.0 MiB are allowed.*=\d+") as error:
        training.fit(LAYERS, (x, -x), **options, max_activations=10)
    assert error.value.exit_code == 6
    enough = int(str(error.value).rpartition("=")[2])
    fitted = training.fit(LAYERS, (x, -x), **options, max_activations=enough)
    assert fitted.activations is not None
    assert fitted.activations.bytes <= enough


@pytest.mark.parametrize(
    ("given", "size"),
    [(5, 5), ("64MiB", 64 << 20), ("1.5 kB", 1500), ("2gib", 2 << 30), ("7", 7)],
)
def test_sizes_have_units(given: int | str, size: int) -> None:
    assert size_of("max_activations", given) == size


@pytest.mark.parametrize("given", ["much", "-1", "3 XB", 0, 1.5])
def test_no_sizes(given: Any) -> None:
    with pytest.raises(UsageError, match=r"max_activations|no size"):
        size_of("max_activations", given)
