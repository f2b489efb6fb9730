"""Classical models (ai.onnx.ml) of one node, compared with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.importer import load
from graphopt.ops import Opaque
from graphopt.types import DType

DOMAIN = "ai.onnx.ml"
Array = np.ndarray[Any, Any]
TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT")


def model(
    kind: str,
    inputs: Sequence[Any],
    outs: int = 1,
    version: int = 3,
    **attrs: Any,
) -> onnx.ModelProto:
    """One node; ``inputs`` are arrays or types."""
    plain = {
        name: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v
        for name, v in attrs.items()
        if v is not None
    }
    names = [f"x{i}" for i in range(len(inputs))]
    outputs = [f"y{i}" for i in range(outs)]
    node = helper.make_node(kind, names, outputs, domain=DOMAIN, **plain)
    values = [
        helper.make_value_info(name, x)
        if isinstance(x, onnx.TypeProto)
        else helper.make_tensor_value_info(
            name, DType.of(x.dtype).value, [None] * x.ndim
        )
        for name, x in zip(names, inputs, strict=True)
    ]
    made = helper.make_graph(
        [node], "one", values, [onnx.ValueInfoProto(name=name) for name in outputs]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, version)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def in_runtime(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    made: list[Any] = session.run(None, feeds)
    return made


def assert_alike(found: Any, expected: Any, rtol: float = 2e-5) -> None:
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.keys() == theirs.keys()
            values = [mine[key] for key in theirs]
            np.testing.assert_allclose(values, [*theirs.values()], rtol)
        return
    assert found.shape == expected.shape
    if expected.dtype.kind == "O":
        assert found.tolist() == expected.tolist()
        return
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-6)


def compare(kind: str, *inputs: Any, rtol: float = 2e-5, **options: Any) -> None:
    """The reference and what is written again give what the runtime gives."""
    proto = model(kind, inputs, **options)
    feeds = {f"x{i}": x for i, x in enumerate(inputs)}
    expected = in_runtime(proto, feeds)
    graph = load(proto)
    assert not any(isinstance(op, Opaque) for op in graph.ops)
    for mine, theirs in zip(graphopt.run_model(proto, feeds), expected, strict=True):
        assert_alike(mine, theirs, rtol)
    written = graphopt.optimize_model(proto, check="off")
    assert written.opset_import == proto.opset_import
    for mine, theirs in zip(in_runtime(written, feeds), expected, strict=True):
        assert_alike(mine, theirs, 0)


def trees(
    rng: np.random.Generator,
    count: int,
    depth: int,
    features: int,
    modes: Sequence[str] = ("BRANCH_LEQ",),
    missing: bool = False,
) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """Attributes of nodes, and the leaves. Trees are full, but for some branches."""
    rows: list[tuple[Any, ...]] = []
    leaves: list[tuple[int, int]] = []
    for tree in range(count):
        pending, following = [(0, 0)], 1
        while pending:
            number, level = pending.pop()
            if level == depth or (level > 1 and rng.random() < 0.2):
                rows.append((tree, number, "LEAF", 0, 0.0, 0, 0, 0))
                leaves.append((tree, number))
                continue
            yes, no, following = following, following + 1, following + 2
            mode = modes[rng.integers(len(modes))]
            value = float(np.round(rng.normal(), 1))
            feature = int(rng.integers(features))
            lost = int(missing and rng.random() < 0.5)
            rows.append((tree, number, mode, feature, value, yes, no, lost))
            pending += [(yes, level + 1), (no, level + 1)]
    names = [
        "treeids",
        "nodeids",
        "modes",
        "featureids",
        "values",
        "truenodeids",
        "falsenodeids",
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    names.append("missing_value_tracks_true")
    return {f"nodes_{n}": c for n, c in zip(names, columns, strict=True)}, leaves


def voting(
    rng: np.random.Generator,
    leaves: list[tuple[int, int]],
    of: str,
    ids: Sequence[int],
    positive: bool = False,
) -> dict[str, Any]:
    """A vote of every leaf for some of the targets."""
    votes = [(t, n, i) for t, n in leaves for i in ids if rng.random() < 0.8]
    votes += [(t, n, ids[0]) for t, n in leaves if (t, n, ids[0]) not in votes]
    weights = rng.normal(size=len(votes)) / 4
    return {
        f"{of}_treeids": [t for t, _, _ in votes],
        f"{of}_nodeids": [n for _, n, _ in votes],
        f"{of}_ids": [i for _, _, i in votes],
        f"{of}_weights": (np.abs(weights) if positive else weights).tolist(),
    }


def rows(rng: np.random.Generator, features: int, holes: bool = False) -> Array:
    """Rounded, so that thresholds are met."""
    x = np.round(rng.normal(size=(50, features)), 1).astype(np.float32)
    if holes:
        x[rng.random(x.shape) < 0.2] = np.nan
    return x


MODES = [f"BRANCH_{mode}" for mode in ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ")]
