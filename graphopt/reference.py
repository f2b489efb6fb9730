"""The NumPy evaluator: what a graph computes, in its own precision or in float64.

Each op runs its `compute` on arrays, a composite op without one its body. Memory is
freed at the last use, nothing recurses over the graph, and a budget is checked before
anything is allocated. In ``float64`` every float16, bfloat16 and float32 tensor is
float64 and stays so; only a Cast to a coarser type rounds, as it does in the model.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from . import dims
from .errors import GraphoptError, NoReference
from .feeds import bind
from .ir import Graph, Op, Parameter, Value
from .ops.constant import Constant
from .ops.conversion import Cast, CastLike
from .ops.opaque import Opaque
from .ops.structured import Composite, Computed
from .types import DType, TensorType, Type
from .weights import Tensor
from .xp import Namespace, host
from .xp.wide import Wide, widened_type

Array: TypeAlias = Any
"""An ``np.ndarray``; a list for a sequence; None for an optional that holds nothing."""

_WIDE: Final = Wide()
_KEPT: Final = 64 << 20  # bytes of widened constants that bodies may ask for again
_MISTAKES: Final = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)


class EvaluationFailed(GraphoptError):
    """An op cannot compute on what it got; names the op and its operands."""

    exit_code = 3


class OutOfBudget(GraphoptError):
    """A value would need more memory than the run was given."""

    exit_code = 6


def evaluate(
    graph: Graph,
    inputs: Mapping[str, Array] | Sequence[Array],
    *,
    precision: str = "native",
    wanted: Iterable[Value] | None = None,
    limit_bytes: int | None = None,
    seed: int | None = None,
) -> list[Array]:
    """The outputs in order, or the ``wanted`` values of the graph.

    ``inputs`` go by name or in order; those with a default may be left out.
    ``precision`` is "native" or "float64". ``limit_bytes`` bounds what is alive at a
    time; ``seed`` lets random ops run. Raises UsageError where inputs do not fit,
    NoReference for an op without one, EvaluationFailed, OutOfBudget.
    """
    fed, symbols = bind(graph, inputs)
    evaluator = Evaluator(
        precision=precision, limit_bytes=limit_bytes, seed=seed, symbols=symbols
    )
    env: dict[Value, Array] = {v: evaluator.adopt(a) for v, a in fed.items()}
    if wanted is not None:
        return evaluator.run(tuple(wanted), env)
    return evaluator.run_plan(_plan_of(graph, env), env)


def run(
    graph: Graph, inputs: Mapping[str, Array] | Sequence[Array], **options: Any
) -> dict[str, Array]:
    """The outputs by name; options are those of `evaluate`."""
    values = evaluate(graph, inputs, **options)
    return dict(zip(graph.output_names, values, strict=True))


def fold(op: Op, operands: Sequence[Array] | None = None) -> tuple[Array, ...]:
    """The results of one op, on its constant operands or on the given arrays.

    Raises NoReference where an operand is not constant or the op has no reference.
    """
    if operands is None:
        operands = []
        for value in op.operands:
            tensor = None if value is None else value.constant
            if value is not None and tensor is None:
                raise NoReference(f"an operand of {op.kind} is not constant")
            operands.append(None if tensor is None else tensor.array())
    evaluator = Evaluator()
    with evaluator.xp.scope():
        return evaluator.apply(op, operands)


def has_reference(op: Op) -> bool:
    """True where `evaluate` can run the op; random ops need a seed and do not count."""
    if isinstance(op, Constant):
        return True
    if not isinstance(op, Computed) or not op.deterministic or not op.available():
        return False
    if type(op).compute is Computed.compute and not isinstance(op, Composite):
        return False
    return all(has_reference(inner) for body in op.bodies for inner in body.ops)


class OutOfTime(GraphoptError):
    """A run took longer than it was given."""


clock: Final = time.thread_time
"""The clock of deadlines: what this thread works, not how long it waits for others."""


class Evaluator:
    """Computes values from others, op by op.

    ``symbols`` gives the sizes of named dims, to know what results take before they are
    computed. ``after(op, index, array)`` may replace each result. Past ``deadline``
    (of `clock`, in the thread that runs) it raises OutOfTime.
    """

    def __init__(
        self,
        *,
        precision: str = "native",
        limit_bytes: int | None = None,
        seed: int | None = None,
        symbols: Mapping[str, int] | None = None,
        after: Callable[[Op, int, Array], Array] | None = None,
        deadline: float | None = None,
    ) -> None:
        if precision not in ("native", "float64"):
            raise ValueError(f"precision is 'native' or 'float64', not {precision!r}")
        self.wide = precision == "float64"
        self.xp: Namespace = _WIDE if self.wide else host()
        self.limit_bytes = limit_bytes
        self.seed = seed
        self.symbols = dict(symbols or {})
        self.after = after
        self.deadline = deadline
        self.alive = 0
        self._widened: OrderedDict[Tensor, Array] = OrderedDict()

    def run(self, wanted: Sequence[Value], env: Mapping[Value, Array]) -> list[Array]:
        """The wanted values, where those in ``env`` are known."""
        return self.run_plan(_Plan(wanted, env), env)

    def run_plan(self, plan: _Plan, env: Mapping[Value, Array]) -> list[Array]:
        """The values that the plan is for."""
        try:
            with self.xp.scope():
                return self._run(plan, env)
        except MemoryError as error:
            raise OutOfBudget(f"out of memory: {error}") from error

    def steps(
        self, wanted: Sequence[Value], env: Mapping[Value, Array]
    ) -> Iterator[tuple[Value, Array]]:
        """Each result that ``wanted`` needs, as it is computed; freed after its use."""
        plan = _Plan(wanted, env)
        steps = self._steps(plan, plan.cells(env))
        while True:
            with self.xp.scope():
                step = next(steps, None)
            if step is None:
                return
            op, made = step
            yield from zip(op.results, made, strict=True)

    def adopt(self, array: Array) -> Array:
        """A value from outside as this precision has it."""
        return widen(array) if self.wide else array

    def _run(self, plan: _Plan, env: Mapping[Value, Array]) -> list[Array]:
        cells, alive = plan.cells(env), self.alive
        deque(self._steps(plan, cells), maxlen=0)
        self.alive = alive
        return [cells[place] for place in plan.wanted]

    def _steps(
        self, plan: _Plan, cells: list[Array]
    ) -> Iterator[tuple[Op, tuple[Array, ...]]]:
        counting = self.limit_bytes is not None
        taken: dict[int, int] = {}
        for op, operands, results, dead in plan.steps:
            if self.deadline is not None and clock() > self.deadline:
                raise OutOfTime("the time for this run is over")
            made = self.apply(op, [cells[place] for place in operands])
            for place, array in zip(results, made, strict=True):
                cells[place] = array
            if counting and (self.wide or not isinstance(op, Constant)):
                for place, array in zip(results, made, strict=True):
                    if place > 0:
                        taken[place] = _bytes_of(array)
                        self.alive += taken[place]
            yield op, made
            del made
            for place in dead:
                cells[place] = None
                if counting:
                    self.alive -= taken.pop(place, 0)

    def _constant(self, tensor: Tensor) -> Array:
        if not self.wide or widened_type(tensor.dtype) is tensor.dtype.numpy:
            return tensor.array()
        found = self._widened.get(tensor)
        if found is None:
            self._reserve(8 * tensor.size, lambda: f"a constant {tensor.type}")
            found = widen(tensor.array())
            if found.nbytes <= _KEPT // 8:
                self._widened[tensor] = found
                while sum(a.nbytes for a in self._widened.values()) > _KEPT:
                    self._widened.popitem(last=False)
        return found

    # One op

    def apply(self, op: Op, operands: Sequence[Array]) -> tuple[Array, ...]:
        """The results of one op on arrays. Call it within ``xp.scope()``."""
        if isinstance(op, Constant):
            return (self._constant(op.tensor),)
        if isinstance(op, Opaque):
            raise op.no_reference()
        if not isinstance(op, Computed):
            raise NoReference(f"no reference for {op.label}")
        if not op.deterministic and self.seed is None:
            raise NoReference(f"{op.label} is random, and no seed is given")
        if self.limit_bytes is not None:
            self._afford(op, operands)
        try:
            if self.wide and isinstance(op, Cast):
                return (self._cast(op, operands[0]),)
            computed = type(op).compute is not Computed.compute
            if isinstance(op, CastLike) and self.wide:
                computed = False  # a wide operand does not say its element type
            if isinstance(op, Composite) and not computed:
                return self._expand(op, operands)
            if not computed:
                raise NoReference(f"no reference for {op.label}, only its types")
            return self._finished(op, self._compute(op, operands))
        except _MISTAKES as error:
            if isinstance(error, NoReference):
                raise
            shown = ", ".join(map(_describe, operands))
            raise EvaluationFailed(
                f"{type(error).__name__}: {error}", where=f"{op.kind}({shown})"
            ) from error
        except GraphoptError as error:
            if error.where is None and not isinstance(error, NoReference):
                error.where = f"{op.kind}({', '.join(map(_describe, operands))})"
            raise

    def _compute(self, op: Computed, operands: Sequence[Array]) -> Any:
        if not op.bodies:
            return op.compute(self.xp, *operands)

        def body(index: int, arrays: Sequence[Array]) -> list[Array]:
            graph = op.bodies[index]
            env: dict[Value, Array] = dict(zip(graph.inputs, arrays, strict=True))
            return self._run(_plan_of(graph, env), env)

        return op.compute(self.xp, *operands, run=body)  # type: ignore[call-arg]

    def _expand(self, op: Composite, operands: Sequence[Array]) -> tuple[Array, ...]:
        made = op.expansion
        if made is None:
            op = _concrete(op, operands)
            made = op.expansion
        if made is None:
            raise NoReference(f"no reference for {op.label} on these operands")
        env = {
            value: array
            for value, array in zip(op.operands, operands, strict=False)
            if value is not None and not isinstance(value, Constant)
        }
        wanted = made[: op.outs]
        plan = _EXPANSIONS.get(op)
        if plan is None or plan.known != env.keys():
            plan = _EXPANSIONS[op] = _Plan(wanted, env)
        return self._finished(op, tuple(self._run(plan, env)))

    def _cast(self, op: Cast, x: Array) -> Array:
        """A cast in real numbers: only a coarser type rounds."""
        operand, target = op.operands[0], DType(op.to)
        source = None if operand is None else operand.dtype
        rounded = source in _WIDENED
        if source is not None and rounded and target.holds(source):
            return x
        return widen(host().cast(x, target, **_cast_options(op)))

    def _finished(self, op: Op, made: Any) -> tuple[Array, ...]:
        """Results of the declared element types, one for each of ``op.outs``."""
        results = made if isinstance(made, tuple) else (made,)
        if len(results) != op.outs:
            raise ValueError(f"{len(results)} results, not {op.outs}")
        finished = tuple(map(self._typed, results, op.types))
        if self.after is not None and not op.bodies:
            finished = tuple(self.after(op, i, x) for i, x in enumerate(finished))
        return finished

    def _typed(self, array: Array, type_: Type) -> Array:
        if isinstance(array, np.generic):
            array = np.asarray(array)
        if (
            isinstance(array, np.ndarray)
            and isinstance(type_, TensorType)
            and type_.dtype is not None
        ):
            dtype = type_.dtype.numpy
            if self.wide:
                dtype = widened_type(dtype)
            return array if array.dtype is dtype else array.astype(dtype, copy=False)
        return widen(array) if self.wide else array

    # Memory

    def _afford(self, op: Computed, operands: Sequence[Array]) -> None:
        sizes = [self._size(t) for t in op.types]
        if None in sizes and all(isinstance(t, TensorType) for t in op.types):
            try:
                types = _concrete(op, operands).types
            except GraphoptError:
                return
            sizes = [self._size(t) for t in types]
        need = sum(size for size in sizes if size is not None)
        self._reserve(need, lambda: f"{op.kind} : {', '.join(map(str, op.types))}")

    def _reserve(self, need: int, what: Callable[[], str]) -> None:
        if self.limit_bytes is not None and self.alive + need > self.limit_bytes:
            raise OutOfBudget(
                f"{what()} takes {need >> 20} MiB on top of {self.alive >> 20} MiB; "
                f"the limit is {self.limit_bytes >> 20} MiB"
            )

    def _size(self, type_: Type) -> int | None:
        if not isinstance(type_, TensorType):
            return None
        if type_.dtype is None or type_.shape is None:
            return None
        numpy = widened_type(type_.dtype) if self.wide else type_.dtype.numpy
        try:
            extents: list[int] = [dims.evaluate(d, self.symbols) for d in type_.shape]
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
        return math.prod(extents) * numpy.itemsize


class _Step(NamedTuple):
    """One op of a plan. Places are cells of the run: the first is an absent operand,
    the last takes what nothing reads."""

    op: Op
    operands: tuple[int, ...]
    results: tuple[int, ...]
    dead: tuple[int, ...]
    """Places that no later step reads."""


class _Plan:
    """How some values are computed where others are known: steps, and where what is."""

    def __init__(self, wanted: Sequence[Value], known: Iterable[Value]) -> None:
        self.known = frozenset(known)
        ops = schedule(wanted, self.known)
        last: dict[Value | None, int] = {}
        for index, op in enumerate(ops):
            last.update(dict.fromkeys(op.operands, index))
        last.update(dict.fromkeys(wanted, len(ops)))
        last.pop(None, None)
        places: dict[Value | None, int] = {None: 0}
        for value in last:
            places[value] = len(places)
        dead: list[list[int]] = [[] for _ in range(len(ops) + 1)]
        for value, index in last.items():
            dead[index].append(places[value])
        self.size = len(places)
        self.given = [(v, place) for v, place in places.items() if v in self.known]
        self.wanted = [places[value] for value in wanted]
        self.steps = [
            _Step(
                op,
                tuple([places[value] for value in op.operands]),
                tuple([places.get(value, -1) for value in op.results]),
                tuple(dead[index]),
            )
            for index, op in enumerate(ops)
        ]

    def cells(self, env: Mapping[Value, Array]) -> list[Array]:
        """The memory of a run, at its start."""
        cells: list[Array] = [None] * (self.size + 1)
        for value, place in self.given:
            cells[place] = env[value]
        return cells


_PLANS: Final[WeakKeyDictionary[Graph, _Plan]] = WeakKeyDictionary()
_EXPANSIONS: Final[WeakKeyDictionary[Op, _Plan]] = WeakKeyDictionary()


def _plan_of(graph: Graph, known: Mapping[Value, Any]) -> _Plan:
    """How to compute all outputs of a graph; kept, as graphs run more than once."""
    plan = _PLANS.get(graph)
    if plan is None or plan.known != known.keys():
        plan = _PLANS[graph] = _Plan(graph.outputs, known)
    return plan


def schedule(wanted: Iterable[Value], known: Iterable[Value]) -> list[Op]:
    """Ops in the order in which they compute ``wanted``, going back to ``known``.

    Raises NoReference where that needs a parameter that is not known.
    """
    given = set(known)
    order: list[Op] = []
    done: set[Op] = set()
    for root in wanted:
        stack: list[tuple[Value, bool]] = [(root, False)]
        while stack:
            value, ready = stack.pop()
            op = value.op
            if ready:
                assert op is not None
                order.append(op)
                continue
            if value in given or op in done:
                continue
            if op is None:
                name = value.name if isinstance(value, Parameter) else "?"
                raise NoReference(f"the parameter {name!r} has no value here")
            done.add(op)
            stack.append((op, True))
            stack.extend((v, False) for v in reversed(op.operands) if v is not None)
    return order


# --- what the evaluator asks ---------------------------------------------------------

_WIDENED: Final = (DType.BF16, DType.F16, DType.F32)
"""Float types that are float64 in a wide run, and stay so in those that hold them."""


def widen(array: Array) -> Array:
    """An array, or a sequence of them, in the types of `Wide`."""
    if isinstance(array, np.ndarray):
        return array.astype(widened_type(array.dtype), copy=False)
    if isinstance(array, list):
        return [widen(element) for element in array]
    return array


def _cast_options(op: Cast) -> dict[str, Any]:
    return {"saturate": bool(op.saturate), "round_mode": op.round_mode}


def _concrete(op: Any, operands: Sequence[Array]) -> Any:
    """The op on operands of which shapes, and what steers them, are known."""
    values: list[Value | None] = []
    for i, (value, array) in enumerate(zip(op.operands, operands, strict=False)):
        if value is None or isinstance(value, Constant):
            values.append(value)
        elif not isinstance(array, np.ndarray):
            values.append(Parameter(value.type))
        elif i in op.static:
            values.append(Constant(Tensor.of(array, value.dtype)))
        else:
            values.append(Parameter(TensorType(value.dtype, array.shape)))
    return op.with_operands(values)


def _bytes_of(array: Array) -> int:
    if isinstance(array, np.ndarray):
        # A view costs nothing beyond what it looks into; a mapped file no memory.
        return array.nbytes if array.base is None else 0
    return sum(map(_bytes_of, array)) if isinstance(array, list) else 0


def _describe(array: Array) -> str:
    if hasattr(array, "shape"):
        return f"{array.dtype}{list(array.shape)}"
    return type(array).__name__ if array is not None else "-"
