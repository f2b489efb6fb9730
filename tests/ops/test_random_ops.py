"""Random ops: what is drawn, and when it is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt import ops, xp
from graphopt.ir import Op, Parameter
from graphopt.reference import Evaluator
from graphopt.types import DType, tensor

COUNT = 20_000
LIKE = Parameter(tensor(DType.F32, COUNT), "like")


def drawn(op: Op, *operands: Any) -> np.ndarray[Any, Any]:
    return Evaluator(seed=0).apply(op, operands)[0]


def test_moments() -> None:
    normal = drawn(ops.RandomNormal(shape=(COUNT,), mean=3.0, scale=2.0))
    assert normal.dtype == np.float32
    assert abs(normal.mean() - 3) < 0.05
    assert abs(normal.std() - 2) < 0.05
    even = drawn(ops.RandomUniform(shape=(COUNT,), low=-1.0, high=3.0, dtype=DType.F64))
    assert even.dtype == np.float64
    assert -1 <= even.min() < -0.99
    assert 2.99 < even.max() < 3
    assert abs(even.mean() - 1) < 0.05


def test_like_takes_dims_and_type() -> None:
    half = np.zeros((3, 4), np.float16)
    like = Parameter(tensor(DType.F16, 3, 4))
    for kind in (ops.RandomNormalLike, ops.RandomUniformLike):
        assert kind(like).type == like.type
        assert drawn(kind(like), half).dtype == np.float16
        assert drawn(kind(like, dtype=DType.F64), half).dtype == np.float64


def test_bernoulli() -> None:
    p = np.full(COUNT, 0.3, np.float32)
    found = drawn(ops.Bernoulli(LIKE, dtype=DType.BOOL), p)
    assert found.dtype == np.bool_
    assert abs(found.mean() - 0.3) < 0.02
    sure = np.array([0.0, 1.0] * (COUNT // 2), np.float32)
    assert (drawn(ops.Bernoulli(LIKE), sure) == sure).all()


def test_multinomial() -> None:
    shares = np.array([0.1, 0.0, 0.6, 0.3])
    with np.errstate(divide="ignore"):
        logits = np.log(shares)[None].astype(np.float32)
    op = ops.Multinomial(Parameter(tensor(DType.F32, 1, 4)), sample_size=COUNT)
    found = drawn(op, logits)
    assert found.dtype == np.int32
    assert found.shape == (1, COUNT)
    counts = np.bincount(found[0], minlength=4) / COUNT
    assert np.abs(counts - shares).max() < 0.02


def test_dropout_in_training() -> None:
    ratio, training = (ops.Constant(v) for v in (np.float32(0.25), np.array(True)))
    op = ops.Dropout(LIKE, ratio, training, outs=2)
    assert not op.deterministic
    assert op.expansion is None
    ones = np.ones(COUNT, np.float32)
    operands = (ones, np.float32(0.25), np.array(True))
    result, kept = Evaluator(seed=0).apply(op, operands)
    assert abs(kept.mean() - 0.75) < 0.02
    assert (result == np.where(kept, np.float32(1 / 0.75), 0)).all()


def test_dropout_of_a_trained_model_is_its_operand() -> None:
    op = ops.Dropout(LIKE, outs=2)
    assert op.deterministic
    assert not ops.Dropout.deterministic  # the importer numbers its ops
    assert op.expansion is not None
    assert op.expansion[0] is LIKE


def test_tokens_and_seeds_tell_draws_apart() -> None:
    first, again, other = (ops.RandomNormal(shape=(8,), token=t) for t in (1, 1, 2))
    assert first is again
    assert (drawn(first) == drawn(again)).all()
    assert (drawn(first) != drawn(other)).all()
    seeded = [ops.RandomNormal(shape=(8,), seed=7.0, token=t) for t in (1, 2)]
    assert seeded[0] is not seeded[1]
    assert (drawn(seeded[0]) == drawn(seeded[1])).all()


@pytest.mark.xla
def test_xla_draws_the_same_from_a_seed() -> None:
    pytest.importorskip("jax")
    op = ops.RandomNormal(shape=(8,), token=3, seed=5.0)
    with xp.traced().scope():
        assert (np.asarray(op.compute(xp.traced())) == drawn(op)).all()
