"""Numbers of bytes as people write them."""

from __future__ import annotations

from typing import Final

from .errors import UsageError


def parse_size(text: str) -> int:
    """Bytes, as people write them: ``512MiB``, ``64 kB``, ``1.5GB``, ``1000``.

    Raises UsageError.
    """
    stripped = text.strip()
    number = stripped.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = stripped[len(number) :].strip().lower()
    try:
        size = float(number) * _UNITS[unit]
        if 0 < size < 2**63:
            return int(size)
    except (KeyError, ValueError):
        pass
    raise UsageError(f"{text!r} is no size; write 512MiB, 64kB, 1.5GB or bytes")


_UNITS: Final = {
    **{"": 1, "b": 1},
    **{f"{letter}ib": 1024 ** (i + 1) for i, letter in enumerate("kmgt")},
    **{f"{letter}b": 1000 ** (i + 1) for i, letter in enumerate("kmgt")},
}
