"""Small instances of every op with index maps: what is there to split and to tile.

Extents differ, and two divides those that are to be split. Numbers are float64 where
the op takes them, so that rounding hides nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from arithmetic_samples import ONE, classical, elementwise, normalizations, reductions
from index_operands import Samples, below, given, large
from single import Case, Spec, constant

from graphopt.types import DType

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
