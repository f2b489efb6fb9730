"""Cases of quantization, and of products of quantized operands."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from single import Case, sweep

from graphopt.types import DType

BYTES = [DType.U8, DType.I8]
INTEGERS = [*BYTES, DType.U16, DType.I16, DType.U4, DType.I4]
FLOATS = [DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ]
TINY = [DType.F4E2M1, DType.U2, DType.I2, DType.F6E2M3, DType.F6E3M2]


def scales(*shape: int, of: Any = np.float32) -> Any:
    """Positive numbers below 0.5."""

    def drawn(rng: np.random.Generator, _: DType) -> Any:
        return rng.uniform(0.05, 0.5, shape).astype(of)

    drawn.__name__ = f"{np.dtype(of)}{list(shape)}".replace(" ", "")
    return drawn


def codes(dtype: DType, *shape: int) -> Any:
    """Any values of a narrow type."""

    def drawn(rng: np.random.Generator, _: DType) -> Any:
        if not dtype.is_integer:
            return rng.normal(size=shape).astype(dtype.numpy)
        info = ml_dtypes.iinfo(dtype.numpy)
        return rng.integers(int(info.min), int(info.max) + 1, shape).astype(dtype.numpy)

    drawn.__name__ = f"{dtype}{list(shape)}".replace(" ", "")
    return drawn


def zeros(dtype: DType, *shape: int) -> Any:
    def drawn(*_: object) -> Any:
        return np.zeros(shape, dtype.numpy)

    drawn.__name__ = f"0{dtype}{list(shape)}".replace(" ", "")
    return drawn


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        options.setdefault("dtypes", [DType.F32])
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    x = (3, 4, 6)
    for dtype in INTEGERS:
        add("QuantizeLinear", [(x, scales(), codes(dtype))])
        add("QuantizeLinear", [(x, scales(4), codes(dtype, 4))])
        add("QuantizeLinear", [(x, scales(6), codes(dtype, 6))], [{"axis": -1}])
        blocks = [(x, scales(3, 4, 2), codes(dtype, 3, 4, 2))]
        add("QuantizeLinear", blocks, [{"axis": 2, "block_size": 3}])
        add("DequantizeLinear", [(codes(dtype, *x), scales(), codes(dtype))])
        add("DequantizeLinear", [(codes(dtype, *x), scales(4), codes(dtype, 4))])
        uneven = [(codes(dtype, *x), scales(3, 2, 6), codes(dtype, 3, 2, 6))]
        add("DequantizeLinear", uneven, [{"block_size": 3}])
    for dtype in FLOATS:
        flags = [{}, {"saturate": 0}]
        add("QuantizeLinear", [(x, scales(), zeros(dtype))], flags)
        add("DequantizeLinear", [(codes(dtype, *x), scales(4), zeros(dtype, 4))])
    for dtype in TINY:
        known = {"traced": dtype.bits != 6}  # XLA knows no such floats
        add("QuantizeLinear", [(x, scales())], [{"output_dtype": dtype}], **known)
        add("DequantizeLinear", [(codes(dtype, *x), scales(4))], **known)
    add("QuantizeLinear", [((5,), scales(1)), (x, scales())])
    add("QuantizeLinear", [(x, scales(of=np.float16), codes(DType.U8))], dtypes=HALF)
    add("QuantizeLinear", [(x, scales())], [{"precision": DType.F16}])
    add(
        "DequantizeLinear",
        [(codes(DType.I32, 3, 4), scales(4)), (codes(BYTES[1], 5), scales())],
    )
    halves = [(codes(DType.U8, *x), scales(of=np.float16), codes(DType.U8))]
    add("DequantizeLinear", halves, [{}, {"output_dtype": DType.F32}])
    add("DynamicQuantizeLinear", [((3, 4),), ((2, 3, 2),)], outs=3)
    signs = [(scales(3, 4),), (zeros(DType.F32, 2, 3),)]
    add("DynamicQuantizeLinear", signs, outs=3)

    pairs = [(DType.U8, DType.U8), (DType.U8, DType.I8), (DType.I8, DType.I8)]
    for a, b in pairs:
        left, right = codes(a, 3, 4), codes(b, 4, 5)
        add("MatMulInteger", [(left, right), (codes(a, 2, 3, 4), right, codes(a))])
        add("MatMulInteger", [(left, right, codes(a), codes(b, 5))])
        unit = [scales(), codes(a)]
        add("QLinearMatMul", [(left, *unit, right, scales(), codes(b), *unit)])
        columns = [right, scales(5), codes(b, 5)]
        add("QLinearMatMul", [(left, *unit, *columns, scales(), codes(a))])
        image, kernels = codes(a, 2, 4, 6, 5), codes(b, 6, 2, 3, 2)
        way = [{"group": 2, "strides": (2, 1), "pads": (1, 0, 1, 1)}]
        add("ConvInteger", [(image, kernels, codes(a), codes(b))], way)
        add("ConvInteger", [(codes(a, 1, 2, 7), codes(b, 3, 2, 3))])
        bias = codes(DType.I16, 6)
        one = [kernels, scales(6), zeros(b, 6), scales(), codes(a)]
        add("QLinearConv", [(image, *unit, *one, _wide(bias))], way)
        per_tensor = [codes(b, 3, 2, 3), scales(), codes(b), scales(), codes(a)]
        add("QLinearConv", [(codes(a, 1, 2, 7), *unit, *per_tensor)])
    return made


HALF = [DType.F16]


def _wide(drawn: Any) -> Any:
    def wide(rng: np.random.Generator, dtype: DType) -> Any:
        return drawn(rng, dtype).astype(np.int32)

    wide.__name__ = "i32" + drawn.__name__[3:]
    return wide
