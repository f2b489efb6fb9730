"""Single ops: cases of them, and what graphopt, ONNX Runtime and onnx make of each.

A family module lists cases with `sweep`; `test_single_ops` compares the answers.
"""

from __future__ import annotations

import fnmatch
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import ml_dtypes
import numpy as np
import onnx
from verdicts import VERDICTS

from graphopt import ops, xp
from graphopt.dims import Expr, evaluate, symbol
from graphopt.ir import Op, Parameter, Value
from graphopt.ops.schema import LATEST, schema_of
from graphopt.ops.structured import Composite, Computed
from graphopt.reference import Evaluator, schedule
from graphopt.types import UNKNOWN, DType, TensorType, Type
from graphopt.weights import Tensor

Array = np.ndarray[Any, Any]
Values = Callable[[np.random.Generator, tuple[int, ...], DType], Array]

RUNTIME_OPSETS = (26, 21)
"""The newest opset that ONNX Runtime takes, and one that it has more kernels for."""


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


# --- answers ------------------------------------------------------------------------


class NoAnswer(Exception):
    """The peer cannot run the case."""


def ours(case: Case, namespace: xp.Namespace | None = None) -> list[Array]:
    """What graphopt computes; element types are those that `compute` gives."""
    op = case.op
    space = namespace or xp.host()
    with space.scope():
        if type(op).compute is Computed.compute:
            return list(Evaluator().apply(op, case.operands))
        results = op.compute(space, *case.operands)
    return list(results) if isinstance(results, tuple) else [results]


def expanded(case: Case) -> list[Array] | None:
    """What the op's body computes; None where there is no body."""
    op = case.op
    if not isinstance(op, Composite) or op.expansion is None:
        return None
    env = {
        value: array
        for value, array in zip(op.operands, case.operands, strict=False)
        if value is not None and not isinstance(value, ops.Constant)
    }
    return Evaluator().run(op.expansion[: op.outs], env)


def widened(case: Case) -> list[Array]:
    """What graphopt computes in float64, rounded to the declared types in the end."""
    evaluator = Evaluator(precision="float64")
    operands = [None if a is None else evaluator.adopt(a) for a in case.operands]
    with evaluator.xp.scope():
        results = evaluator.apply(case.op, operands)
        return [
            array.astype(type_.dtype.numpy)
            for array, type_ in zip(results, case.op.types, strict=True)
            if isinstance(type_, TensorType) and type_.dtype
        ]


def traced(cases: Sequence[Case]) -> list[list[Array]]:
    """What XLA computes: static and constant operands are known, the others traced.

    All cases are one program, as compiling takes longest.
    """
    import jax

    dynamic = [
        [
            i
            for i, array in enumerate(case.operands)
            if array is not None and i not in {*case.constants, *case.op.static}
        ]
        for case in cases
    ]

    def run(rows: list[list[Any]]) -> list[tuple[Any, ...]]:
        results = []
        for case, places, arrays in zip(cases, dynamic, rows, strict=True):
            operands = list(case.operands)
            for i, array in zip(places, arrays, strict=True):
                operands[i] = array
            results.append(lowered(case.op, operands))
        return results

    with xp.traced().scope():
        rows = [
            [case.operands[i] for i in places]
            for case, places in zip(cases, dynamic, strict=True)
        ]
        compiled = jax.jit(run, compiler_options=QUICK)
        return [[np.asarray(r) for r in results] for results in compiled(rows)]


def lowered(op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    """The results under a trace: what is known stays with NumPy, bodies are entered."""
    if isinstance(op, ops.Constant):
        return (op.tensor.array(),)
    assert isinstance(op, Computed)
    if all(a is None or isinstance(a, np.ndarray) for a in operands):
        return Evaluator().apply(op, operands)
    if type(op).compute is not Computed.compute:
        results = op.compute(xp.traced(), *operands)
        return results if isinstance(results, tuple) else (results,)
    assert isinstance(op, Composite)
    assert op.expansion is not None
    known: dict[Value, Any] = {
        v: a for v, a in zip(op.operands, operands, strict=False) if v is not None
    }
    for inner in schedule(op.expansion, known):
        arrays = [None if v is None else known[v] for v in inner.operands]
        known |= zip(inner.results, lowered(inner, arrays), strict=True)
    return tuple(known[v] for v in op.expansion[: op.outs])


QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiled once and run once: programs need not be fast."""


def model_of(case: Case, opset: int) -> onnx.ModelProto:
    """A model of the one node. Raises NoAnswer where that opset cannot say it."""
    try:
        schema = onnx.defs.get_schema(case.kind, opset, "")
    except onnx.defs.SchemaError as error:
        raise NoAnswer(str(error)) from None
    newest = schema_of(case.kind)
    assert newest is not None
    attrs = {}
    for name, value in case.attrs.items():
        if name in schema.attributes:
            attrs[name] = value
        elif newest.defaults.get(name) != value:
            raise NoAnswer(f"opset {opset} has no attribute {name}")
    names = ["" if a is None else f"x{i}" for i, a in enumerate(case.operands)]
    node = onnx.helper.make_node(
        case.kind, names, [f"y{i}" for i in range(case.outs)], **_plain(attrs)
    )
    inputs, initializers = [], []
    for i, array in enumerate(case.operands):
        if array is None:
            continue
        dtype = DType.of(array.dtype)
        if i in case.constants:
            tensor = onnx.numpy_helper.from_array(np.asarray(array), f"x{i}")
            initializers.append(tensor)
        else:
            inputs.append(
                onnx.helper.make_tensor_value_info(f"x{i}", dtype.value, array.shape)
            )
    outputs = [onnx.ValueInfoProto(name=f"y{i}") for i in range(case.outs)]
    graph = onnx.helper.make_graph([node], "case", inputs, outputs, initializers)
    return onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=10 if opset <= RUNTIME_OPSETS[0] else 13,
    )


def _plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    plain = {}
    for name, value in attrs.items():
        if isinstance(value, DType):
            value = value.value
        elif isinstance(value, np.ndarray):
            value = onnx.numpy_helper.from_array(value)
        plain[name] = value
    return plain


def feeds_of(case: Case) -> dict[str, Array]:
    return {
        f"x{i}": array
        for i, array in enumerate(case.operands)
        if array is not None and i not in case.constants
    }


def runtime(case: Case) -> list[Array]:
    """What ONNX Runtime computes, its optimizations off. Raises NoAnswer."""
    import onnxruntime as ort

    if any(a is not None and a.dtype in _FOREIGN for a in case.operands):
        raise NoAnswer("NumPy cannot hand over this element type")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    failures = []
    for opset in RUNTIME_OPSETS:
        try:
            model = model_of(case, opset)
            session = ort.InferenceSession(model.SerializeToString(), options)
            results = session.run(None, feeds_of(case))
        except Exception as error:
            failures.append(str(error))
        else:
            break
    else:
        raise NoAnswer("; ".join(failures))
    # It gives the bits of what NumPy has no type for.
    return [
        array.view(type_.dtype.numpy)
        if isinstance(type_, TensorType)
        and type_.dtype
        and type_.dtype.bits == 8
        and type_.dtype.is_float
        else array
        for array, type_ in zip(results, case.op.types, strict=True)
    ]


_FOREIGN = {np.dtype(d) for d in (ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.uint4)}


def reference(case: Case) -> list[Array]:
    """What onnx's own evaluator computes. Raises NoAnswer."""
    from onnx.reference import ReferenceEvaluator

    model = model_of(case, LATEST)
    # It takes types of results from the declared ones, in places.
    try:
        with np.errstate(all="ignore"):
            return list(ReferenceEvaluator(model).run(None, feeds_of(case)))
    except Exception as error:
        raise NoAnswer(f"{type(error).__name__}: {error}") from None


# --- comparison ---------------------------------------------------------------------


def difference(case: Case, mine: Array, other: Array) -> str | None:
    """How two answers disagree; None where they agree."""
    mine, other = np.asarray(mine), np.asarray(other)
    if mine.shape != other.shape:
        return f"shape {mine.shape}, not {other.shape}"
    if DType.of(mine.dtype) is not DType.of(other.dtype):
        return f"type {mine.dtype}, not {other.dtype}"
    dtype = DType.of(mine.dtype)
    if not (dtype.is_float or dtype.is_complex):
        wrong = np.flatnonzero(mine != other)
        if not wrong.size:
            return None
        i = wrong[0]
        return f"{wrong.size} differ: {mine.flat[i]}, not {other.flat[i]} at {i}"
    return far(mine, other, case.ulps)


def far(mine: Array, other: Array, ulps: float) -> str | None:
    """How far two float arrays are apart, where that is more than ``ulps`` units."""
    if mine.dtype.kind == "c":
        parts = [(mine.real, other.real), (mine.imag, other.imag)]
        return next(filter(None, (far(*pair, ulps) for pair in parts)), None)
    unit = float(ml_dtypes.finfo(mine.dtype).eps)
    a, b = mine.astype(np.float64), other.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return None
    finite = np.isfinite(a) & np.isfinite(b)
    odd = np.flatnonzero(~same & ~finite)
    if odd.size:
        i = odd[0]
        return f"{odd.size} differ: {a.flat[i]}, not {b.flat[i]} at {i}"
    scale = np.abs(b[finite]).max()
    scale = max(scale, float(ml_dtypes.finfo(mine.dtype).smallest_normal))
    error = np.abs(np.where(finite, a, 0) - np.where(finite, b, 0))
    worst = int(error.argmax())
    units = error.flat[worst] / (unit * scale)
    if units <= ulps:
        return None
    return f"{units:.1f} units: {a.flat[worst]!r}, not {b.flat[worst]!r} at {worst}"


def disagreements(case: Case, peer: str, answers: Sequence[Array]) -> Iterator[str]:
    """What one peer's answers have against ours, apart from what has a verdict."""
    mine = ours(case)
    pairs = enumerate(zip(mine, answers, strict=True))
    found = [f"result {i}: {d}" for i, (a, b) in pairs if (d := difference(case, a, b))]
    if found and not verdict(f"{peer}: {case}"):
        yield f"{peer}: {case}: {'; '.join(found)}"


def verdict(text: str) -> str | None:
    """The written reason for a disagreement."""
    for pattern, reason in VERDICTS.items():
        if fnmatch.fnmatchcase(text, pattern):
            used.add(pattern)
            return reason
    return None


used: set[str] = set()
"""Verdicts that were needed."""


# --- types --------------------------------------------------------------------------


def symbolic(array: Array) -> TensorType:
    """A type in which each extent above 1 is a symbol: equal extents are one symbol."""
    dims = [symbol(f"d{n}") if n > 1 else n for n in array.shape]
    return TensorType(DType.of(array.dtype), tuple(dims))


VAGUE: tuple[Callable[[Array], Type], ...] = (
    lambda array: TensorType(DType.of(array.dtype), (None,) * array.ndim),
    lambda array: TensorType(DType.of(array.dtype)),
    lambda array: TensorType(),
    lambda array: UNKNOWN,
)
"""Types that know less and less of an operand."""


def vague_faults(case: Case) -> Iterator[str]:
    """Where an op cannot be built on operands of which less is known, or is wrong."""
    results = ours(case)
    for level, typed in enumerate(VAGUE):
        try:
            op = case.build(typed)
        except Exception as error:
            yield f"{case} of vagueness {level}: {type(error).__name__}: {error}"
            continue
        for type_, array in zip(op.types, results, strict=False):
            if not isinstance(type_, TensorType):
                continue
            where = f"{case} of vagueness {level}: {type_}, not {array.shape}"
            if type_.dtype not in (None, DType.of(array.dtype)):
                yield where
            if type_.shape is not None:
                known = [n if d is None else d for d, n in _pairs(type_.shape, array)]
                if tuple(known) != array.shape:
                    yield where


def _pairs(shape: Sequence[Any], array: Array) -> list[tuple[Any, Any]]:
    return list(itertools.zip_longest(shape, array.shape))


def inferred(case: Case, *, loose: bool) -> list[onnx.TypeProto]:
    """The types that onnx.shape_inference finds. Raises NoAnswer."""
    model = model_of(case, LATEST)
    if loose:
        for info in model.graph.input:
            for dim in info.type.tensor_type.shape.dim:
                if dim.dim_value > 1:
                    dim.dim_param = f"d{dim.dim_value}"
    try:
        made = onnx.shape_inference.infer_shapes(model, True, True, True)
    except Exception as error:
        raise NoAnswer(str(error)) from None
    return [info.type for info in made.graph.output]


def type_faults(case: Case) -> list[str]:
    """Where our types know less than onnx's, contradict them, or the results."""
    faults = (f"types: {fault}" for fault in _type_faults(case))
    return [fault for fault in faults if not verdict(fault)]


def _type_faults(case: Case) -> Iterator[str]:
    static, loose = case.op, case.build(symbolic)
    for i, (type_, array) in enumerate(zip(static.types, ours(case), strict=True)):
        if not isinstance(type_, TensorType):
            yield f"{case} result {i}: {type_} is no tensor"
            continue
        if DType.of(array.dtype) is not type_.dtype:
            yield f"{case} result {i}: {array.dtype} computed, {type_} inferred"
        yield from _dim_faults(f"{case} result {i}", type_.shape, array.shape, {})
    extents = {n for a in case.operands if a is not None for n in a.shape if n > 1}
    sizes = {f"d{n}": n for n in extents}
    for op, is_loose in ((static, False), (loose, True)):
        try:
            theirs = inferred(case, loose=is_loose)
        except NoAnswer:
            continue
        for i, (type_, proto) in enumerate(zip(op.types, theirs, strict=True)):
            where = f"{case} result {i}, {'symbolic' if is_loose else 'static'}"
            assert isinstance(type_, TensorType)
            if not proto.HasField("tensor_type"):
                continue
            tensor = proto.tensor_type
            if tensor.elem_type and DType(tensor.elem_type) is not type_.dtype:
                yield f"{where}: {type_}, onnx says {DType(tensor.elem_type)}"
            if tensor.HasField("shape"):
                dims = [
                    d.dim_value if d.HasField("dim_value") else d.dim_param or None
                    for d in tensor.shape.dim
                ]
                yield from _dim_faults(where, type_.shape, dims, sizes)


def _dim_faults(
    where: str, mine: Any, wanted: Sequence[Any], sizes: Mapping[str, int]
) -> Iterator[str]:
    if mine is None or len(mine) != len(wanted):
        yield f"{where}: {mine} is not of rank {len(wanted)}"
        return
    for i, (ours_, theirs) in enumerate(zip(mine, wanted, strict=True)):
        if theirs is None or str(theirs).startswith("unk__"):
            continue
        if isinstance(theirs, int):
            agrees = ours_ == theirs or (
                isinstance(ours_, Expr) and evaluate(ours_, sizes) == theirs
            )
        else:
            agrees = isinstance(ours_, Expr) and str(ours_) == theirs
        if not agrees:
            yield f"{where}: dim {i} is {ours_}, not {theirs}"


__all__ = ["Case", "Op", "constant", "normal", "positive", "special", "sweep", "unit"]
