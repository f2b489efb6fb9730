"""Encoded images, where Pillow is and where it is not."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from graphopt.errors import NoReference
from graphopt.ir import Parameter
from graphopt.ops import ImageDecoder
from graphopt.reference import fold, has_reference
from graphopt.types import DType, tensor

ENCODED = Parameter(tensor(DType.U8, None), "encoded")


@pytest.mark.parametrize("pixel_format", ["RGB", "BGR", "Grayscale"])
def test_pixels_are_read(pixel_format: str) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    file = io.BytesIO()
    image.fromarray(pixels).save(file, "PNG")
    data = np.frombuffer(file.getvalue(), np.uint8)
    op = ImageDecoder(ENCODED, pixel_format=pixel_format)
    (found,) = fold(op, [data])
    if pixel_format == "Grayscale":
        assert found.shape == (3, 4, 1)
        assert np.abs(found - pixels.mean(2, keepdims=True)).max() <= 1
    else:
        expected = pixels if pixel_format == "RGB" else pixels[..., ::-1]
        assert found.tolist() == expected.tolist()
    assert op.shape == (None, None, 1 if pixel_format == "Grayscale" else 3)


def test_what_is_no_image_has_no_pixels() -> None:
    pytest.importorskip("PIL")
    (found,) = fold(ImageDecoder(ENCODED), [np.arange(50, dtype=np.uint8)])
    assert found.shape == (0, 0, 3)


def test_without_pillow_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    sys.path_importer_cache.clear()
    op = ImageDecoder(ENCODED)
    assert not has_reference(op)
    with pytest.raises(NoReference, match=r"ImageDecoder needs .*pip install pillow"):
        fold(op, [np.zeros(3, np.uint8)])


@pytest.mark.xla
def test_traced_it_is_named() -> None:
    pytest.importorskip("jax")
    pytest.importorskip("PIL")
    from graphopt.xp import traced

    op = ImageDecoder(ENCODED)
    with traced().scope(), pytest.raises(NoReference, match="ImageDecoder runs on"):
        op.compute(traced(), np.zeros(3, np.uint8))
