"""An arena of a session's own: one block of a stated size, which it never exceeds.

ONNX Runtime takes the arena that is registered last as that of the next session, and
sessions keep theirs; so one is registered for each session that asks for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from graphopt.errors import BackendMissing, UsageError, nearest

ALIGNMENT: Final = 256
"""Bytes that an arena rounds each request up to (``kMinAllocationSize``)."""

STRATEGIES: Final = {"kNextPowerOfTwo": 0, "kSameAsRequested": 1}
"""How an arena grows, and the runtime's numbers for it."""

MEMBERS: Final = (
    "arena_extend_strategy",
    "initial_chunk_size_bytes",
    "max_dead_bytes_per_chunk",
    "max_mem",
)
"""What can be said of an arena: members of ``onnxruntime.OrtArenaCfg``."""

UNLIMITED: Final[Mapping[str, Any]] = {
    "arena_extend_strategy": "kSameAsRequested",
    "max_dead_bytes_per_chunk": ALIGNMENT,
    "max_mem": 1 << 46,
}
"""An arena in which a request takes its own bytes and no more, however many."""

_UNSAID: Final = -1
"""What the runtime takes for a member that is not said."""

_ONE: Final = threading.Lock()


def rounded(size: int) -> int:
    """The bytes that an arena spends on a request."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def one_block(activations: int, resident: int = 0) -> dict[str, Any]:
    """An arena that gives a session ``activations`` bytes, and no more.

    With one block from the start nothing is lost between blocks, and each piece of it
    is split to measure. ``resident`` are bytes of weights, which lie outside of the
    block and count for the limit.
    """
    block = max(rounded(activations), ALIGNMENT)
    return {
        "arena_extend_strategy": "kNextPowerOfTwo",
        "initial_chunk_size_bytes": block,
        "max_dead_bytes_per_chunk": ALIGNMENT,
        "max_mem": resident + block,
    }


@contextmanager
def given(runtime: Any, options: Any, arena: Mapping[str, Any]) -> Iterator[None]:
    """Let the session that is made inside have this arena; none where that is empty.

    Weights that are copied are not taken from it, though they count for ``max_mem``.
    Raises UsageError for what is no arena, BackendMissing where the runtime can have
    one arena alone.
    """
    if not arena:
        yield
        return
    config = runtime.OrtArenaCfg(_numbers(arena))
    place = runtime.OrtMemoryInfo(
        "Cpu",
        runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
        0,
        runtime.OrtMemType.DEFAULT,
    )
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry(
        "session.use_device_allocator_for_initializers", "1"
    )
    with _ONE:
        try:
            runtime.create_and_register_allocator(place, config)
        except RuntimeError as error:
            raise BackendMissing(
                f"ONNX Runtime {runtime.__version__} gives no session an arena of its"
                " own; 1.32 does",
                where=str(error),
            ) from None
        yield


def _numbers(arena: Mapping[str, Any]) -> dict[str, int]:
    """Each member as the runtime wants it. Raises UsageError."""
    found = dict.fromkeys(MEMBERS, _UNSAID) | {"max_mem": 0}
    for name, value in arena.items():
        if name not in MEMBERS:
            raise UsageError(f"an arena has no {name!r}{nearest(name, MEMBERS)}")
        if name == "arena_extend_strategy":
            if not isinstance(value, str) or value not in STRATEGIES:
                raise UsageError(
                    f"no arena grows by {value!r}{nearest(str(value), STRATEGIES)}"
                )
            value = STRATEGIES[value]
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"{name} of an arena is a number of bytes, not {value!r}")
        if not _UNSAID <= value < 1 << 63:
            raise UsageError(f"{name} of an arena cannot be {value}")
        found[name] = value
    return found


# --- what a block must hold ---------------------------------------------------------


@dataclass(frozen=True)
class Take:
    """A request for memory, known by its key until that is freed."""

    key: Hashable
    size: int


@dataclass(frozen=True)
class Free:
    """The end of a request."""

    key: Hashable


Event: TypeAlias = Take | Free


def most_in_use(events: Sequence[Event]) -> int:
    """The largest sum of requests that are not yet freed."""
    sizes: dict[Hashable, int] = {}
    now = most = 0
    for event in events:
        if isinstance(event, Take):
            sizes[event.key] = rounded(event.size)
            now += sizes[event.key]
            most = max(most, now)
        else:
            now -= sizes[event.key]
    return most


def smallest_block(events: Sequence[Event]) -> int:
    """The smallest block in which every request finds a piece, best fit first.

    A piece that is freed grows together with free neighbours. In a larger block best
    fit may choose worse, so this is where it fits first, from the least up.
    """
    least = most_in_use(events)
    if fits(events, least):
        return least
    fails, most = least, 2 * least
    while not fits(events, most):
        fails, most = most, 2 * most
    while most - fails > ALIGNMENT:
        middle = rounded((fails + most) // 2)
        if middle >= most:
            break
        if fits(events, middle):
            most = middle
        else:
            fails = middle
    return most


def fits(events: Sequence[Event], size: int) -> bool:
    """Whether a block of that size serves the requests, as the runtime's arena does."""
    pieces = _Pieces(lambda length, need: True)
    if size:
        pieces.add(size)
    for event in events:
        if isinstance(event, Free):
            pieces.free(event.key)
        elif not pieces.take(event.key, rounded(event.size)):
            return False
    return True


def grown(events: Sequence[Event], runs: int = 2) -> int:
    """The sum of an arena's blocks where each is as large as what was asked for.

    That is ``kSameAsRequested``, with which nothing is shared between blocks, and a
    piece is only split where half of it, or more, would be left.
    """
    pieces = _Pieces(lambda length, need: length >= 2 * need or length - need >= _DEAD)
    total = 0
    for _ in range(runs):
        for event in events:
            if isinstance(event, Free):
                pieces.free(event.key)
                continue
            need = rounded(event.size)
            if not pieces.take(event.key, need):
                pieces.add(need)
                pieces.take(event.key, need)
                total += need
        pieces.free_all()
    return total


_DEAD: Final = 128 << 20
"""What the runtime never leaves unused at the end of a piece, by default."""


@dataclass(frozen=True)
class Growth:
    """How an arena comes by its bytes: the least that serve requests, and a test."""

    least: Callable[[Sequence[Event]], int]
    holds: Callable[[Sequence[Event], int], bool]


IN_ONE_BLOCK: Final = Growth(smallest_block, fits)
BY_REQUEST: Final = Growth(grown, lambda events, size: grown(events) <= size)


class _Pieces:
    """The pieces of an arena's blocks. What is free grows together with its neighbours.

    A request takes the smallest free piece that is large enough, of equal ones the
    first. ``split`` tells whether a piece of that length is split for a request.
    """

    def __init__(self, split: Callable[[int, int], bool]) -> None:
        self._split = split
        self._free: dict[int, int] = {}
        """Lengths by where they begin."""
        self._ends: dict[int, int] = {}
        self._held: dict[Hashable, tuple[int, int]] = {}
        self._next = 0

    def add(self, length: int) -> None:
        """One block more, apart from all others."""
        self._put(self._next, length)
        self._next += length + 1

    def take(self, key: Hashable, need: int) -> bool:
        if not need:
            return True
        fitting = [(n, at) for at, n in self._free.items() if n >= need]
        if not fitting:
            return False
        length, at = min(fitting)
        del self._free[at], self._ends[at + length]
        if length > need and self._split(length, need):
            self._put(at + need, length - need)
            length = need
        self._held[key] = at, length
        return True

    def free(self, key: Hashable) -> None:
        if key not in self._held:  # it was empty
            return
        at, length = self._held.pop(key)
        if (after := self._free.pop(at + length, None)) is not None:
            del self._ends[at + length + after]
            length += after
        if (before := self._ends.pop(at, None)) is not None:
            length += self._free.pop(before)
            at = before
        self._put(at, length)

    def free_all(self) -> None:
        for key in list(self._held):
            self.free(key)

    def _put(self, at: int, length: int) -> None:
        self._free[at] = length
        self._ends[at + length] = at
