"""Models of one op of ONNX Runtime's own, and what its kernel says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, helper, numpy_helper

import graphopt

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(eq=False)
class Case:
    """A node: its operands (None for one that is absent), attributes, results."""

    kind: str
    operands: Sequence[Array | None]
    attrs: dict[str, Any] = field(default_factory=dict)
    outs: int = 1
    domain: str = "com.microsoft"
    opset: int = 17

    def __str__(self) -> str:
        shapes = ",".join(
            "-" if a is None else "x".join(map(str, a.shape)) or "0d"
            for a in self.operands
        )
        attrs = " ".join(f"{k}={v}" for k, v in self.attrs.items())
        return f"{self.kind} [{shapes}] {attrs}".strip()

    def inputs(self) -> dict[str, Array]:
        """The operands of real numbers: others steer, and are constants."""
        return {
            f"x{i}": a
            for i, a in enumerate(self.operands)
            if a is not None and a.dtype.kind not in "iub"
        }

    def model(self, *, copied: bool = False) -> ModelProto:
        """The node alone, or with a copy of each result."""
        named = [None if a is None else f"x{i}" for i, a in enumerate(self.operands)]
        inputs, constants = [], []
        for name, array in zip(named, self.operands, strict=True):
            if array is None:
                continue
            if name in self.inputs():
                dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
                inputs.append(helper.make_tensor_value_info(name, dtype, array.shape))
            else:
                constants.append(numpy_helper.from_array(array, name))
        results = [f"y{i}" for i in range(self.outs)]
        node = helper.make_node(
            *(self.kind, [name or "" for name in named], results),
            domain=self.domain,
            **self.attrs,
        )
        nodes, given = [node], results
        if copied:
            given = [f"z{i}" for i in range(self.outs)]
            pairs = zip(results, given, strict=True)
            nodes += [helper.make_node("Identity", [y], [z]) for y, z in pairs]
        outputs = [helper.make_empty_tensor_value_info(name) for name in given]
        graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets.append(helper.make_opsetid("com.microsoft", 1))
        return helper.make_model(graph, ir_version=10, opset_imports=opsets)


def faults_of_meaning(case: Case, *, rtol: float = 2e-5, step: int = 0) -> list[str]:
    """Where our results are not those of the kernel.

    Real numbers may be apart by ``rtol`` of the largest that is finite; integers by
    ``step`` in one of a hundred places, where the kernel rounds a number that it
    computes another way.
    """
    model, inputs = case.model(), case.inputs()
    ours = graphopt.run_model(model, inputs)
    theirs = graphopt.run_model(model, inputs, target="ort-cpu")
    faults = []
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            faults.append(f"y{i}: {a.dtype}{a.shape}, not {b.dtype}{b.shape}")
            continue
        if a.dtype.kind in "iub":
            wide = np.abs(a.astype(np.float64) - b.astype(np.float64))
            few = np.count_nonzero(wide) <= max(1, wide.size // 100)
            if wide.max(initial=0) > step or (step and not few):
                faults.append(f"y{i}: {np.count_nonzero(wide)} apart")
        elif (fault := fault_of_reals(a, b, rtol)) is not None:
            faults.append(f"y{i}: {fault}")
    return faults


def fault_of_reals(ours: Array, theirs: Array, rtol: float) -> str | None:
    """Where numbers are apart by more than ``rtol`` of the largest that is finite.

    What is not finite must be the same in the same places, and cannot be all there is.
    """
    finite = np.isfinite(theirs)
    if theirs.size and not finite.any():
        return "nothing is finite"
    largest = float(np.abs(theirs[finite].astype(np.float64)).max(initial=0))
    wide = ours.astype(np.float64), theirs.astype(np.float64)
    try:
        np.testing.assert_allclose(*wide, rtol=0, atol=rtol * largest, equal_nan=True)
    except AssertionError as error:
        return str(error)
    return None


def faults_of_types(case: Case) -> list[str]:
    """Where inferred types are not those of the results, or lack a dim."""
    model = case.model()
    graph = graphopt.load(model)
    made = graphopt.run_model(model, case.inputs())
    return [
        f"{value.type}, not {array.dtype}{array.shape}"
        for value, array in zip(graph.outputs, made, strict=True)
        if value.shape != array.shape
        or value.dtype is None
        or value.dtype.numpy != array.dtype
    ]


def faults_of_keeping(case: Case) -> list[str]:
    """What of a model is unchecked once optimized, or no longer what it was."""
    model = case.model(copied=True)
    result = graphopt.optimize(graphopt.load(model))
    check = result.report.check
    assert check is not None
    assert check.mode != "identical"
    faults = [f"unchecked: {check.unchecked}"] if check.unchecked else []
    faults += [] if check.passed else [f"failed: {check}"]
    made = graphopt.optimize_model(model).graph.node
    if [node.op_type for node in made] != [case.kind]:
        return [*faults, f"became {[node.op_type for node in made]}"]
    options = {a.name: helper.get_attribute_value(a) for a in made[0].attribute}
    more = options.keys() - case.attrs.keys()
    return faults + [f"has {name!r} now" for name in sorted(more)]
