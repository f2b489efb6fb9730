"""Build a small convolutional network as an ONNX model, train it, write it back.

    pip install 'graphopt[train]' scikit-learn
    python examples/train_cnn.py trained.onnx
    python examples/train_cnn.py trained.onnx --devices 8

It reads the 8x8 images of handwritten digits that come with scikit-learn. With
``--devices 8`` each batch is split over 8 virtual devices of the CPU: the same curve.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import onnx

CHANNELS, CLASSES, HELD_OUT = 32, 10, 360

NETWORK = """
<ir_version: 10, opset_import: ["": 21]>
cnn (float[batch, 1, 8, 8] images) => (float[batch, 10] probabilities) {
    features = Conv <pads = [1, 1, 1, 1]> (images, conv_weight, conv_bias)
    active = Relu (features)
    pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (active)
    flat = Flatten (pooled)
    scores = Gemm (flat, dense_weight, dense_bias)
    probabilities = Softmax <axis = 1> (scores)
}
"""


def network() -> onnx.ModelProto:
    """The model, untrained: weights drawn as wide as what they sum up asks for."""
    rng = np.random.default_rng(0)
    inner = CHANNELS * 4 * 4
    weights = {
        "conv_weight": rng.normal(0, (2 / 9) ** 0.5, (CHANNELS, 1, 3, 3)),
        "conv_bias": np.zeros(CHANNELS),
        "dense_weight": rng.normal(0, (1 / inner) ** 0.5, (inner, CLASSES)),
        "dense_bias": np.zeros(CLASSES),
    }
    model = onnx.parser.parse_model(NETWORK)
    for name, array in weights.items():
        tensor = onnx.numpy_helper.from_array(array.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    return model


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images with grey levels from 0 to 1, in a seeded order, and what they show."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images = (images / 16).reshape(-1, 1, 8, 8).astype(np.float32)
    return images[order], labels[order]


def main() -> None:
    """Train for five epochs, write the model, and run what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, default=Path("trained.onnx"))
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args()
    if options.devices > 1:  # before JAX is imported
        flag = f"--xla_force_host_platform_device_count={options.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        import optax

        import graphopt
        from graphopt import training

        images, labels = digits()
    except ModuleNotFoundError as error:
        sys.exit(
            f"{error.name} is not installed; pip install 'graphopt[train]' scikit-learn"
        )

    def say(event: training.Event) -> None:
        if event.row is not None:
            print(training.line_of(event), flush=True)

    held, seen = slice(HELD_OUT), slice(HELD_OUT, None)
    result = training.fit(
        network(),
        (images[seen], labels[seen]),
        optimizer=optax.adam(3e-3),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        batch_size=32,
        epochs=5,
        validation=(images[held], labels[held]),
        mesh=options.devices,
        progress=say,
    )
    result.save(options.out, overwrite=True)
    print(f"wrote {options.out}")

    onnx.checker.check_model(options.out)
    (found,) = graphopt.run_model(options.out, {"images": images[held]})
    accuracy = (found.argmax(1) == labels[held]).mean()
    # A probability that is as near as float32 comes may choose another class.
    assert abs(accuracy - result.history[-1]["validation_accuracy"]) <= 1 / HELD_OUT
    print(f"validation accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
