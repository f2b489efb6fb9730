"""What ONNX Runtime's fused kernels stand for: the cases of `fused_kernels.py`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"
OPSETS = {"": 23, CONTRIB: 1}
WIDTHS = (128, 512, 2048)
ROWS = (16, 128, 512)
CHAIN = 6


@dataclass
class Model:
    """A model under construction; names are made up as nodes are added."""

    scope: str = ""
    """What names begin with."""

    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    inputs: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    """What steps leave for others."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int, scale: float = 0.5) -> str:
        """A constant of normal numbers, the same ones in the same order."""
        return self.constant(self.rng.normal(size=shape) * scale)

    def constant(self, values: Any) -> str:
        """A constant of the values given."""
        name = f"{self.scope}w{len(self.weights)}"
        array = np.asarray(values, np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def whole(self, *values: int, scalar: bool = False) -> str:
        """A vector of int64, or one number."""
        name = f"{self.scope}w{len(self.weights)}"
        array = np.array(values[0] if scalar else values, np.int64)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def input(self, *shape: int, below: int = 0) -> str:
        """An input of normal numbers, or of int32 below a limit."""
        name = f"x{len(self.inputs)}"
        if below:
            self.inputs[name] = self.rng.integers(0, below, shape).astype(np.int32)
        else:
            self.inputs[name] = self.rng.normal(size=shape).astype(np.float32)
        return name

    def add(
        self, kind: str, *operands: str, domain: str = "", outs: int = 1, **attrs: Any
    ) -> str:
        """A node, by the name of its first result."""
        name = f"{self.scope}v{len(self.nodes)}"
        names = [name, *(f"{name}_{i}" for i in range(1, outs))]
        node = helper.make_node(kind, operands, names, domain=domain, **attrs)
        self.nodes.append(node)
        return name

    def fuse(self, kind: str, *operands: str, **attrs: Any) -> str:
        """A node of the runtime's own domain."""
        return self.add(kind, *operands, domain=CONTRIB, **attrs)

    def proto(self, result: str) -> onnx.ModelProto:
        """The model with one output."""
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape
            )
            for name, x in self.inputs.items()
        ]
        output = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        graph = helper.make_graph(
            self.nodes, "case", inputs, [output], initializer=self.weights
        )
        opsets = [helper.make_opsetid(*pair) for pair in OPSETS.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


Build = Callable[[Model], str]
"""Adds a case to a model, and says which value is its result."""
Step = Callable[[Model, str, int], str]
"""The same, from a value and its width."""


@dataclass(frozen=True)
class Case:
    """One fusion of one size: the fused op, and its parts."""

    name: str
    size: str
    fused: Build
    parts: Build


def cases() -> Iterator[Case]:
    """All cases."""
    yield from norms()
    yield from group_norms()
    yield from embeddings()
    yield from activations()
    yield from products()
    yield from gemms()
    yield from convolutions()


def by_rows(
    name: str, fused: Step, parts: Step, widths: Sequence[int] = WIDTHS
) -> Iterator[Case]:
    """A chain of copies, in all numbers of rows and widths."""

    def chained(step: Step, rows: int, width: int) -> Build:
        def build(m: Model) -> str:
            x = m.input(1, rows, width)
            for _ in range(CHAIN):
                x = step(m, x, width)
            return x

        return build

    for rows in ROWS:
        for width in widths:
            builds = [chained(step, rows, width) for step in (fused, parts)]
            yield Case(name, f"{rows} x {width}", *builds)


# --- norms --------------------------------------------------------------------------

EPSILON = 1e-5


def skip(m: Model, x: str, width: int, bias: bool) -> str:
    b = [m.weight(width)] if bias else []
    g, c = m.weight(width), m.weight(width)
    return m.fuse("SkipLayerNormalization", x, "x0", g, c, *b, epsilon=EPSILON)


def add_norm(m: Model, x: str, width: int, bias: bool) -> str:
    x = m.add("Add", x, m.weight(width)) if bias else x
    x = m.add("Add", x, "x0")
    g, c = m.weight(width), m.weight(width)
    return m.add("LayerNormalization", x, g, c, epsilon=EPSILON)


GROUPED = ((32, 16, 1), (64, 56, 1), (640, 16, 32), (320, 32, 32), (128, 64, 32))
"""Channels, the sides of an image, and groups."""


def group_norms() -> Iterator[Case]:
    """Group norms, which have no kernel, by instance norms."""
    for count, side, groups in GROUPED:
        builds = [grouped(by, count, side, groups) for by in (group_norm, by_groups)]
        yield Case(
            "GroupNormalization", f"{count} x {side} x {side}, {groups}", *builds
        )


Norm = Callable[[Model, str, int, int], str]
"""A norm of ``x`` with so many channels in so many groups."""


def grouped(norm: Norm, count: int, side: int, groups: int) -> Build:
    return lambda m: norm(m, m.input(1, count, side, side), count, groups)


def group_norm(m: Model, x: str, count: int, groups: int) -> str:
    weights = m.weight(count), m.weight(count)
    return m.add("GroupNormalization", x, *weights, num_groups=groups)


def by_groups(m: Model, x: str, count: int, groups: int) -> str:
    gain, bias = m.weight(count, 1, 1), m.weight(count, 1, 1)
    ones, zeros = m.constant(np.ones(groups)), m.constant(np.zeros(groups))
    parts = m.add("Reshape", x, m.whole(0, groups, -1))
    normed = m.add("InstanceNormalization", parts, ones, zeros)
    whole = m.add("Reshape", normed, m.add("Shape", x))
    return m.add("Add", m.add("Mul", whole, gain), bias)


def norms() -> Iterator[Case]:
    """Norms of sums, with and without a bias."""
    yield from by_rows(
        "SkipLayerNormalization",
        lambda m, x, width: skip(m, x, width, False),
        lambda m, x, width: add_norm(m, x, width, False),
    )
    yield from by_rows(
        "SkipLayerNormalization, bias",
        lambda m, x, width: skip(m, x, width, True),
        lambda m, x, width: add_norm(m, x, width, True),
    )
    yield from by_rows(
        "SkipSimplifiedLayerNormalization",
        lambda m, x, width: m.fuse(
            "SkipSimplifiedLayerNormalization",
            *(x, "x0", m.weight(width)),
            epsilon=EPSILON,
        ),
        lambda m, x, width: m.add(
            *("RMSNormalization", m.add("Add", x, "x0"), m.weight(width)),
            epsilon=EPSILON,
        ),
    )
    yield from by_rows(
        "SimplifiedLayerNormalization",
        lambda m, x, width: m.add(
            "SimplifiedLayerNormalization", x, m.weight(width), epsilon=EPSILON
        ),
        lambda m, x, width: m.add(
            "RMSNormalization", x, m.weight(width), epsilon=EPSILON
        ),
    )


def embeddings() -> Iterator[Case]:
    """Tables of words, positions and segments, looked up, summed and normalized."""
    for rows in ROWS:
        for width in WIDTHS:
            yield embedding(rows, width)


def embedding(rows: int, width: int) -> Case:
    def operands(m: Model) -> list[str]:
        ids, kinds = m.input(1, rows, below=500), m.input(1, rows, below=2)
        tables = [m.weight(n, width) for n in (500, rows, 2)]
        return [ids, kinds, *tables, m.weight(width), m.weight(width)]

    def fused(m: Model) -> str:
        return m.fuse("EmbedLayerNormalization", *operands(m), outs=2)

    def parts(m: Model) -> str:
        ids, kinds, words, places, segments, *rest = operands(m)
        looked = [m.add("Gather", words, ids), m.add("Gather", segments, kinds)]
        total = m.add("Add", m.add("Add", *looked), places)
        return m.add("LayerNormalization", total, *rest, epsilon=1e-12)

    return Case("EmbedLayerNormalization", f"{rows} x {width}", fused, parts)


# --- activations --------------------------------------------------------------------


def biased(m: Model, x: str, width: int) -> str:
    return m.add("Add", x, m.weight(width))


def gate(m: Model, x: str, alpha: float) -> str:
    inner = x if alpha == 1 else m.add("Mul", x, m.constant(alpha))
    return m.add("Mul", x, m.add("Sigmoid", inner))


def activations() -> Iterator[Case]:
    """Gelu and its kin, with and without a bias."""
    yield from by_rows(
        "Gelu",
        lambda m, x, width: m.fuse("Gelu", x),
        lambda m, x, width: m.add("Gelu", x),
    )
    yield from by_rows(
        "BiasGelu",
        lambda m, x, width: m.fuse("BiasGelu", x, m.weight(width)),
        lambda m, x, width: m.add("Gelu", biased(m, x, width)),
        (*WIDTHS, 768, 1024, 1536, 3072),
    )
    yield from by_rows(
        "FastGelu",
        lambda m, x, width: m.fuse("FastGelu", x),
        lambda m, x, width: m.add("Gelu", x, approximate="tanh"),
    )
    yield from by_rows(
        "FastGelu, bias",
        lambda m, x, width: m.fuse("FastGelu", x, m.weight(width)),
        lambda m, x, width: m.add("Gelu", biased(m, x, width), approximate="tanh"),
    )
    for alpha in (1.0, 1.702):
        yield from by_rows(
            f"QuickGelu, alpha {alpha:g}",
            lambda m, x, width, alpha=alpha: m.fuse("QuickGelu", x, alpha=alpha),
            lambda m, x, width, alpha=alpha: gate(m, x, alpha),
        )


# --- products -----------------------------------------------------------------------

SHAPES = ((8, 16, 64, 16), (8, 128, 64, 128), (8, 512, 64, 512), (1, 128, 512, 512))
"""Batches, rows, inner dim and columns of products."""


def products() -> Iterator[Case]:
    """Products of values that are moved, or scaled products."""
    for batch, rows, inner, columns in SHAPES:
        shapes = (batch, rows, inner), (batch, inner, columns)
        for flag in ("transA", "transB", "transBatchA", "transBatchB", "alpha"):
            yield product(flag, f"{batch} x {rows} x {inner} x {columns}", shapes)


def product(flag: str, size: str, shapes: tuple[tuple[int, ...], ...]) -> Case:
    """The operand that the flag names comes before it is moved."""
    perm = (1, 0, 2) if "Batch" in flag else (0, 2, 1)  # both are their own inverses
    moved = "AB".find(flag[-1])
    given = [
        tuple(shape[axis] for axis in perm) if i == moved else shape
        for i, shape in enumerate(shapes)
    ]

    def fused(m: Model) -> str:
        operands = [m.input(*shape) for shape in given]
        return m.fuse("FusedMatMul", *operands, **{flag: 1 if moved >= 0 else SCALE})

    def parts(m: Model) -> str:
        operands = [m.input(*shape) for shape in given]
        if moved < 0:
            return m.add("Mul", m.add("MatMul", *operands), m.constant(SCALE))
        operands[moved] = m.add("Transpose", operands[moved], perm=perm)
        return m.add("MatMul", *operands)

    return Case(f"FusedMatMul, {flag}", size, fused, parts)


SCALE = 0.125
ACTIVATIONS: dict[str, dict[str, float]] = {
    "Relu": {},
    "Sigmoid": {},
    "Tanh": {},
    "LeakyRelu": {"alpha": 0.1},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
}


def gemms() -> Iterator[Case]:
    """Products with a bias, and what follows them."""
    for kind, numbers in ACTIVATIONS.items():
        for rows, width in ((16, 512), (128, 512), (512, 512), (128, 2048)):
            yield gemm(kind, numbers, rows, width)


def gemm(kind: str, numbers: dict[str, float], rows: int, width: int) -> Case:
    def operands(m: Model) -> list[str]:
        w, c = m.weight(256, width, scale=0.05), m.weight(width)
        return [m.input(rows, 256), w, c]

    def fused(m: Model) -> str:
        given = {f"activation_{name}": number for name, number in numbers.items()}
        return m.fuse("FusedGemm", *operands(m), activation=kind, **given)

    def parts(m: Model) -> str:
        return m.add(kind, m.add("Gemm", *operands(m)), **numbers)

    return Case(f"FusedGemm, {kind}", f"{rows} x 256 x {width}", fused, parts)


# --- convolutions -------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """A convolution that keeps the size of its images."""

    channels: int
    extent: int
    kernel: int = 3
    group: int = 1

    def __str__(self) -> str:
        kind = "depthwise " if self.group > 1 else ""
        image = f"{self.channels} x {self.extent} x {self.extent}"
        return f"{kind}{self.kernel} x {self.kernel}, {image}"

    def operands(self, m: Model) -> list[str]:
        inner = self.channels // self.group
        scale = (inner * self.kernel**2) ** -0.5
        shape = (self.channels, inner, self.kernel, self.kernel)
        return [m.weight(*shape, scale=scale), m.weight(self.channels)]

    def attrs(self) -> dict[str, Any]:
        pads = [self.kernel // 2] * 4
        return {
            "kernel_shape": [self.kernel] * 2,
            "pads": pads,
            "group": self.group,
        }


WINDOWS = (
    Window(64, 56),
    Window(128, 28),
    Window(256, 14, kernel=1),
    Window(96, 56, group=96),
    Window(384, 14, group=384),
    Window(10, 28),
)
"""Blocks of 8 or 16 channels are the runtime's own layout; 10 channels have none."""

CLIPPED = (0.0, 6.0)


def after(m: Model, kind: str, x: str) -> str:
    """An activation as a node."""
    if kind == "Clip":
        return m.add("Clip", x, *map(m.constant, CLIPPED))
    return m.add(kind, x, **ACTIVATIONS.get(kind, {}))


def params(kind: str) -> dict[str, Any]:
    """An activation as attributes of FusedConv."""
    numbers = [*ACTIVATIONS.get(kind, {}).values()] if kind != "Clip" else [*CLIPPED]
    return {"activation": kind} | ({"activation_params": numbers} if numbers else {})


def convolutions() -> Iterator[Case]:
    """Convolutions in a row, an activation after each; then blocks with a sum."""
    for kind in (*ACTIVATIONS, "Clip", "HardSwish"):
        for window in WINDOWS if kind in ("Relu", "Clip") else WINDOWS[1::2]:
            yield chain(kind, window)
    for kind in ("Relu", ""):
        for window in WINDOWS:
            yield blocks(kind, window)
    for window in WINDOWS:
        yield onto_input("Relu", window)


def image(m: Model, w: Window) -> str:
    return m.input(1, w.channels, w.extent, w.extent)


def fused_conv(m: Model, x: str, w: Window, kind: str, *z: str) -> str:
    attrs = w.attrs() | (params(kind) if kind else {})
    return m.fuse("FusedConv", x, *w.operands(m), *z, **attrs)


def plain_conv(m: Model, x: str, w: Window, kind: str, *z: str) -> str:
    y = m.add("Conv", x, *w.operands(m), **w.attrs())
    y = m.add("Add", y, *z) if z else y
    return after(m, kind, y) if kind else y


Convolve = Callable[..., str]


def chain(kind: str, w: Window) -> Case:
    def build(m: Model, conv: Convolve) -> str:
        x = image(m, w)
        for _ in range(3):
            x = conv(m, x, w, kind)
        return x

    return Case(
        *(f"FusedConv, {kind}", str(w)),
        lambda m: build(m, fused_conv),
        lambda m: build(m, plain_conv),
    )


def blocks(kind: str, w: Window) -> Case:
    """Two of ResNet's blocks; or, without an activation, two of MobileNetV2's."""

    def build(m: Model, conv: Convolve) -> str:
        x = plain_conv(m, image(m, w), w, "Relu")
        for _ in range(2):
            x = conv(m, plain_conv(m, x, w, "Relu"), w, kind, x)
        return x

    return Case(
        *(f"FusedConv, sum{', ' * bool(kind)}{kind}", str(w)),
        lambda m: build(m, fused_conv),
        lambda m: build(m, plain_conv),
    )


def onto_input(kind: str, w: Window) -> Case:
    """Sums with what no convolution gave, and thus is not in the runtime's layout."""

    def build(m: Model, conv: Convolve) -> str:
        x = z = image(m, w)
        for _ in range(3):
            x = conv(m, x, w, kind, z)
        return x

    return Case(
        *(f"FusedConv, sum with an input, {kind}", str(w)),
        lambda m: build(m, fused_conv),
        lambda m: build(m, plain_conv),
    )
