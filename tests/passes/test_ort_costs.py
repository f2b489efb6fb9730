"""What a report says of fused kernels that are known to be slower than their parts."""

from __future__ import annotations

import numpy as np
from equations import const, graph_of, param

from graphopt.driver import optimize
from graphopt.lowering.ort.costs import slower
from graphopt.ops import Add, Gelu, LayerNormalization


def test_what_was_slower_wherever_it_was_timed_is_said() -> None:
    assert list(slower({"skip_layer_norm": 3, "fold": 2}, "cpu")) == [
        "SkipLayerNormalization was formed 3 times: where it was timed, it took 2.89 to"
        " 8.06 times as long as its parts"
    ]
    assert not list(slower({"skip_layer_norm": 3}, "cuda"))
    assert not list(slower({"bias_gelu": 3, "conv_and_sum": 1}, "cpu"))


def test_a_report_of_all_fusions_says_it() -> None:
    x, y = param("x", 2, 3, 16), param("y", 2, 3, 16)
    gain, bias = const(np.ones(16)), const(np.linspace(0, 1, 16))
    total = Gelu(Add(Add(x, y), bias))
    graph = graph_of(LayerNormalization(Add(total, y), gain, bias), opset=20)
    most = optimize(graph, "ort-cpu", fuse="max").report.notes
    assert [n for n in most if "SkipLayerNormalization was formed once" in n]
    assert not [n for n in most if "BiasGelu" in n]
    auto = optimize(graph, "ort-cpu").report.notes
    assert not [n for n in auto if "times as long" in n]
