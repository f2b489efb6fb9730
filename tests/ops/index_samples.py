"""Small instances of every op with index maps: what is there to split and to tile.

Extents differ, and two divides those that are to be split. Numbers are float64 where
the op takes them, so that rounding hides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from single import Case, Spec, constant, normal, positive, special, sweep

from graphopt.types import DType
from graphopt.weights import Tensor

Array = np.ndarray[Any, Any]


class Samples:
    """The samples of a family of ops."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def __call__(
        self,
        kind: str,
        *operands: Sequence[Spec],
        dtype: DType = DType.F64,
        known: Sequence[int] = (),
        values: Callable[..., Array] | None = None,
        outs: int = 1,
        **attrs: Any,
    ) -> None:
        """One sample of a kind of op for each list of operands."""
        for specs in operands:
            self.cases += sweep(
                kind,
                [specs],
                [attrs],
                dtypes=[dtype],
                values=values or normal,
                constants=known,
                outs=outs,
            )


def below(bound: int, *shape: int) -> Callable[..., Array]:
    """Integers from 0 to before ``bound``."""

    def indices(rng: np.random.Generator, _: DType) -> Array:
        return rng.integers(0, bound, shape)

    indices.__name__ = f"below{bound}[{'x'.join(map(str, shape))}]"
    return indices


def given(array: Any, dtype: Any = np.int64) -> Callable[..., Array]:
    """An operand of these elements, not known when the op is built."""

    def elements(*_: object) -> Array:
        return np.asarray(array, dtype)

    elements.__name__ = str(np.shape(array))
    return elements


def few(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Numbers of which many are equal."""
    return rng.integers(0, 2, shape).astype(dtype.numpy)


def large(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Numbers of which most are far from zero."""
    return rng.normal(20, 20, shape).astype(dtype.numpy)


def variance(rng: np.random.Generator, dtype: DType) -> Array:
    """A positive number for each of four channels."""
    return positive(rng, (4,), dtype)


# --- element by element -------------------------------------------------------------

ONE = (4, 6)
PAIRS = [((4, 6), (4, 6)), ((4, 6), (6,)), ((4, 1), (2, 1, 6)), ((4, 6), ())]


def elementwise(add: Samples) -> None:
    unary = (
        "Neg Abs Sign Reciprocal Sqrt Floor Ceil Round Exp Log Erf Sin Cos Tan Asin "
    )
    unary += "Acos Atan Sinh Cosh Tanh Asinh Acosh Atanh Relu LeakyRelu Elu Celu Selu "
    unary += "ThresholdedRelu Shrink Sigmoid HardSigmoid HardSwish Swish Mish Softplus "
    unary += "Softsign Gelu Identity"
    for kind in unary.split():
        add(kind, [ONE])
    for kind in ("IsNaN", "IsInf"):
        add(kind, [ONE], values=special)
    for kind in ("Add", "Sub", "Mul", "Div", "Sum", "Mean", "Max", "Min"):
        add(kind, *PAIRS)
    for kind in ("Add", "Sub", "Mul", "Div"):
        add(kind, PAIRS[0], dtype=DType.I64)
    add("Sum", [(4, 6), (6,), (4, 1)])
    add("Mod", *PAIRS, fmod=1)
    add("Mod", PAIRS[0], dtype=DType.I64)
    add("Pow", *PAIRS, values=positive)
    add("PRelu", *PAIRS[:2])
    add("SwiGLU", PAIRS[0])
    add("Clip", [ONE, given(-0.5, float), given(0.7, float)])
    for kind in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        add(kind, PAIRS[0], PAIRS[2], values=few)
    for kind in ("And", "Or", "Xor"):
        add(kind, PAIRS[0], PAIRS[2], dtype=DType.BOOL)
    add("Not", [ONE], dtype=DType.BOOL)
    for kind in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        add(kind, PAIRS[0], PAIRS[2], dtype=DType.I64)
    add("BitwiseNot", [ONE], dtype=DType.I64)
    for direction in ("LEFT", "RIGHT"):
        add("BitShift", PAIRS[0], dtype=DType.U32, direction=direction)
    add("Where", [given([[1], [0], [0], [1]], bool), (4, 6), (6,)])
    add("Cast", [ONE], to=DType.I32)
    add("Cast", [ONE], to=DType.F64, dtype=DType.F32)
    add("Cast", [ONE], to=DType.I32, dtype=DType.I64)
    add("CastLike", [ONE, constant(0, np.int32)], dtype=DType.I64)
    add("BitCast", [ONE], to=DType.I64)
    add("Binarizer", [ONE], threshold=0.25)
    codes = {"keys_int64s": (1, 2, 3), "values_int64s": (5, 4, 7)}
    add("LabelEncoder", [ONE], dtype=DType.I64, **codes)
    add("CategoryMapper", [ONE], dtype=DType.I64, **CATEGORIES)
    add("Scaler", [ONE], offset=[0.5], scale=[2.0])
    add("StringConcat", [(4, 6), (4, 1)], dtype=DType.STRING)
    add("RegexFullMatch", [ONE], dtype=DType.STRING, pattern="[ab]")


# --- reductions ---------------------------------------------------------------------


def reductions(add: Samples) -> None:
    for kind in [
        "Sum",
        "Mean",
        "Max",
        "Min",
        "Prod",
        "L1",
        "L2",
        "SumSquare",
        "LogSumExp",
        "LogSum",
    ]:
        values = positive if kind == "LogSum" else None
        for keepdims in (0, 1):
            facts: dict[str, Any] = {"values": values, "keepdims": keepdims}
            add(f"Reduce{kind}", [(4, 6, 2), constant([1])], [ONE], **facts)
    add("ReduceSum", [(4, 6, 2), constant([-1, 0])])
    for kind in ("Mean", "Sum", "L2"):
        add(f"Reduce{kind}", [ONE, constant([1])], dtype=DType.I64)
    for kind in ("ArgMax", "ArgMin"):
        add(kind, [(4, 6, 2)], axis=1, keepdims=0)
        add(kind, [(4, 6, 2)], axis=-1, select_last_index=1)
    for kind in ("CumSum", "CumProd"):
        add(kind, [ONE, constant(1)])
        add(kind, [ONE, constant(0)], reverse=1)
        add(kind, [ONE, constant(-1)], exclusive=1)
        add(kind, [ONE, constant(-1)], exclusive=1, reverse=1)
    for kind in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"):
        add(kind, [(4, 6, 2)], axis=1)
    add("TopK", [(4, 6), constant([2])], outs=2)
    add("TopK", [(4, 6, 2), constant([3])], axis=1, largest=0, outs=2)


CATEGORIES = {"cats_int64s": (1, 2), "cats_strings": ("a", "b")}


def classical(add: Samples) -> None:
    six, pairs = [0.5, 1.0, -1.0, 2.0, 3.0, 0.25], {"coefficients": [0.5] * 12}
    add("Scaler", [(4, 6)], offset=six, scale=six)
    few, known = [below(3, 4, 6)], {"replaced_value_int64": 1}
    add("Imputer", few, dtype=DType.I64, imputed_value_int64s=(5,), **known)
    each = (5, 6, 7, 8, 9, 4)
    add("Imputer", few, dtype=DType.I64, imputed_value_int64s=each, **known)
    add("Normalizer", [(4, 6)], norm="L2")
    add("OneHotEncoder", [(4, 6)], dtype=DType.I64, cats_int64s=(0, 1, 2))
    add("FeatureVectorizer", [(4, 6), (4, 3)])
    add("LinearRegressor", [(4, 6)], targets=2, **pairs)
    labels = {"classlabels_ints": (3, 7), "intercepts": [0.25, -0.5]}
    add("LinearClassifier", [(4, 6)], outs=2, **labels, **pairs)
    vectors = {"support_vectors": [0.5] * 12, "kernel_params": [0.5, 0.0, 0.0]}
    svm = {"kernel_type": "RBF", "rho": [0.25], **vectors}
    add("SVMRegressor", [(4, 6)], n_supports=2, coefficients=[1.0, -2.0], **svm)
    classes = {"classlabels_ints": (3, 7), "vectors_per_class": (1, 1)}
    svm |= {"coefficients": [1.0, -2.0], **classes}
    add("SVMClassifier", [(4, 6)], outs=2, **svm)
    nodes = {
        "nodes_treeids": (0, 0, 0),
        "nodes_nodeids": (0, 1, 2),
        "nodes_modes": ("BRANCH_LEQ", "LEAF", "LEAF"),
        "nodes_featureids": (4, 0, 0),
        "nodes_values": [0.1, 0.0, 0.0],
        "nodes_truenodeids": (1, 0, 0),
        "nodes_falsenodeids": (2, 0, 0),
    }
    votes = {"treeids": (0, 0), "nodeids": (1, 2), "ids": (0, 1), "weights": [0.5, 2.0]}
    for kind, of in ("Regressor", "target"), ("Classifier", "class"):
        own = {f"{of}_{name}": value for name, value in votes.items()}
        labels = {"classlabels_int64s": (5, 6)} if of == "class" else {"n_targets": 2}
        outs = 2 if of == "class" else 1
        add(f"TreeEnsemble{kind}", [(4, 6)], outs=outs, **nodes, **own, **labels)
    add(
        "TreeEnsemble",
        [(4, 6)],
        tree_roots=(0,),
        nodes_modes=Tensor.of(np.zeros(1, np.uint8)),
        nodes_featureids=(4,),
        nodes_splits=Tensor.of(np.array([0.25])),
        nodes_truenodeids=(0,),
        nodes_trueleafs=(1,),
        nodes_falsenodeids=(1,),
        nodes_falseleafs=(1,),
        leaf_targetids=(0, 1),
        leaf_weights=Tensor.of(np.array([0.5, 2.0])),
    )


def normalizations(add: Samples) -> None:
    vectors = ((4,), (4,), (4,), variance)
    add("BatchNormalization", [(2, 4, 6), *vectors])
    add("BatchNormalization", [(2, 4, 3), *vectors], training_mode=1, outs=3)
    add("InstanceNormalization", [(2, 4, 6), (4,), (4,)])
    add("GroupNormalization", [(2, 4, 6), (4,), (4,)], num_groups=2)
    add("LayerNormalization", [(2, 4, 6), (6,), (6,)], [(2, 4, 6), (6,)])
    add("LayerNormalization", [(2, 4, 6), (4, 6), (4, 6)], axis=1, outs=3)
    add("RMSNormalization", [(2, 4, 6), (6,)])
    add("MeanVarianceNormalization", [(2, 4, 6)], axes=(0, 2))
    add("LRN", [(2, 4, 6)], size=3)


# --- products -----------------------------------------------------------------------


def contractions(add: Samples) -> None:
    add(
        "MatMul",
        [(2, 4, 6), (2, 6, 8)],
        [(4, 6), (6, 8)],
        [(4, 6), (2, 6, 8)],
        [(1, 4, 6), (2, 6, 8)],
        [(4,), (4, 6)],
        [(4, 6), (6,)],
        [(6,), (6,)],
    )
    add("MatMul", [(4, 6), (6, 8)], dtype=DType.I32)
    add("Gemm", [(4, 6), (6, 8)], [(4, 6), (6, 8), (8,)], [(4, 6), (6, 8), (4, 1)])
    add("Gemm", [(6, 4), (8, 6), ()], transA=1, transB=1, alpha=0.5)
    add("Gemm", [(4, 6), (6, 8), (4, 8)], alpha=0.5, beta=0.25, dtype=DType.I64)
    for equation, *shapes in (
        ("ij,jk->ik", (4, 6), (6, 8)),
        ("bij,bkj->bik", (2, 4, 6), (2, 8, 6)),
        ("ij->", (4, 6)),
        ("ii->i", (4, 4)),
        ("i,j->ij", (4,), (6,)),
        ("ij,jk,kl->il", (2, 4), (4, 6), (6, 8)),
        ("i,jk->i", (4,), (6, 2)),
        ("...ij,...jk->...ik", (2, 4, 6), (6, 8)),
    ):
        add("Einsum", shapes, equation=equation)
    add("Det", [(2, 4, 4)])


def convolutions(add: Samples) -> None:
    add("Conv", [(2, 4, 7), (6, 4, 3)], [(2, 4, 7), (6, 4, 3), (6,)], pads=(1, 2))
    add("Conv", [(2, 4, 9), (6, 2, 3), (6,)], group=2, strides=(2,), pads=(2, 1))
    add("Conv", [(2, 4, 9), (4, 1, 3)], group=4, dilations=(2,), auto_pad="SAME_LOWER")
    add(
        "Conv",
        [(2, 2, 5, 6), (4, 2, 3, 2)],
        strides=(1, 2),
        dilations=(1, 3),
        pads=(1, 0, 0, 3),
    )
    add("Conv", [(1, 4, 6, 3), (2, 4, 1, 1)], strides=(2, 1))
    add("Conv", [(1, 2, 8, 6), (4, 2, 2, 3)], strides=(2, 3))
    add("ConvTranspose", [(2, 4, 5), (4, 6, 3)], [(2, 4, 5), (4, 6, 3), (6,)])
    add("ConvTranspose", [(2, 4, 5), (4, 2, 3)], group=2, strides=(2,), pads=(1, 1))
    add("ConvTranspose", [(2, 4, 6), (4, 6, 1)], strides=(2,), output_padding=(1,))
    add("ConvTranspose", [(2, 4, 6), (4, 6, 1), (6,)], strides=(2,))
    add(
        "ConvTranspose",
        [(2, 2, 4, 3), (2, 4, 2, 3)],
        strides=(2, 1),
        dilations=(1, 2),
        output_padding=(1, 0),
        pads=(0, 1, 1, 2),
    )

    add("Col2Im", [(2, 12, 9), constant([5, 4]), constant([3, 2])])
    add("Col2Im", [(2, 8, 4), constant([4, 6]), constant([2, 2])], strides=(2, 4))
    add("Col2Im", [(2, 6, 4), constant([4, 1]), constant([3, 1])], pads=(1, 0, 1, 0))


def poolings(add: Samples) -> None:
    image = (2, 4, 7, 6)
    window: dict[str, Any] = {"kernel_shape": (3, 2), "strides": (2, 1)}
    for kind in ("MaxPool", "AveragePool", "LpPool"):
        add(kind, [image], **window, pads=(1, 0, 2, 1))
        add(kind, [(2, 4, 8)], kernel_shape=(3,), dilations=(2,), auto_pad="SAME_UPPER")
        add(kind, [(2, 4, 8)], kernel_shape=(3,), strides=(2,), ceil_mode=1)
        add(kind, [(2, 4, 8)], kernel_shape=(2,), strides=(2,))
    add("AveragePool", [image], **window, pads=(1, 1, 2, 1), count_include_pad=1)
    add("MaxPool", [image], **window, outs=2)
    for kind in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        add(kind, [image])
    places = given([[[1, 2, 5, 6]], [[0, 3, 4, 7]]])
    add("MaxUnpool", [(2, 1, 4), places], kernel_shape=(2,), strides=(2,))


# --- elements elsewhere -------------------------------------------------------------


def movement(add: Samples) -> None:
    add("Transpose", [(4, 6, 2)])
    add("Transpose", [(4, 6, 2)], perm=(0, 2, 1))
    add("Expand", [(4, 1), constant([2, 1, 6])], [(4, 6), constant([4, 6])])
    add("Tile", [(4, 3), constant([1, 2])], [(4, 6), constant([4, 1])])
    for mode in ("DCR", "CRD"):
        add("DepthToSpace", [(2, 8, 4, 3)], blocksize=2, mode=mode)
    add("SpaceToDepth", [(2, 3, 8, 4)], blocksize=2)
    add("ReverseSequence", [(6, 4, 2), given([6, 1, 3, 4])])
    add("ReverseSequence", [(4, 6), given([6, 1, 3, 4])], batch_axis=0, time_axis=1)
    for source, target in (
        ((4, 6), (24,)),
        ((24,), (4, 6)),
        ((4, 6, 2), (4, 12)),
        ((4, 6), (2, 2, 6)),
        ((4, 6), (6, 4)),
        ((2, 3, 8), (6, 2, 4)),
        ((4, 6), (4, -1, 2)),
        ((4, 6), (0, 2, 3)),
        ((4, 1, 6), (4, 6, 1)),
    ):
        add("Reshape", [source, constant(target)])
    add("Flatten", [(2, 4, 6)])
    add("Flatten", [(2, 4, 6)], axis=-1)
    add("Squeeze", [(4, 1, 6)], [(1, 4, 1, 6), constant([2, -4])])
    add("Unsqueeze", [(4, 6), constant([0, -1])])


def segments(add: Samples) -> None:
    add("Concat", [(4, 2), (4, 6), (4, 2)], [(4, 2)], axis=1)
    add("Concat", [(2, 6), (4, 6)], axis=-2)
    add("Split", [(4, 6), constant([2, 4])], axis=1, outs=2)
    add("Split", [(5, 4)], num_outputs=3, outs=3)
    add("Split", [(4, 6)], num_outputs=1)
    cuts: list[tuple[Any, ...]] = [
        ([0, 1], [4, 5], [0, 1], [1, 1]),
        ([1], [1 << 60], [-1], [2]),
        ([-1, 5], [-9, 0], [0, 1], [-1, -2]),
        ([-4, 0], [-1, 6], [0, 1], [1, 1]),
    ]
    for cut in cuts:
        add("Slice", [(4, 6), *map(constant, cut)])
    zero = constant(0.5, float)
    add(
        "Pad",
        [(4, 6), constant([0, 1, 0, 3])],
        [(4, 6), constant([2, -1, -1, 2]), zero],
    )
    add("Pad", [(4, 6), constant([2, 1]), zero, constant([-1])])
    for mode in ("edge", "reflect", "wrap"):
        add("Pad", [(4, 6), constant([0, 1, 0, 2])], mode=mode)
    add("CenterCropPad", [(4, 6), constant([4, 3])], [(4, 6), constant([7, 2])])
    add("CenterCropPad", [(4, 6), constant([9])], axes=(-1,))


def indexing(add: Samples) -> None:
    add("Gather", [(4, 6), below(4, 2, 3)], [(4, 6), below(4)])
    add("Gather", [(4, 6, 2), below(6, 4)], axis=1)
    add("ArrayFeatureExtractor", [(4, 6), below(6, 2)], [(6,), below(6, 4)])
    add("GatherElements", [(4, 6), below(6, 4, 2)], axis=1)
    add("GatherElements", [(4, 6), below(4, 2, 3)])
    add("GatherND", [(4, 6, 2), below(4, 6, 2)])
    add("GatherND", [(2, 4, 6), below(4, 2, 3, 1)], batch_dims=1)
    rows = given([[0, 3, 1, 2, 5, 4]])
    for reduction in ("none", "add", "mul", "max"):
        add(
            "ScatterElements",
            [(4, 6), given([[3], [0], [2], [5]]), given([[4], [2], [-3], [5]], float)],
            axis=1,
            reduction=reduction,
        )
        add("ScatterND", [(4, 6), given([[1], [3]]), (2, 6)], reduction=reduction)
    add("ScatterElements", [(6, 6), rows, (1, 6)])
    add("ScatterND", [(4, 6, 2), given([[1, 2], [3, 0]]), (2, 2)])
    add("TensorScatter", [(4, 6, 8, 2), (4, 6, 2, 2), given([0, 3, 6, 2])])
    add("TensorScatter", [(4, 8, 2), (4, 2, 2)], axis=1, mode="circular")
    add("OneHot", [below(5, 4, 6), constant(5), (2,)])
    add("OneHot", [below(5, 4, 6), constant(5), (2,)], axis=0)


# --- others -------------------------------------------------------------------------


def attention(add: Samples) -> None:
    q, k, v = (2, 4, 6, 8), (2, 4, 2, 8), (2, 4, 2, 10)
    keys, values = (2, 2, 6, 8), (2, 2, 6, 10)
    add("Attention", [q, k, v], [q, keys, values])
    add("Attention", [(2, 2, 3, 5), (2, 2, 4, 5), (2, 2, 4, 1), (3, 4)])
    add("Attention", [q, k, v], is_causal=1)
    past: list[Spec] = [None, (1, 2, 4, 3), (1, 2, 4, 5)]
    add("Attention", [(1, 4, 3, 3), (1, 2, 3, 3), (1, 2, 3, 5), *past], outs=3)
    heads = {"q_num_heads": 4, "kv_num_heads": 2}
    add("Attention", [(2, 6, 16), (2, 8, 8), (2, 8, 12)], **heads)
    facts: dict[str, Any] = {"dtype": DType.F32, "update_rule": "linear", **heads}
    add("LinearAttention", [(2, 4, 12), (2, 4, 6), (2, 4, 10)], **facts)
    facts |= {"update_rule": "gated_delta", "outs": 2}
    past, decay, beta = (1, 2, 3, 5), (1, 3, 2), (1, 3, 1)
    add(
        "LinearAttention",
        [(1, 3, 12), (1, 3, 6), (1, 3, 10), past, decay, beta],
        **facts,
    )


def signals(add: Samples) -> None:
    add("DFT", [(2, 4, 1)], [(2, 4, 2)])
    add("DFT", [(2, 4, 1)], onesided=1)
    add("DFT", [(4, 2, 2), constant(6), constant(0)], inverse=1)
    add("STFT", [(2, 16, 1), constant(4), (8,)])


def images(add: Samples) -> None:
    grid = (2, 3, 4, 2)
    for mode in ("linear", "nearest", "cubic"):
        add("GridSample", [(2, 4, 6, 5), grid], mode=mode, padding_mode="border")
    add("GridSample", [(2, 4, 6, 5), grid], dtype=DType.F32)
    add("AffineGrid", [(2, 2, 3), constant([2, 4, 3, 6])], align_corners=1)
    add("DeformConv", [(2, 4, 5, 4), (6, 4, 2, 2), (2, 8, 4, 3)])
    one: list[Spec] = [(1, 4, 3, 5), (6, 2, 2, 1), (1, 4, 2, 5), (6,), (1, 2, 2, 5)]
    add("DeformConv", one, group=2)
    add("DeformConv", [(2, 4, 5, 4), (6, 4, 2, 2), (2, 16, 4, 3)], offset_group=2)
    corners = given([[0, 0, 3, 4], [1, 1, 5, 2], [2, 0, 4, 4], [0, 2, 2, 3]], float)
    images = given([0, 1, 1, 0])
    grid = {"output_height": 2, "output_width": 3}
    add("RoiAlign", [(2, 4, 5, 6), corners, images], sampling_ratio=2, **grid)
    add("RoiAlign", [(2, 4, 5, 6), corners, images], mode="max", **grid)
    regions = given([[0, 0, 0, 3, 4], [1, 1, 1, 5, 2]], float)
    add("MaxRoiPool", [(2, 4, 5, 6), regions], pooled_shape=(2, 3))
    scales = constant([1, 1, 2, 0.5], np.float32)
    add("Resize", [(2, 4, 6, 4), None, scales])
    almost, ways = constant([1, 2.1, 1.2, 1], np.float32), {"nearest_mode": "floor"}
    ways["coordinate_transformation_mode"] = "asymmetric"
    add("Resize", [(2, 4, 4, 4), None, almost], **ways)  # extents that divide
    kept = {"axes": (2, 3), "keep_aspect_ratio_policy": "not_smaller"}
    add("Resize", [(2, 2, 5, 2), None, None, constant([1, 3])], mode="linear", **kept)
    for mode in ("nearest", "linear", "cubic"):
        add("Resize", [(2, 4, 6, 3), None, None, constant([2, 4, 4, 6])], mode=mode)


def generation(add: Samples) -> None:
    add("Trilu", [(2, 4, 6), constant(1)])
    add("Trilu", [(2, 4, 6), constant(-1)], upper=0)
    add("Shape", [ONE])
    add("Size", [ONE])
    add("EyeLike", [ONE], k=1)
    add("Dropout", [ONE])
    add("Range", [constant(v) for v in (2, 12, 3)])
    add("ConstantOfShape", [constant([4, 6])], dtype=DType.I64)
    for kind in ("HannWindow", "HammingWindow", "BlackmanWindow"):
        add(kind, [constant(6)], dtype=DType.I64)
    mel = [*map(constant, (4, 16, 8000)), *(constant(v, np.float32) for v in (0, 4000))]
    add("MelWeightMatrix", mel, dtype=DType.I64)


def quantized(add: Samples) -> None:
    small, whole = np.float32(0.25), {"dtype": DType.U8}
    zero, zeros = given(3, np.uint8), given([1, 2, 3, 4], np.uint8)
    scales = given([0.5, 0.25, 1, 2], np.float32)
    blocks = given([[0.5, 0.25], [1, 2]], np.float32)
    real: dict[str, Any] = {"dtype": DType.F32, "values": large}
    add("QuantizeLinear", [(4, 6), given(small, np.float32), zero], **real)
    add("QuantizeLinear", [(2, 4, 6), scales, zeros], **real)
    add("QuantizeLinear", [(2, 6), blocks], block_size=3, axis=-1, **real)
    add("DequantizeLinear", [(4, 6), given(small, np.float32), zero], **whole)
    add("DequantizeLinear", [(2, 4, 6), scales, zeros], **whole)
    add("DequantizeLinear", [(2, 6), blocks], block_size=3, **whole)
    add("DynamicQuantizeLinear", [(4, 6)], outs=3, **real)
    add("MatMulInteger", [(4, 6), (6, 8), zero], [(2, 4, 6), (2, 6, 8)], **whole)
    add("MatMulInteger", [(4, 6), (6, 8), zeros, given([*range(8)], np.uint8)], **whole)
    one = given(small, np.float32)
    add("QLinearMatMul", [(3, 6), one, zero, (6, 3), one, zero, one, zero], **whole)
    per_row = [scales, zeros, (6, 3), one, zero, one, zero]
    add("QLinearMatMul", [(4, 6), *per_row], **whole)
    add("ConvInteger", [(2, 4, 7), (6, 4, 3), zero], pads=(1, 1), **whole)
    add("ConvInteger", [(2, 4, 7), (4, 2, 3), None, zeros], group=2, **whole)
    x, rest = [(1, 2, 7), one, zero], [one, zero, given([5, -7, 0, 1], np.int32)]
    add("QLinearConv", [*x, (4, 2, 3), scales, zero, *rest[:2]], strides=(2,), **whole)
    x[0] = (1, 1, 7)
    add("QLinearConv", [*x, (4, 1, 3), one, zero, *rest], pads=(1, 0), **whole)


def recurrences(add: Samples) -> None:
    add("RNN", [(4, 2, 3), (1, 5, 3), (1, 5, 5), (1, 10)], hidden_size=5)
    start = [None, None, (1, 2, 3)]
    add("GRU", [(4, 2, 3), (1, 9, 3), (1, 9, 3), *start], hidden_size=3, outs=2)
    add("GRU", [(2, 5, 3), (1, 9, 3), (1, 9, 3)], hidden_size=3, layout=1)
    two: dict[str, Any] = {"hidden_size": 3, "direction": "bidirectional", "outs": 3}
    add("LSTM", [(4, 2, 3), (1, 12, 3), (1, 12, 3), *start], hidden_size=3, outs=3)
    add(
        "LSTM",
        [(4, 2, 3), (2, 12, 3), (2, 12, 3), None, given([4, 2], np.int32)],
        **two,
    )


FAMILIES = (
    elementwise,
    reductions,
    classical,
    normalizations,
    contractions,
    convolutions,
    poolings,
    movement,
    segments,
    indexing,
    attention,
    signals,
    images,
    quantized,
    recurrences,
    generation,
)


def samples() -> list[Case]:
    """All of them."""
    made = Samples()
    for family in FAMILIES:
        family(made)
    return made.cases
