"""Cases of RNN, GRU and LSTM."""

from __future__ import annotations

from typing import Any

import numpy as np
from single import Case, sweep, unit

from graphopt.types import DType

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, BATCH, INPUT, HIDDEN = 4, 3, 2, 5


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []
    for kind, gates in GATES.items():
        outs = 3 if kind == "LSTM" else 2
        for directions in (1, 2):
            attrs = list(_attrs(kind, directions))
            made += sweep(
                kind,
                list(_operands(kind, gates, directions)),
                attrs,
                dtypes=[DType.F32],
                outs=outs,
                ulps=32,
                values=unit,
                every=every,
            )
        plain = next(_operands(kind, gates, 1))
        size = {"hidden_size": HIDDEN}
        kinds = [DType.F64, DType.F16, DType.BF16]
        made += sweep(
            kind, [plain], [size], dtypes=kinds, outs=outs, ulps=32, values=unit
        )
        # The batch first.
        turned = [(BATCH, STEPS, INPUT), *plain[1:3], None, None, (BATCH, 1, HIDDEN)]
        layout = [{**size, "layout": 1}]
        made += sweep(
            kind, [turned], layout, dtypes=[DType.F32], outs=outs, ulps=32, values=unit
        )
    return made


def _operands(kind: str, gates: int, directions: int) -> Any:
    state = (directions, BATCH, HIDDEN)
    x = (STEPS, BATCH, INPUT)
    w, r = (directions, gates * HIDDEN, INPUT), (directions, gates * HIDDEN, HIDDEN)
    bias = (directions, 2 * gates * HIDDEN)
    yield [x, w, r]
    yield [x, w, r, bias]
    yield [x, w, r, bias, _lengths, state]
    if kind == "LSTM":
        peepholes = (directions, 3 * HIDDEN)
        yield [x, w, r, None, None, state, state]
        yield [x, w, r, bias, _lengths, state, state, peepholes]


def _lengths(*_: object) -> Any:
    return np.array([4, 2, 1], np.int32)


def _attrs(kind: str, directions: int) -> Any:
    size = {"hidden_size": HIDDEN}
    if directions == 2:
        size["direction"] = "bidirectional"  # type: ignore[assignment]
    yield size
    yield size if directions == 2 else {**size, "direction": "reverse"}
    yield {**size, "clip": 0.5}
    names = {
        "RNN": [["Affine"], ["LeakyRelu"], ["ScaledTanh"], ["Softplus"]],
        "GRU": [["HardSigmoid", "Elu"], ["Softsign", "ThresholdedRelu"]],
        "LSTM": [["HardSigmoid", "Relu", "Affine"], ["Sigmoid", "ScaledTanh", "Elu"]],
    }[kind]
    for chosen in names:
        all_ = tuple(chosen * directions)
        alphas = [0.3, 0.7, 0.4, 0.6][: _count(all_, ALPHAS)]
        betas = [0.6, 0.2, 0.5, 0.4][: _count(all_, BETAS)]
        attrs: dict[str, Any] = {**size, "activations": all_}
        if alphas:
            attrs["activation_alpha"] = tuple(float(np.float32(v)) for v in alphas)
        if betas:
            attrs["activation_beta"] = tuple(float(np.float32(v)) for v in betas)
        yield attrs
    if kind == "GRU":
        yield {**size, "linear_before_reset": 1}
    if kind == "LSTM":
        yield {**size, "input_forget": 1}


ALPHAS = ["Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"]
BETAS = ["Affine", "ScaledTanh", "HardSigmoid"]


def _count(names: tuple[str, ...], wanted: list[str]) -> int:
    return sum(name in wanted for name in names)
