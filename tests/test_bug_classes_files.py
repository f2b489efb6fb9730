"""Bug classes that other optimizers had: files, size, crashes, time.

Names and marks are those of `test_bug_classes`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from test_bug_classes import (
    everywhere,
    f32,
    improve,
    kinds,
    model,
    numbers,
)

from graphopt import optimize, optimize_model

CONDITIONS = [np.array(True), np.array(False)]


# --- size ----------------------------------------------------------------------------

BOMBS = {
    "constant of shape": "c = ConstantOfShape (big)",
    "expand": "c = Expand (one, big)",
    "tile": "c = Tile (one, big)",
    "twice": "d = Expand (one, some)  e = Concat <axis = 0> (d, d)  c = Tile (e, some)",
    "range": "a = Cast <to = 1> (n)  c = Range (zero, a, step)",
    "one hot": "c1 = OneHot (ids, width, ends)  c = Flatten <axis = 0> (c1)",
}


@everywhere
@pytest.mark.parametrize("case", BOMBS)
def test_files_do_not_grow(target: str, case: str) -> None:
    """Few bytes stay few (SIM #178, #272, PR #470; SLIM #190: 0.5 to 2.5 GB; seen: 145
    bytes to 120 MB).
    """
    text = f"""(int64[1] i) => (float[K] y) <int64[1] big = {{400000}},
    float[1] one = {{1}},
        int64[1] some = {{1000}}, int64 n = {{400000}}, float zero = {{0}},
        float step = {{1}},
        int64[4] ids = {{1, 2, 3, 4}}, int64 width = {{100000}},
        float[2] ends = {{0, 1}}> {{
        {BOMBS[case]}  f = Flatten <axis = 0> (c)  r = Reshape (f, m1)
        y = Gather (r, i) }}"""
    proto = model(text, {"m1": np.array([-1])})
    made = improve(target, proto, {"i": np.array([7])})
    assert len(made.SerializeToString()) < 70_000


def test_small_constants_do_fold() -> None:
    """The other side of the guard against growth."""
    text = """(float[64] x) => (float[64] y) <int64[1] s = {64}> {
        c = ConstantOfShape (s)  d = Exp (c)  y = Add (x, d) }"""
    assert kinds(improve("reference", model(text), {"x": numbers(64)})) == ["Add"]


@everywhere
def test_tied_weights_are_stored_once(target: str) -> None:
    """(tsingmicro #28: tied embeddings were duplicated three times.)"""
    text = """(int64[N] ids) => (float[N, 300] y, float[N, 400] z) {
        e = Gather (w, ids)  y = Neg (e)  t = Transpose (w)  z = MatMul (y, t) }"""
    proto = model(text, {"w": numbers(400, 300)})
    made = improve(target, proto, {"ids": np.array([1, 399])}, exact=False)
    assert len(made.SerializeToString()) < 1.2 * len(proto.SerializeToString())


def external(folder: Path, *, size: int, exists: bool = True) -> Path:
    """A model beside its weights, which take ``size`` bytes (of a sparse file)."""
    proto = model("""(float[1, 8] x) => (float[R, 8] y) <int64[2] s = {-1, 8}> {
        a = Reshape (w, s)  b = Identity (a)  t = Constant <value_ints = [1, 8]> ()
        c = Reshape (x, t)  y = Add (c, b) }""")
    weight = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT)
    weight.dims.append(size // 4)
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.bin")
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    if exists:
        with open(folder / "w.bin", "wb") as file:
            file.truncate(size)
    return path


def test_large_weights_are_not_read(tmp_path: Path) -> None:
    """Over 2 GB pass through, unread (SIM #158, #262, #308, #355, #357, PR #425; SLIM
    #122, #125; OPT #46, #53; ORT #15349; OnnxStream PR #60: 28 GB took 300 GB).
    """
    path = external(tmp_path, size=6 << 30)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = optimize(path, check="off")
    result.save(tmp_path / "out.onnx", weights="share")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 256 << 10  # of KiB
    made = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert "Identity" not in kinds(made)
    located = [t for t in made.graph.initializer if t.data_location]
    assert [t.external_data[0].value for t in located] == ["w.bin"]


@pytest.mark.runtime
def test_shape_tensors_stay_inline(tmp_path: Path) -> None:
    """Weights go to files, shapes do not (ORT #11137: Reshape was not inferred)."""
    onnxruntime = pytest.importorskip("onnxruntime")
    path = external(tmp_path, size=1 << 16)
    optimize(path, passes=[]).save(tmp_path / "out.onnx", weights="external")
    made = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    outside = [t.name for t in made.graph.initializer if t.data_location]
    assert outside == ["w"]
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"))
    (y,) = session.run(None, {"x": np.ones((1, 8), np.float32)})
    assert y.sum() == 1 << 14


def test_weights_that_are_not_there_are_not_zeros(tmp_path: Path) -> None:
    """(ORT #8422: folded what was not loaded.)"""
    path = external(tmp_path, size=1 << 16, exists=False)
    with pytest.raises(Exception, match="not found"):
        optimize(path)


# --- crashes and time ----------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("index", [[0, -1], [[1], [0]], [], -3, [2, 2, 2]], ids=str)
def test_every_way_of_reading_dims(target: str, index: Any) -> None:
    """(gtcrn #3: an assertion in OPT's eliminate_shape_gather; OPT #172, #18.)"""
    numbers_ = np.array(index, np.int64)
    shape = ", ".join(map(str, numbers_.shape))
    stated = f"int64[{shape}]" if shape else "int64"
    text = f"""(float[N, 3, M] x) => ({stated} y, {stated} z) {{
        s = Shape (x)  y = Gather (s, i)  z = Gather (s, i) }}"""
    improve(target, model(text, {"i": numbers_}), {"x": numbers(2, 3, 4)})


def test_time_grows_with_the_model() -> None:
    """No rescan of all for each change (SIM #651: 12,830 nodes took 55 s; SLIM PR #100,
    #152; optimum #1375: merging weights took minutes; SIM #187: deep graphs).
    """
    proto = model("(float[4] x) => (float[4] y) { }")
    last = "x"
    for i in range(1500):
        weight = numpy_helper.from_array(f32(1, 1, 1, i % 7), f"w{i}")
        proto.graph.initializer.append(weight)
        for kind, more in (("Mul", [f"w{i}"]), ("Identity", []), ("Sin", [])):
            proto.graph.node.add(
                op_type=kind, input=[last, *more], output=[f"{kind}{i}"]
            )
            last = f"{kind}{i}"
    proto.graph.node.add(op_type="Neg", input=[last], output=["y"])
    began = time.process_time()
    made = optimize_model(proto, check="off")
    assert time.process_time() - began < 15
    ones = len(range(1, 1500, 7))
    assert len(made.graph.initializer) == 6
    assert kinds(made).count("Mul") == 1500 - ones
    assert "Identity" not in kinds(made)
