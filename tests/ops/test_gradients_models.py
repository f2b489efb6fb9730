"""Gradients of whole models: bodies, sequences, draws, optimizers, classical models.

What they compare is that of `test_gradients`; the last test says that no kind that is
registered is left out without a reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import test_gradients
import test_gradients_contrib
from onnx import ModelProto, helper, numpy_helper, parser
from slopes import Source, faults, gradients_of, line
from test_gradients import CONSTANT, MADE, WHOLE

from graphopt.ops.registry import kinds

pytest.importorskip("jax")
pytestmark = pytest.mark.xla

Key = tuple[str, str]

PREVIEW, TRAINING, CLASSICAL = (
    "ai.onnx.preview",
    "ai.onnx.preview.training",
    "ai.onnx.ml",
)
OPSETS = {"": 23, PREVIEW: 1, TRAINING: 1, CLASSICAL: 3}

X = "float[2, 3] x"
TEXTS: dict[Key, list[str]] = {
    ("", "If"): [
        f"""g ({X}, float[3] w) => (float[2, 3] y) <bool no = {{0}}> {{
            y = If (no) <
                then_branch = yes () => (float[2, 3] a) {{ a = Add (x, x) }},
                else_branch = not () => (float[2, 3] b) {{ b = Mul (x, w) }}
            >
        }}""",
        f"""g ({X}, float[3] w) => (float[2, 3] y) <float bound = {{0.5}}> {{
            s = ReduceSum <keepdims = 0> (x)
            c = Less (s, bound)
            y = If (c) <
                then_branch = yes () => (float[2, 3] a) {{ a = Mul (x, x) }},
                else_branch = not () => (float[2, 3] b) {{ b = Mul (x, w) }}
            >
        }}""",
    ],
    ("", "Loop"): [
        f"""g ({X}, float[2, 3] w) => (float[2, 3] y)
            <int64 n = {{3}}, bool go = {{1}}> {{
            y = Loop (n, go, x) <
                body = turn (int64 i, bool c, float[2, 3] v) =>
                    (bool d, float[2, 3] u) {{
                    d = Identity (c)
                    m = Mul (v, w)
                    u = Tanh (m)
                }}
            >
        }}""",
        f"""g ({X}, float[3] w) => (float[2, 3] y, float[3, 2, 3] rows)
            <int64 n = {{3}}, bool go = {{1}}> {{
            y, rows = Loop (n, go, x) <
                body = turn (int64 i, bool c, float[2, 3] v) =>
                    (bool d, float[2, 3] u, float[2, 3] row) {{
                    d = Identity (c)
                    u = Mul (v, w)
                    f = CastLike (i, w)
                    row = Mul (u, f)
                }}
            >
        }}""",
        f"""g ({X}) => (float[2, n] y) <int64 n = {{2}}, bool go = {{1}}> {{
            y = Loop (n, go, x) <
                body = turn (int64 i, bool c, float[2, k] v) =>
                    (bool d, float[2, l] u) {{
                    d = Identity (c)
                    m = Mul (v, v)
                    u = Concat <axis = 1> (v, m)
                }}
            >
        }}""",
    ],
    ("", "Scan"): [
        f"""g (float[3] s, {X}, float[3] w) => (float[3] y, float[2, 3] rows) {{
            y, rows = Scan <num_scan_inputs = 1, body = turn (float[3] v, float[3] r)
                => (float[3] u, float[3] row) {{
                    m = Mul (v, w)
                    u = Add (m, r)
                    row = Sigmoid (u)
                }}
            > (s, x)
        }}""",
        f"""g (float[2] s, {X}) => (float[2] y, float[2, 3] rows) {{
            y, rows = Scan <
                num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
                scan_input_directions = [1],
                body = turn (float[2] v, float[2] r) => (float[2] u, float[2] row) {{
                    u = Mul (v, r)
                    row = Sub (u, r)
                }}
            > (s, x)
        }}""",
    ],
    ("", "SequenceMap"): [
        f"""g ({X}, float[3] w, float[3] b) => (float[n, 3] y) {{
            s = SequenceConstruct (x, b, w)
            t = SequenceMap (s, w) <
                body = each (float[] a, float[3] q) => (float[] r) {{
                    m = Mul (a, q)
                    r = Sin (m)
                }}
            >
            one = Constant <value = int64 {{0}}> ()
            y = SequenceAt (t, one)
        }}"""
    ],
    ("", "SequenceErase"): [
        f"""g ({X}, float[4, 3] w) => (float[n, 3] y) {{
            e = SequenceEmpty ()
            f = SequenceInsert (e, x)
            h = SequenceInsert (f, w)
            p = Mul (x, x)
            i = SequenceInsert (h, p)
            one = Constant <value = int64 {{1}}> ()
            j = SequenceErase (i, one)
            y = ConcatFromSequence <axis = 0> (j)
        }}"""
    ],
    ("", "SplitToSequence"): [
        f"""g ({X}) => (float[2, 2] y, float[2, 3] z) {{
            split = Constant <value_ints = [2, 1]> ()
            s = SplitToSequence <axis = 1> (x, split)
            first = Constant <value = int64 {{0}}> ()
            a = SequenceAt (s, first)
            y = Mul (a, a)
            z = ConcatFromSequence <axis = 1> (s)
        }}"""
    ],
    ("", "Optional"): [
        f"""g ({X}) => (float[2, 3] y) {{
            o = Optional (x)
            a = OptionalGetElement (o)
            y = Mul (a, a)
        }}"""
    ],
    ("", "Dropout"): [
        f"""g ({X}) => (float[2, 3] y) <float r = {{0.5}}, bool t = {{1}}> {{
            a = Mul (x, x)
            y = Dropout <seed = 7> (a, r, t)
        }}"""
    ],
    ("", "RandomNormalLike"): [
        f"""g ({X}) => (float[2, 3] y) {{
            noise = RandomNormalLike <seed = 3.0> (x)
            even = RandomUniformLike <seed = 4.0> (x)
            a = Mul (x, noise)
            b = Mul (x, even)
            y = Mul (a, b)
        }}"""
    ],
    (PREVIEW, "FlexAttention"): [
        f"""g (float[1, 4, 3, 4] q, float[1, 2, 5, 4] k, float[1, 2, 5, 3] v, float cap)
            => (float[1, 4, 3, 3] y) {{
            y = ai.onnx.preview.FlexAttention <{bodies}> (q, k, v)
        }}"""
        for bodies in (
            "scale = 0.5",
            """score_mod = f (float[1, 4, 3, 5] s) => (float[1, 4, 3, 5] t) {
                a = Mul (s, cap)
                t = Tanh (a)
            }, prob_mod = h (float[1, 4, 3, 5] p) => (float[1, 4, 3, 5] r) {
                r = Mul (p, p)
            }""",
        )
    ],
    **{
        ("graphopt", f"Flat{kind}"): [
            f"""g (float[2, 3, 4] x) => (float[2, 3, 4] y) {{
                y = {kind} <axis = 1> (x)
            }}"""
        ]
        for kind in ("Softmax", "LogSoftmax")
    },
}
"""Models for kinds; the floats that they take are drawn."""

TOO: dict[Key, Key] = {
    ("", kind): ("", place)
    for place, kind_names in {
        "SequenceMap": ("SequenceConstruct", "SequenceAt"),
        "SequenceErase": ("SequenceEmpty", "SequenceInsert", "ConcatFromSequence"),
        "Optional": ("OptionalGetElement",),
        "RandomNormalLike": ("RandomUniformLike",),
    }.items()
    for kind in kind_names
}
"""Kinds that the model of another kind holds too."""


def optimizer(kind: str, states: int, **attrs: Any) -> str:
    named = ", ".join(f"{k} = {v}" for k, v in attrs.items())
    inputs = ["x", "u", "g", "h", *(f"s{i}" for i in range(2 * states))]
    results = [f"y{i}" for i in range(2 * (1 + states))]
    shapes = [3 if i % 2 else 2 for i in range(len(inputs))]
    given = [f"float[{n}] {name}" for n, name in zip(shapes, inputs, strict=True)]
    made = [f"float[{3 if i % 2 else 2}] {name}" for i, name in enumerate(results)]
    return f"""m (float r, {", ".join(given)}) => ({", ".join(made)})
        <int64 t = {{3}}> {{
        {", ".join(results)} = {TRAINING}.{kind} <{named}> (r, t, {", ".join(inputs)})
    }}"""


MIXED = {"alpha": 0.9, "beta": 0.7, "norm_coefficient": 0.1}
POSITIVE: dict[Key, list[str]] = {
    (TRAINING, "Adagrad"): [
        optimizer("Adagrad", 1, decay_factor=0.1, norm_coefficient=0.2)
    ],
    (TRAINING, "Adam"): [optimizer("Adam", 2, norm_coefficient_post=0.1)],
    (TRAINING, "Momentum"): [
        optimizer("Momentum", 1, mode=f'"{mode}"', **MIXED)
        for mode in ("standard", "nesterov")
    ],
}
"""Models of which some inputs are squares: all are drawn above zero."""


def from_text(key: Key, text: str) -> Source:
    opsets = OPSETS | ({"": 11} if key[0] == "graphopt" else {})
    named = ", ".join(f'"{name}" : {number}' for name, number in opsets.items())
    header = f"<ir_version: 10, opset_import: [{named}]>"

    def make(dtype: Any) -> ModelProto:
        wide = text if dtype == np.float32 else widened(text)
        return parser.parse_model(f"{header} {wide}")

    rng = np.random.default_rng(0)
    inputs = {}
    for value in make(np.float32).graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = rng.normal(size=shape).astype(np.float32)
        inputs[value.name] = np.exp(array) if key in POSITIVE else array
    return Source(f"{key[1]} {text}", make, inputs)


def widened(text: str) -> str:
    return text.replace("float[", "double[").replace("float ", "double ")


# --- classical models: their results are float32 --------------------------------------

_random = np.random.default_rng(0)


def numbers(*shape: int) -> list[float]:
    """Weights as attributes have them."""
    return [float(a) for a in _random.normal(size=shape).astype(np.float32).ravel()]


def classical() -> dict[str, list[tuple[list[tuple[int, ...]], int, dict[str, Any]]]]:
    """Shapes of inputs, how many results, and attributes."""
    x = [(4, 3)]
    linear = {"coefficients": numbers(2, 3), "intercepts": numbers(2)}
    ways = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
    labels = {"classlabels_ints": [0, 1]}
    vectors = {"support_vectors": numbers(4, 3), "kernel_params": [0.5, 0.25, 2.0]}
    duel = {
        **{"vectors_per_class": [2, 2], "coefficients": numbers(4), "rho": [0.1]},
        "classlabels_ints": [0, 1],
    }
    shapes = ("LINEAR", "POLY", "RBF", "SIGMOID")
    scale = {"offset": [0.5, 1.0, -1.0], "scale": [2.0, 0.25, 3.0]}
    return {
        "LinearRegressor": [
            (x, 1, {**linear, "targets": 2, "post_transform": how}) for how in ways
        ],
        "LinearClassifier": [
            (x, 2, {**linear, **labels, "post_transform": how}) for how in ways
        ],
        "SVMRegressor": [
            (
                x,
                1,
                {
                    **{**vectors, "coefficients": numbers(4), "rho": [0.125]},
                    **{"n_supports": 4, "kernel_type": kind},
                },
            )
            for kind in shapes
        ],
        "SVMClassifier": [
            (x, 2, {**vectors, **duel, "kernel_type": kind}) for kind in shapes
        ],
        "Normalizer": [(x, 1, {"norm": norm}) for norm in ("MAX", "L1", "L2")],
        "Scaler": [(x, 1, scale)],
        "FeatureVectorizer": [([(4, 3), (4, 2)], 1, {"inputdimensions": [3, 2]})],
        "Imputer": [
            (x, 1, {"imputed_value_floats": [7.0], "replaced_value_float": 4.0})
        ],
        "ArrayFeatureExtractor": [(x, 1, {})],
    }


PLACES = numpy_helper.from_array(np.array([2, 0]), "places")


def node_of(
    kind: str, shapes: list[tuple[int, ...]], outs: int, attrs: dict[str, Any]
) -> Source:
    """One op of a classical model, which takes any floats."""
    names = [f"x{i}" for i in range(len(shapes))]
    more = [PLACES] if kind == "ArrayFeatureExtractor" else []

    def make(dtype: Any) -> ModelProto:
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        node = helper.make_node(
            *(kind, [*names, *(t.name for t in more)], [f"y{i}" for i in range(outs)]),
            domain=CLASSICAL,
            **attrs,
        )
        inputs = [
            helper.make_tensor_value_info(name, element, shape)
            for name, shape in zip(names, shapes, strict=True)
        ]
        results = [helper.make_empty_tensor_value_info(f"y{outs - 1}")]
        graph = helper.make_graph([node], "g", inputs, results, more)
        opsets = [helper.make_opsetid(name, number) for name, number in OPSETS.items()]
        return helper.make_model(graph, ir_version=10, opset_imports=opsets)

    rng = np.random.default_rng(0)
    given = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in zip(names, shapes, strict=True)
    }
    return Source(f"{kind} {attrs}", make, given, single=True)


# --- what is compared -----------------------------------------------------------------


def sources() -> dict[Key, list[Source]]:
    found = {
        key: [from_text(key, text) for text in texts]
        for key, texts in (TEXTS | POSITIVE).items()
    }
    for kind, rows in classical().items():
        found[CLASSICAL, kind] = [node_of(kind, *row) for row in rows]
    return found


SOURCES = sources()

LOWERED = "made for a target, when gradients have been taken"
NOT_DIFFERENTIABLE: dict[Key, str] = {
    ("", "Constant"): "has no operands",
    ("", "Bernoulli"): CONSTANT,
    ("", "Multinomial"): WHOLE,
    ("", "RandomNormal"): MADE,
    ("", "RandomUniform"): MADE,
    ("", "ImageDecoder"): WHOLE,
    ("", "SequenceLength"): WHOLE,
    ("", "OptionalHasElement"): WHOLE,
    ("graphopt", "FlatHardmax"): CONSTANT,
    ("graphopt", "Opaque"): "nothing is known of it",
    ("graphopt", "Strips"): LOWERED,
    ("graphopt", "Tiled"): LOWERED,
    **{key: LOWERED for key in kinds if key[0] == "mesh"},
    (CLASSICAL, "Binarizer"): CONSTANT,
    **{
        (CLASSICAL, kind): "its thresholds make it piecewise constant"
        for kind in ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")
    },
    **{
        (CLASSICAL, kind): "maps labels, strings or keys"
        for kind in (
            *("CastMap", "CategoryMapper", "DictVectorizer", "LabelEncoder"),
            *("OneHotEncoder", "ZipMap"),
        )
    },
}
"""Kinds that have no gradient to check, each with the reason."""

QUICKLY = [("", "Loop"), ("", "Scan"), (PREVIEW, "FlexAttention"), ("", "Dropout")]


def checked(key: Key, count: int | None = None) -> None:
    lines = [line(source) for source in SOURCES[key][:count]]
    missed = [made for made in lines if isinstance(made, str)]
    assert missed == []
    for source in SOURCES[key]:
        held = {(op.domain, op.kind) for _, op in source.graph(np.float32).walk()}
        assert {key, *(k for k, place in TOO.items() if place == key)} <= held
    assert faults([made for made in lines if not isinstance(made, str)]) == []


@pytest.mark.parametrize("key", QUICKLY, ids="-".join)
def test_a_sample_has_the_slopes_of_the_reference(key: Key) -> None:
    checked(key, 1)


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(SOURCES), ids="-".join)
def test_slopes_are_those_of_the_reference(key: Key) -> None:
    checked(key)


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_rows_of_zeros_have_a_slope(norm: str) -> None:
    source = node_of("Normalizer", [(2, 3)], 1, {"norm": norm})
    source.inputs["x0"][0] = 0
    assert np.isfinite(gradients_of(source)["x0"]).all()


@pytest.mark.parametrize(("kind", "states"), [("Adagrad", 1), ("Adam", 2)])
def test_optimizers_have_slopes_at_states_of_zero(kind: str, states: int) -> None:
    """x - r g / (sqrt(s + g g) + epsilon) moves by -r / epsilon with g; s stays.

    Adam takes but a share of g. Its first step has count 0.
    """
    epsilon, rate = 0.25, 0.5
    text = optimizer(kind, states, epsilon=epsilon).replace("{3}", "{0}")
    source = from_text((TRAINING, kind), text)
    source.inputs = {
        name: np.full_like(array, rate if name == "r" else 0)
        for name, array in source.inputs.items()
    }
    found = gradients_of(source)
    share = 0.1 if kind == "Adam" else 1  # 1 - alpha; the means' own slopes add to it
    own = share if kind == "Adam" else 0
    np.testing.assert_allclose(found["g"], own - share * rate / epsilon, rtol=1e-5)
    assert all(np.isfinite(array).all() for array in found.values())


def test_every_kind_is_tried_or_has_a_reason() -> None:
    single, contrib = test_gradients, test_gradients_contrib
    tried = {("", kind) for kind in single.DIFFERENTIABLE} | contrib.DIFFERENTIABLE
    tried |= {*SOURCES, *TOO}
    left_out = {("", kind) for kind in single.NOT_DIFFERENTIABLE}
    left_out |= {(contrib.DOMAIN, kind) for kind in contrib.NOT_DIFFERENTIABLE}
    left_out |= NOT_DIFFERENTIABLE.keys()
    assert tried | left_out == set(kinds)
    assert not tried & left_out
