"""Attention with a soft cap is written out where its kernel is slower."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import graph_of, kinds, misses, param, rewritten

from graphopt import optimize
from graphopt.lowering.ort.capped_attention import capped
from graphopt.ops import Attention

OPSET = 23
HEADS: Any = {"q_num_heads": 4, "kv_num_heads": 2}


def core(**attrs: Any) -> Attention:
    q, k, v = (param(name, 1, 8, width) for name, width in zip("qkv", (64, 32, 32)))  # noqa: B905
    return Attention(q, k, v, param("m", 1, 1, 8, 8), **HEADS, **attrs)


def test_a_cap_is_written_out() -> None:
    done = rewritten(capped, core(softcap=2.0), opset=OPSET, sizes=[{}])
    assert "Tanh" in kinds(done)
    assert "Attention" not in kinds(done)
    misses(capped, core(), opset=OPSET)


@pytest.mark.parametrize(("fuse", "kept"), [("auto", False), ("max", True)])
def test_by_default(fuse: Any, kept: bool) -> None:
    graph = graph_of(core(softcap=2.0), opset=OPSET)
    done = optimize(graph, "ort-cpu", fuse=fuse, check="off")
    assert ("Attention" in kinds(done.graph)) == kept


@pytest.mark.runtime
def test_it_gives_the_same_there() -> None:
    pytest.importorskip("onnxruntime")
    done = optimize(graph_of(core(softcap=2.0), opset=OPSET), "ort-cpu")
    inputs = {p.name: np.full(p.shape, 0.5, np.float32) for p in done.graph.inputs}  # type: ignore[arg-type]
    assert np.isfinite(done.compile()(inputs)["output_0"]).all()
