"""Programs for a mesh of devices, run by JAX on CPU devices of another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharded_programs import CASES, Case

from graphopt.reference import run as reference

pytest.importorskip("jax")
pytestmark = pytest.mark.xla

TESTS = Path(__file__).parent
ROOT = TESTS.parent
ERROR = 1e-5
"""Of float32, relative to the largest element."""


def environment(**changed: str) -> dict[str, str]:
    """Of a process that shows as many devices as it needs."""
    kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | changed


def error(made: Any, truth: Any) -> float:
    """The largest, relative to the largest element."""
    assert made.dtype == truth.dtype
    assert made.shape == truth.shape
    wide = truth.astype(np.float64)
    return float(
        np.max(np.abs(made - wide), initial=0) / np.max(np.abs(wide), initial=1e-30)
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """Outputs of all cases as ``case/output``, and what their programs say."""
    out = tmp_path_factory.mktemp("sharded") / "made"
    script = [sys.executable, str(TESTS / "sharded_programs.py"), str(out), *CASES]
    subprocess.run(script, env=environment(), check=True, timeout=600)
    said = json.loads(Path(f"{out}.json").read_text())
    return np.load(f"{out}.npz"), said


@pytest.mark.parametrize("name", CASES)
def test_devices_compute_what_one_does(name: str, ran: Any) -> None:
    case: Case = CASES[name]()
    arrays, said = ran
    truth = reference(case.graph, case.inputs, seed=0)
    assert said[name]["devices"] == case.program.mesh.devices == 8
    for output, array in truth.items():
        assert error(arrays[f"{name}/{output}"], array) <= ERROR
