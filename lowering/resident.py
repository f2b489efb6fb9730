"""By how much this process grows while something runs, as Linux counts its pages.

Linux follows the peak by counts that a CPU hands on a batch at a time. Of n pages that
are written on a CPU which has ``held`` that it did not hand on before, it sees

```
batch * floor((held + n) / batch)        batch = 32 pages, or twice the CPUs
```

so that a peak may be off by a batch for each CPU, a quarter of a megabyte on two.
Before a run each CPU is made to hand on all, and to hold a number that is chosen: where
these are spread over a batch, the mean of what is seen is n.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

RUNS: Final = 2
"""How often a model runs: the second time may take more than the first."""

SHARES: Final = (0, 4 / 8, 2 / 8, 6 / 8, 1 / 8, 5 / 8, 3 / 8, 7 / 8)
"""Of a batch, which CPUs hold before runs; 2, 4 and 8 of them are spread evenly."""

LONG: Final = 10.0
"""Seconds after which no more runs begin, once there were two."""

_TABLE: Final = 512 * mmap.PAGESIZE
"""Bytes whose pages are given back at once."""


def growth_of(run: Callable[[], Any]) -> int | None:
    """By how many bytes this process grows at most while ``run`` runs `RUNS` times.

    None where the system, other than Linux, does not say.
    """

    def runs() -> None:
        for _ in range(RUNS):
            run()

    if _resident() is None:
        return None
    try:
        return max(0, _Ballast().seen(runs, 0.5))
    except OSError:  # of a system that does not let a peak begin anew
        return None


def settled_growth_of(run: Callable[[], Any]) -> int | None:
    """The same of runs after a first one, with what that one has left; not of code.

    Files, and so pages of code that run for the first time, are not counted.
    """
    if _resident() is None:
        return None
    try:
        return _settled(run)
    except OSError:
        return None


def _settled(run: Callable[[], Any]) -> int:
    ballast = _Ballast()
    ballast.hold(0)
    ballast.release()
    before = _resident() or 0
    run()
    found = list[int]()
    begin = time.monotonic()
    for share in SHARES:
        if len(found) > 1 and time.monotonic() - begin > LONG:
            break
        left = (_resident() or 0) - before
        found.append(left + ballast.seen(run, share))
    return max(0, sum(found) // len(found))


class _Ballast:
    """Pages that are held on each CPU during a run, and not after it.

    They make the counts of CPUs what they should be. As they are given back before the
    peak is read, what is there by then is less than that.
    """

    def __init__(self) -> None:
        self.cpus = sorted(os.sched_getaffinity(0))
        self.batch = min(max(32, 2 * (os.cpu_count() or 1)), 128)
        self.room = mmap.mmap(-1, (len(self.cpus) + 1) * _TABLE, mmap.MAP_PRIVATE)
        with suppress(OSError):  # of a system without huge pages
            self.room.madvise(mmap.MADV_NOHUGEPAGE)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.room))
        self.begin = -begin % _TABLE

    def seen(self, run: Callable[[], Any], share: float) -> int:
        """By how many bytes the process is seen to grow at most."""
        self.hold(share)
        before = _counted()
        Path("/proc/self/clear_refs").write_text("5")  # lets VmHWM begin anew
        run()
        self.release()
        return _of_status("VmHWM") - before

    def hold(self, share: float) -> None:
        """Write pages on each CPU, so that it has a share of a batch to hand on."""
        for i, cpu in enumerate(self.cpus):
            held = int(self.batch * ((share + i / 2) % 1))
            os.sched_setaffinity(0, {cpu})
            try:
                self._write(i, 2 * self.batch)
                self._give_back(i)
                self._write(i, 2 * self.batch + held)
            finally:
                os.sched_setaffinity(0, self.cpus)

    def release(self) -> None:
        """Give back all that is held."""
        for i in range(len(self.cpus)):
            self._give_back(i)

    def _write(self, i: int, pages: int) -> None:
        begin = self.begin + i * _TABLE
        for at in range(begin, begin + pages * mmap.PAGESIZE, mmap.PAGESIZE):
            self.room[at] = 1

    def _give_back(self, i: int) -> None:
        self.room.madvise(mmap.MADV_DONTNEED, self.begin + i * _TABLE, _TABLE)


def _resident() -> int | None:
    """Bytes of this process that are in memory, but of files; exactly."""
    try:
        rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next(1024 * int(r.split()[1]) for r in rows if r.startswith("Anonymous:"))


def _counted() -> int:
    """Bytes in memory by what CPUs have handed on, of which `VmHWM` is the peak."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2]
    return int(after_name.split()[21]) * mmap.PAGESIZE


def _of_status(name: str) -> int:
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(r.split()[1]) for r in rows if r.startswith(f"{name}:"))
