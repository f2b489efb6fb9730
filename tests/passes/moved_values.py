"""Values to move: of fixed, symbolic, empty and unknown shapes."""

from __future__ import annotations

from equations import N, const, ints, param, typed

from graphopt.ops import Gather, Split
from graphopt.types import DType, TensorType

D = DType
X = param("x", 2, 3, 4)
PICKED = Gather(X, const(2, D.I64), axis=1)
DYNAMIC = param("d", N, 3, 4)
ONES = param("ones", 1, 3, 1, 4)
TEXT = param("text", 2, 3, dtype=D.STRING)
LAST, FIRST = param("last", N, 3, 4, 5, 1), param("first", 1, 2, 3, 4)
ROW = param("row", 4)
VAGUE = typed("vague", TensorType(D.F32, None))
EMPTY, X2 = param("empty", 0, 3), param("x2", N, 3)
FAR = 2**62
STEP = param("step", 1, dtype=D.I64)
PARTS = Split(X, ints(1, 3), axis=2).results

ONE = param("one", N, 1, 4)
NOUGHT, HIND = (const(i, D.I64) for i in (0, -1))
