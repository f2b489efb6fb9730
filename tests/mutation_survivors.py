"""Mutants of rules that no test notices, each with the reason.

Keyed by function, code before and code after (`mutation`). Those that are not drawn are
kept, as another draw may meet them; they must only still be there.
"""

from __future__ import annotations

_CHOICE = "how large a limit is was a choice: one element more or less is as good"
_READABLE = "what is too large to be read here could be read"
_SOONER = "what is left out here is found to be nothing a step later"
_REQUIRED = "a required operand is never absent; the test is for the type checker"
_SAMPLE = "the sample only saves reading: what is alike in it is compared whole"
_DEFAULT = "it is the default"
_ALIKE = "in this all of the group are alike"
_COUNTED = "there are as many results as sizes"
_TYPED = "what is computed with a constant has its element type"

EQUIVALENT: dict[str, str] = {
    "affine.is_shared: tensor.nbytes > SHARED_LIMIT"
    " => tensor.nbytes >= SHARED_LIMIT": _CHOICE,
    "affine.after_linear: channels is None or found is None or found.x is not inner"
    " => channels is None or found is None": (
        "both mean the operand that is no constant"
    ),
    "affine._scaled_product: op.dtype is None or op.dtype is not weight.dtype"
    " => op.dtype is None": "the operands of products and sums share an element type",
    "borders.cropped_convolution: axis - 2 + half => axis - 2 - half": (
        "of twice as many numbers it is the same one, counted from the end"
    ),
    "bounds.: DEEPEST: Final = 32 => DEEPEST: Final = 33": _CHOICE,
    "bounds._holds_rows: last != 1 and equal(last, size) => last != 1": (
        "of rows of unknown length nothing is known"
    ),
    "bounds.column: not isinstance(value, Transpose) or value.rank is None"
    " => not isinstance(value, Transpose)": "it is asked of known shapes alone",
    "bounds.row: weight is None or weight.size > READ => weight is None": _READABLE,
    "bounds.product: tensor.size <= READ => tensor.size < READ": _CHOICE,
    "bounds.row: tensor.size > READ => tensor.size >= READ": _CHOICE,
    "bounds.row: weight.size > READ => weight.size >= READ": _CHOICE,
    "casts._narrow: value.constant.size <= READ_LIMIT"
    " => value.constant.size < READ_LIMIT": _CHOICE,
    "algebra._keeps: x is None or y is None or op.dtype is None or (op.dtype is not"
    " x.dtype) => x is None or y is None or op.dtype is None": (
        "the ops that ask give the element type of their first operand"
    ),
    "casts.cast_like: op.attrs.get('saturate', 1) => op.attrs.get('saturate', 2)": (
        "every CastLike has the attribute, as its schema states a default"
    ),
    "causal.band_of: READ_LIMIT ** 2 => READ_LIMIT ** 3": _CHOICE,
    "causal.is_causal: return False => return True (number 4)": _REQUIRED,
    "fold._folded: isinstance(op, Constant | Shape | Size) or not isinstance(op,"
    " Computed) => not isinstance(op, Computed)": (
        "a Constant is not computed, and what a constant's Shape and Size are is known"
    ),
    "fold._folded: v.constant is not None and scene.uses(v) <= 1"
    " => scene.uses(v) <= 1": "those that are no constants were turned away before",
    "fold._folded: if not isinstance(array, np.ndarray) or old.dtype is None:"
    " return miss('a result is no tensor') => pass": (
        "of what is no tensor the size is not known, which was asked before"
    ),
    "fold._bytes: shape is None or not isinstance(type_, TensorType) or type_.dtype is"
    " None => shape is None or not isinstance(type_, TensorType)": (
        "what is made of constants has an element type"
    ),
    "gemm.flattened_product: bias[0].rank is None or bias[0].rank > 1"
    " => bias[0].rank > 1": "with a bias of unknown rank the product has no shape",
    "integers.: DEEPEST: Final = 12 => DEEPEST: Final = 13": _CHOICE,
    "match.is_uniform: number == 0 and value is not None and value.dtype and"
    " value.dtype.is_float => number == 0 and value is not None and value.dtype": (
        "nobody asks integers for -0.0"
    ),
    "match.uniform: tensor.size > READ_LIMIT => tensor.size >= READ_LIMIT": _CHOICE,
    "merge_constants._sample: SAMPLE // max(1, flat.itemsize)"
    " => max(1, flat.itemsize) // SAMPLE": _SAMPLE,
    "merge_constants._sample: max(1, flat.itemsize) => max(2, flat.itemsize)": _SAMPLE,
    "merge_constants._sample: max(1, SAMPLE // max(1, flat.itemsize))"
    " => max(2, SAMPLE // max(1, flat.itemsize))": _SAMPLE,
    "merge_constants._sample: tensor.array().reshape(-1)"
    " => tensor.array().reshape(-2)": "to NumPy every negative size is -1",
    "movement.concat_constants: value.constant.size + last.constant.size <= 64"
    " => value.constant.size + last.constant.size < 64": _CHOICE,
    "movement.transpose_through: len(chain) > 16 => len(chain) >= 16": _CHOICE,
    "padding.padded_by: i + len(where) => i - len(where)": (
        "of twice as many numbers it is the same one, counted from the end"
    ),
    "raise_gelu.factors: part.operands[0] => part.operands[1]": _REQUIRED,
    "raise_gelu._is_power: int(known) if known == int(known) else 1000"
    " => int(known) if known == int(known) else 1001": (
        "it stands for no power at all, and 1001 is as far from 2 and 3"
    ),
    "raise_softmax.logarithm: found is None or not isinstance(found[0], Exp) or"
    " found[0].operands[0] is None => found is None or not isinstance(found[0], Exp)": (
        _REQUIRED
    ),
    "reductions.largest_of_all: made.op is None or not scene.says(made.op)"
    " => not scene.says(made.op)": _REQUIRED,
    "reductions.softmax_of_shifted: np.max(np.abs(given), initial=0) *"
    " _unit(op.dtype) > ROUNDED => np.max(np.abs(given), initial=0) * _unit(op.dtype)"
    " >= ROUNDED": _CHOICE,
    "reductions.softmax_of_shifted: op.dtype is None or np.max(np.abs(given),"
    " initial=0) * _unit(op.dtype) > ROUNDED => np.max(np.abs(given), initial=0) *"
    " _unit(op.dtype) > ROUNDED": _TYPED,
    "reductions.sum_of_products: x is None or weight is None or x.rank is None or"
    " (op.dtype is None) => x is None or weight is None or x.rank is None": _TYPED,
    "regions.constant_capture: if not dropped: return None => pass": _SOONER,
    "resizes._repeats: equal(before, 1) and isinstance(after, int) and counts"
    " => isinstance(after, int) and counts": (
        "a dim that is itself repeated leaves one of the source over"
    ),
    "sequences._parts: len(sizes) > 256 => len(sizes) >= 256": _CHOICE,
    "siblings.: level = 2 => level = 3": "no level chooses among passes that lower",
    "siblings.: pixels: int = 1024 => pixels: int = 1025": _CHOICE,
    "siblings.branches: len(products) < 2 or x.rank is None or x.constant is not None"
    " => x.rank is None or x.constant is not None": _SOONER,
    "siblings.convolutions: not isinstance(op, Conv) or op.group != 1 or op.operands[0]"
    " is None => not isinstance(op, Conv) or op.group != 1": _REQUIRED,
    "siblings.convolutions: op.operands[0] => op.operands[1]": _REQUIRED,
    "siblings.convolutions: group[0] => group[1]": _ALIKE,
    "siblings._convolved: group[0] => group[1]": _ALIKE,
    "siblings._convolved: group[0] => group[1] (number 2)": _ALIKE,
    "siblings._convolved: group[0] => group[1] (number 3)": _ALIKE,
    "siblings._convolved: Split(made, vector(*widths), axis=1, outs=len(group))"
    " => Split(made, vector(*widths), axis=1)": _COUNTED,
    "siblings._merged: group[0] => group[1]": _ALIKE,
    "siblings._merged: Split(made, vector(*widths), axis=-1, outs=len(group))"
    " => Split(made, vector(*widths), axis=-1)": _COUNTED,
    "shapes._atom: Gather(ShapeOp(parameter), where, axis=0)"
    " => Gather(ShapeOp(parameter), where)": _DEFAULT,
    "shapes._read: Gather(ShapeOp(parameter), Constant(which), axis=0)"
    " => Gather(ShapeOp(parameter), Constant(which))": _DEFAULT,
    "branches._bounded: i - 1 => 1 - i": (
        "of two numbers it is the same one, counted from the end"
    ),
    "branches.clamped: found.low > found.high => found.low >= found.high": _CHOICE,
    "chunked_attention.alike: if a.shape != b.shape or not np.all(np.isfinite(a)):"
    " return False => pass": "what is not finite gives a scale that is none",
    "chunked_attention.tried: 1 / math.sqrt(source.size)"
    " => 2 / math.sqrt(source.size)": "any size will do that does not run away",
    "chunked_attention.trials: Trial(region, roles, turned=False)"
    " => Trial(region, roles, turned=True)": "there is no state to be turned",
    "chunks.behind: len(seen) > MOST => len(seen) >= MOST": _CHOICE,
    "chunks.of: d > 1 => d >= 1": _SOONER,
    "einsum.einsum_of_many: len(letters) > 26 => len(letters) >= 26": _CHOICE,
    "factor._sum: 16 * np.abs(total) < largest => 16 * np.abs(total) <= largest": (
        _CHOICE
    ),
    "factor._sum: 16 * np.abs(total) => 17 * np.abs(total)": _CHOICE,
    "factor.weights_in_a_row: left[0] * left[1] * right[1] > OPERATIONS => left[0] *"
    " left[1] * right[1] >= OPERATIONS": _CHOICE,
    "gains.gain_of: tensor.size > READ_LIMIT => tensor.size >= READ_LIMIT": _CHOICE,
    "heads._split_batch: found[0] => found[1] (number 3)": _ALIKE,
    "heads._unmerged: perm_of(3, x.perm) => perm_of(4, x.perm)": (
        "one that is left out reverses the axes, however many there are"
    ),
    "heads.transposed: value.rank or 0 => value.rank or 1": (
        "those that ask know the rank"
    ),
    "last_axis.at: self._depth <= DEPTH => self._depth < DEPTH": _CHOICE,
    "moments.root: uniform(value.operands[1]) < 0 => uniform(value.operands[1]) <= 0": (
        "it is one half, or less one half"
    ),
    "positions._of_range: if start is None or step is None or op.shape is None: return"
    " None => pass": "of a range whose length is known, where it starts is known",
    "raise_activations.ramp: number > 0 => number >= 0": "times zero no bound is one",
    "raise_attention._reads: len(seen) > DEEPEST => len(seen) >= DEEPEST": _CHOICE,
    "raise_attention.past: scene.uses(k) + scene.uses(v) > 2 => scene.uses(k) +"
    " scene.uses(v) >= 2": "what nobody else reads, nothing else is made of",
    "raise_attention.past: scene.uses(k) + scene.uses(v) > 2 and _reads(operands, (k,"
    " v)) => _reads(operands, (k, v))": (
        "what nobody else reads, nothing else is made of"
    ),
    "raise_norms.layer_norm_of_channels: LayerNormalization(y, ones, axis=-1,"
    " epsilon=found.epsilon) => LayerNormalization(y, ones, epsilon=found.epsilon)": (
        _DEFAULT
    ),
    "raise_rectifiers.selu: Selu(x, alpha=inner.alpha, gamma=held)"
    " => Selu(x, gamma=held)": _DEFAULT,
    "raise_rotary.rotary_pairs: if last_dim(stack) != 2 or not all(map(_is_sum,"
    " stack.operands)): return None => pass": _SOONER,
    "raise_recurrences.unrolled: steps < FEWEST or op.rank != 3 or op.axis % 3 != 2"
    " => steps < FEWEST or op.axis % 3 != 2": _SOONER,
    "rotations._near: len(seen) < NEAR => len(seen) <= NEAR": _CHOICE,
    "raise_shuffles._steps: not isinstance(split, Reshape) or split.shape is None"
    " => not isinstance(split, Reshape)": "what has six dims has a shape",
    "raise_shuffles.slices_to_depth: found[0] => found[1] (number 2)": _ALIKE,
    "zero_one._made: value is None or value.dtype is None or (not depth)"
    " => value is None or not depth": "a switch and a constant have element types",
    "zero_one.is_zero_one: tensor.size > READ => tensor.size >= READ": _CHOICE,
    "zero_one.is_zero_one: if tensor.size > READ: return False => pass": _READABLE,
}
"""Mutants that are the same rule, or one that is as good."""

MISSED: dict[str, str] = {}
"""Mutants that are another rule, which no test can tell or none was written for."""
