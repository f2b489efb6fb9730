"""An arena of a session's own: one block of a stated size, which it never exceeds.

ONNX Runtime takes the arena that is registered last as that of the next session, and
sessions keep theirs; so one is registered for each session that asks for it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
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
            if value not in STRATEGIES:
                raise UsageError(
                    f"no arena grows by {value!r}{nearest(str(value), STRATEGIES)}"
                )
            value = STRATEGIES[value]
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"{name} of an arena is a number of bytes, not {value!r}")
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
    """Whether a block of that size serves the requests, as the runtime's arena does.

    That takes the smallest free piece that is large enough, of equal ones the first.
    """
    free: dict[int, int] = {0: size} if size else {}
    ends: dict[int, int] = {size: 0} if size else {}
    held: dict[Hashable, tuple[int, int]] = {}
    for event in events:
        if isinstance(event, Take):
            need = rounded(event.size)
            if not need:
                continue
            chosen = min(
                ((length, at) for at, length in free.items() if length >= need),
                default=None,
            )
            if chosen is None:
                return False
            length, at = chosen
            del free[at], ends[at + length]
            if length > need:
                free[at + need] = length - need
                ends[at + length] = at + need
            held[event.key] = at, need
        elif event.key in held:
            at, length = held.pop(event.key)
            if (after := free.pop(at + length, None)) is not None:
                del ends[at + length + after]
                length += after
            if (before := ends.pop(at, None)) is not None:
                del free[before]
                at, length = before, at + length - before
            free[at] = length
            ends[at + length] = at
    return True
