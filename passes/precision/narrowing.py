"""Build a graph anew with some ops in a narrow float type, casts at their borders.

Each value is cast once, as equal ops are one; constants are converted right away.
Bodies take what they capture in the type that it has; what a loop carries keeps its
type, and a branch's results are narrow only where they are in both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.ir import Graph, Op, Parameter, Value, rebuild
from graphopt.ops import Cast, Clip, Constant, If
from graphopt.ops.control import Control
from graphopt.ops.opaque import Opaque
from graphopt.types import DType, TensorType, Type
from graphopt.weights import Tensor

from .fills import fill_of, saturated
from .shares import Share, is_single


@dataclass
class Narrowing:
    """How a graph is narrowed: the type, and for each op of ``chosen`` its share.

    ``fills`` are values with numbers that stand for infinity. ``flushed`` counts
    elements of constants that became zero.
    """

    to: DType
    chosen: Mapping[Op, Share]
    fills: Collection[Value] = ()
    flushed: int = 0
    _constants: dict[Tensor, Constant] = field(default_factory=dict)

    def graph(self, graph: Graph, *, keep_io: bool = True) -> Graph:
        """The graph with its interface as it was, or with a narrow one."""
        inputs: dict[Value, Parameter] = {}
        if not keep_io:
            inputs = {p: self._parameter(p) for p in graph.inputs if is_single(p)}
        made = self._built(graph, dict(inputs.items()))
        outputs: list[Value] = []
        types: list[Type | None] = []
        for old, new, type_ in zip(
            graph.outputs, made.outputs, graph.output_types, strict=True
        ):
            if is_single(old):
                new = self.single(new) if keep_io else self.narrow(new, old)
                if isinstance(type_, TensorType) and not keep_io:
                    type_ = TensorType(self.to, type_.shape)
            outputs.append(new)
            types.append(type_)
        return made.replace(
            inputs=[inputs.get(p, p) for p in graph.inputs],
            outputs=outputs,
            output_types=types,
        )

    def narrow(self, value: Value, original: Value | None) -> Value:
        """A float32 value in the narrow type; it stands for the ``original`` one."""
        if value.dtype is not DType.F32:
            return value
        if isinstance(value, Constant):
            return self._constant(value.tensor)
        if isinstance(value, Cast):
            source = value.operands[0]
            if source is not None and source.dtype is not None:
                if source.dtype is DType.BOOL or source.dtype.is_integer:
                    return Cast(source, to=self.to)
                if source.dtype is self.to:
                    return source
        fill = fill_of(self.to)
        if fill is not None and original in self.fills:
            bounds = [Constant(np.array(x, np.float32)) for x in (-fill, fill)]
            value = Clip(value, *bounds)
        return Cast(value, to=self.to)

    def single(self, value: Value) -> Value:
        """A value in float32."""
        return Cast(value, to=DType.F32) if value.dtype is self.to else value

    def _constant(self, tensor: Tensor) -> Constant:
        made = self._constants.get(tensor)
        if made is None:
            array = saturated(tensor.array(), self.to)
            with np.errstate(over="ignore"):
                rounded = array.astype(self.to.numpy)
            self.flushed += int(np.count_nonzero((rounded == 0) & (array != 0)))
            made = Constant(Tensor.of(rounded, self.to))
            self._constants[tensor] = made
        return made

    def _parameter(self, parameter: Parameter) -> Parameter:
        """One of a narrow type; what stands for it, if callers give nothing, too."""
        default = parameter.default
        return Parameter(
            TensorType(self.to, parameter.shape),
            parameter.name,
            default=None if default is None else self._constant(default).tensor,
        )

    def _built(self, graph: Graph, mapping: Mapping[Value, Value]) -> Graph:
        return rebuild(graph, self._op, mapping)

    def _op(self, op: Op, operands: tuple[Value | None, ...]) -> Op:
        if isinstance(op, Constant):
            return op
        if isinstance(op, Control):
            return self._control(op, operands)
        if self._follows(op):
            return op if operands == op.operands else op.with_operands(operands)
        share = self.chosen.get(op)
        narrow = () if share is None else share.operands
        made: list[Value | None] = []
        for i, (old, new) in enumerate(zip(op.operands, operands, strict=True)):
            if new is None or not is_single(old):
                made.append(new)
            else:
                made.append(self.narrow(new, old) if i in narrow else self.single(new))
        return op if tuple(made) == op.operands else op.with_operands(made)

    def _follows(self, op: Op) -> bool:
        """True for what only looks at a number, or casts it: any type will do."""
        if isinstance(op, Opaque) or len(op.operands) != 1:
            return False
        if isinstance(op, Cast):
            return DType(op.to) is not DType.STRING
        return op.kind in ("Shape", "Size")

    def _control(self, op: Control, operands: tuple[Value | None, ...]) -> Op:
        """Formal operands keep their types; captures come as they are."""
        formal = len(op.operands) - len(op.captured)
        made = [
            self.single(new)
            if i < formal and new is not None and is_single(old)
            else new
            for i, (old, new) in enumerate(zip(op.operands, operands, strict=True))
        ]
        bodies = [self._body(body, made[formal:]) for body in op.bodies]
        kept = self._narrow_results(op, bodies)
        bodies = [
            new.replace(
                outputs=[
                    value
                    if i in kept or not is_single(old.outputs[i])
                    else self.single(value)
                    for i, value in enumerate(new.outputs)
                ]
            )
            for old, new in zip(op.bodies, bodies, strict=True)
        ]
        return op.copy(operands=made, bodies=bodies)

    def _body(self, body: Graph, captured: Sequence[Value | None]) -> Graph:
        first = len(body.inputs) - len(captured)
        mapping: dict[Value, Value] = {}
        for parameter, value in zip(body.inputs[first:], captured, strict=True):
            if is_single(parameter) and value is not None and value.dtype is self.to:
                mapping[parameter] = self._parameter(parameter)
        made = self._built(body, mapping)
        inputs = [mapping.get(p, p) for p in body.inputs]
        types = [
            None if value.dtype is self.to else type_
            for value, type_ in zip(made.outputs, body.output_types, strict=True)
        ]
        return made.replace(inputs=inputs, output_types=types)

    def _narrow_results(self, op: Control, bodies: Sequence[Graph]) -> set[int]:
        """Outputs of the branches that are narrow in each."""
        if not isinstance(op, If):
            return set()
        return {
            i
            for i, values in enumerate(zip(*(b.outputs for b in bodies), strict=True))
            if all(value.dtype is self.to for value in values)
        }


def with_interface_of(before: Graph, after: Graph) -> Graph:
    """A graph that takes and gives what ``before`` does, by casts around ``after``."""
    inputs: dict[Value, Value] = {}
    for old, new in zip(before.inputs, after.inputs, strict=True):
        if old.dtype is not new.dtype and new.dtype is not None:
            inputs[new] = Cast(old, to=new.dtype)
    made = after.substitute(inputs)
    outputs = [
        Cast(new, to=old.dtype)
        if old.dtype is not None and old.dtype is not new.dtype
        else new
        for old, new in zip(before.outputs, made.outputs, strict=True)
    ]
    return made.replace(
        inputs=[
            old if new in inputs else new
            for old, new in zip(before.inputs, after.inputs, strict=True)
        ],
        outputs=outputs,
        output_types=before.output_types,
    )
