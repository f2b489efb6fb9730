"""Graphs written node by node, as converters from TensorFlow and Keras write them."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
WIDTH = 384
HEADS = 6
HEAD = WIDTH // HEADS
HIDDEN = 4 * WIDTH
LAYERS = 6
LENGTH = 128


class Writer:
    """Collects nodes and weights; every method that computes gives a value's name."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, **attributes: object) -> str:
        """The first output of one more node."""
        return self.several(op, 1, *inputs, **attributes)[0]

    def several(
        self, op: str, count: int, *inputs: str, **attributes: object
    ) -> list[str]:
        """The outputs of one more node."""
        number = len(self.nodes)
        outputs = [f"{op.lower()}_{number}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs

    def constant(self, value: object, dtype: type = np.float32) -> str:
        """A weight of the given value."""
        name = f"weight_{len(self.weights)}"
        array = np.asarray(value, dtype)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        """A list of integers."""
        return self.constant(values, np.int64)

    def normal(self, *shape: int) -> str:
        """Random weights that keep the variance of what they are multiplied with."""
        inputs = math.prod(shape[:-1]) if len(shape) == 2 else math.prod(shape[1:])
        return self.constant(self.rng.normal(0, inputs**-0.5, shape))

    def around(self, center: float, *shape: int) -> str:
        """Random weights for a norm or bias."""
        return self.constant(self.rng.normal(center, 0.2, shape))

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        output: str,
        shape: Sequence[int | str],
    ) -> onnx.ModelProto:
        """The model that computes `output` of `inputs`."""
        result = helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)
        self.nodes.append(helper.make_node("Identity", [output], ["output"]))
        graph = helper.make_graph(self.nodes, "main", inputs, [result], self.weights)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def _dense(w: Writer, x: str, before: int, after: int) -> str:
    return w("Add", w("MatMul", x, w.normal(before, after)), w.around(0, after))


def _flat_dense(w: Writer, x: str, before: int, after: int) -> str:
    """As Keras's old layers: rows of a matrix, the bias added last."""
    flat = w("MatMul", w("Reshape", x, w.ints(-1, before)), w.normal(before, after))
    return w("Add", w("Reshape", flat, w.ints(-1, LENGTH, after)), w.around(0, after))


def _batch_norm_form(w: Writer, x: str) -> str:
    """Layer norm as tf.nn.batch_normalization: x*k + (beta - mean*k)."""
    mean = w("ReduceMean", x, axes=[-1], keepdims=1)
    off = w("Sub", x, mean)
    variance = w("ReduceMean", w("Mul", off, off), axes=[-1], keepdims=1)
    root = w("Sqrt", w("Add", variance, w.constant(1e-6)))
    scale = w("Mul", w("Reciprocal", root), w.around(1, WIDTH))
    shift = w("Sub", w.around(0, WIDTH), w("Mul", mean, scale))
    return w("Add", w("Mul", x, scale), shift)


def _root_mean_square(w: Writer, x: str) -> str:
    square = w("ReduceMean", w("Pow", x, w.constant(2)), axes=[-1], keepdims=1)
    root = w("Sqrt", w("Add", square, w.constant(1e-6)))
    return w("Mul", w("Div", x, root), w.around(1, WIDTH))


def _erf(w: Writer, x: str) -> str:
    return w("Erf", w("Div", x, w.constant(math.sqrt(2))))


def _gelu_half_last(w: Writer, x: str) -> str:
    return w("Mul", w("Mul", x, w("Add", _erf(w, x), w.constant(1))), w.constant(0.5))


def _gelu_half_first(w: Writer, x: str) -> str:
    return w("Mul", w("Mul", w.constant(0.5), x), w("Add", w.constant(1), _erf(w, x)))


def _gelu_half_inside(w: Writer, x: str) -> str:
    erf = w("Erf", w("Mul", x, w.constant(math.sqrt(0.5))))
    return w("Mul", x, w("Mul", w.constant(0.5), w("Add", w.constant(1), erf)))


def _relu6(w: Writer, x: str) -> str:
    return w("Clip", x, w.constant(0), w.constant(6))


def _hard_swish(w: Writer, x: str) -> str:
    gate = _relu6(w, w("Add", x, w.constant(3)))
    return w("Mul", x, w("Mul", gate, w.constant(1 / 6)))


def _mish(w: Writer, x: str) -> str:
    return w("Mul", x, w("Tanh", w("Softplus", x)))


def _swish(w: Writer, x: str) -> str:
    return w("Mul", x, w("Sigmoid", x))


def _input(
    name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def tf_bert() -> onnx.ModelProto:
    """TensorFlow's BERT: 4-D transposes, rows as matrices, three spellings of GELU."""
    w = Writer()
    shape = ["batch", LENGTH]
    ids = w("Cast", "input_ids", to=TensorProto.INT64)
    table = w.constant(w.rng.normal(0, 1, (5000, WIDTH)))
    x = w("Add", w("Gather", table, ids), w.around(0, 1, LENGTH, WIDTH))
    x = _batch_norm_form(w, x)
    mask = w("Unsqueeze", w("Cast", "attention_mask", to=1), w.ints(1, 2))
    mask = w("Mul", w("Sub", w.constant(1), mask), w.constant(-10000))
    gelus = (_gelu_half_last, _gelu_half_first, _gelu_half_inside)
    for layer in range(LAYERS):
        query, key, value = (
            w(
                "Transpose",
                w(
                    "Reshape",
                    _flat_dense(w, x, WIDTH, WIDTH),
                    w.ints(-1, LENGTH, HEADS, HEAD),
                ),
                perm=[0, 2, 1, 3],
            )
            for _ in range(3)
        )
        scores = w("MatMul", query, w("Transpose", key, perm=[0, 1, 3, 2]))
        scores = w("Mul", scores, w.constant(HEAD**-0.5))
        weights = w("Softmax", w("Add", scores, mask), axis=-1)
        mixed = w("Transpose", w("MatMul", weights, value), perm=[0, 2, 1, 3])
        mixed = w("Reshape", mixed, w.ints(-1, LENGTH, WIDTH))
        x = _batch_norm_form(w, w("Add", _flat_dense(w, mixed, WIDTH, WIDTH), x))
        hidden = gelus[layer % 3](w, _flat_dense(w, x, WIDTH, HIDDEN))
        x = _batch_norm_form(w, w("Add", _flat_dense(w, hidden, HIDDEN, WIDTH), x))
    inputs = [
        _input("input_ids", shape, TensorProto.INT32),
        _input("attention_mask", shape, TensorProto.INT32),
    ]
    return w.model(inputs, x, [*shape, WIDTH])


def einsum_decoder() -> onnx.ModelProto:
    """Keras's attention by Einsum, causal by Where; SwiGLU and RMS norms."""
    w = Writer()
    x = "embedded"
    causal = w.constant(np.tri(LENGTH)[None, None], np.bool_)
    inner = HIDDEN * 2 // 3
    for _ in range(LAYERS):
        normed = _root_mean_square(w, x)
        query, key, value = (
            w(
                "Add",
                w(
                    "Einsum",
                    normed,
                    w.constant(w.rng.normal(0, WIDTH**-0.5, (WIDTH, HEADS, HEAD))),
                    equation="abc,cde->abde",
                ),
                w.around(0, HEADS, HEAD),
            )
            for _ in range(3)
        )
        query = w("Mul", query, w.constant(HEAD**-0.5))
        scores = w("Einsum", key, query, equation="aecd,abcd->acbe")
        scores = w("Where", causal, scores, w.constant(-1e9))
        weights = w("Softmax", scores, axis=-1)
        mixed = w("Einsum", weights, value, equation="acbe,aecd->abcd")
        out = w.constant(w.rng.normal(0, WIDTH**-0.5, (HEADS, HEAD, WIDTH)))
        mixed = w("Einsum", mixed, out, equation="abcd,cde->abe")
        x = w("Add", x, w("Add", mixed, w.around(0, WIDTH)))
        normed = _root_mean_square(w, x)
        gate = _swish(w, w("MatMul", normed, w.normal(WIDTH, inner)))
        hidden = w("Mul", gate, w("MatMul", normed, w.normal(WIDTH, inner)))
        x = w("Add", x, w("MatMul", hidden, w.normal(inner, WIDTH)))
    shape = ["batch", LENGTH, WIDTH]
    return w.model([_input("embedded", shape)], x, shape)


def _conv(
    w: Writer, x: str, before: int, after: int, size: int, stride: int, group: int = 1
) -> str:
    """A convolution between transposes, its padding (TensorFlow's SAME) on its own."""
    x = w("Transpose", x, perm=[0, 3, 1, 2])
    if size > 1:
        low, high = (size - stride) // 2, (size - stride + 1) // 2
        x = w("Pad", x, w.ints(0, 0, low, low, 0, 0, high, high), w.constant(0))
    kernel = w.normal(after, before // group, size, size)
    x = w("Conv", x, kernel, strides=[stride] * 2, kernel_shape=[size] * 2, group=group)
    return w("Transpose", x, perm=[0, 2, 3, 1])


def _scale_shift(w: Writer, x: str, width: int) -> str:
    return w("Add", w("Mul", x, w.around(1, width)), w.around(0, width))


def _squeeze_excite(w: Writer, x: str, width: int) -> str:
    narrow = width // 4
    pooled = w("ReduceMean", x, axes=[1, 2], keepdims=0)
    hidden = w("Relu", _dense(w, pooled, width, narrow))
    gate = w("Add", _dense(w, hidden, narrow, width), w.constant(3))
    gate = w("Div", _relu6(w, gate), w.constant(6))
    return w("Mul", x, w("Reshape", gate, w.ints(-1, 1, 1, width)))


def keras_mobilenet() -> onnx.ModelProto:
    """Inverted bottlenecks with channels last: HardSwish, Mish, squeeze and excite."""
    w = Writer()
    x = _hard_swish(w, _scale_shift(w, _conv(w, "image", 3, 32, 3, 2), 32))
    width = 32
    plan = (
        (64, 2),
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (384, 2),
        (384, 1),
    )
    for block, (after, stride) in enumerate(plan):
        act = _mish if block % 2 else _hard_swish
        inner = 4 * width
        y = act(w, _scale_shift(w, _conv(w, x, width, inner, 1, 1), inner))
        y = _conv(w, y, inner, inner, 3, stride, inner)
        y = act(w, _scale_shift(w, y, inner))
        y = _squeeze_excite(w, y, inner)
        y = _scale_shift(w, _conv(w, y, inner, after, 1, 1), after)
        x = w("Add", x, y) if width == after and stride == 1 else y
        width = after
    x = w("ReduceMean", x, axes=[1, 2], keepdims=0)
    x = w("Softmax", _dense(w, x, width, 1000), axis=-1)
    return w.model([_input("image", ["batch", 224, 224, 3])], x, ["batch", 1000])


SPELLINGS: dict[str, Callable[[], onnx.ModelProto]] = {
    spelling.__name__: spelling
    for spelling in (tf_bert, einsum_decoder, keras_mobilenet)
}
