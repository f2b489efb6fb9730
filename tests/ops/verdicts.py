"""Why a peer and we may disagree: one written reason for each disagreement.

The keys are patterns of "peer: Kind name of the case". Peers are ``runtime`` (ONNX
Runtime), ``reference`` (onnx's own), ``body``, ``traced``, ``float64``, ``types`` and
``nobody`` (no peer can run the case).
"""

FLOAT32_INSIDE = "The peer computes float64 operands in float32 on the way."
SIZED_BY_DATA = "How many elements there are depends on the data."
NO_KERNEL = "The peers have no kernel, or theirs fails, for this element type."

VERDICTS: dict[str, str] = {
    # ONNX Runtime
    "runtime: QuantizeLinear f16 *": (
        "It divides in float32, where ONNX says in the type of the scale."
    ),
    "runtime: StringSplit * delimiter=-*": (
        "It says that an empty string has no parts; split, it has an empty one."
    ),
    "runtime: Resize * axes=(-1, -2) *": "It resizes nothing for negative axes.",
    "runtime: Resize f32 *1.0,1.5,*=align_corners *": (
        "It takes the extent of the result where the ONNX suite takes a fraction."
    ),
    "runtime: MaxUnpool * [[]1x1x2x2,*,[[]1,1,5,5] *": (
        "It takes positions for those in the output_shape, not in what windows cover."
    ),
    "runtime: Gather string *": "It copies the first string of each slice alone.",
    "runtime: NonZero f32 [[]3.0]": (
        "Of a scalar, ONNX says, there are positions [0, n]; it gives [1, n]."
    ),
    "runtime: Attention f64 *": (
        "Its default scale is taken in float32, and so is the root of any scale."
    ),
    "runtime: ReduceProd i32 *": (
        "It multiplies in float and saturates, where others wrap."
    ),
    "runtime: Shrink f64 *": FLOAT32_INSIDE,
    "runtime: Attention f32 * qk_matmul_output_mode=2 *": (
        "It hides positions with the lowest float where ONNX says -inf."
    ),
    "runtime: BlackmanWindow * output_datatype=f64*": FLOAT32_INSIDE,
    "runtime: HammingWindow * output_datatype=f64*": FLOAT32_INSIDE,
    "runtime: Cast * to=f8e4m3fn saturate=0": (
        "It rounds 464 to 512 down to 448, the largest, where ONNX says NaN."
    ),
    "runtime: DFT f64 *": FLOAT32_INSIDE,
    "runtime: ReduceMax f32 *": "ONNX leaves NaN open; it drops some, NumPy none.",
    "runtime: ReduceMin f32 *": "ONNX leaves NaN open; it drops some, NumPy none.",
    # Both
    "*: Resize [iu]* mode=linear": (
        "Integers are truncated: a float32 that just misses one is the one before."
    ),
    "*: DynamicQuantizeLinear f32 [[]0f32*": (
        "Of zeros alone, ONNX's formula has a scale of 0; the peers make one up."
    ),
    "reference: Attention f64 * scale=0.5": FLOAT32_INSIDE,
    "*: Gelu bf16 *": (
        "1 + erf(x) cancels in bfloat16; we compute in float32 and round once."
    ),
    "*: GroupNormalization f64 *": (
        "stash_type narrows float64 to float32 by the letter; we only ever widen."
    ),
    # onnx.reference
    "reference: ??? * clip=0.5": "It does not clip.",
    "reference: LSTM * clip=0.5": "It does not clip.",
    "reference: Pad string *": "It pads strings with 0.",
    "reference: StringSplit * maxsplit=1": "It leaves the white space at the end.",
    "reference: ??? * activations=*": "It mixes up the parameters of activations.",
    "reference: ???? * activations=*": "It mixes up the parameters of activations.",
    "reference: ??? *,_lengths,*": "It takes all sequences for equally long.",
    "reference: ???? *,_lengths,*": "It takes all sequences for equally long.",
    "reference: LSTM * input_forget=1": "It does not know input_forget.",
    "reference: StringNormalizer *": "It takes the accents off.",
    "reference: Resize f64 * mode=linear": (
        "Its coordinates are float64, those of runtimes float32."
    ),
    "reference: AffineGrid f64 *": "It gives float32 for all types.",
    "reference: AffineGrid f16 *": "It gives float32 for all types.",
    "reference: GridSample f64 *": FLOAT32_INSIDE,
    "reference: GridSample * mode=cubic padding_mode=border *": (
        "It moves positions to the border first; runtimes and PyTorch move each tap."
    ),
    "reference: Resize * nearest_mode=floor": (
        "Its coordinates are float64, those of runtimes float32: other neighbours."
    ),
    "reference: DeformConv f64 *": FLOAT32_INSIDE,
    "reference: GlobalMaxPool *": "Of ranks other than 4, it drops some dims.",
    "reference: MaxPool * kernel_shape=(3, 2)": "Its positions are off without pads.",
    "reference: Slice * [[]4x6,[[]-9],*": (
        "With a negative step, ONNX clamps a start to 0; it slices as Python does."
    ),
    "reference: Unique * axis=1 sorted=0": "It reads the values off the wrong axis.",
    "reference: Attention f32 * qk_matmul_output_mode=0 softcap=*": (
        "Mode 0 is the raw product, and it shows the capped one."
    ),
    "reference: Erf f64 *": "It is a polynomial that is good to 1e-7.",
    "reference: Gelu f64 *": FLOAT32_INSIDE,
    "reference: HardSwish f64 *": FLOAT32_INSIDE,
    "runtime: Gelu f64 *": FLOAT32_INSIDE,
    "reference: Det bf16 *": "It gives float64 for bfloat16.",
    "reference: LRN *": "It loops over the batch where it means the channels.",
    "reference: LpNormalization * p=1": "It sums without taking magnitudes.",
    "reference: ReduceSumSquare ?32 *": "It gives 64-bit integers for 32-bit ones.",
    # onnx.shape_inference
    "types: NonMaxSuppression *: dim ? is None, *": SIZED_BY_DATA,
    "types: StringNormalizer *: dim ? is None, *": SIZED_BY_DATA,
    "types: StringSplit *: dim ? is None, *": SIZED_BY_DATA,
    "types: Compress *: dim ? is None, *": SIZED_BY_DATA,
    "types: NonZero *: dim ? is None, *": SIZED_BY_DATA,
    "types: Unique *: dim ? is None, *": SIZED_BY_DATA,
    "types: Attention * symbolic: dim ? is *, not 0": "It takes symbolic dims for 0.",
    "types: STFT * dim 2 is *": (
        "It forgets that a onesided spectrum has n // 2 + 1 numbers."
    ),
    # Nobody
    "nobody: GlobalLpPool *": NO_KERNEL,
    "nobody: Resize bool *": NO_KERNEL,
    # float64
    "float64: QuantizeLinear f16 *": "float16 rounds the quotient; float64 does not.",
    "nobody: ConvTranspose f64 *": NO_KERNEL,
    "nobody: GatherElements bf16 *": NO_KERNEL,
    "nobody: Pad *": NO_KERNEL,
    "nobody: LRN *": NO_KERNEL,
    "nobody: MeanVarianceNormalization *": NO_KERNEL,
    "nobody: ReduceLogSumExp bf16 *": NO_KERNEL,
    "nobody: Softsign *": NO_KERNEL,
}
