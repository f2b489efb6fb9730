"""Encoded images (ONNX ImageDecoder, opset 20), read by Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from ..dims import Shape
from ..errors import NoReference
from .registry import op
from .structured import Array, Computed

if TYPE_CHECKING:
    from ..xp import Namespace

_MODES = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}
"""What Pillow calls each format; BGR is turned round."""


@op("ImageDecoder")
class ImageDecoder(Computed):
    """The pixels of an encoded image, ``[height, width, channel]``.

    ``pixel_format`` is RGB, BGR or Grayscale (one channel). Bytes that are no image
    give no pixels.
    """

    @classmethod
    def available(cls) -> bool:
        return find_spec("PIL") is not None

    def result_shapes(self) -> Sequence[Shape | None]:
        return [(None, None, self.channels())]

    def channels(self) -> int:
        mode = _MODES.get(self.pixel_format)
        if mode is None:
            raise ValueError(f"pixel_format {self.pixel_format!r}; known: {[*_MODES]}")
        return len(mode) if mode == "RGB" else 1

    def compute(self, xp: Namespace, encoded: Array) -> Array:
        if xp.name != "host":
            raise NoReference(f"{self.kind} runs on NumPy and Pillow only")
        pixels = _decoded(np.asarray(encoded).tobytes(), _MODES[self.pixel_format])
        if pixels is None:
            return np.zeros((0, 0, self.channels()), np.uint8)
        pixels = pixels.reshape((*pixels.shape[:2], -1))
        return pixels[:, :, ::-1] if self.pixel_format == "BGR" else pixels


def _decoded(data: bytes, mode: str) -> Array | None:
    """The pixels; None where the bytes are no image. Raises NoReference."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise NoReference(
            "ImageDecoder needs Pillow, which is not installed: pip install pillow"
        ) from None
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert(mode), np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
