"""What ONNX Runtime's fused kernels stand for: the cases of `fused_kernels.py`."""

from collections.abc import Callable, Iterator
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

    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    inputs: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int, scale: float = 0.5) -> str:
        """A constant of normal numbers, the same ones in the same order."""
        return self.constant(self.rng.normal(size=shape) * scale)

    def constant(self, values: Any) -> str:
        """A constant of the values given."""
        name = f"w{len(self.weights)}"
        array = np.asarray(values, np.float32)
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
        name = f"v{len(self.nodes)}"
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
    yield from embeddings()
    yield from activations()
    yield from products()
    yield from gemms()
    yield from convolutions()


def by_rows(name: str, fused: Step, parts: Step) -> Iterator[Case]:
    """A chain of copies, in all numbers of rows and widths."""

    def chained(step: Step, rows: int, width: int) -> Build:
        def build(m: Model) -> str:
            x = m.input(1, rows, width)
            for _ in range(CHAIN):
                x = step(m, x, width)
            return x

        return build

    for rows in ROWS:
        for width in WIDTHS:
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

            def operands(m: Model, rows: int = rows, width: int = width) -> list[str]:
                ids, kinds = m.input(1, rows, below=500), m.input(1, rows, below=2)
                tables = [m.weight(n, width) for n in (500, rows, 2)]
                return [ids, kinds, *tables, m.weight(width), m.weight(width)]

            def fused(
                m: Model, operands: Callable[[Model], list[str]] = operands
            ) -> str:
                return m.fuse("EmbedLayerNormalization", *operands(m), outs=2)

            def parts(
                m: Model, operands: Callable[[Model], list[str]] = operands
            ) -> str:
                ids, kinds, words, places, segments, *rest = operands(m)
                looked = [m.add("Gather", words, ids), m.add("Gather", segments, kinds)]
                total = m.add("Add", m.add("Add", *looked), places)
                return m.add("LayerNormalization", total, *rest, epsilon=1e-12)

            yield Case("EmbedLayerNormalization", f"{rows} x {width}", fused, parts)


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


def turned(m: Model, x: str, perm: tuple[int, ...]) -> str:
    return m.add("Transpose", x, perm=perm)


def products() -> Iterator[Case]:
    """Products of values that are moved or scaled; of constants, too."""
    swap, rows_first = (0, 2, 1), (1, 0, 2)
    for batch, rows, inner, columns in SHAPES:
        size = f"{batch} x {rows} x {inner} x {columns}"
        a, b = (batch, rows, inner), (batch, inner, columns)
        a_turned, b_turned = (batch, inner, rows), (batch, columns, inner)
        for name, left, right, attrs, perms in (
            ("transA", a_turned, b, {"transA": 1}, (swap, None)),
            ("transB", a, b_turned, {"transB": 1}, (None, swap)),
            (
                "transBatchA",
                (rows, batch, inner),
                b,
                {"transBatchA": 1},
                (rows_first, None),
            ),
            ("alpha", a, b, {"alpha": 0.125}, (None, None)),
        ):

            def fused(
                m: Model, left: Any = left, right: Any = right, attrs: Any = attrs
            ) -> str:
                return m.fuse("FusedMatMul", m.input(*left), m.input(*right), **attrs)

            def parts(
                m: Model,
                left: Any = left,
                right: Any = right,
                attrs: Any = attrs,
                perms: Any = perms,
            ) -> str:
                operands = [m.input(*left), m.input(*right)]
                operands = [
                    x if perm is None else turned(m, x, perm)
                    for x, perm in zip(operands, perms, strict=True)
                ]
                product = m.add("MatMul", *operands)
                if "alpha" not in attrs:
                    return product
                return m.add("Mul", product, m.constant(attrs["alpha"]))

            yield Case(f"FusedMatMul, {name}", size, fused, parts)


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

            def fused(
                m: Model,
                kind: str = kind,
                numbers: dict[str, float] = numbers,
                rows: int = rows,
                width: int = width,
            ) -> str:
                w, c = m.weight(256, width, scale=0.05), m.weight(width)
                given = {f"activation_{k}": number for k, number in numbers.items()}
                x = m.input(rows, 256)
                return m.fuse("FusedGemm", x, w, c, activation=kind, **given)

            def parts(
                m: Model,
                kind: str = kind,
                numbers: dict[str, float] = numbers,
                rows: int = rows,
                width: int = width,
            ) -> str:
                w, c = m.weight(256, width, scale=0.05), m.weight(width)
                product = m.add("Gemm", m.input(rows, 256), w, c)
                return m.add(kind, product, **numbers)

            yield Case(f"FusedGemm, {kind}", f"{rows} x 256 x {width}", fused, parts)


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
    """Three convolutions in a row, each followed by an activation; then, with a sum."""
    for kind in (*ACTIVATIONS, "Clip", "HardSwish"):
        for window in WINDOWS if kind in ("Relu", "Clip") else WINDOWS[1::2]:
            for skips in (False, True) if kind == "Relu" else (False,):

                def fused(
                    m: Model, kind: str = kind, w: Window = window, skips: bool = skips
                ) -> str:
                    x = m.input(1, w.channels, w.extent, w.extent)
                    for _ in range(3):
                        z = [x] if skips else []
                        attrs = w.attrs() | params(kind)
                        x = m.fuse("FusedConv", x, *w.operands(m), *z, **attrs)
                    return x

                def parts(
                    m: Model, kind: str = kind, w: Window = window, skips: bool = skips
                ) -> str:
                    x = m.input(1, w.channels, w.extent, w.extent)
                    for _ in range(3):
                        y = m.add("Conv", x, *w.operands(m), **w.attrs())
                        x = after(m, kind, m.add("Add", y, x) if skips else y)
                    return x

                name = f"FusedConv, {'sum, ' * skips}{kind}"
                yield Case(name, str(window), fused, parts)
