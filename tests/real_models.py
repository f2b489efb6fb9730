"""Real models to test on: in $GRAPHOPT_MODELS, or in a folder beside the checkout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

_BESIDE = Path(__file__).parents[2] / "shared" / "models"


def model_paths() -> list[Path]:
    """Model files, smallest first; none where there are no such folders."""
    listed = os.environ.get("GRAPHOPT_MODELS", str(_BESIDE)).split(os.pathsep)
    found: set[Path] = set()
    for folder in filter(None, listed):
        path = Path(folder)
        found.update([path] if path.is_file() else path.rglob("*.onnx"))
    return sorted(found, key=lambda path: (path.stat().st_size, str(path)))


def every_model(
    wanted: Callable[[Path], bool] = lambda path: True,
) -> pytest.MarkDecorator:
    """Runs a test on each wanted model file as ``path``; skips it without any."""
    paths = list(filter(wanted, model_paths()))
    if not paths:
        skip = pytest.mark.skip(reason="no models: set GRAPHOPT_MODELS")
        return pytest.mark.parametrize("path", [pytest.param(None, marks=skip)])
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    return pytest.mark.parametrize("path", paths, ids=names)
