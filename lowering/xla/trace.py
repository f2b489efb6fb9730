"""Evaluate a graph on JAX's tracers: what shapes decide stays with NumPy.

A value is an ``np.ndarray`` where it is known before the program runs (constants, what
follows from shapes, inputs that steer shapes), else a JAX array. An op on known values
alone runs on the host; the others are traced from the same `compute`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim

from graphopt.errors import GraphoptError, UnsupportedModel
from graphopt.ir import Op, Value
from graphopt.ops.constant import Constant
from graphopt.ops.control import If, Loop, Run, no_rows
from graphopt.ops.generation import Shape
from graphopt.ops.mesh import OverMesh
from graphopt.ops.random import draws
from graphopt.ops.strips import Strips
from graphopt.ops.structured import Computed
from graphopt.ops.tiled import Tiled
from graphopt.reference import EvaluationFailed, Evaluator
from graphopt.types import TensorType, Type
from graphopt.xp import host, traced
from graphopt.xp.tracing import Traced

from .kept import keep
from .overrides import OVERRIDES
from .steering import STRUCTURAL
from .symbols import computed, is_open, known_of, packed
from .tiles import in_strips, looped

Array = Any

LITERAL_BYTES: Final = 1 << 16
"""Known values of more bytes are computed by the program instead of written into it,
and constants of more are weights, whatever their type."""

MOST_TURNS: Final = 1024
"""A loop whose turns differ in shape is written out, up to so many turns."""

_CONCRETE: Final = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


class DataDependent(UnsupportedModel, NotImplementedError):
    """A shape depends on data, but XLA compiles for known shapes."""


class NotInXla(UnsupportedModel, NotImplementedError):
    """XLA has no such values, or no such op."""


class Open(UnsupportedModel, NotImplementedError):
    """An op needs the number that a symbolic dim stands for."""

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(message, where=where)
        self.reason = message
        self.op: Op
        self.shapes = ""

    @classmethod
    def at(cls, op: Op, operands: Sequence[Array], reason: Exception) -> Open:
        """The error for an op on operands of open shapes."""
        if isinstance(reason, EvaluationFailed) and reason.__cause__ is not None:
            reason = cast(Exception, reason.__cause__)  # which it only names
        text: str = getattr(reason, "message", str(reason))
        shapes = ", ".join(str(getattr(a, "shape", "")) for a in operands)
        said = text.strip().partition("\n")[0]
        error = cls(f"{op.label} of {shapes}: {said}", where=op.label)
        error.reason, error.op, error.shapes = said, op, shapes
        return error


class Misfit(EvaluationFailed):
    """An op does not take its operands, which only the trace shows: names its node."""


class Tracer(Evaluator):
    """Computes values from others, op by op, under a trace or eagerly.

    ``weights`` are the arrays that stand for some constants; ``steering`` the values
    that must be known. Sizes in ``symbols`` may be JAX's symbolic dims. ``precision``
    is that of `graphopt.xp.traced`. ``sources`` name ops, in profiles and in what XLA
    says of them. Random ops that state no seed draw from ``key``. Values that are
    ``kept`` are not made again; see `kept.kept`.
    """

    def __init__(
        self,
        weights: Mapping[Value, Array],
        steering: Collection[Value],
        symbols: Mapping[str, Any],
        precision: str = "highest",
        sources: Mapping[Op, Sequence[str]] | None = None,
        key: Array | None = None,
        kept: Mapping[Value, bool] = MappingProxyType({}),
    ) -> None:
        fixed = {n: s for n, s in symbols.items() if not is_symbolic_dim(s)}
        super().__init__(seed=0, symbols=fixed)
        self.sizes = symbols
        self.is_open = len(fixed) < len(symbols)
        self.sources = sources or {}
        self.weights = weights
        self.steering = steering
        self.xp = traced(precision) if key is None else Traced(precision, key)
        self.key = key
        self.kept = kept
        self.host = Evaluator(seed=0, symbols=fixed)

    def apply(self, op: Op, operands: Sequence[Array]) -> tuple[Array, ...]:
        if isinstance(op, Constant):
            weight = self.weights.get(op)
            return (op.tensor.array() if weight is None else weight,)
        if self.is_open:
            known = self._from_shapes(op, operands)
            if known is not None:
                return known
            operands = self._closed(op, operands)
        drawing = draws(op)
        if drawing and self.key is None:
            raise NotInXla(
                f"{op.label} draws random numbers; without a key they would be the same"
                " in every run: give one, fn.keyed(jax.random.key(0))",
                where=op.label,
            )
        if (
            not drawing
            and not op.bodies
            and not isinstance(op, OverMesh)  # devices differ in what is known
            and all(map(_is_literal, operands))
            and self._is_small(op)
        ):
            with host().scope():
                return self.host.apply(op, operands)
        if isinstance(op, Computed):
            for i in op.static:
                if i < len(operands) and not is_known(operands[i]):
                    raise depends_on_data(op, i)
        name = self.sources.get(op, (op.label,))[0]
        try:
            with jax.named_scope(name):
                if isinstance(op, OverMesh):  # has no `compute` of one device
                    return self._finished(op, self._compute(op, operands))
                return self._whole(op, super().apply(op, operands))
        except Misfit:
            raise
        except EvaluationFailed as error:
            if any(map(_has_open_shape, operands)):
                raise Open.at(op, operands, error) from error
            if isinstance(error.__cause__, _CONCRETE):
                raise depends_on_data(op) from error.__cause__
            raise self._misfit(op, operands, error) from error.__cause__
        except Exception as error:  # what JAX raises is not the same in all versions
            expected = not isinstance(error, GraphoptError | NameError | AssertionError)
            if not expected or not any(map(_has_open_shape, operands)):
                raise
            raise Open.at(op, operands, error) from error

    def _whole(self, op: Op, made: tuple[Array, ...]) -> tuple[Array, ...]:
        last = self.kept.get(op.results[0])
        if last is None or not isinstance(made[0], jax.Array):
            return made
        return (keep(made[0], channels_last=last),)

    def _misfit(self, op: Op, operands: Sequence[Array], error: Exception) -> Misfit:
        """The error for operands that an op does not take."""
        shapes = ", ".join(
            f"{a.dtype}{list(a.shape)}" if hasattr(a, "shape") else type(a).__name__
            for a in operands
        )
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        sizes = ", ".join(f"{n.lstrip('?')}={s}" for n, s in self.sizes.items())
        given = (
            f"; the sizes are {sizes}, try others (on the command line by --dim)"
            if sizes
            else ""
        )
        node = ", ".join(map(repr, self.sources.get(op, ())))
        return Misfit(
            f"{op.label} does not take {shapes}: {reason}{given}",
            where=f"{op.label} node {node}" if node else op.label,
        )

    def _from_shapes(
        self, op: Op, operands: Sequence[Array]
    ) -> tuple[Array, ...] | None:
        """The results as far as they follow from shapes; None where one does not."""
        if isinstance(op, Shape) and isinstance(operands[0], jax.Array):
            sizes = operands[0].shape[op.part(operands[0].ndim)]
            return (packed(list(sizes), (len(sizes),), np.dtype(np.int64)),)
        results = [known_of(value, self.sizes) for value in op.results]
        return None if any(r is None for r in results) else tuple(results)

    def _closed(self, op: Op, operands: Sequence[Array]) -> list[Array]:
        """Operands of which only those that steer shapes hold symbolic dims.

        One that does leaves the op to the program, and so all that is data.
        """
        if not any(map(is_open, operands)):
            return list(operands)
        static = op.static if isinstance(op, Computed) else ()
        return [
            array if i in static else self.placed(array, value)
            for i, (array, value) in enumerate(zip(operands, op.operands, strict=True))
        ]

    def placed(self, array: Array, value: Value | None) -> Array:
        """What a value is in the program."""
        if value is None or value.dtype is None or not is_open(array):
            return on_device(array)
        return computed(array, value.dtype.numpy)

    def _is_small(self, op: Op) -> bool:
        """True where results are small, or steer shapes, or have types XLA lacks."""
        if not self.steering.isdisjoint(op.results):  # type: ignore[attr-defined]
            return True
        sizes = [self._size(type_) for type_ in op.types]
        return all(size is None or size <= LITERAL_BYTES for size in sizes)

    def _compute(self, op: Computed, operands: Sequence[Array]) -> Any:
        if isinstance(op, STRUCTURAL):
            return op.compute(host(), *operands)
        override = OVERRIDES.get(type(op))
        if override is not None:
            return override(op, self.xp, *operands)
        if isinstance(op, If):
            return self._branch(op, operands)
        if isinstance(op, Loop):
            return self._loop(op, operands)
        if isinstance(op, Tiled):
            return looped(op, operands, lambda arrays: self.body(op, 0, arrays))
        if isinstance(op, Strips):
            return in_strips(op, operands, lambda arrays: self.body(op, 0, arrays))
        if not op.bodies:
            return op.compute(self.xp, *operands)

        def run(index: int, arrays: Sequence[Array]) -> list[Array]:
            return self.body(op, index, arrays)

        return op.compute(self.xp, *operands, run=run)  # type: ignore[call-arg]

    def _typed(self, array: Array, type_: Type) -> Array:
        if is_open(array):
            return array
        if not isinstance(array, jax.Array):
            return super()._typed(array, type_)
        if not isinstance(type_, TensorType) or type_.dtype is None:
            return array
        dtype = self.xp.dtype(type_.dtype)
        return array if array.dtype == dtype else array.astype(dtype)

    # Control flow

    def body(self, op: Op, index: int, arrays: Sequence[Array]) -> list[Array]:
        """The outputs of one body of an op on arrays for all its parameters."""
        graph, outside = op.bodies[index], self.sources
        self.sources = {**outside, **graph.sources}
        try:
            return self.run(graph.outputs, dict(zip(graph.inputs, arrays, strict=True)))
        finally:
            self.sources = outside

    def _branch(self, op: If, operands: Sequence[Array]) -> Any:
        """A known condition leaves one branch; what is captured stays known."""
        cond, *captured = operands
        if is_known(cond):
            made = self.body(op, 0 if cond.item() else 1, captured)
        else:
            branches = [
                lambda i=i: tuple(map(on_device, self.body(op, i, captured)))
                for i in (0, 1)
            ]
            try:
                made = jax.lax.cond(jnp.reshape(cond, ()), *branches)
            except TypeError as error:
                raise DataDependent(
                    f"the branches of {op.label} differ in shape or type, and which one"
                    " is taken depends on data",
                    where=op.label,
                ) from error
        return tuple(made) if op.outs > 1 else made[0]

    def _loop(self, op: Loop, operands: Sequence[Array]) -> Any:
        """One traced turn where all are alike; else each turn by itself."""

        def run(index: int, arrays: Sequence[Array]) -> list[Array]:
            return self.body(op, index, arrays)

        if self._turns_alike(op, operands, run):
            return op.compute(self.xp, *operands, run=run)
        return self._turns(op, operands, run)

    def _turns_alike(self, op: Loop, operands: Sequence[Array], run: Run) -> bool:
        """True where no turn needs its number, or gives other shapes than it got."""
        limit, carried = operands[0], list(operands[2 : 2 + op.carried])
        counted = isinstance(limit, np.ndarray) and op.goes_on
        if op.outs > op.carried and not counted:
            return False
        if op.bodies[0].inputs[0] in self.steering:
            return False
        if not all(isinstance(a, np.ndarray | jax.Array) for a in carried):
            return False
        step = op.step(operands[2 + op.carried :], run)
        number, keep = jnp.zeros((), np.int64), jnp.ones((), np.bool_)
        made = jax.eval_shape(lambda *state: step(number, keep, state), *carried)
        return all(
            isinstance(b, jax.ShapeDtypeStruct)
            and (a.shape, a.dtype) == (b.shape, b.dtype)
            for a, b in zip(carried, made[1:], strict=False)
        )

    def _turns(self, op: Loop, operands: Sequence[Array], run: Run) -> Any:
        """Each turn by itself, as Python would; how many there are is known."""
        limit, cond, *others = [*operands, None, None][: max(len(operands), 2)]
        if not is_known(limit) or not is_known(cond):
            raise depends_on_data(op, 1 if is_known(limit) else 0)
        carried, captured = others[: op.carried], others[op.carried :]
        step = op.step(captured, run)
        rows: list[list[Array]] = [[] for _ in op.types[op.carried :]]
        keep = np.asarray(True if cond is None else cond.item())
        number = 0
        while keep.item() and (limit is None or number < limit.item()):
            if number == MOST_TURNS:
                raise DataDependent(
                    f"{op.label}: turns that differ in shape, and more than {number}",
                    where=op.label,
                )
            keep, *made = step(np.asarray(number), keep, carried)
            if not is_known(keep):
                raise depends_on_data(op, 1)
            carried = made[: op.carried]
            for column, row in zip(rows, made[op.carried :], strict=True):
                column.append(row)
            number += 1
        stacks = [
            self.xp.stack(column) if column else no_rows(self.xp, type_)
            for column, type_ in zip(rows, op.types[op.carried :], strict=True)
        ]
        results = (*carried, *stacks)
        return results if op.outs > 1 else results[0]


def is_known(value: Array) -> bool:
    """True for what is known before the program runs; sequences hold such or not."""
    if isinstance(value, list):
        return all(map(is_known, value))
    return not isinstance(value, jax.Array)


def _is_literal(value: Array) -> bool:
    """True for what the host can compute with."""
    return is_known(value) and not is_open(value)


def _has_open_shape(value: Array) -> bool:
    return is_open(value) or any(map(is_symbolic_dim, getattr(value, "shape", ())))


def on_device(value: Array) -> Array:
    """A known value as JAX has it; sequences element by element."""
    if isinstance(value, list):
        return [on_device(element) for element in value]
    if value is None or isinstance(value, jax.Array):
        return value
    if value.dtype == object:
        raise NotInXla("XLA has no strings")
    return jnp.asarray(value)


def depends_on_data(op: Op, index: int | None = None) -> DataDependent:
    """The error for an operand that must be known, and is not."""
    names = getattr(op, "schema", lambda: None)()
    named = getattr(names, "operand_names", ())
    what = "an operand"
    if index is not None:
        what = f"operand {named[index]!r}" if index < len(named) else f"operand {index}"
    return DataDependent(
        f"{what} of {op.label} decides shapes and depends on data, but XLA compiles for"
        " known shapes: make it a constant or a small integer input, or use a target"
        " that has dynamic shapes (ort-cpu, reference)",
        where=op.label,
    )
