"""The heap of a process that is watched: what is free in it serves no later request.

A compiler leaves tens of megabytes free in a heap, in holes between what it keeps.
Kernels ask for thousands of small pieces when they first run, which all fit there:
of 400 kB that 24 products keep, a process grew by 370 to 580 kB, as the holes lay.
So a child has one arena, and no caches of threads, and

- before a run the holes are filled: each new piece is from the end of the heap;
- after it what is free is given back, as what is built of a kernel is only partly kept.

With glibc; other libraries of C are left as they are.
"""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Final

GIVEN_BACK: Final = 16 << 10
"""Bytes from which on a block is the system's, not the heap's."""

SETTINGS: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(GIVEN_BACK),
    "MALLOC_TRIM_THRESHOLD_": str(GIVEN_BACK),
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}
"""What glibc reads when a process begins."""

_LEAST: Final = 24
"""Bytes that fit into the smallest piece."""

_TURN: Final = 16
"""Pieces that are asked for before the heap is looked at again."""


class _Info(ctypes.Structure):
    """As `mallinfo2` gives it."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def trim() -> None:
    """Give back what is free, where the C library can."""
    gc.collect()
    give_back = getattr(_library(), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


def fill() -> None:
    """Take all holes of the heap, the largest first, for as long as the process lives.

    There are none for a size when its end is what gets shorter. Where another library
    gives pieces than the one that tells of them, nothing is taken.
    """
    library = _library()
    info = getattr(library, "mallinfo2", None)
    if library is None or info is None:
        return
    info.restype = _Info
    take = library.malloc
    take.argtypes, take.restype = [ctypes.c_size_t], ctypes.c_void_p
    used = info().uordblks
    take(_LEAST)
    if info().uordblks == used:
        return
    size, left = GIVEN_BACK // 2, info().fordblks
    while size >= _LEAST:
        end = info().keepcost
        while info().keepcost == end and left > 0:
            for _ in range(_TURN):
                take(size)
            left -= _TURN * size
        size //= 2


def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if os.name == "posix" else None
