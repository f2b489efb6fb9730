"""Bug classes that other optimizers had: laws that hold for each model and pass.

Names and marks are those of `test_bug_classes`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from test_bug_classes import (
    DRAWS,
    IMAGE,
    NORM_WEIGHTS,
    NORMED,
    TWO_DRAWS,
    f32,
    model,
    numbers,
)
from test_bug_classes_fusion import LAYER
from test_bug_classes_structure import CALLED

from graphopt import optimize_model, run_model
from graphopt.importer import load
from graphopt.passes import ALL
from graphopt.testing import assert_legal_pass, check_pass

CONDITIONS = [np.array(True), np.array(False)]


# --- laws, on models of these files --------------------------------------------------

BATTERY: dict[str, ModelProto] = {
    "draws": model(TWO_DRAWS.replace("DRAW", DRAWS["normal like"])),
    "norm": model(NORMED.replace("ATTRS", ""), NORM_WEIGHTS),
    "training": model(
        NORMED.replace("y =", "y, rm, rv =")
        .replace("ATTRS", "<training_mode = 1>")
        .replace("y) {", "y, float[4] rm, float[4] rv) {"),
        NORM_WEIGHTS,
    ),
    "functions": model(CALLED),
    "branches": model("""(float[1, 2] x, bool c) => (float[2] y) <float[2] k = {7, 8}> {
        y = If (c) <
            then_branch = t () => (float[2] p)
            <int64[1] axes = {0}> { p = Squeeze (x, axes) },
            else_branch = e () => (float[2] k) <float[2] k = {1, 1}> { } > }"""),
    "broadcast": model(
        "(float[N, 4] x) => (float[M, 4] y) { y = Mul (x, u) }",
        {"u": np.ones((3, 4), np.float32)},
    ),
    "slices": model("""(float[N, 8] x) => (float[N, 2] y)
        <int64[1] o = {1}, int64[1] a = {-3}, int64[1] b = {-1}, int64[1] c = {6}> {
        s = Slice (x, o, c, o)  y = Slice (s, a, b, o) }"""),
    "dims": model("""(float[N, 6] x) => (float[N, 3, 2] y)
        <int64[1] i = {0}, int64[2] r = {3, 2}> {
        s = Shape (x)  n = Gather (s, i)  t = Concat <axis = 0> (n, r)
        f = Transpose (x)  g = Transpose (f)  y = Reshape (g, t) }"""),
    "outputs": model("""(float[2] x) => (float[2] x, float[2] a, float[2] b, float[2] c)
        <float[2] c = {1, 2}> { a = Identity (x)  n = Neg (x)  m = Neg (n)
        b = Add (m, c) }"""),
    "defaults": model("""(float[2] x, float[2] w, float[2] u) => (float[2] y)
        <float[2] w = {1, 1}> { y = Mul (x, w) }"""),
    "strings": model("(string[N] x) => (string[N] y) { y = Identity (x) }"),
    "casts": model("""(float[N] x) => (float[N] y) {
        a = Cast <to = 10> (x)  b = Cast <to = 1> (a)  c = Cast <to = 11> (b)
        y = Cast <to = 1> (c) }"""),
    "known": model("""(float[2] x) => (float[2] y) <bool yes = {1}> { a = Neg (x)
        y = If (yes) < then_branch = t () => (float[2] p) { p = Exp (a) },
                       else_branch = e () => (float[2] q) { q = Neg (a) } > }"""),
    "sequences": model("""(float[2] x) => (float[4] y) {
        s = SequenceConstruct (x, x)  y = ConcatFromSequence <axis = 0> (s) }"""),
    "product": model(
        "(float[N, 4] x) => (float[N, 3] y) { p = MatMul (x, w)  y = Add (p, b) }",
        {"w": numbers(4, 3), "b": numbers(3)},
    ),
    "layer norm": model(
        LAYER.replace("SHAPE", "N, 3, 8"), {"eps": f32(1e-5), "gain": numbers(8)}
    ),
    "twins": model("""(float[N, 2] x) => (float[N, 2] y)
        <float[2] a = {1, 2}, float[2] b = {1, 2}> { p = Mul (x, a)
        y = Add (p, b) }"""),
    "pad": model(
        """(float[2, 3, 5, 5] x) => (float[2, 4, 5, 5] y)
            <int64[8] p = {0, 0, 1, 2, 0, 0, 1, 0}> {
        q = Pad (x, p)  y = Conv (q, w) }""",
        {"w": numbers(4, 3, 3, 3)},
    ),
}
FIRES = {
    "regions": "known",
    "sequences": "sequences",
    "algebra": "strings",
    "casts": "casts",
    "shapes": "dims",
    "fold": "functions",
    "movement": "dims",
    "padding": "pad",
    "fold-affine": "norm",
    "gemms": "product",
    "raise-norms": "layer norm",
}
"""Passes, and models that they are seen to change."""


@pytest.mark.parametrize("name", BATTERY)
@pytest.mark.parametrize("pass_", ALL, ids=lambda cls: cls.name)
def test_each_pass_alone(pass_: Any, name: str) -> None:
    """Alone, each is right, settles, and repeats itself (OPT #252-#285: none of it)."""
    graph = load(BATTERY[name])
    made = assert_legal_pass(pass_(), graph)
    if FIRES.get(pass_.name) == name:
        assert made.key != graph.key


@pytest.mark.parametrize("name", BATTERY)
def test_a_second_run_changes_nothing(name: str) -> None:
    """Not a byte: what was optimized is a fixed point."""
    once = optimize_model(BATTERY[name], check="off")
    twice = optimize_model(once, check="off")
    assert as_bytes(twice) == as_bytes(once)


def as_bytes(proto: ModelProto) -> bytes:
    return bytes(proto.SerializeToString(deterministic=True))


SCRIPT = """
import hashlib, sys
from pathlib import Path
from graphopt import optimize_model
for path in sys.argv[1:]:
    made = optimize_model(path, check="off").SerializeToString(deterministic=True)
    print(hashlib.sha256(made).hexdigest())
"""


def test_bytes_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Neither hashes nor addresses decide what is written, or in which order."""
    paths = []
    for name, proto in BATTERY.items():
        paths.append(tmp_path / f"{name}.onnx")
        paths[-1].write_bytes(proto.SerializeToString())
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, *map(str, paths)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(printed) == 1
    assert len(printed.pop().splitlines()) == len(BATTERY)


def test_the_source_is_left_alone() -> None:
    """The model that was handed in is not changed (SIM and SLIM edit it in place)."""
    for name, proto in BATTERY.items():
        before = as_bytes(proto)
        optimize_model(proto, check="off")
        assert as_bytes(proto) == before, name


def test_run_model_takes_the_result() -> None:
    """What is returned is a model, not something that must first be saved."""
    made = optimize_model(BATTERY["norm"])
    assert run_model(made, IMAGE)[0].shape == (2, 4, 3, 3)


def pipeline(proto: ModelProto) -> ModelProto:
    return optimize_model(proto, check="off")


def test_random_graphs() -> None:
    """Graphs that nobody drew by hand (SIM #1284, #1275: found by fuzzing)."""
    check_pass(pipeline, examples=10, max_ops=10)
