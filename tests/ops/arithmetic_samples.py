"""Small instances of the ops that compute each element from those in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
from index_operands import Samples, below, few, given, variance
from single import constant, positive, special

from graphopt.types import DType
from graphopt.weights import Tensor

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
