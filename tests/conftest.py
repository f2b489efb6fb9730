"""For all tests: every graph that a pipeline makes on the way is verified."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from graphopt.cli import main

# The same examples in every run: a failure is the change's, never the draw's.
settings.register_profile("graphopt", derandomize=True)
settings.load_profile("graphopt")
os.environ.setdefault("GRAPHOPT_VERIFY", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # look for no chips

Command = Callable[..., tuple[int, str, str]]
"""A command line: exit code, stdout, stderr."""

MODELS = Path(__file__).parents[1] / "examples" / "models"


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The model that comes with the repository, alone in a folder of its own."""
    return Path(shutil.copy(MODELS / "digits.onnx", tmp_path))


@pytest.fixture(scope="session")
def digits_inputs() -> Path:
    """Images for it that its training did not see."""
    return MODELS / "digits.npz"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        code = main([str(word) for word in argv])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


def pytest_collection_finish() -> None:
    """What is collected lives as long as the run: nobody looks for garbage in it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
