"""The heap of a child that is watched has no holes, which would hide what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from graphopt.lowering.isolated import search_path

HOLES = """
import ctypes
from graphopt.lowering.xla.heap import SETTINGS, fill, trim
from graphopt.lowering.resident import _resident

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def grown(size, count):
    before = _resident()
    for _ in range(count):
        ctypes.memset(library.malloc(size), 1, size)
    return _resident() - before

pieces = [library.malloc(1000) for _ in range(8000)]
for piece in pieces:
    ctypes.memset(piece, 1, 1000)
for piece in pieces[::2]:
    library.free(piece)
trim()
hidden = grown(500, 2000)
fill()
seen = grown(500, 2000)
print(hidden, seen)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what is resident")
def test_small_pieces_are_seen_once_holes_are_filled() -> None:
    pytest.importorskip("jax")
    import ctypes

    from graphopt.lowering.xla.heap import SETTINGS

    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("the C library does not say what is free")
    done = subprocess.run(
        [sys.executable, "-P", "-c", HOLES],
        env={**os.environ, **SETTINGS, "PYTHONPATH": search_path()},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    hidden, seen = map(int, done.stdout.split())
    assert hidden < 200_000  # of a million bytes
    assert seen == pytest.approx(2000 * 512, rel=0.05)


def test_another_library_gives_no_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free by the one, another may have in plenty: it would never end."""
    pytest.importorskip("jax")
    from graphopt.lowering.xla import heap

    asked: list[int] = []

    class Other:
        @staticmethod
        def malloc(size: int) -> int:
            asked.append(size)
            return 1

        @staticmethod
        def mallinfo2() -> Any:
            return heap._Info(fordblks=1 << 30, keepcost=1 << 20)

    Other.malloc.argtypes = Other.malloc.restype = None  # type: ignore[attr-defined]
    Other.mallinfo2.restype = None  # type: ignore[attr-defined]
    monkeypatch.setattr(heap, "_library", lambda: Other)
    heap.fill()
    assert len(asked) == 1
