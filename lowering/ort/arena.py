"""An arena of a session's own: one block of a stated size, which it never exceeds.

ONNX Runtime takes the arena that is registered last as that of the next session, and
sessions keep theirs; so one is registered for each session that asks for it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from graphopt.errors import BackendMissing, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

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
