"""Single ops: cases of them.

A family module lists cases with `sweep`; `test_single_ops` compares the answers.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import onnx

from graphopt import ops
from graphopt.ir import Parameter, Value
from graphopt.ops.schema import LATEST
from graphopt.ops.structured import Computed
from graphopt.types import DType, TensorType, Type
from graphopt.weights import Tensor

Array = np.ndarray[Any, Any]
Values = Callable[[np.random.Generator, tuple[int, ...], DType], Array]


@dataclass(frozen=True, eq=False)
class Case:
    """One op on given operands. ``constants`` are those known when it is built."""

    kind: str
    name: str
    operands: tuple[Array | None, ...]
    attrs: Mapping[str, Any]
    outs: int = 1
    constants: tuple[int, ...] = ()
    ulps: float = 8.0
    traced: bool = True

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @functools.cached_property
    def op(self) -> Computed:
        """The op on parameters of exactly these types."""
        return self.build(type_of)

    def build(self, typed: Callable[[Array], Type]) -> Computed:
        """The op on parameters of the types that a function gives."""
        values: list[Value | None] = []
        for i, array in enumerate(self.operands):
            if array is None:
                values.append(None)
            elif i in self.constants:
                values.append(ops.Constant(array))
            else:
                values.append(Parameter(typed(array), f"x{i}"))
        attrs = {
            name: Tensor.of(value) if isinstance(value, np.ndarray) else value
            for name, value in self.attrs.items()
        }
        kind: Any = getattr(ops, self.kind)
        made: Computed = kind(*values, **attrs, outs=self.outs)
        return made


def type_of(array: Array) -> TensorType:
    return TensorType(DType.of(array.dtype), array.shape)


# --- operands -----------------------------------------------------------------------


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Numbers around zero; integers within -9 and 9."""
    if dtype is DType.BOOL:
        return np.asarray(rng.random(shape) < 0.5)
    if dtype is DType.STRING:
        return np.asarray(rng.choice(["", "a", "b", "cde"], shape), object)
    if dtype.is_complex:
        parts = rng.normal(0, 2, (2, *shape))
        return np.asarray(parts[0] + 1j * parts[1]).astype(dtype.numpy)
    if not dtype.is_integer:
        return np.asarray(rng.normal(0, 2, shape)).astype(dtype.numpy)
    low = -9 if dtype.is_signed else 0
    if dtype.bits < 8:
        low, high = (0, 2**dtype.bits) if not dtype.is_signed else (-2, 2)
        return np.asarray(rng.integers(low, high, shape)).astype(dtype.numpy)
    return np.asarray(rng.integers(low, 10, shape)).astype(dtype.numpy)


def positive(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Numbers above zero, from about 0.1 to 10."""
    if not dtype.is_integer:
        return np.asarray(np.exp(rng.normal(0, 1, shape))).astype(dtype.numpy)
    return np.asarray(rng.integers(1, 10, shape)).astype(dtype.numpy)


def unit(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Numbers within -1 and 1."""
    return np.asarray(rng.uniform(-1, 1, shape)).astype(dtype.numpy)


def special(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Numbers of every kind: zeros of both signs, ties, infinities, NaN."""
    array = normal(rng, shape, dtype)
    if dtype.is_float and array.size:
        pool = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1.0, np.inf, -np.inf, np.nan]
        some = rng.choice(pool, shape).astype(dtype.numpy)
        array = np.where(rng.random(shape) < 0.4, some, array)
    return array


def constant(value: Any, dtype: Any = np.int64) -> Callable[..., Array]:
    """An operand that is the same in every case, known when the op is built."""
    array = np.asarray(value, dtype)
    return lambda *_: array


Spec = tuple[int, ...] | Array | Callable[..., Array] | None
"""An operand: dims to draw numbers for, an array, a function of (rng, dtype), none."""


def sweep(
    kind: str,
    shapes: Iterable[Sequence[Spec]],
    attrs: Iterable[Mapping[str, Any]] = ({},),
    *,
    dtypes: Iterable[DType] | None = None,
    values: Values = normal,
    constants: Sequence[int] = (),
    outs: int = 1,
    ulps: float = 8.0,
    traced: bool = True,
    every: bool = False,
) -> list[Case]:
    """Cases of one op: each list of operands, attributes and element type occurs.

    ``every`` asks for all their combinations instead. Float attributes are rounded to
    float32, as ONNX stores them. ``dtypes`` are by default those
    that ONNX allows for the first operand, strings apart. ``constants`` are operands
    that are known when the op is built; arrays and functions always are.
    """
    kinds = tuple(allowed_dtypes(kind) if dtypes is None else dtypes)
    lists = (tuple(shapes), tuple(attrs), kinds)
    if every:
        rows: Iterable[Any] = itertools.product(*lists)
    else:
        count = max(map(len, lists))
        rows = ([lst[i % len(lst)] for lst in lists] for i in range(count))
    cases = []
    for specs, chosen, dtype in rows:
        shown = ",".join("-" if s is None else _shown(s) for s in specs)
        words = [str(dtype), f"[{shown}]", *(f"{k}={v}" for k, v in chosen.items())]
        name = " ".join(words).replace("[[", "[").replace("]]", "]")
        rng = np.random.default_rng(crc32(f"{kind} {name}".encode()))
        operands: list[Array | None] = []
        known = set(constants)
        for i, spec in enumerate(specs):
            if spec is None:
                operands.append(None)
            elif isinstance(spec, tuple):
                operands.append(values(rng, spec, dtype))
            else:
                operands.append(spec(rng, dtype) if callable(spec) else spec)
                if not callable(spec) or spec.__name__ == "<lambda>":
                    known.add(i)
        cases.append(
            Case(
                kind,
                name,
                tuple(operands),
                {name: _stored(value) for name, value in chosen.items()},
                outs,
                tuple(sorted(known)),
                ulps,
                traced
                and not any(a is not None and a.dtype == object for a in operands),
            )
        )
    return cases


def _stored(value: Any) -> Any:
    return float(np.float32(value)) if isinstance(value, float) else value


def _shown(spec: Spec) -> str:
    if isinstance(spec, tuple):
        return "x".join(map(str, spec)) or "0d"
    array = spec(None, None) if callable(spec) and spec.__name__ == "<lambda>" else spec
    if isinstance(array, np.ndarray):
        return str(array.tolist()).replace(" ", "")
    return getattr(spec, "__name__", "?")


def allowed_dtypes(kind: str, operand: int = 0) -> list[DType]:
    """The element types that ONNX allows for an operand, those of numbers and bool."""
    schema = onnx.defs.get_schema(kind, LATEST, "")
    formal = schema.inputs[operand]
    texts = next(
        (
            c.allowed_type_strs
            for c in schema.type_constraints
            if c.type_param_str == formal.type_str
        ),
        [formal.type_str],
    )
    names = {f"tensor({name})": name for name in _ONNX_NAMES}
    found = [_ONNX_NAMES[names[t]] for t in sorted(texts) if t in names]
    # float32 first: where there are fewer types than shapes, it comes most often.
    return sorted(found, key=lambda d: d is not DType.F32)


_ONNX_NAMES = {
    "float": DType.F32,
    "double": DType.F64,
    "float16": DType.F16,
    "bfloat16": DType.BF16,
    "bool": DType.BOOL,
    **{
        f"{u}int{b}": DType[f"{u.upper() or 'I'}{b}"]
        for u in ("", "u")
        for b in (8, 16, 32, 64)
    },
}
